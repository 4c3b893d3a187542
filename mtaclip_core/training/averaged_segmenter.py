"""Evaluation by sliding windows, at several scales and mirrored: class maps of many views, averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.runtime.averaging import STEP, Averaging, starts
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter
from mtaclip_core.runtime.torch_backend import TorchSegmenter
from mtaclip_core.training.checkpoint_segmenter import CheckpointSegmenter, segment_each


class AveragedSegmenter(Segmenter):
    """A PyTorch model whose answer is the mean over the views that `Averaging` describes, in float32.

    Label and confidence follow from the mean class maps as from a single one's.
    """

    backend = "torch"
    precision = "f32"

    def __init__(self, segmenter: CheckpointSegmenter | TorchSegmenter, averaging: Averaging) -> None:
        """
        Args:
            segmenter: gives its graph; not to be used beside this one.
        """
        self.name, self.model_hash, self.space = segmenter.name, segmenter.model_hash, segmenter.space
        self.network_size = segmenter.network_size
        self.averaging = averaging
        self._graph: DeployedSegmenter = segmenter.graph
        self._device = self._graph.scale.device

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        def answer(image: Tensor) -> tuple[Tensor, Tensor]:
            return self._graph.decide(self.class_maps(image), *image.shape[:2])

        return segment_each(frames, channel_order, self._device, answer)

    def class_maps(self, image: Tensor) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, C, H, W) float32, the mean over all views."""
        size = (image.shape[0], image.shape[1])
        planes = image.float().permute(2, 0, 1)[None]
        total, count = torch.zeros((1, len(self.space), *size), device=self._device), 0
        for view in self._views(planes):
            for flipped in (False, True) if self.averaging.flip else (False,):
                images = view * self._graph.scale + self._graph.shift
                maps = self._maps(images.flip(3) if flipped else images)
                total += resized(maps.flip(3) if flipped else maps, size)
                count += 1
        return total / count

    def _views(self, planes: Tensor) -> Iterator[Tensor]:
        whole = self.averaging.window is None
        for scale in self.averaging.scales:
            step = STEP if whole else 1
            sides = self.network_size if whole else (planes.shape[2], planes.shape[3])
            height, width = (max(1, round(side * scale / step)) * step for side in sides)
            yield resized(planes, (height, width))

    def _maps(self, images: Tensor) -> Tensor:
        """Normalised images (1, 3, h, w) -> class maps; of windows at (h, w), of whole images smaller."""
        window, stride = self.averaging.window, self.averaging.stride
        if window is None or stride is None:
            return self._graph.network(images).float()
        height, width = images.shape[2:]
        missing = [max(0, w - side) for w, side in zip(window, (height, width), strict=True)]
        images = F.pad(images, (0, missing[1], 0, missing[0]))  # 0 is the mean colour
        total = images.new_zeros((1, len(self.space), *images.shape[2:]))
        views = images.new_zeros((1, 1, *images.shape[2:]))
        for top in starts(images.shape[2], window[0], stride[0]):
            for left in starts(images.shape[3], window[1], stride[1]):
                rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
                maps = self._graph.network(images[:, :, rows, columns]).float()
                total[:, :, rows, columns] += resized(maps, window)
                views[:, :, rows, columns] += 1
        return (total / views)[:, :, :height, :width]


def resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres at half-integers, no antialias: as the deployed graph resizes."""
    if planes.shape[2:] == size:
        return planes
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
