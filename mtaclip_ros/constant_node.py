"""The real node with a model that costs nothing: every pixel gets the same class.

What is left of the node's time, memory and counts is its own. For soak runs and measurements:

    python -m mtaclip_ros.constant_node --ros-args -p image_topic:=/camera/image_raw
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtaclip_core.cli import run
from mtaclip_core.labels import CAMVID
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.segment_node import main

LABEL = CAMVID.classes[0].id
CONFIDENCE = 255


class ConstantSegmenter(Segmenter):
    """Gives one and the same read-only result to all frames of a size."""

    name = "constant"
    model_hash = 64 * "0"
    space = CAMVID
    network_size = (1, 1)
    backend = "none"
    precision = "none"

    def __init__(self) -> None:
        self._last = _constant((1, 1))

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        check_frames(frames)
        return [self._of((frame.shape[0], frame.shape[1])) for frame in frames]

    def _of(self, size: tuple[int, int]) -> Segmentation:
        if self._last.label.shape != size:
            self._last = _constant(size)
        return self._last


def _constant(size: tuple[int, int]) -> Segmentation:
    arrays = [np.full(size, value, np.uint8) for value in (LABEL, CONFIDENCE)]
    for array in arrays:
        array.flags.writeable = False
    return Segmentation(*arrays)


def load(parameters: Parameters) -> Segmenter:
    """For `segment_node.main`; the parameters of the model are not looked at."""
    return ConstantSegmenter()


if __name__ == "__main__":
    run(lambda argv: main(argv, load))
