"""Instance-weighted IoU (iIoU) of Cityscapes: every true instance weighs the same, whatever its size.

True positive and false negative pixels of an instance are multiplied by (average size of its class) / (its size);
false positives cannot belong to an instance and count as they are. Constants and rules are those of the official
script `evalPixelLevelSemanticLabeling` of `cityscapesscripts`.
"""

from __future__ import annotations

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

_AVERAGE_SIZES = np.array(list(AVERAGE_SIZE.values()))
_ROWS = {r.name: r for r in CITYSCAPES_LABELS}
_CATEGORIES = ("human", "vehicle")
_EVALUATED = np.array([r.train_id != UNLABELLED for r in CITYSCAPES_LABELS])
_FIRST_ID = min(_ROWS[name].id for name in AVERAGE_SIZE)
_FIRST_INSTANCE = 1000 * _FIRST_ID
"""Smaller values of an instanceIds file are label ids of regions without instances or of groups."""

_GROUPS = (1 << 16) // 1000 - _FIRST_ID + 1  # label ids, real or not, that a 16-bit value may have
_CLASS_OF_GROUP = np.full(_GROUPS, -1)
_AKIN, _RIGHT = 1, 2
_HIT = np.zeros((_GROUPS, 256), np.int32)
"""What a predicted label id is in an instance of a true one: wrong, of the same category, or right."""

for _row in CITYSCAPES_LABELS[_FIRST_ID:]:
    if _row.name in AVERAGE_SIZE:
        _CLASS_OF_GROUP[_row.id - _FIRST_ID] = list(AVERAGE_SIZE).index(_row.name)
    _HIT[_row.id - _FIRST_ID, [r.id for r in CITYSCAPES_LABELS if r.category == _row.category]] = _AKIN
    _HIT[_row.id - _FIRST_ID, _row.id] = _RIGHT


class InstanceIoU:
    """Weighted counts of the 8 classes with instances; grows by `add`, merges by `+`.

    Attributes:
        totals: (8, 4) float64 in the order of `AVERAGE_SIZE`: weighted tp and fn of the class, then weighted tp and fn
            where any class of the same category is right.
    """

    def __init__(self, totals: np.ndarray | None = None) -> None:
        self.totals = np.zeros((len(AVERAGE_SIZE), 4)) if totals is None else np.array(totals, np.float64)

    def add(self, instances: np.ndarray, prediction: np.ndarray, pixels: np.ndarray) -> None:
        """Count runs of pixels that hold every pixel of the instances that are in them.

        Args:
            instances: (n,) uint16 of an instanceIds file: label id x 1000 + running number.
            prediction: (n,) uint8 label ids (not train ids).
            pixels: (n,) how many pixels each run has.
        """
        inside = np.flatnonzero(instances >= _FIRST_INSTANCE)
        if not inside.size:
            return
        numbers = instances.take(inside).astype(np.int32) - _FIRST_INSTANCE
        hits = _HIT.take((numbers // 1000 << 8) + prediction.take(inside))
        counts = np.bincount(numbers * 3 + hits, pixels.take(inside), 3 * (int(numbers.max()) + 1)).reshape(-1, 3)
        sizes = counts[:, 0] + counts[:, 1] + counts[:, 2]  # faster than a sum over rows of three
        present = np.flatnonzero(sizes)
        classes = _CLASS_OF_GROUP[present // 1000]
        present, classes = present[classes >= 0], classes[classes >= 0]
        size, right = sizes[present], counts[present, _RIGHT]
        akin = right + counts[present, _AKIN]
        weighted = np.stack([right, size - right, akin, size - akin], 1) * (_AVERAGE_SIZES[classes] / size)[:, None]
        np.add.at(self.totals, classes, weighted)

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
