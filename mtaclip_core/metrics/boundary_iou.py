"""Boundary IoU (Cheng et al., CVPR 2021): IoU of the pixels near the outlines, which large areas do not hide."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from mtaclip_core.labels import UNLABELLED, LabelSpace
from mtaclip_core.metrics.confusion import mean
from mtaclip_core.metrics.runs import runs

RATIO = 0.02
"""Width of the boundary as a part of the image's diagonal, the paper's default."""


class BoundaryIoU:
    """Counts of boundary pixels by class; grows by `update`, merges by `+`.

    The boundary of a class is its mask without the mask eroded by a 3x3 square `width` times, the outside of the image
    being no mask. Where the truth is ignored, truth and prediction are alike and count for nothing: there is an outline
    around it in both, which the authors' code for panoptic segments does not draw in the prediction. Counts are summed
    over the images, as for IoU.

    Attributes:
        space: the classes.
        totals: (3, n) int64 for n classes: pixels in both boundaries, in the true one, in the predicted one.
    """

    def __init__(self, space: LabelSpace, totals: np.ndarray | None = None) -> None:
        self.space = space
        self.totals = np.zeros((3, len(space)), np.int64) if totals is None else np.array(totals, np.int64)

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image.

        Args:
            truth: (H, W) uint8 ids of `space`; any other value is ignored ground truth.
            prediction: (H, W) uint8 ids of `space`; any other value is no class.

        Raises:
            ValueError: the shapes differ.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
        known = np.full(256, UNLABELLED, np.uint8)
        known[self.space.ids] = self.space.ids
        truth = cv2.LUT(np.ascontiguousarray(truth), known)
        prediction = np.where(truth == UNLABELLED, truth, prediction)
        width = boundary_width(*truth.shape)
        outlines = [np.where(boundary(a, width), a, UNLABELLED).astype(np.uint8) for a in (truth, prediction)]
        (true, predicted), pixels = runs(*outlines)
        both = np.where(true == predicted, true, UNLABELLED)
        for row, labels in enumerate((both, true, predicted)):
            self.totals[row] += np.bincount(labels, pixels, 256)[self.space.ids].astype(np.int64)

    def __add__(self, other: BoundaryIoU) -> BoundaryIoU:
        if not isinstance(other, BoundaryIoU):
            return NotImplemented
        return BoundaryIoU(self.space, self.totals + other.totals)

    def iou(self) -> dict[str, float | None]:
        """Boundary IoU (0-1) by class name; None for a class that is neither there nor predicted."""
        both, true, predicted = self.totals
        union = true + predicted - both
        return {n: float(b / u) if u else None for n, b, u in zip(self.space.names, both, union, strict=True)}

    def result(self) -> dict[str, Any]:
        """The part of the JSON that is about boundaries."""
        return {"miou": mean(self.iou()), "per_class": self.iou(), "ratio": RATIO}


def boundary_width(height: int, width: int) -> int:
    """Pixels from an outline that belong to the boundary: 46 at 1024x2048."""
    return max(1, round(RATIO * math.hypot(height, width)))


def boundary(label: np.ndarray, width: int) -> np.ndarray:
    """(H, W) uint8 labels -> (H, W) bool: the pixels that lie in the boundary of their own class.

    A pixel survives the erosion of its class's mask where all labels within `width` are its own, so that two filters
    serve all classes at once.
    """
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    result = np.not_equal(cv2.erode(label, kernel), cv2.dilate(label, kernel))
    result[:width] = result[-width:] = result[:, :width] = result[:, -width:] = True
    return result
