"""Where a training's batches come from: a loader whose processes leave signals to the trainer."""

from __future__ import annotations

import ctypes
import os
import signal
from functools import partial
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from mtaclip_core.config import TrainConfig
from mtaclip_core.data.transforms import SampleStream, StepSampler


def batch_loader(
    stream: SampleStream, config: TrainConfig, fabric: Fabric, begin: int, leaving: ctypes.c_byte
) -> DataLoader:
    """Batches of images (b, 3, h, w) and labels (b, h, w) of this process's share of every step from `begin` on.

    Args:
        leaving: shared with the loader's processes; to be set once the trainer ends.
    """
    return DataLoader(
        stream,
        batch_size=config.batch // fabric.world_size,
        sampler=StepSampler(begin, config.steps, config.batch, fabric.global_rank, fabric.world_size),
        num_workers=config.workers,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(config.seed),  # else it would draw from the state that resume restores
        worker_init_fn=partial(leave_signals_to_the_trainer, leaving),
    )


def leave_signals_to_the_trainer(leaving: ctypes.c_byte, worker: int) -> None:
    """Ctrl-C and `kill -- -GROUP` reach every process; a dead worker would end the training before it is saved.

    Args:
        leaving: set once the trainer ends: Python then sends SIGTERM to the workers that are left and waits for them.
    """

    def terminated(number: int, frame: FrameType | None) -> None:
        if leaving.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, terminated)
