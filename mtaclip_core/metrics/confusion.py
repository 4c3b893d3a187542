"""The confusion matrix of a label space, and the scores that are read off it."""

from __future__ import annotations

import numpy as np

from mtaclip_core.labels import CATEGORIES, LabelSpace
from mtaclip_core.metrics.runs import runs


class Confusion:
    """Counts of pixels by true and predicted class; grows by `update`, merges by `+`.

    Attributes:
        space: the classes.
        matrix: (n, n + 1) int64 for n classes. Rows are the true class, columns the predicted class, both in the
            order of `space.classes`; the last column holds predictions without a class (255).
    """

    def __init__(self, space: LabelSpace, matrix: np.ndarray | None = None) -> None:
        """Start empty, or from counts of the shape of `matrix`.

        Raises:
            ValueError: `matrix` does not fit the space.
        """
        n = len(space)
        self.space = space
        self.matrix = np.zeros((n, n + 1), np.int64) if matrix is None else np.array(matrix, np.int64)
        if self.matrix.shape != (n, n + 1):
            raise ValueError(f"expected counts of shape {(n, n + 1)} for {space.name}, got {self.matrix.shape}")

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count the pixels of one image.

        Args:
            truth: (H, W) uint8 ids of `space`; any other value is ignored ground truth and leaves the score.
            prediction: (H, W) uint8 ids of `space`; any other value is a miss of whatever is there.

        Raises:
            ValueError: the shapes differ, or an array is not uint8.
        """
        if truth.shape != prediction.shape or truth.dtype != np.uint8 or prediction.dtype != np.uint8:
            raise ValueError(
                "expected two uint8 label images of one shape, "
                f"got {truth.dtype} {truth.shape} and {prediction.dtype} {prediction.shape}"
            )
        (true, predicted), lengths = runs(truth, prediction)
        self.add(true, predicted, lengths)

    def add(self, truth: np.ndarray, prediction: np.ndarray, pixels: np.ndarray) -> None:
        """Count runs of pixels.

        Args:
            truth, prediction: (n,) uint8, their values as in `update`.
            pixels: (n,) how many pixels each run has.
        """
        n = len(self.space)
        index = np.minimum(self.space.index_of_id, n).astype(np.intp)  # row and column n: no class
        pairs = np.take(index * (n + 1), truth) + np.take(index, prediction)
        # Sums of whole numbers are exact in float64, bincount's type for weights.
        counts = np.bincount(pairs, pixels, (n + 1) ** 2).reshape(n + 1, n + 1)
        self.matrix += counts[:n].astype(np.int64)

    def __add__(self, other: Confusion) -> Confusion:
        if not isinstance(other, Confusion):
            return NotImplemented
        if self.space != other.space:
            raise ValueError(f"cannot merge counts over {self.space.name} and {other.space.name}")
        return Confusion(self.space, self.matrix + other.matrix)

    def regroup(self, table: np.ndarray, space: LabelSpace) -> Confusion:
        """The same pixels counted over another space.

        Args:
            table: (256,) uint8, id in `space` of every id, 255 for none: such ground truth is then ignored, such
                predictions are misses.
        """
        target = np.minimum(space.index_of_id[table[self.space.ids]], len(space))
        moved = np.zeros((len(space) + 1, len(space) + 1), np.int64)
        columns = np.append(target, len(space))
        np.add.at(moved, (target[:, None], columns[None, :]), self.matrix)
        return Confusion(space, moved[: len(space)])

    @property
    def pixels(self) -> int:
        """Number of pixels that were counted, ignored ground truth left out."""
        return int(self.matrix.sum())

    def iou(self) -> dict[str, float | None]:
        """Intersection over union (0-1) by class name; None for a class that is neither there nor predicted."""
        n = len(self.space)
        tp = np.diagonal(self.matrix)
        union = self.matrix.sum(1) + self.matrix[:, :n].sum(0) - tp
        return {name: _ratio(t, u) for name, t, u in zip(self.space.names, tp, union, strict=True)}

    def miou(self) -> float | None:
        """Mean of `iou` over the classes that have one; None when none has."""
        return mean(self.iou())

    def pixel_accuracy(self) -> float | None:
        """Share (0-1) of the counted pixels whose class is right; None when nothing was counted."""
        return _ratio(np.trace(self.matrix), self.matrix.sum())


def category_iou(confusion: Confusion) -> dict[str, float | None]:
    """IoU (0-1) of the 7 Cityscapes categories: a confusion inside a category is right (official script).

    Args:
        confusion: over a space that has the 19 evaluated classes by name and no others.

    Raises:
        ValueError: a class of the space belongs to no category.
    """
    category_of = {name: category for category, names in CATEGORIES.items() for name in names}
    names = confusion.space.names
    if not set(names) <= set(category_of):
        raise ValueError(f"{confusion.space.name} has classes that are in no Cityscapes category")
    scores: dict[str, float | None] = {}
    for category in CATEGORIES:
        inside = np.array([category_of[n] == category for n in names])
        rows = confusion.matrix[inside]
        tp = rows[:, :-1][:, inside].sum()
        fp = confusion.matrix[~inside][:, :-1][:, inside].sum()
        scores[category] = _ratio(tp, rows.sum() + fp)
    return scores


def mean(scores: dict[str, float | None]) -> float | None:
    """Mean of the scores that are not None; None when all are."""
    present = [s for s in scores.values() if s is not None]
    return sum(present) / len(present) if present else None


def _ratio(part: np.integer, whole: np.integer) -> float | None:
    return float(part) / float(whole) if whole > 0 else None
