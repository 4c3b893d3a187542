"""Command line: how fast a bundle runs on this machine, and how fast others are."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, positive, run, size
from mtaclip_core.comparison.rounds import percentiles
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.files import prepare_file, write_text
from mtaclip_core.labels import MAX_CLASSES
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS, Segmenter, load_segmenter

WARM_UP = 3
ROUNDS = 5
TRAINING_SIZE = (512, 1024)
COMPARISONS = ("hf", "classes", "cityscapes")
_DISTINCT_FRAMES = 4

EPILOG = """example:
  python -m mtaclip_core.benchmark --model street-tiny --size 360x480 --json runs/benchmark.json
  python -m mtaclip_core.benchmark --size 512x1024 --compare hf --json runs/compare.json
  python -m mtaclip_core.benchmark --train --compare hf --frames 3 --json runs/compare-train.json

Without --model: MTA-CLIP with CLIP's RN50 tower and random weights (needs the extra train). --compare hf times one
image through Hugging Face's Mask2Former (ResNet-50, 100 queries) and through ours with the same ResNet-50, --compare
classes through 19 classes with text tokens and through --classes without, --compare cityscapes the scoring of PNG files
by the official script and by `evaluate` in --threads processes; everything runs once a round, interleaved.
--train --compare hf times training steps of both with the same timm ResNet-50, ours also with checkpointing; the memory
of each is measured in a process of its own.

