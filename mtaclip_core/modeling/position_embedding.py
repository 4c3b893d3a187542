"""The fixed sine embedding of pixel positions that the pixel decoder and the mask-text decoder share."""

from __future__ import annotations

import math

import torch

TEMPERATURE = 10000.0
EPS = 1e-6


def sine_position_embedding(
    size: tuple[int, int] | torch.Size, width: int, device: torch.device | str, dtype: torch.dtype
) -> torch.Tensor:
    """(D, h, w): the first D/2 channels encode the row, the others the column (DETR's, scaled to 2 pi).

    Sine and cosine of one frequency are neighbouring channels; positions count from 1 and end at 2 pi. It depends
    on nothing but the sizes, and costs h + w rows of sines: no cache, nothing that tracing could get wrong.

    Args:
        size: h, w.
        width: D, a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"the width of a position embedding must be a multiple of 4, not {width}")
    height, columns = size
    rows = _axis(height, width // 2, device).to(dtype)
    cols = _axis(columns, width // 2, device).to(dtype)
    return torch.cat([rows[:, :, None].expand(-1, -1, columns), cols[:, None, :].expand(-1, height, -1)])


def _axis(length: int, width: int, device: torch.device | str) -> torch.Tensor:
    """(width, length) float32."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device) * (2 * math.pi / (length + EPS))
    exponent = torch.arange(0, width, 2, dtype=torch.float32, device=device) / width
    angle = position[None, :] / (TEMPERATURE**exponent)[:, None]
    return torch.stack([angle.sin(), angle.cos()], 1).flatten(0, 1)
