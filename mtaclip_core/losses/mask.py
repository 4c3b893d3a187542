"""Pointwise mask losses and their pairwise forms for matching; all in float32."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over points: (M, P) logits, targets in 0..1, weights >= 0 -> (M,)."""
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (loss * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def dice(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """`1 - (2 sum p t + 1) / (sum p + sum t + 1)` over weighted points: (M, P) -> (M,)."""
    p = logits.sigmoid() * weights
    t = targets * weights
    return 1.0 - (2.0 * (p * targets).sum(1) + 1.0) / (p.sum(1) + t.sum(1) + 1.0)


def pairwise_binary_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Every query against every segment: (Q, P), (M, P), (P,) -> (Q, M)."""
    positive = F.softplus(-logits) * weights  # -log sigmoid
    negative = F.softplus(logits) * weights  # -log (1 - sigmoid)
    return (positive @ targets.T + negative @ (1.0 - targets).T) / weights.sum().clamp(min=1.0)


def pairwise_dice(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Every query against every segment: (Q, P), (M, P), (P,) -> (Q, M)."""
    p = logits.sigmoid() * weights
    t = targets * weights
    return 1.0 - (2.0 * (p @ targets.T) + 1.0) / (p.sum(1)[:, None] + t.sum(1)[None, :] + 1.0)
