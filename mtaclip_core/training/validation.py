"""Whole-image validation of the model being trained, with the deployed graph's own pre- and post-processing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from tqdm import tqdm

from mtaclip_core.data.dataset import SegmentationDataset, read_ahead
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.drawing import colourise, grid
from mtaclip_core.labels import common_space
from mtaclip_core.metrics.confusion import Confusion
from mtaclip_core.modeling.mta_clip import MTAClip

PANELS = 4
PANEL_WIDTH = 320


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    Attributes:
        confusion: over the coarser of the two label spaces.
        panel: (H, W, 3) uint8 RGB, a few frames spread over the part, a row each: image, truth, prediction; None for
            an empty part.
    """

    confusion: Confusion
    panel: np.ndarray | None


def validate(
    model: MTAClip,
    dataset: SegmentationDataset,
    size: tuple[int, int],
    device: torch.device,
    *,
    keep_tokens: bool = True,
    part: slice = slice(None),
    stop: Callable[[], bool] = lambda: False,
) -> Validation:
    """Segment the frames of a part of a dataset and count. Leaves the model in evaluation mode.

    Args:
        size: network size, height x width.
        keep_tokens: as `MTAClip.fold_text`.
        part: the frames of this process; all of them unless said otherwise.
        stop: asked before every frame; the rest is left out where it says so.
    """
    model.eval()
    model.fold_text(keep_tokens=keep_tokens)
    space, predicted, truth = common_space(model.space, dataset.space)
    graph = DeployedSegmenter(model, size).to(device)
    result = Confusion(space)
    frames = range(len(dataset))[part]
    shown = {frames[int(i)] for i in np.linspace(0, len(frames) - 1, PANELS).round()} if frames else set()
    rows: list[np.ndarray] = []
    with torch.inference_mode():
        samples = read_ahead(dataset.__getitem__, frames)
        bar = tqdm(samples, desc="validate", total=len(frames), unit="frame", file=sys.stderr, leave=False)
        for i, sample in zip(frames, bar, strict=True):
            if stop():
                break
            label, _ = graph(torch.from_numpy(sample.image).unsqueeze(0).to(device))
            right, mine = truth[sample.label], predicted[label[0].cpu().numpy()]
            result.update(right, mine)
            if i in shown:
                rows += [_thumbnail(p) for p in (sample.image, colourise(right, space), colourise(mine, space))]
    return Validation(result, _sheet(rows))


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    height = round(picture.shape[0] * PANEL_WIDTH / picture.shape[1])
    return cv2.resize(picture, (PANEL_WIDTH, height), interpolation=cv2.INTER_AREA)


def _sheet(pictures: list[np.ndarray]) -> np.ndarray | None:
    same = [p for p in pictures if p.shape == pictures[0].shape]
    return grid(same, 3) if same else None
