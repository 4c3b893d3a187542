"""A training step of ours and of Hugging Face's Mask2Former: time of its parts, and memory."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from mtaclip_core.cli import UserError
from mtaclip_core.comparison.rounds import interleaved, percentiles, ratio
from mtaclip_core.comparison.training_side import SIDES, Setup, Side, build_side

GOALS = {"decoder_losses": 0.6, "step": 0.9, "peak_memory": 0.75}
"""At most so much of what theirs takes."""


def compare_train(setup: Setup, rounds: int) -> dict[str, Any]:
    """Time steps of both on the same images and labels, one of each a round, and measure the memory of each alone.

    The same backbone with the same weights, batch norm in training, AdamW and clipping; 12,544 points a mask, their
    defaults and ours. What differs by design: ours carries the class texts through its decoder and has the contrastive
    loss; theirs also supervises the masks before the first decoder layer.

    Returns:
        Part of the benchmark's result. `stages`: `SIDE_PART`, part `backbone_forward`, `decoder_losses` (pixel decoder,
        decoder, matching and losses, forwards and backwards) or `step`, the optimiser included. `share_of_hf`: ours
        over theirs, medians; at most `goals`.
    """
    if any(side % 32 for side in setup.size):
        raise UserError("--size {}x{}: both sides must be multiples of 32 to compare networks".format(*setup.size))
    memory = {name: alone(name, setup) for name in SIDES}
    sides = {name: build_side(name, setup) for name in SIDES}
    taken = interleaved({name: side.step for name, side in sides.items()}, rounds)
    parts = {
        name: {**{part: seconds[-rounds:] for part, seconds in side.parts.items()}, "step": taken[name]}
        for name, side in sides.items()
    }
    shares = {
        name: {
            **{part: ratio(seconds, parts["hf"][part]) for part, seconds in parts[name].items()},
            "peak_memory": round(memory[name] / memory["hf"], 3),
        }
        for name in SIDES[1:]
    }
    return {
        "compare": "hf training",
        "classes": setup.classes,
        "batch": setup.batch,
        "precision": setup.precision,
        "device": torch.cuda.get_device_name() if setup.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "backbone": setup.timm,
        "text_source": setup.config().model.text.source,
        "rounds": rounds,
        "parameters": {name: _parameters(side) for name, side in sides.items()},
        "loss": {name: [round(loss, 3) for loss in side.losses] for name, side in sides.items()},
        "stages": {f"{name}_{part}": percentiles(s) for name, found in parts.items() for part, s in found.items()},
        "peak_memory_mb": {name: round(megabytes, 1) for name, megabytes in memory.items()},
        "share_of_hf": shares,
        "goals": GOALS,
    }


def peak_memory(name: str, setup: Setup) -> float:
    """MB that training takes at most in two steps: weights, gradients, optimiser, activations. For a fresh process.

    On a GPU as PyTorch's allocator counts; on the CPU the growth of the process's largest resident size, which has
    what the allocator of the system keeps, too.
    """
    side = build_side(name, setup)
    held = sum(tensor.nbytes for tensor in (*side.model.parameters(), *side.model.buffers()))
    before = 0 if setup.device == "cuda" else _status("VmRSS") - held
    for _ in range(2):
        side.step()
    return (torch.cuda.max_memory_allocated() if setup.device == "cuda" else _status("VmHWM") - before) / 2**20


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    what = f"{result['size']}, batch {result['batch']}, {result['rounds']} rounds"
    lines = [f"{'':<36}{'p50':>10}{'p90':>10}   ms, {what}"]
    lines += [f"{name:<36}{s['p50']:>10.1f}{s['p90']:>10.1f}" for name, s in result["stages"].items()]
    lines += [f"{name + '_peak_memory':<36}{mb:>10.0f}{'':>10}   MB" for name, mb in result["peak_memory_mb"].items()]
    for name, shares in result["share_of_hf"].items():
        for part, share in shares.items():
            goal = f", goal at most {result['goals'][part]:g}" if part in result["goals"] else ""
            lines.append(f"{name} {part}: {share:.2f} of theirs{goal}")
    return "\n".join(lines)


def alone(name: str, setup: Setup) -> float:
    """`peak_memory` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_memory, name, setup).result()


def _parameters(side: Side) -> dict[str, int]:
    backbone = sum(p.numel() for p in side.backbone.parameters())
    return {"backbone": backbone, "others": sum(p.numel() for p in side.model.parameters()) - backbone}


def _status(key: str) -> int:
    """Bytes of an entry of this process's memory in Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024
