"""The HTML page of an evaluation: headline, classes, confusion matrix, worst and best images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtaclip_core.data.dataset import SegmentationDataset
from mtaclip_core.drawing import caption, grid, overlay
from mtaclip_core.labels import CATEGORIES, UNLABELLED, LabelSpace
from mtaclip_core.metrics.boundary_iou import RATIO
from mtaclip_core.metrics.confusion import mean
from mtaclip_core.metrics.evaluation import ComparedFrame, Comparison, EvaluationResult, ImageScore, Labels
from mtaclip_core.metrics.instance_iou import AVERAGE_SIZE
from mtaclip_core.metrics.report import (
    Headline,
    Picture,
    Section,
    Table,
    class_bars,
    class_table,
    confusion_heatmap,
    image_uri,
    percent,
    write_report,
)

SHOWN = 4
"""Worst and best images on the page, each."""

PANEL_WIDTH = 640
"""Pixels; wider images are reduced to keep the page small."""


def write_evaluation_report(
    folder: Path,
    result: EvaluationResult,
    labels: Labels,
    dataset: SegmentationDataset,
    summary: Mapping[str, Any],
) -> Path:
    """Write `folder/index.html`; the shown images are compared once more.

    Args:
        summary: the JSON of the evaluation (CONTRACTS.md), for the title and for how it was made.

    Returns:
        The page's path.
    """
    official = result.cityscapes
    model = summary["model"]["name"]
    headline = [
        Headline("mIoU", percent(result.miou), f"{_present(result.confusion.iou())} of {len(result.space)} classes"),
        Headline("pixel accuracy", percent(result.confusion.pixel_accuracy()), "of labelled pixels"),
        Headline("images", str(len(result.images)), f"{result.seconds:.1f} s in all"),
    ]
    if result.boundary is not None:
        average = mean(result.boundary.iou())
        headline.insert(1, Headline("boundary mIoU", percent(average), f"{100 * RATIO:g}% of the diagonal wide"))
    if official:
        note = f"{_present(official['categoryScores'])} of {len(CATEGORIES)} categories"
        headline.insert(1, Headline("category IoU", percent(official["averageScoreCategories"]), note))
        if "averageScoreInstClasses" in official:
            note = f"{_present(official['classInstScores'])} of {len(AVERAGE_SIZE)} classes"
            headline.insert(2, Headline("iIoU", percent(official["averageScoreInstClasses"]), note))
    more: dict[str, Mapping[str, float | None]] = {}
    if official and "classInstScores" in official:
        more["iIoU"] = official["classInstScores"]
    if result.boundary is not None:
        more["boundary IoU"] = result.boundary.iou()
    classes = Section(
        "Classes",
        table=class_table(result.confusion, more),
        pictures=(class_bars(result.confusion.iou(), result.space), confusion_heatmap(result.confusion)),
    )
    sections = [classes, *_category_section(official), *_image_sections(result, Comparison(labels, dataset))]
    details = {
        name: str(summary[name]) for name in ("command", "data", "split", "backend", "precision") if summary[name]
    }
    if summary["model"]["hash"]:
        details["model"] = f"{model}, sha256 {summary['model']['hash']}"
    return write_report(
        folder / "index.html",
        f"{model} on {summary['data'].partition(':')[0]} {summary['split']}",
        f"Compared in the {len(result.space)} classes of {result.space.name}. Scores in per cent.",
        headline,
        sections,
        details,
    )


def frame_panel(frame: ComparedFrame, space: LabelSpace) -> np.ndarray:
    """Image, truth, prediction and errors of one frame as (H', W', 3) uint8 RGB, two by two."""
    image, truth, prediction = (_reduce(a) for a in (frame.sample.image, frame.truth, frame.prediction))
    wrong = (truth != prediction) & (truth != UNLABELLED)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 64
    errors = np.where(wrong[..., None], np.array([230, 40, 40], np.uint8), grey)
    errors[truth == UNLABELLED] //= 3
    panels = {
        "image": image,
        "truth": overlay(image, truth, space, 0.65),
        "prediction": overlay(image, prediction, space, 0.65),
        "errors red, not evaluated dark": errors,
    }
    return grid([caption(panel, name) for name, panel in panels.items()], columns=2)


def _image_sections(result: EvaluationResult, comparison: Comparison) -> list[Section]:
    ranked = sorted((i for i in result.images if i.miou is not None), key=lambda i: i.miou or 0.0)
    half = min(SHOWN, (len(ranked) + 1) // 2)
    best = ranked[max(half, len(ranked) - SHOWN) :][::-1]
    sections = []
    for title, chosen in (("Worst images", ranked[:half]), ("Best images", best)):
        if chosen:
            pictures = tuple(_picture(score, comparison) for score in chosen)
            sections.append(Section(title, "By mIoU over the classes that occur in the image.", pictures=pictures))
    return sections


def _picture(score: ImageScore, comparison: Comparison) -> Picture:
    frame = comparison[score.index]
    present = np.unique(np.concatenate([np.unique(frame.truth), np.unique(frame.prediction)]))
    names = tuple(c.name for c in comparison.space.classes if c.id in present)
    uri = image_uri(frame_panel(frame, comparison.space))
    return Picture(uri, f"{score.name}: mIoU {percent(score.miou)}", names)


def _present(scores: Mapping[str, float | None]) -> int:
    return sum(score is not None for score in scores.values())


def _category_section(official: Mapping[str, Any] | None) -> list[Section]:
    if not official:
        return []
    instances = official.get("categoryInstScores", {})
    rows = tuple((name, percent(official["categoryScores"][name]), percent(instances.get(name))) for name in CATEGORIES)
    return [Section("Cityscapes categories", table=Table(("category", "IoU", "iIoU"), rows))]


def _reduce(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if width <= PANEL_WIDTH:
        return image
    size = (PANEL_WIDTH, max(1, round(height * PANEL_WIDTH / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if image.ndim == 3 else cv2.INTER_NEAREST)