Frames are generated streets in memory. The stage `segment` is everything from a uint8 frame to its uint8 label and
confidence: both resizes, the network and the decision; `first` is the first frame of this size, with what is compiled
for it. Numbers of different runs compare only on a quiet machine."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.benchmark", description=__doc__, epilog=EPILOG)
    parser.add_argument("--model", metavar="BUNDLE", help="folder or name of a bundle (default: random weights)")
    parser.add_argument("--size", type=size, metavar="HxW", help="of the frames; with --train default 512x1024")
    parser.add_argument("--batch", type=positive, default=1, metavar="B", help="frames per call (default: %(default)s)")
    parser.add_argument("--backend", default="auto", choices=BACKENDS, help="default: %(default)s")
    parser.add_argument("--precision", default="f32", choices=PRECISIONS, help="arithmetic (default: %(default)s)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: the backend's choice)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=10.0, help="how long to measure (default: %(default)s)")
    length.add_argument("--frames", type=positive, metavar="N", help="measure so many calls instead")
    parser.add_argument("--compare", choices=COMPARISONS, help="time two, --frames times each (default: 5)")
    parser.add_argument("--train", action="store_true", help="compare steps of training (with --compare hf)")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="of --train (auto: cuda where there is one)",
    )
    shape = parser.add_argument_group("networks with random weights")
    shape.add_argument("--classes", type=positive, metavar="N", help="default: 19; with --compare classes 150")
    shape.add_argument("--drop-text-tokens", action="store_true", help="mask queries alone pass the decoder")
    shape.add_argument(
        "--deformable", choices=("grid_sample", "gather"), default="grid_sample", help="default: %(default)s"
    )
    parser.add_argument("--json", required=True, type=Path, metavar="OUT", help="write the result to this file")
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= 86_400:
        raise UserError(f"--seconds {args.seconds:g}: expected more than 0 and at most a day")
    if args.train:
        _check_training(args)
    elif args.size is None:
        raise UserError("--size is missing; give that of the frames, for example --size 512x1024")
    elif args.device != "auto":
        raise UserError("--device is for --train; choose what runs a bundle by --backend")
    if args.model and (args.compare or args.classes or args.drop_text_tokens):
        raise UserError("--compare, --classes and --drop-text-tokens are for random weights; leave --model out")
    if args.compare and not args.train and (args.backend not in ("auto", "openvino") or args.batch > 1):
        raise UserError("--compare runs one frame a call in OpenVINO; leave --backend and --batch out")
    if args.compare == "hf" and not args.train and args.precision != "f32":
        raise UserError("--compare hf runs f32, bf16 and int8 (with NNCF) in any case; leave --precision out")
    if args.classes and args.classes > MAX_CLASSES:
        raise UserError(f"--classes {args.classes}: at most {MAX_CLASSES}")

    prepare_file(args.json)
    with tempfile.TemporaryDirectory() as temporary:
        result = _compare(args) if args.compare else _measured(args, Path(temporary))
    result["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    result["machine"] = machine()
    result["command"] = shlex.join(["python", "-m", "mtaclip_core.benchmark", *argv])
    write_text(args.json, json.dumps(result, indent=1) + "\n")
    print(_comparison(result) if args.compare else _table(result))
    return 0


def _check_training(args: argparse.Namespace) -> None:
    if args.compare != "hf":
        raise UserError("--train times a step of training against that of another program; add --compare hf")
    if args.backend != "auto" or args.drop_text_tokens:
        raise UserError("--train runs in PyTorch with all text tokens; leave --backend and --drop-text-tokens out")
    if args.precision not in ("f32", "bf16"):
        raise UserError(f"--precision {args.precision}: --train runs in f32 or bf16")
    args.size = args.size or TRAINING_SIZE


def _device(name: str) -> str:
    """cpu or cuda; UserError for a GPU that is not there."""
    import torch

    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return "cuda" if there and name == "auto" else name.replace("auto", "cpu")


def _measured(args: argparse.Namespace, temporary: Path) -> dict[str, Any]:
    """Times of one bundle."""
    model = args.model or _random_bundle(args, temporary)
    frames = _frames(args.size, args.batch)
    start = time.perf_counter()
    with load_segmenter(model, args.backend, precision=args.precision, threads=args.threads) as segmenter:
        load = time.perf_counter() - start
        start = time.perf_counter()
        segmenter.segment(frames[0])
        first = time.perf_counter() - start
        taken = _measure(segmenter, frames, None if args.frames else args.seconds, args.frames)
        return {
            "model": {"name": segmenter.name, "hash": segmenter.model_hash},
            "backend": segmenter.backend,
            "precision": segmenter.precision,
            "size": f"{args.size[0]}x{args.size[1]}",
            "network_size": "{}x{}".format(*segmenter.network_size),
            "batch": args.batch,
            "threads": getattr(segmenter, "threads", args.threads),
            "calls": len(taken),
            "stages": {"load": percentiles([load]), "first": percentiles([first]), "segment": percentiles(taken)},
            "fps": round(args.batch * len(taken) / sum(taken), 2),
        }


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    """Times of two networks with random weights, or of two programs."""
    if args.train:
        from mtaclip_core.comparison import compare_train

        setup = compare_train.Setup(
            args.size, args.batch, args.classes or 19, args.precision, _device(args.device), args.threads
        )
        found = compare_train.compare_train(setup, args.frames or ROUNDS)
        return {**found, "size": f"{args.size[0]}x{args.size[1]}"}
    if args.compare == "cityscapes":
        from mtaclip_core.comparison.compare_cityscapes import compare_cityscapes

        return compare_cityscapes(args.size, rounds=args.frames or ROUNDS, processes=args.threads)
    from mtaclip_core.comparison.compare_classes import compare_classes
    from mtaclip_core.comparison.compare_hf import compare_hf

    options = {"deformable": args.deformable, "rounds": args.frames or ROUNDS, "threads": args.threads}
    if args.compare == "hf":
        keep = not args.drop_text_tokens
        found = compare_hf(args.size, classes=args.classes or 19, keep_tokens=keep, **options)
    else:
        found = compare_classes(args.size, classes=args.classes or 150, precision=args.precision, **options)
    return {**found, "size": f"{args.size[0]}x{args.size[1]}"}


def _random_bundle(args: argparse.Namespace, folder: Path) -> Path:
    from mtaclip_core.comparison import random_bundle

    height, width = (-(-side // 32) * 32 for side in args.size)
    config = random_bundle.full_config((height, width))
    model = random_bundle.random_model(config, random_bundle.classes_of(args.classes or 19))
    return random_bundle.write_random_bundle(
        model, config, folder / "rn50-random", keep_tokens=not args.drop_text_tokens, deformable=args.deformable
    )


def _comparison(result: dict[str, Any]) -> str:
    """A comparison for people."""
    if "peak_memory_mb" in result:
        from mtaclip_core.comparison.compare_train import table

        return table(result)
    lines = [f"{'':<24}{'p50':>10}{'p90':>10}   ms, {result['size']}, {result['rounds']} rounds"]
    lines += [f"{name:<24}{s['p50']:>10.1f}{s['p90']:>10.1f}" for name, s in result["stages"].items()]
    floor = result.get("floor", {})
    for precision, at in floor.items():
        if precision == "gmac":
            continue
        lines.append(
            f"{'floor ' + precision:<24}{at['ms']:>10.1f}{'':>10}   {floor['gmac']:.1f} G multiply-adds at "
            f"{at['gmac_per_s']:.0f} G/s of a matrix product"
        )
    lines += [f"{name}: {result[name]:.2f}" for name in result if name.startswith("ratio_")]
    for precision, found in result.get("gate", {}).items():
        passed = "passed" if found["passed"] else "failed"
        lines.append(f"gate {precision}: {passed}, labels agree on {found['label_agreement']:.2%}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    versions = {}
    for package in ("openvino", "torch", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _measure(
    segmenter: Segmenter, frames: Sequence[list[np.ndarray]], seconds: float | None, calls: int | None
) -> list[float]:
    """Wall time of each call in seconds, after a warm-up."""
    for i in range(WARM_UP):
        segmenter.segment(frames[i % len(frames)])
    taken: list[float] = []
    begin = time.perf_counter()
    with tqdm(total=calls, unit="call") as progress:
        while len(taken) < calls if calls is not None else time.perf_counter() - begin < (seconds or 0):
            start = time.perf_counter()
            segmenter.segment(frames[len(taken) % len(frames)])
            taken.append(time.perf_counter() - start)
            progress.update()
    return taken


def _frames(frame_size: tuple[int, int], batch: int) -> list[list[np.ndarray]]:
    """A few different calls' worth of frames, so that no cache holds the one picture."""
    drive = StreetDrive(frame_size, seed=1)
    images = [drive.frame(10 * i).image for i in range(_DISTINCT_FRAMES)]
    return [[images[(start + i) % len(images)] for i in range(batch)] for start in range(len(images))]


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'stage':<10}{'p50':>10}{'p90':>10}{'p99':>10}   ms"]
    lines += [f"{name:<10}{s['p50']:>10.1f}{s['p90']:>10.1f}{s['p99']:>10.1f}" for name, s in result["stages"].items()]
    return "\n".join(
        [
            *lines,
            f"{result['fps']:.1f} fps at {result['size']}, batch {result['batch']}, {result['backend']} "
            f"{result['precision']}, {result['threads']} threads, {result['peak_rss_mb']:.0f} MB",
        ]
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


if __name__ == "__main__":
    run(main)
