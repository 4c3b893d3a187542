"""Targets and point sampling of the mask losses (PointRend's scheme, as Mask2Former uses it)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class SegmentTargets:
    """The segments of one image: one per class that occurs.

    Attributes:
        classes: (M,) int64 indices into the label space.
        masks: (M, H, W) float32, 1 inside.
        valid: (1, H, W) float32, 0 where the image is unlabelled.
    """

    classes: Tensor
    masks: Tensor
    valid: Tensor


def segment_targets(labels: Tensor, classes: int) -> list[SegmentTargets]:
    """Label images (B, H, W) of class indices, anything >= `classes` unlabelled -> one `SegmentTargets` per image."""
    result = []
    for label in labels.long():
        valid = label < classes
        present = torch.unique(label[valid])
        masks = (label.unsqueeze(0) == present[:, None, None]).float()
        result.append(SegmentTargets(present, masks, valid.unsqueeze(0).float()))
    return result


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps bilinearly at points.

    Args:
        maps: (M, K, H, W).
        points: (M, P, 2), (x, y) in 0..1 over the whole map.

    Returns:
        (M, K, P).
    """
    grid = (2.0 * points - 1.0).unsqueeze(2)
    return F.grid_sample(maps, grid, mode="bilinear", align_corners=False).squeeze(3)


def uncertain_points(
    mask_logits: Tensor, count: int, oversample: float, importance: float, generator: torch.Generator | None
) -> Tensor:
    """Points where the masks are most uncertain (|logit| smallest), plus some uniform ones.

    Args:
        mask_logits: (M, h, w).
        count: P, how many points.
        oversample: how many times P candidates are drawn.
        importance: share of the P points that are taken by uncertainty.

    Returns:
        (M, P, 2) in 0..1.
    """
    total, device = len(mask_logits), mask_logits.device
    candidates = _uniform((total, int(count * oversample), 2), device, generator)
    logits = sample_points(mask_logits.detach().unsqueeze(1), candidates).squeeze(1)
    chosen = int(count * importance)
    index = logits.abs().topk(chosen, dim=1, largest=False, sorted=False).indices
    picked = torch.gather(candidates, 1, index.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([picked, _uniform((total, count - chosen, 2), device, generator)], dim=1)


def uniform_points(count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """(1, P, 2) uniform points in 0..1, shared by all masks of an image."""
    return _uniform((1, count, 2), device, generator)


def _uniform(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Drawn on the CPU, so that a seed means the same points on every device."""
    return torch.rand(shape, generator=generator).to(device)
