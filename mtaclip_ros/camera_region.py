"""The part of a camera's picture that is segmented: a region of interest, and a mask for the vehicle's own hood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.labels import UNLABELLED
from mtaclip_core.runtime.segmenter import Segmentation
from mtaclip_ros.compressed_codec import read_picture
from mtaclip_ros.frame import BadImage, Frame


@dataclass(frozen=True, eq=False)
class Region:
    """Where a camera looks at the road. `Region()` is all of the picture.

    Attributes:
        roi: (x, y, width, height) in pixels of the input, None for all of it.
        keep: (H, W) uint8 of the input's size, 255 where a label is wanted and 0 where none is; None for everywhere.
    """

    roi: tuple[int, int, int, int] | None = None
    keep: np.ndarray | None = None

    @classmethod
    def load(cls, roi: Sequence[int], mask: str) -> Region:
        """The region of two parameters.

        Args:
            roi: empty, or x, y, width, height in pixels of the input.
            mask: empty, or the path of a PNG of the input's size; 0 (in all colours) is masked.

        Raises:
            UserError: not four numbers, a region outside, no such file, not a PNG, or nothing left to segment.
        """
        if len(roi) not in (0, 4):
            raise UserError(f"roi must be empty or [x, y, width, height] in pixels; got {list(roi)}")
        box = (int(roi[0]), int(roi[1]), int(roi[2]), int(roi[3])) if len(roi) else None
        if box and (min(box[:2]) < 0 or min(box[2:]) < 1):
            raise UserError(f"roi must be [x, y, width, height], none negative, with pixels in it; got {list(roi)}")
        keep = _read_mask(Path(mask).expanduser()) if mask else None
        if keep is not None:
            seen = keep
            if box:
                x, y, width, height = box
                if x + width > keep.shape[1] or y + height > keep.shape[0]:
                    raise UserError(f"roi {list(box)} reaches out of the mask of {_size(keep)} pixels ({mask})")
                seen = keep[y : y + height, x : x + width]
            if not seen.any():
                raise UserError(
                    f"mask '{mask}' leaves no pixel to segment: white where labels are wanted, black elsewhere"
                )
        return cls(box, keep)

    @property
    def trivial(self) -> bool:
        """Whether frames and labels pass unchanged."""
        return self.roi is None and self.keep is None

    def cut(self, frame: Frame) -> Frame:
        """The frame's region of interest, a view.

        Raises:
            BadImage: with reason `size`, when the frame is too small for it or of another size than the mask.
        """
        size = frame.pixels.shape[:2]
        if self.keep is not None and self.keep.shape != size:
            raise BadImage("size", f"image of {_size(frame.pixels)} pixels, but the mask has {_size(self.keep)}")
        if self.roi is None:
            return frame
        x, y, width, height = self.roi
        if y + height > size[0] or x + width > size[1]:
            raise BadImage("size", f"image of {_size(frame.pixels)} pixels is too small for roi {list(self.roi)}")
        return Frame(frame.pixels[y : y + height, x : x + width], frame.channel_order)

    def restore(self, segmentation: Segmentation, height: int, width: int) -> Segmentation:
        """What was found in `cut(frame)`, laid where it belongs in the whole picture.

        Args:
            segmentation: of the region of interest; not changed.
            height, width: the size of the frame before `cut`.

        Returns:
            (height, width) label and confidence, contiguous; 255 and 0 where masked and outside the region of interest.
        """
        if self.trivial:
            return segmentation
        x, y, w, h = self.roi or (0, 0, width, height)
        inside = (slice(y, y + h), slice(x, x + w))
        label, confidence = np.empty((2, height, width), np.uint8)
        for canvas, outside in ((label, UNLABELLED), (confidence, 0)):
            canvas[:y] = canvas[y + h :] = outside
            canvas[y : y + h, :x] = canvas[y : y + h, x + w :] = outside
        if self.keep is None:
            label[inside], confidence[inside] = segmentation.label, segmentation.confidence
        else:
            np.bitwise_or(segmentation.label, ~self.keep[inside], out=label[inside])
            np.bitwise_and(segmentation.confidence, self.keep[inside], out=confidence[inside])
        return Segmentation(label, confidence)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"


def _read_mask(path: Path) -> np.ndarray:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = read_picture(data, cv2.IMREAD_UNCHANGED, f"mask '{path}'")
    except OSError as error:
        raise UserError(f"cannot read mask '{path}': {error.strerror}; give the path of a PNG") from error
    except BadImage as error:
        raise UserError(f"{error}; a mask is a PNG of the camera's size, 0 where masked") from error
    colours = pixels[..., :3] if pixels.ndim == 3 else pixels[..., np.newaxis]
    return colours.any(axis=2).astype(np.uint8) * np.uint8(255)
