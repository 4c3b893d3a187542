"""How restless labels are from frame to frame, beyond what the scene itself does."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from mtaclip_core.labels import UNLABELLED, LabelSpace


class Flicker:
    """Counts label changes between neighbouring frames of one camera; grows by `add`, merges by `+`.

    Two neighbouring frames (of those that are looked at) that both have a label make a pair. A pixel is *steady* where
    the ground truth of both frames names one and the same class: there the scene did not change, so a changed
    prediction is flicker.

        flicker      = steady pixels whose predicted label changed / steady pixels
        label change = pixels whose predicted label changed / all pixels

    Flicker counts what the labels change beyond what the truth changes, and a label that is steadily wrong does not
    count: mIoU sees that one. It needs ground truth of both frames. Label change needs none, and holds the motion of
    the scene too: it compares models on one drive, not drives. By class: the steady pixels of that true class. A frame
    without a label (dropped, bad) and a change of size end the chain, so that no pair spans a gap.

    Args:
        space: the classes of truth and prediction.

    Attributes:
        pairs: neighbouring frames that were compared.
        restless: (H, W) uint8, 255 where the last frame flickered, else 0; None where it made no pair.
    """

    def __init__(self, space: LabelSpace) -> None:
        self.space = space
        self.pairs = 0
        self._steady = np.zeros(256, np.int64)  # pixels by true class
        self._flicker = np.zeros(256, np.int64)
        self._pixels = self._changed = 0
        self.restless: np.ndarray | None = None
        self._before: tuple[np.ndarray, np.ndarray | None] | None = None

    def add(self, prediction: np.ndarray, truth: np.ndarray | None) -> tuple[float | None, float | None]:
        """Compare a frame with the one before.

        Args:
            prediction: (H, W) uint8, kept until the next frame.
            truth: the same, 255 where nothing is known; None without ground truth.

        Returns:
            Flicker and label change of the pair, 0-1; None where there is no pair, or no steady pixel.
        """
        before, self._before = self._before, (prediction, truth)
        self.restless = None
        if before is None or before[0].shape != prediction.shape:
            return None, None
        changed = cv2.compare(prediction, before[0], cv2.CMP_NE)  # 255 where true
        count = cv2.countNonZero(changed)
        self.pairs += 1
        self._pixels += changed.size
        self._changed += count
        flicker = None
        if truth is not None and before[1] is not None:
            steady = cv2.compare(truth, before[1], cv2.CMP_EQ)
            steady[truth == UNLABELLED] = 0
            there = _by_value(truth, steady)
            self.restless = cv2.bitwise_and(steady, changed)
            restless = _by_value(truth, self.restless)
            self._steady += there
            self._flicker += restless
            flicker = _share(restless.sum(), there.sum())
        return flicker, count / changed.size

    def interrupt(self) -> None:
        """A frame without a label: the next one has no neighbour."""
        self._before = self.restless = None

    def __add__(self, other: Flicker) -> Flicker:
        if not isinstance(other, Flicker):
            return NotImplemented
        if self.space != other.space:
            raise ValueError(f"cannot merge flicker over {self.space.name} and {other.space.name}")
        both = Flicker(self.space)
        both.pairs = self.pairs + other.pairs
        both._steady, both._flicker = self._steady + other._steady, self._flicker + other._flicker
        both._pixels, both._changed = self._pixels + other._pixels, self._changed + other._changed
        return both

    @property
    def share(self) -> float | None:
        """Flicker over all pairs, each pixel of equal weight; None without a steady pixel."""
        return _share(self._flicker.sum(), self._steady.sum())

    def by_class(self) -> dict[str, float | None]:
        """Flicker by the name of the true class; None for one without a steady pixel."""
        ids = self.space.ids
        pairs = zip(self.space.names, self._flicker[ids], self._steady[ids], strict=True)
        return {name: _share(restless, steady) for name, restless, steady in pairs}

    def result(self) -> dict[str, Any]:
        """`share` and `per_class` (flicker, 0-1 or None), `label_change` (0-1 or None), `pairs`, as plain values."""
        return {
            "share": self.share,
            "per_class": self.by_class(),
            "label_change": _share(self._changed, self._pixels),
            "pairs": self.pairs,
        }


def _by_value(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(256,) int64: pixels of each value where the mask is not 0; exact up to 2^24 pixels of one value."""
    return cv2.calcHist([np.ascontiguousarray(labels)], [0], mask, [256], [0, 256])[:, 0].astype(np.int64)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
