"""What every image backbone offers: four feature maps, their channels, and the normalisation its weights expect."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

STRIDES = (4, 8, 16, 32)
"""Strides of the four maps, in the order in which a backbone returns them."""

MULTIPLE = STRIDES[-1]
"""Height and width of the input must be multiples of this, so that every map is exactly twice the next one."""

Triple = tuple[float, float, float]


class ImageBackbone(nn.Module):
    """Turns normalised images into maps at strides 4, 8, 16 and 32 (METHOD.md 1, row 1).

    `channels` holds the channels of the four maps; `mean` and `std` (RGB, 0-1 scale) are what the caller
    normalises images with: `(rgb / 255 - mean) / std`.
    """

    def __init__(self, channels: tuple[int, int, int, int], mean: Triple, std: Triple) -> None:
        super().__init__()
        self.channels = channels
        self.mean = mean
        self.std = std

    @abstractmethod
    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The four maps of images whose size has been checked."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) float, normalised -> [(B, channels[i], H / STRIDES[i], W / STRIDES[i])] for i = 0..3.

        Raises ValueError when H or W is not a multiple of 32.
        """
        height, width = images.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(
                f"image size {height}x{width} is not a multiple of {MULTIPLE}; resize or pad it, for example to "
                f"{_round_up(height)}x{_round_up(width)}"
            )
        return self.maps(images)


def _round_up(length: int) -> int:
    return (length + MULTIPLE - 1) // MULTIPLE * MULTIPLE
