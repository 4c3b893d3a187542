"""What every way of decoding shares: the picture, the refusal, the limit of size, and the buffers that are reused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from mtaclip_core.runtime.segmenter import ChannelOrder

Reason = Literal["encoding", "size", "step", "data_length", "decode"]

MAX_PIXELS = 64 * 2**20
"""Larger images are refused before any memory is taken for them; 8192 x 8192 still passes."""

_SLACK = 4  # a buffer that is more times too large is given back


class BadImage(Exception):  # noqa: N818 - says what the message is; the node goes on
    """A message that holds no usable picture.

    Attributes:
        reason: what is wrong in one word, for counting.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Frame:
    """A picture as the segmenter takes it.

    Attributes:
        pixels: (H, W, 3) uint8; read-only, and for rgb8 and bgr8 a view of the message's own bytes.
        channel_order: order of the last axis.
    """

    pixels: np.ndarray
    channel_order: ChannelOrder


class Scratch:
    """Memory that one camera's frames are decoded into, one after the other.

    What was decoded with it is valid until the next frame is. It grows to the largest frame and shrinks again when
    frames become much smaller, so no single frame decides what a camera holds for good.
    """

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def array(self, use: str, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> np.ndarray:
        """A contiguous array with undefined contents; the same memory for the same `use`."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        held = self._held.get(use)
        if held is None or not size <= len(held) <= _SLACK * size:
            held = self._held[use] = np.empty(size, np.uint8)
        return held[:size].view(dtype).reshape(shape)


def check_size(height: int, width: int) -> None:
    """Refuse what has no pixels or more than `MAX_PIXELS`.

    Raises:
        BadImage: with reason `size`.
    """
    if height < 1 or width < 1:
        raise BadImage("size", f"image of {height}x{width} has no pixels")
    if height * width > MAX_PIXELS:
        raise BadImage("size", f"image of {height}x{width} has more than {MAX_PIXELS // 2**20} x 2^20 pixels")


def frame_of(pixels: np.ndarray, order: ChannelOrder) -> Frame:
    """A frame whose pixels cannot be written through it."""
    view = pixels.view()
    view.flags.writeable = False
    return Frame(view, order)
