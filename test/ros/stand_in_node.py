"""The real node with a stand-in for the model: `python stand_in_node.py --ros-args ...`.

The label of a pixel is its red value; the confidence is 255. The pixel at the top left can ask for a fault (`FAULTS`).
A fault sticks, as a CUDA error does to its context, until the model is loaded again. Variables of the environment:

    STAND_IN_SECONDS   time that every call takes
    STAND_IN_LOADING   time that loading takes
    STAND_IN_BROKEN    while this file exists, the model cannot be loaded
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtaclip_core.cli import run
from mtaclip_core.labels import CAMVID
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.segment_node import main

FAULTS: dict[int, tuple[type[Exception], str]] = {
    201: (RuntimeError, "CUDA error 700: an illegal memory access was encountered"),
    202: (MemoryError, "out of memory"),
}


class StandIn(Segmenter):
    """Writes a line for every call, and for every load and close."""

    name = "stand-in"
    model_hash = 64 * "0"
    space = CAMVID
    network_size = (90, 120)
    backend = "none"
    precision = "f32"
    engine_key = "sm00-stand-in"
    gpu_memory_bytes = 12 * 2**20
    loads = 0

    def __init__(self) -> None:
        self._fault: tuple[type[Exception], str] | None = None
        self._seconds = float(os.environ.get("STAND_IN_SECONDS", "0"))
        StandIn.loads += 1
        tell(f"stand-in load {StandIn.loads}")

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        tell(f"stand-in batch of {len(frames)}")
        time.sleep(self._seconds)
        red = 0 if channel_order == "rgb" else 2
        asked = [FAULTS[frame[0, 0, red]] for frame in frames if frame[0, 0, red] in FAULTS]
        self._fault = self._fault or (asked[0] if asked else None)
        if self._fault:
            raise self._fault[0](self._fault[1])
        return [Segmentation(f[..., red].copy(), np.full(f.shape[:2], 255, np.uint8)) for f in frames]

    def close(self) -> None:
        tell("stand-in close")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def load(parameters: Parameters) -> Segmenter:
    tell("stand-in wanted")
    broken = os.environ.get("STAND_IN_BROKEN")
    if broken and Path(broken).exists():
        raise RuntimeError("no device")
    time.sleep(float(os.environ.get("STAND_IN_LOADING", "0")))
    return StandIn()


if __name__ == "__main__":
    run(lambda argv: main(argv, load))
