"""Instance-weighted IoU (iIoU) of Cityscapes: every true instance weighs the same, whatever its size.

True positive and false negative pixels of an instance are multiplied by (average size of its class) / (its size);
false positives cannot belong to an instance and count as they are. Constants and rules are those of the official
script `evalPixelLevelSemanticLabeling` of `cityscapesscripts`.
"""

from __future__ import annotations

import cv2
import numpy as np

from mtaclip_core.labels import CITYSCAPES_IDS, CITYSCAPES_LABELS, UNLABELLED
from mtaclip_core.metrics.confusion import Confusion

AVERAGE_SIZE = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
"""Pixels of an average instance in the training set, by class with instances."""

_ROWS = {r.name: r for r in CITYSCAPES_LABELS}
_CLASS_OF_LABEL_ID = np.full(256, -1)
for _index, _name in enumerate(AVERAGE_SIZE):
    _CLASS_OF_LABEL_ID[_ROWS[_name].id] = _index
_CATEGORIES = ("human", "vehicle")
_CATEGORY_OF_LABEL_ID = np.full(256, 255, np.uint8)
for _row in CITYSCAPES_LABELS:
    if _row.category in _CATEGORIES:
        _CATEGORY_OF_LABEL_ID[_row.id] = _CATEGORIES.index(_row.category)
_EVALUATED = np.array([r.train_id != UNLABELLED for r in CITYSCAPES_LABELS])
_FIRST_INSTANCE = 1000
"""Values of an instanceIds file up to this one are label ids of regions without instances or of groups."""


class InstanceIoU:
    """Weighted counts of the 8 classes with instances; grows by `update`, merges by `+`.

    Attributes:
        totals: (8, 4) float64 in the order of `AVERAGE_SIZE`: weighted tp and fn of the class, then weighted tp and fn
            where any class of the same category is right.
    """

    def __init__(self, totals: np.ndarray | None = None) -> None:
        self.totals = np.zeros((len(AVERAGE_SIZE), 4)) if totals is None else np.array(totals, np.float64)

    def update(self, instances: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image.

        Args:
            instances: (H, W) uint16 of an instanceIds file: label id x 1000 + running number.
            prediction: (H, W) uint8 label ids (not train ids).

        Raises:
            ValueError: the shapes differ.
        """
        if instances.shape != prediction.shape:
            raise ValueError(f"instances {instances.shape} and prediction {prediction.shape} differ in shape")
        inside = np.flatnonzero(instances > _FIRST_INSTANCE)  # and not a mask, which takes twice as long to apply
        values, predicted = np.take(instances, inside), np.take(prediction, inside)
        if not values.size:
            return
        label_ids = (values // 1000).astype(np.uint8)
        sizes = np.bincount(values)
        right = np.bincount(values[predicted == label_ids], minlength=len(sizes))
        categories = [cv2.LUT(ids, _CATEGORY_OF_LABEL_ID) for ids in (predicted, label_ids)]
        akin = np.bincount(values[(categories[0] == categories[1])[:, 0]], minlength=len(sizes))
        average = np.array(list(AVERAGE_SIZE.values()))
        present = np.flatnonzero(sizes)
        classes = _CLASS_OF_LABEL_ID[np.minimum(present // 1000, UNLABELLED)]
        present, classes = present[classes >= 0], classes[classes >= 0]
        counts = np.stack(
            [right[present], sizes[present] - right[present], akin[present], sizes[present] - akin[present]], 1
        )
        np.add.at(self.totals, classes, counts * (average[classes] / sizes[present])[:, None])

    def __add__(self, other: InstanceIoU) -> InstanceIoU:
        if not isinstance(other, InstanceIoU):
            return NotImplemented
        return InstanceIoU(self.totals + other.totals)

    def class_scores(self, confusion: Confusion) -> dict[str, float | None]:
        """iIoU (0-1) by class with instances; None where the class is neither there nor predicted.

        Args:
            confusion: of the same images over `CITYSCAPES_IDS`.
        """
        scores = {}
        for name, (tp, fn, _, _) in zip(AVERAGE_SIZE, self.totals, strict=True):
            column = np.array([n == name for n in CITYSCAPES_IDS.names])
            scores[name] = _score(tp, fn, confusion, rows=_EVALUATED & ~column, columns=column)
        return scores

    def category_scores(self, confusion: Confusion) -> dict[str, float | None]:
        """iIoU (0-1) of `human` and `vehicle`; arguments and None as in `class_scores`."""
        scores = {}
        for category in _CATEGORIES:
            mine = [_ROWS[name].category == category for name in AVERAGE_SIZE]
            _, _, tp, fn = self.totals[mine].sum(0)
            columns = np.array([r.category == category for r in CITYSCAPES_LABELS])
            scores[category] = _score(tp, fn, confusion, rows=_EVALUATED & ~columns, columns=columns)
        return scores


def _score(tp: float, fn: float, confusion: Confusion, rows: np.ndarray, columns: np.ndarray) -> float | None:
    fp = int(confusion.matrix[rows][:, :-1][:, columns].sum())
    whole = tp + fp + fn
    return float(tp) / float(whole) if whole > 0 else None
