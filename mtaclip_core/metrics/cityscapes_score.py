"""All scores of the official Cityscapes script, under its own keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtaclip_core.labels import CITYSCAPES, CITYSCAPES_IDS, CITYSCAPES_LABELS, LABEL_ID_TO_TRAIN_ID
from mtaclip_core.metrics.confusion import Confusion, category_iou, mean
from mtaclip_core.metrics.instance_iou import InstanceIoU
from mtaclip_core.metrics.runs import runs

_CATEGORIES = tuple(dict.fromkeys(r.category for r in CITYSCAPES_LABELS))


class CityscapesScore:
    """Counts over the 34 label ids and over instances; grows by `update`, merges by `+`."""

    def __init__(self) -> None:
        self.confusion = Confusion(CITYSCAPES_IDS)
        self.instances: InstanceIoU | None = InstanceIoU()

    def update(self, truth: np.ndarray, prediction: np.ndarray, instances: np.ndarray | None) -> None:
        """Count one image.

        Args:
            truth: (H, W) uint8 label ids (not train ids), the ignored ones too.
            prediction: (H, W) uint8 label ids, 255 for none.
            instances: (H, W) integers of its instanceIds file; one None drops the instance scores of the whole.

        Raises:
            ValueError: the shapes differ.
        """
        (true, predicted, *instance), pixels = runs(truth, prediction, *([] if instances is None else [instances]))
        self.add(true, predicted, instance[0] if instance else None, pixels)

    def add(self, truth: np.ndarray, prediction: np.ndarray, instances: np.ndarray | None, pixels: np.ndarray) -> None:
        """Count all runs of pixels of one image; values (n,) as in `update`, and (n,) how many pixels each run has."""
        self.confusion.add(truth, prediction, pixels)
        if self.instances is not None and instances is not None:
            self.instances.add(instances, prediction, pixels)
        else:
            self.instances = None

    def __add__(self, other: CityscapesScore) -> CityscapesScore:
        if not isinstance(other, CityscapesScore):
            return NotImplemented
        merged = CityscapesScore()
        merged.confusion = self.confusion + other.confusion
        both = self.instances is not None and other.instances is not None
        merged.instances = self.instances + other.instances if both else None  # type: ignore[operator]
        return merged

    def result(self) -> dict[str, Any]:
        """The script's JSON: scores 0-1, None where the script has NaN; instance keys only with instances."""
        evaluated = self.confusion.regroup(LABEL_ID_TO_TRAIN_ID, CITYSCAPES)
        classes = _spread(evaluated.iou(), CITYSCAPES_IDS.names)
        categories = _spread(category_iou(evaluated), _CATEGORIES)
        pixels = max(self.confusion.pixels, 1)
        result: dict[str, Any] = {
            "averageScoreClasses": mean(classes),
            "averageScoreCategories": mean(categories),
            "classScores": classes,
            "categoryScores": categories,
        }
        if self.instances is not None:
            class_instances = _spread(self.instances.class_scores(self.confusion), CITYSCAPES_IDS.names)
            category_instances = _spread(self.instances.category_scores(self.confusion), _CATEGORIES)
            result |= {
                "averageScoreInstClasses": mean(class_instances),
                "averageScoreInstCategories": mean(category_instances),
                "classInstScores": class_instances,
                "categoryInstScores": category_instances,
            }
        return result | {
            "priors": {
                name: int(row.sum()) / pixels
                for name, row in zip(CITYSCAPES_IDS.names, self.confusion.matrix, strict=True)
            },
            "labels": dict(zip(CITYSCAPES_IDS.names, CITYSCAPES_IDS.ids, strict=True)),
            "confMatrix": self.confusion.matrix[:, :-1].tolist(),
        }


def _spread(scores: dict[str, float | None], names: tuple[str, ...] | list[str]) -> dict[str, float | None]:
    return {name: scores.get(name) for name in names}
