"""A training so small that a step takes a fraction of a second, run through the real command."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from safetensors import safe_open

from mtaclip_core import train

SIZE = (64, 96)


def tiny(street: Path, **changes: object) -> dict:
    """A config over generated images: no batch norm in training, two contexts, one optimiser step without clipping."""
    return {
        "classes": "camvid",
        "model": {
            "backbone": {"kind": "timm", "name": "test_resnet", "freeze_batch_norm": True},
            "pixel_decoder": {"kind": "fpn", "norm": "group"},
            "text": {"source": "learned", "contexts": 2, "width": 32},
            "decoder": {"queries": 14, "width": 32, "layers": 2, "heads": 4, "feedforward": 64},
        },
        "loss": {"points": 256, "temperature": "learned", "pixel_text_weight": 1.0, "orthogonal_weight": 0.5},
        "train": [{"data": f"synthetic:{street}", "split": "train"}],
        "augment": {"crop": list(SIZE), "scale": [1.0, 1.0], "flip": 0.0, "colour": False},
        "optimiser": {"lr": 1e-3, "clip_norm": 0.0, "warmup": 0, "weight_decay": 0.0},
        "steps": 1,
        "batch": 4,
        "workers": 0,
        "log_every": 1,
    } | changes


def train_run(folder: Path, values: dict, *arguments: str) -> Path:
    """Train in this process; -> the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "given.yaml"
    config.write_text(yaml.safe_dump(values))
    train.main(["--config", str(config), "--out", str(folder), *arguments])
    return folder


def tensors(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint of the run."""
    with safe_open(str(run / "checkpoints" / f"{name}.safetensors"), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping


@contextmanager
def two_processes(command: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """The command twice, as torchrun starts it on one machine; what still runs at the end is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def gradients(run: Path) -> dict[str, torch.Tensor]:
    """What the first step's gradients were: AdamW's first moment is a tenth of them."""
    return {key: t * 10 for key, t in tensors(run).items() if key.endswith(".exp_avg")}


def assert_same_gradients(got: Path, expected: Path) -> None:
    """To 1e-5 of each tensor's largest value; tensors whose gradient is nothing but rounding are told from others."""
    mine, theirs = gradients(got), gradients(expected)
    assert mine.keys() == theirs.keys() and len(mine) > 50
    assert sum(bool(t.abs().max() > 1e-3) for t in theirs.values()) > 0.8 * len(theirs)
    for key, value in theirs.items():
        difference = (mine[key] - value).abs().max() / value.abs().max().clamp(min=1e-2)
        assert difference < 1e-5, f"{key}: {difference:.1e}"
