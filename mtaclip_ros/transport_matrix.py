"""Do images arrive, and if not, does the node say why? Every publisher QoS, size and rate against the real input.

A camera in a process of its own publishes to `ImageInput`, the node's subscription, without a model behind it. The
camera runs once as most drivers do, and once with the transport settings that we ship; the input always has them, as
the node does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.files import write_text
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.processes import child, exit_on_sigterm, free_domain
from mtaclip_ros.rclpy_start import import_rclpy
from mtaclip_ros.transport import PROFILE_VARIABLES, prepare_process, share_directory, transport_environment

if TYPE_CHECKING:
    from rclpy.executors import Executor
    from rclpy.node import Node

RELIABILITIES = ("reliable", "best_effort")
SIZES = ((360, 480), (480, 640), (720, 1280), (1080, 1920), (1024, 2048))
RATES = (10.0, 30.0)
ARRIVED = 0.7
"""Share of the images that must arrive where the node has said nothing."""

_PATIENCE = 60.0  # seconds that a camera may take to start, on a busy machine
_SETTINGS = (
    *PROFILE_VARIABLES,
    "FASTDDS_BUILTIN_TRANSPORTS",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
)


@dataclass(frozen=True)
class Cell:
    """One camera: what it offers, height and width in pixels, images a second, with our transport settings or not."""

    reliability: str
    height: int
    width: int
    rate: float
    profile: bool

    def __str__(self) -> str:
        profile = "profile" if self.profile else "default"
        return f"{self.reliability},{self.height}x{self.width},{self.rate:g},{profile}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The inverse of `str`, for argparse."""
        parts = text.split(",")
        try:
            reliability, size, rate, profile = parts
            height, width = (int(side) for side in size.split("x"))
            cell = cls(reliability, height, width, float(rate), profile == "profile")
        except ValueError:
            cell = None
        if cell is None or reliability not in RELIABILITIES or profile not in ("profile", "default") or cell.rate <= 0:
            raise argparse.ArgumentTypeError(f"'{text}' is not a cell; write one like best_effort,480x640,30,default")
        return cell


@dataclass(frozen=True)
class Measured:
    """What came of a cell.

    Attributes:
        sent, refused: images published, and those among them that the camera's middleware refused.
        arrived: images that the input took.
        latency_ms: p50 and p99 from the header's stamp to `on_image`, None without images.
        line: what the node said about missing images, empty when nothing.
    """

    cell: Cell
    sent: int
    refused: int
    arrived: int
    latency_ms: dict[str, float] | None
    line: str

    @property
    def silent(self) -> bool:
        """Images are missing and nothing was said."""
        return self.arrived < ARRIVED * self.sent and not self.line


def all_cells() -> list[Cell]:
    """The whole matrix, small sizes first."""
    grid = itertools.product(SIZES, RATES, RELIABILITIES, (False, True))
    return [Cell(reliability, *size, rate, profile) for size, rate, reliability, profile in grid]


def quick_cells() -> list[Cell]:
    """The corners: smallest and largest size at the higher rate."""
    return [c for c in all_cells() if (c.height, c.width) in (SIZES[0], SIZES[-1]) and c.rate == RATES[-1]]


def camera_environment(profile: bool, domain: int) -> dict[str, str]:
    """Of a camera that has the shipped transport settings, or those that a process has by default."""
    env = {name: value for name, value in os.environ.items() if name not in _SETTINGS}
    env["ROS_DOMAIN_ID"] = str(domain)
    return {**env, **transport_environment(env)} if profile else env


class Matrix:
    """Measures cells one after the other, in a ROS context of its own.

    Args:
        seconds: how long each camera publishes; above `watchdog`.
        watchdog: the node's `watchdog.timeout`.
    """

    def __init__(self, seconds: float = 7.0, watchdog: float = 5.0) -> None:
        self._seconds = seconds
        self._parameters = Parameters.from_ros({"watchdog.timeout": watchdog})
        self._count = 0

    def measure(self, cells: Sequence[Cell]) -> Iterator[Measured]:
        """The result of each cell, as it comes."""
        rclpy = import_rclpy()
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.logging import LoggingSeverity
        from rclpy.node import Node

        prepare_process()
        domain = free_domain()
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        node = Node("transport_matrix", context=context)
        node.get_logger().set_level(LoggingSeverity.FATAL)  # the lines are in the results
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            for cell in cells:
                yield self._measure(cell, node, executor, domain)
        finally:
            executor.shutdown()
            node.destroy_node()
            rclpy.try_shutdown(context=context)

    def _measure(self, cell: Cell, node: Node, executor: Executor, domain: int) -> Measured:
        from mtaclip_ros.frame_statistics import FrameStatistics
        from mtaclip_ros.image_input import ImageInput

        self._count += 1
        topic = f"/matrix_{self._count}/image_raw"
        ages: list[float] = []

        def take(message: Any) -> None:
            stamp = message.header.stamp
            ages.append(node.get_clock().now().nanoseconds * 1e-6 - stamp.sec * 1e3 - stamp.nanosec * 1e-6)

        command = [sys.executable, "-m", "mtaclip_ros.matrix_camera", "--topic", topic]
        command += ["--size", f"{cell.height}x{cell.width}", "--rate", f"{cell.rate:g}"]
        command += ["--reliability", cell.reliability, "--seconds", f"{self._seconds:g}"]
        camera_input = ImageInput(node, lambda: self._parameters, FrameStatistics(), take, topic)
        env = camera_environment(cell.profile, domain)
        with child(command, env=env, stdout=subprocess.PIPE) as camera:
            assert camera.stdout is not None
            report = _Report(camera.stdout)
            camera_input.start()
            line = ""
            deadline = time.monotonic() + _PATIENCE + self._seconds
            while "sent" not in report.values:
                executor.spin_once(timeout_sec=0.05)
                if "sending" in report.values:
                    line = camera_input.trouble or line
                if camera.poll() is not None and report.ended() and "sent" not in report.values:
                    raise UserError(f"the camera of {cell} ended early, with status {camera.returncode}")
                if time.monotonic() > deadline:
                    raise UserError(f"the camera of {cell} did not end within {_PATIENCE + self._seconds:g} s")
            camera_input.stop()
            with suppress(subprocess.TimeoutExpired):
                camera.wait(_PATIENCE / 6)
        latency = None
        if ages:
            latency = {name: round(float(np.percentile(ages, q)), 2) for name, q in (("p50", 50), ("p99", 99))}
        line = line.replace(f"{share_directory()}/", "")
        return Measured(cell, report.values["sent"], report.values["refused"], len(ages), latency, line)


