"""What every pixel decoder hands to the mask-text decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PixelFeatures:
    """Output of a pixel decoder for `B` images of H x W, in the decoder width `D` (METHOD.md 1, row 2).

    `mask_features`: (B, D, H/4, W/4), contracted with the mask embeddings of the queries.
    `levels`: (B, D, h, w) at strides 32, 16, 8, in this order: what the decoder layers attend to in turn.
    """

    mask_features: torch.Tensor
    levels: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
