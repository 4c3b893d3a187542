"""The video of a report."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace
from mtaclip_ros.report_pictures import fit, legend

_WIDEST_VIDEO = 1280


class Video:
    """An MPEG-4 file that appears when it is complete; frames of another size are fitted to the first one's.

    Args:
        path: the file.
        rate: frames per second.
        space: for the legend below the picture.
    """

    def __init__(self, path: Path, rate: float, space: LabelSpace) -> None:
        self._path, self._rate, self._space = path, rate, space
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 RGB picture.

        Raises:
            UserError: this OpenCV cannot write the file.
        """
        if self._writer is None:
            width = min(picture.shape[1], _WIDEST_VIDEO) // 2 * 2 or 2
            self._legend = legend(self._space, width)
            height = fit(picture, width).shape[0]
            self._legend = self._legend[: len(self._legend) - (height + len(self._legend)) % 2]  # even, for the codec
            self._size = (width, height)
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), fourcc, self._rate, (width, height + len(self._legend)))
            if not self._writer.isOpened():
                raise UserError(f"cannot write '{self._path}': this OpenCV has no MPEG-4 encoder, or the disk is full")
        shown = picture if picture.shape[1::-1] == self._size else cv2.resize(picture, self._size)
        self._writer.write(cv2.cvtColor(np.vstack([shown, self._legend]), cv2.COLOR_RGB2BGR))

    def finish(self) -> None:
        """Put the file in its place.

        Raises:
            UserError: it is damaged; OpenCV does not say so when it cannot write.
        """
        if self._writer is not None:
            self._writer.release()
            if not cv2.VideoCapture(str(self._partial)).isOpened():
                raise UserError(f"cannot write '{self._path}': is the disk full?")
            os.replace(self._partial, self._path)
            self._writer = None

    def discard(self) -> None:
        """Remove what was not finished."""
        if self._writer is not None:
            self._writer.release()
            self._partial.unlink(missing_ok=True)