class _Report:
    """Collects the camera's lines of JSON in a thread, so that the receiver never waits for them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.values: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.values = {**self.values, **json.loads(line)}

    def ended(self) -> bool:
        self._thread.join(1.0)
        return not self._thread.is_alive()


def table(results: Sequence[Measured]) -> str:
    """Markdown: one row per camera, default and profile beside each other; the lines below, each once."""
    rows: dict[tuple[str, int, int, float], dict[bool, Measured]] = {}
    for result in results:
        cell = result.cell
        rows.setdefault((cell.reliability, cell.height, cell.width, cell.rate), {})[cell.profile] = result
    lines: list[str] = []
    text = "| camera | size | Hz | default: arrived | p50 ms | said | profile: arrived | p50 ms | said |\n"
    text += "|---|---|---|---|---|---|---|---|---|\n"
    for (reliability, height, width, rate), pair in rows.items():
        columns = [reliability.replace("_", " "), f"{height}x{width}", f"{rate:g}"]
        for profile in (False, True):
            columns += _columns(pair.get(profile), lines)
        text += f"| {' | '.join(columns)} |\n"
    return text + "".join(f"\n[{number}] {line}\n" for number, line in enumerate(lines, 1))


def _columns(result: Measured | None, lines: list[str]) -> list[str]:
    if result is None:
        return ["", "", ""]
    said = "SILENCE" if result.silent else ""
    if result.line:
        advice = result.line.rsplit("; ", 1)[-1]
        if advice not in lines:
            lines.append(advice)
        said = f"[{lines.index(advice) + 1}]"
    p50 = f"{result.latency_ms['p50']:.1f}" if result.latency_ms else "-"
    return [f"{result.arrived}/{result.sent}", p50, said]


def as_json(results: Sequence[Measured], seconds: float, command: str) -> Mapping[str, Any]:
    """What `--json` writes: the cells, and the names of the silent ones."""
    rclpy = import_rclpy()
    cells = [{**asdict(r.cell), **{k: v for k, v in asdict(r).items() if k != "cell"}} for r in results]
    return {
        "command": command,
        "rmw": rclpy.get_rmw_implementation_identifier(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "seconds": round(seconds, 1),
        "cells": cells,
        "silent": [str(r.cell) for r in results if r.silent],
    }


def main(argv: list[str]) -> int | None:
    """Returns 1 when a cell ends in silence."""
    parser = Parser(
        prog="mtaclip_ros.transport_matrix",
        description="Publish images of every QoS, size and rate to the node's input, with and without the transport "
        "settings that we ship; print what arrives and what the node says where images are missing.",
        epilog="example:\n  python -m mtaclip_ros.transport_matrix --quick --json runs/transport.json\n"
        "  python -m mtaclip_ros.transport_matrix --cells best_effort,480x640,30,default\n\n"
        "exit status: 1 when images are missing somewhere and the node says nothing.",
    )
    parser.add_argument("--quick", action="store_true", help="8 cells instead of 40, about 11 s each")
    parser.add_argument("--cells", nargs="+", type=Cell.parse, metavar="CELL", help="only these")
    parser.add_argument("--seconds", type=float, default=7.0, help="how long each camera publishes (default 7)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results there")
    args = parser.parse_args(argv)
    if args.seconds <= 6:
        raise UserError(f"--seconds {args.seconds:g}: expected more than 6, the node speaks after 5")
    exit_on_sigterm()
    cells = args.cells or (quick_cells() if args.quick else all_cells())
    start = time.monotonic()
    results = list(tqdm(Matrix(args.seconds).measure(cells), total=len(cells), unit="cell", file=sys.stderr))
    print(table(results))
    command = shlex.join(["python", "-m", "mtaclip_ros.transport_matrix", *argv])
    report = as_json(results, time.monotonic() - start, command)
    if args.json:
        write_text(args.json, json.dumps(report, indent=2) + "\n")
    if report["silent"]:
        print(f"silence: {', '.join(report['silent'])}", file=sys.stderr)
        return 1
    return None


if __name__ == "__main__":
    run(main)
