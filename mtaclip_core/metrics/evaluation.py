"""Whole-image evaluation: every frame of a split segmented and compared in the coarser of the two label spaces."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.data.dataset import Sample, SegmentationDataset
from mtaclip_core.labels import CITYSCAPES, CITYSCAPES_IDS, LabelSpace, common_space, join
from mtaclip_core.metrics.cityscapes_score import CityscapesScore
from mtaclip_core.metrics.confusion import Confusion
from mtaclip_core.runtime.segmenter import Segmenter

LabelFunction = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 RGB -> (H, W) uint8 ids of the model's space, 255 for none."""


@dataclass(frozen=True)
class ImageScore:
    """How one frame fared: mIoU over the classes that occur in it, None where nothing in it counts."""

    index: int
    name: str
    miou: float | None


@dataclass(frozen=True)
class EvaluationResult:
    """Counts and scores of a split.

    Attributes:
        confusion: over the space in which both were compared.
        images: one entry per frame, in the order of the split.
        seconds: wall time of reading, segmenting and counting.
        cityscapes: the official script's keys, where the data is Cityscapes and the model has its 19 classes.
    """

    confusion: Confusion
    images: tuple[ImageScore, ...]
    seconds: float
    cityscapes: dict[str, Any] | None

    @property
    def space(self) -> LabelSpace:
        return self.confusion.space

    @property
    def miou(self) -> float | None:
        return self.confusion.miou()

    def to_dict(self) -> dict[str, Any]:
        """The part of the contract's JSON that follows from the counts."""
        result: dict[str, Any] = {
            "miou": self.miou,
            "per_class": self.confusion.iou(),
            "classes": self.space.names,
            "images": len(self.images),
            "pixel_accuracy": self.confusion.pixel_accuracy(),
            "seconds": round(self.seconds, 3),
        }
        return result if self.cityscapes is None else result | {"cityscapes": self.cityscapes}


@dataclass(frozen=True)
class ComparedFrame:
    """A frame with truth and prediction in one space.

    Attributes:
        sample: as it was read.
        truth, prediction: (H, W) uint8 ids of the common space, 255 unlabelled.
        predicted: (H, W) uint8 ids of the model's space.
    """

    sample: Sample
    truth: np.ndarray
    prediction: np.ndarray
    predicted: np.ndarray


class Comparison:
    """A model beside a data set: segments a frame and brings both labels into the common space.

    Attributes:
        dataset: the data set.
        model_space, space: the model's classes, and the coarser space in which both are compared.
    """

    def __init__(
        self, segmenter: Segmenter | LabelFunction, dataset: SegmentationDataset, space: LabelSpace | None = None
    ) -> None:
        """
        Args:
            space: the classes of a plain function's labels, the data set's own when None; a `Segmenter` knows its.

        Raises:
            UserError: the classes of the model and of the data cannot be joined.
        """
        self.dataset = dataset
        if isinstance(segmenter, Segmenter):
            self.model_space = segmenter.space
            self._label: LabelFunction = lambda image: segmenter.segment([image])[0].label
        else:
            self.model_space = space or dataset.space
            self._label = segmenter
        self.space, self._of_model, self._of_truth = common_space(self.model_space, dataset.space)

    def __getitem__(self, index: int) -> ComparedFrame:
        sample = self.dataset[index]
        predicted = self._label(sample.image)
        return ComparedFrame(sample, self._of_truth[sample.label], self._of_model[predicted], predicted)


def evaluate_segmenter(
    segmenter: Segmenter | LabelFunction,
    dataset: SegmentationDataset,
    progress: bool = True,
    *,
    space: LabelSpace | None = None,
    limit: int | None = None,
) -> EvaluationResult:
    """Segment the frames of a data set one by one and count.

    Args:
        segmenter: a loaded model, or any function from an RGB frame to its labels.
        progress: show a bar on stderr.
        space: the classes of a plain function's labels, the data set's own when None.
        limit: only the first frames.

    Raises:
        UserError: a file of the data set is missing or wrong, or the classes cannot be joined.
    """
    comparison = Comparison(segmenter, dataset, space)
    total = Confusion(comparison.space)
    official = _official(comparison)
    images = []
    start = time.perf_counter()
    indices = range(len(dataset) if limit is None else min(limit, len(dataset)))
    for index in tqdm(indices, desc="evaluate", unit="frame", file=sys.stderr, disable=not progress):
        frame = comparison[index]
        one = Confusion(comparison.space)
        one.update(frame.truth, frame.prediction)
        total += one
        images.append(ImageScore(index, frame.sample.name, one.miou()))
        if official is not None:
            official(index, frame.predicted)
    return EvaluationResult(
        total, tuple(images), time.perf_counter() - start, official.score.result() if official is not None else None
    )


class _Official:
    """Feeds the official score, which wants label ids and instances rather than train ids."""

    def __init__(self, dataset: Cityscapes, model_space: LabelSpace) -> None:
        self.score = CityscapesScore()
        self._dataset = dataset
        self._to_label_ids = join(model_space, CITYSCAPES_IDS)

    def __call__(self, index: int, predicted: np.ndarray) -> None:
        truth, instances = self._dataset.label_ids(index), self._dataset.instances(index)
        self.score.update(truth, self._to_label_ids[predicted], instances)


def _official(comparison: Comparison) -> _Official | None:
    names = set(comparison.model_space.names)
    if isinstance(comparison.dataset, Cityscapes) and set(CITYSCAPES.names) <= names:
        return _Official(comparison.dataset, comparison.model_space)
    return None
