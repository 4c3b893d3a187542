"""Whole-image evaluation: every frame of a split is compared in the coarser of the two label spaces."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from mtaclip_core.cli import UserError
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.data.dataset import Sample, SegmentationDataset, read_ahead
from mtaclip_core.data.image_files import check_pair, read_rgb
from mtaclip_core.labels import CITYSCAPES, CITYSCAPES_IDS, LABEL_ID_TO_TRAIN_ID, LabelSpace, common_space, join
from mtaclip_core.metrics.boundary_iou import BoundaryIoU
from mtaclip_core.metrics.cityscapes_score import CityscapesScore
from mtaclip_core.metrics.confusion import Confusion
from mtaclip_core.metrics.prediction_folder import PredictionFolder
from mtaclip_core.metrics.runs import runs
from mtaclip_core.runtime.segmenter import Segmenter

LabelFunction = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 RGB -> (H, W) uint8 ids of the model's space, 255 for none."""

Writer = Callable[[int, np.ndarray], None]
"""Takes the index of a frame and its (H, W) uint8 ids."""

Labels = Segmenter | LabelFunction | PredictionFolder
"""Where predictions come from."""

_SAME = np.arange(256, dtype=np.uint8)


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
        boundary: Boundary IoU over the same space, where it was asked for.
    """

    confusion: Confusion
    images: tuple[ImageScore, ...]
    seconds: float
    cityscapes: dict[str, Any] | None
    boundary: BoundaryIoU | None = None

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
            "confusion_matrix": self.confusion.matrix.tolist(),  # rows true, columns predicted, the last one no class
            "seconds": round(self.seconds, 3),
        }
        if self.boundary is not None:
            result["boundary"] = self.boundary.result()
        return result if self.cityscapes is None else result | {"cityscapes": self.cityscapes}


@dataclass(frozen=True)
class ComparedFrame:
    """A frame with truth and prediction in one space.

    Attributes:
        sample: as it was read.
        truth, prediction: (H, W) uint8 ids of the common space, 255 unlabelled.
    """

    sample: Sample
    truth: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True)
class FrameCounts:
    """What one frame adds to the counts of a split; small, so that processes can send it.

    Attributes:
        confusion: over the common space.
        official: Cityscapes' own counts, where they are kept.
        boundary: counts over the common space, where they are kept.
    """

    index: int
    name: str
    confusion: Confusion
    official: CityscapesScore | None
    boundary: BoundaryIoU | None = None


@dataclass(frozen=True)
class _Files:
    """What the files of a frame hold, each read once.

    Attributes:
        image: None where the prediction is in a file.
        truth: ids of `Comparison._of_file`.
        instances: of Cityscapes, where they are counted and there.
    """

    image: np.ndarray | None
    truth: np.ndarray
    instances: np.ndarray | None = None


class Comparison:
    """Predictions beside a data set, both brought into a common space.

    Attributes:
        dataset: the data set.
        model_space, space: the model's classes, and the coarser space in which both are compared.
    """

    def __init__(
        self,
        labels: Labels,
        dataset: SegmentationDataset,
        space: LabelSpace | None = None,
        *,
        boundary: bool = False,
    ) -> None:
        """
        Args:
            space: the classes of a plain function's labels, the data set's own when None; others know theirs.
            boundary: count for Boundary IoU too.

        Raises:
            UserError: the classes of the model and of the data cannot be joined.
        """
        self.dataset = dataset
        self._boundary = boundary
        self._labels = labels
        if isinstance(labels, PredictionFolder | Segmenter):
            space = labels.space
        self.model_space = space or dataset.space
        self.space, self._of_model, self._of_truth = common_space(self.model_space, dataset.space)
        if self.model_space == CITYSCAPES_IDS:  # classes that are not evaluated are no classes
            self.space, self._of_model, self._of_truth = dataset.space, LABEL_ID_TO_TRAIN_ID, _SAME
        self._official: Cityscapes | None = None  # the data set where the official script's counts are kept
        self._of_file, self._to_label_ids = self._of_truth, _SAME  # into the common space, from what `_read` gives
        if isinstance(dataset, Cityscapes) and set(CITYSCAPES.names) <= set(self.model_space.names):
            self._official = dataset
            self._of_file = self._of_truth[LABEL_ID_TO_TRAIN_ID]
            self._to_label_ids = join(self.model_space, CITYSCAPES_IDS)

    def __getitem__(self, index: int) -> ComparedFrame:
        sample = self.dataset[index]
        predicted = self._predict(index, sample.image)
        return ComparedFrame(sample, self._of_truth[sample.label], self._of_model[predicted])

    def counts(self, indices: Sequence[int], write: Writer | None = None) -> Iterator[FrameCounts]:
        """`count` of frames in turn, each with the files of the next ones being read meanwhile."""
        for index, files in zip(indices, read_ahead(self._read, indices), strict=True):
            yield self._count(index, files, write)

    def count(self, index: int, write: Writer | None = None) -> FrameCounts:
        """Compare one frame; the image of a frame whose prediction stands in a file is not read.

        Args:
            write: given the index and the predicted ids of the model's space, see `prediction_writer`.

        Raises:
            UserError: a file of the data set or of the predictions is missing or wrong.
        """
        return self._count(index, self._read(index), write)

    def _count(self, index: int, files: _Files, write: Writer | None) -> FrameCounts:
        truth, instances = files.truth, files.instances
        predicted = self._predict(index, files.image)
        source = self._labels.paths[index] if isinstance(self._labels, PredictionFolder) else "the prediction"
        self._check_size(source, predicted, index, truth)
        if write is not None:
            write(index, predicted)
        if self._official is not None and instances is not None:
            self._check_size(self._official.instances_path(index), instances, index, truth)
        (true, guessed, *instance), pixels = runs(truth, predicted, *([] if instances is None else [instances]))
        confusion, official, boundary = Confusion(self.space), None, None
        confusion.add(self._of_file[true], self._of_model[guessed], pixels)
        if self._official is not None:
            official = CityscapesScore()
            official.add(true, self._to_label_ids[guessed], instance[0] if instance else None, pixels)
        if self._boundary:
            boundary = BoundaryIoU(self.space)
            boundary.update(self._of_file[truth], self._of_model[predicted])
        return FrameCounts(index, self.dataset.names[index], confusion, official, boundary)

    def _read(self, index: int) -> _Files:
        image_path, label_path = self.dataset.files(index)
        from_files = isinstance(self._labels, PredictionFolder)
        if self._official is not None:
            image, truth = None if from_files else read_rgb(image_path), self._official.label_ids(index)
            if image is not None:
                check_pair(image_path, image.shape[:2], label_path, truth.shape)
            return _Files(image, truth, self._official.instances(index))
        if from_files:
            return _Files(None, self.dataset.label(index))
        sample = self.dataset[index]
        return _Files(sample.image, sample.label)

    def _predict(self, index: int, image: np.ndarray | None) -> np.ndarray:
        if isinstance(self._labels, PredictionFolder):
            return self._labels[index]
        assert image is not None
        if isinstance(self._labels, Segmenter):
            return self._labels.segment([image])[0].label
        return self._labels(image)

    def _check_size(self, what: object, values: np.ndarray, index: int, truth: np.ndarray) -> None:
        if values.shape != truth.shape:
            sizes = [f"{a.shape[0]}x{a.shape[1]}" for a in (values, truth)]
            raise UserError(f"{what} is {sizes[0]} but the label of {self.dataset.names[index]} is {sizes[1]}")


def evaluate_segmenter(
    labels: Labels,
    dataset: SegmentationDataset,
    progress: bool = True,
    *,
    space: LabelSpace | None = None,
) -> EvaluationResult:
    """Compare the frames of a data set one by one.

    Args:
        labels: a loaded model, any function from an RGB frame to its labels, or files of predictions.
        progress: show a bar on stderr.
        space: the classes of a plain function's labels, the data set's own when None.

    Raises:
        UserError: a file of the data set is missing or wrong, or the classes cannot be joined.
    """
    comparison = Comparison(labels, dataset, space)
    return fold(comparison.space, comparison.counts(range(len(dataset))), len(dataset), progress)


def fold(space: LabelSpace, frames: Iterable[FrameCounts], count: int, progress: bool) -> EvaluationResult:
    """Add the frames up in the order in which they come: who counted them makes no difference to the last bit."""
    total = Confusion(space)
    official: CityscapesScore | None = None
    boundary: BoundaryIoU | None = None
    images = []
    start = time.perf_counter()
    for frame in tqdm(frames, total=count, desc="evaluate", unit="frame", file=sys.stderr, disable=not progress):
        total += frame.confusion
        images.append(ImageScore(frame.index, frame.name, frame.confusion.miou()))
        if frame.official is not None:
            official = frame.official if official is None else official + frame.official
        if frame.boundary is not None:
            boundary = frame.boundary if boundary is None else boundary + frame.boundary
    scores = official.result() if official is not None else None
    return EvaluationResult(total, tuple(images), time.perf_counter() - start, scores, boundary)
