"""Hungarian assignment of mask queries to segments (METHOD: cost 2/5/5 in float32 on shared random points)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mtaclip_core.losses.mask import pairwise_binary_cross_entropy, pairwise_dice
from mtaclip_core.losses.points import SegmentTargets, sample_points

WORST_COST = 1e6


@dataclass(frozen=True)
class Match:
    """Pairs of one image: query `queries[i]` answers for segment `segments[i]`; both (M,) int64.

    `degenerate`: some of the costs were not numbers.
    """

    queries: Tensor
    segments: Tensor
    degenerate: bool = False


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: SegmentTargets,
    points: Tensor,
    *,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    ignore_aware: bool = False,
) -> Match:
    """The cheapest one-to-one assignment for one image and one layer.

    Args:
        class_logits: (Q, C+1).
        mask_logits: (Q, P) at the points.
        targets: M segments; where there are more than Q, the dearest go without.
        points: (1, P, 2) in 0..1.

    A cost that is not a number counts as the worst, so that a diverging query cannot stop the training.
    """
    segments = len(targets.classes)
    device = class_logits.device
    if segments == 0:
        empty = torch.empty(0, dtype=torch.long, device=device)
        return Match(empty, empty)
    logits = mask_logits.float()
    truth = sample_points(targets.masks.unsqueeze(0), points).squeeze(0)
    valid = sample_points(targets.valid.unsqueeze(0), points).flatten()
    weights = valid if ignore_aware else torch.ones_like(valid)
    cost = (
        -class_weight * class_logits.float().softmax(-1)[:, targets.classes]
        + mask_weight * pairwise_binary_cross_entropy(logits, truth, weights)
        + dice_weight * pairwise_dice(logits, truth, weights)
    )
    costs = cost.cpu().numpy()
    degenerate = not bool(np.isfinite(costs).all())
    if degenerate:
        costs = np.nan_to_num(costs, nan=WORST_COST, posinf=WORST_COST, neginf=-WORST_COST)
    rows, columns = linear_sum_assignment(costs)
    return Match(torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device), degenerate)
