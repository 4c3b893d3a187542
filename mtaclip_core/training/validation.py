"""Whole-image validation of the model being trained, with the deployed graph's own pre- and post-processing."""

from __future__ import annotations

import sys

import torch
from tqdm import tqdm

from mtaclip_core.data.dataset import SegmentationDataset
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.labels import common_space
from mtaclip_core.metrics.confusion import Confusion
from mtaclip_core.modeling.mta_clip import MTAClip


def validate(model: MTAClip, dataset: SegmentationDataset, size: tuple[int, int], device: torch.device) -> Confusion:
    """Segment every frame and count. Leaves the model in evaluation mode.

    Args:
        size: network size, height x width.

    Returns:
        Confusion over the coarser of the two label spaces.
    """
    model.eval()
    model.fold_text()
    space, predicted, truth = common_space(model.space, dataset.space)
    graph = DeployedSegmenter(model, size).to(device)
    result = Confusion(space)
    with torch.inference_mode():
        for i in tqdm(range(len(dataset)), desc="validate", unit="frame", file=sys.stderr, leave=False):
            sample = dataset[i]
            label, _ = graph(torch.from_numpy(sample.image).unsqueeze(0).to(device))
            result.update(truth[sample.label], predicted[label[0].cpu().numpy()])
    return result
