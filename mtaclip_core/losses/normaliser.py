"""What the loss terms are divided by: counts of the whole step, however many processes and parts compute it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisers:
    """Divisors of one part of a step, scalars on the loss's device.

    Attributes:
        masks: of the mask and dice losses: the matched masks.
        queries: of the class and contrastive losses: 1 for every matched query, `no_object` for every other.
        pixels: of the per-pixel text loss: the class weights of all labelled pixels.
        parts: how many parts of the step this process adds up.
    """

    masks: Tensor
    queries: Tensor
    pixels: Tensor
    parts: int = 1


def target_counts(labels: Tensor, pixel_weight: Tensor, queries: int, no_object: float) -> Tensor:
    """(3,) float64: matched masks, weight of the queries, weight of the labelled pixels.

    They depend on the labels alone, so that they are known before any prediction: every segment of an image is matched
    as long as there are queries.

    Args:
        labels: (B, H, W) class indices, anything beyond the classes unlabelled.
        pixel_weight: (C,) weight of a pixel by class.
    """
    classes = len(pixel_weight)
    result = torch.zeros(3, dtype=torch.float64, device=labels.device)
    for label in labels:
        pixels = torch.bincount(label.flatten().long().clamp(max=classes), minlength=classes + 1)[:classes]
        matched = (pixels > 0).sum().clamp(max=queries)
        weight = matched + no_object * (queries - matched)
        result += torch.stack([matched.double(), weight.double(), pixels.double() @ pixel_weight.double()])
    return result


def step_normalisers(counts: Tensor, *, weighted: bool, parts: int = 1, processes: int = 1) -> Normalisers:
    """Divisors for every part of a step on each of its processes.

    Gradients are averaged over the processes afterwards, so that each divides by the sum of all counts per process.

    Args:
        counts: `target_counts` of all samples of the step, summed over the processes.
        weighted: mask and dice losses are divided by the weight of the queries (MTA-CLIP's release).
    """
    matched, queries, pixels = (counts.float()[i] for i in range(3))
    masks = queries if weighted else matched
    # At least one, as in Mask2Former; the weights of queries may be fractions.
    return Normalisers(
        masks.clamp(min=1.0) / processes,
        queries.clamp(min=1e-6) / processes,
        pixels.clamp(min=1.0) / processes,
        parts,
    )
