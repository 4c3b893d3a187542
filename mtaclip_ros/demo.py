"""What `make run` shows: a generated street drive through the real node over DDS, judged against its ground truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtaclip_core.bundle import load_bundle, resolve_bundle
from mtaclip_core.cli import Parser, UserError, run, size
from mtaclip_core.labels import CITYSCAPES
from mtaclip_ros.drive_arguments import positive
from mtaclip_ros.drive_score import table
from mtaclip_ros.drive_writer import SYNTHETIC_SIZE, street_frames, write_drive
from mtaclip_ros.processes import child, exit_on_sigterm, free_domain, stop
from mtaclip_ros.rclpy_start import import_rclpy
from mtaclip_ros.report import FRAMES, PAGE, SHEET, VIDEO
from mtaclip_ros.transport import share_directory, transport_environment

MODEL = "street-tiny"
SEED = 20_240_731
"""Of the drive that is shown: far from the seeds that the shipped configs train on."""

_NODE_SECONDS = 60.0


def environment(base: Mapping[str, str], ros_logs: Path) -> dict[str, str]:
    """The environment of the node and of the evaluation.

    What the user set stays; else a ROS_DOMAIN_ID of our own and this machine only, so that no other robot's camera or
    node takes part, and the transport settings for large images.
    """
    env = {**base, **transport_environment(base)}
    env.setdefault("ROS_DOMAIN_ID", str(free_domain()))
    if not env.get("FASTDDS_BUILTIN_TRANSPORTS"):  # the user's own choice, which LOCALHOST would override
        env.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    env.setdefault("ROS_LOG_DIR", str(ros_logs))
    return env


def run_live(bag: Path, bundle: Path, out: Path) -> dict[str, Any]:
    """Start the node, evaluate it on a bag, end it.

    Args:
        bag: with ground truth.
        bundle: folder of the model.
        out: gets the report, live.json and the node's log.

    Returns:
        The JSON of `evaluate_live`.

    Raises:
        UserError: the node ended early, or the evaluation failed; names the log.
    """
    env = environment(os.environ, out / "ros_log")
    parameters = share_directory() / "config" / "segment.yaml"
    node_command = [sys.executable, "-m", "mtaclip_ros.segment_node", "--ros-args", "--params-file", str(parameters)]
    node_command += ["-p", f"model.path:={bundle.resolve()}"]
    judge_command = [sys.executable, "-m", "mtaclip_ros.evaluate_live", "--bag", str(bag), "--report", str(out)]
    judge_command += ["--json", str(out / "live.json"), "--wait-for", str(_NODE_SECONDS)]
    log_path = out / "node.log"
    with (
        log_path.open("wb") as log,
        child(node_command, env=env, stdout=log, stderr=log) as node,
        child(judge_command, env=env, stdout=subprocess.DEVNULL) as judge,
    ):
        while judge.poll() is None and node.poll() is None:
            time.sleep(0.1)
        if node.poll() is not None and judge.poll() != 0:
            stop(judge)
            raise UserError(f"the node ended with exit status {node.returncode}: {_last_line(log_path)}")
    if judge.returncode != 0:
        raise UserError(f"the evaluation failed, its message is above; the node's log is {log_path}")
    result: dict[str, Any] = json.loads((out / "live.json").read_text(encoding="utf-8"))
    return result


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].strip()} (all of it: {path})" if lines else f"it left no word in {path}"


def summary(result: Mapping[str, Any], out: Path, bag: Path) -> str:
    """The last words of `make run`: what was measured, and where to look."""
    files = [
        ("report", out / PAGE),
        ("video", out / VIDEO),
        ("contact sheet", out / SHEET),
        ("frames", out / FRAMES),
        ("numbers", out / "live.json"),
        ("bag", bag),
    ]
    width = max(len(name) for name, _ in files)
    shown = "\n".join(f"{name:<{width}}  {path}" for name, path in files if path.exists())
    about = f"{result['model']['name']} on {result['backend']} {result['precision']}, latency from camera to label"
    return f"\n{about}\n{table(result)}\n\n{shown}"


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="mtaclip_ros.demo",
        description="Generate a street drive, segment it with the real node over DDS, and judge the labels.",
        epilog="example:\n  python -m mtaclip_ros.demo --seconds 10 --out runs/first",
    )
    parser.add_argument("--model", default=MODEL, metavar="BUNDLE", help=f"bundle or its name (default {MODEL})")
    parser.add_argument("--seconds", type=positive, default=20.0, help="length of the drive (default 20)")
    parser.add_argument("--rate", type=positive, default=15.0, help="frames per second of the camera (default 15)")
    parser.add_argument(
        "--size", type=size, default=SYNTHETIC_SIZE, metavar="HxW", help="of the frames (default 360x480)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the drive")
    parser.add_argument("--out", metavar="DIR", help="new folder for everything (default runs/DATE-TIME)")
    args = parser.parse_args(argv)
    count = round(args.seconds * args.rate)
    if count < 2:
        raise UserError(f"--seconds {args.seconds:g} at --rate {args.rate:g}: expected at least two frames")
    out = Path(args.out) if args.out else Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' exists and is not an empty folder: name a new one with --out")
    bundle = resolve_bundle(args.model)
    load_bundle(bundle)
    import_rclpy()
    exit_on_sigterm()
    bag = out / "drive"
    say(f"[1/2] drawing a street drive: {count} frames of {args.size[0]}x{args.size[1]}, seed {args.seed}")
    frames = street_frames(count, args.size, args.seed, args.rate, processes=min(2, os.cpu_count() or 1))
    write_drive(frames, count, CITYSCAPES, bag, args.rate)
    say(f"[2/2] playing it to the node at {args.rate:g} Hz (node log: {out / 'node.log'})")
    print(summary(run_live(bag, bundle, out), out, bag))
    return None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
