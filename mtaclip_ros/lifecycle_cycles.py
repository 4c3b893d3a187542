"""Whether the node's life leaks: configure, activate, a frame, deactivate, cleanup, again and again, in one process.

python -m mtaclip_ros.lifecycle_cycles --model street-tiny --transitions 1000
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.files import prepare_file, write_text
from mtaclip_ros.image_codec import fill
from mtaclip_ros.segment_node import SegmentNode
from mtaclip_ros.transport import prepare_process

PER_CYCLE = 4
_FRAME_SECONDS = 30.0  # to the label of a frame, discovery of the new subscription included
_SIZE = (120, 160)


@dataclass(frozen=True)
class Usage:
    """What this process holds; `objects` are Python's."""

    rss_mb: float
    threads: int
    handles: int
    objects: int


@dataclass(frozen=True)
class Leaks:
    """What many transitions left behind.

    Attributes:
        transitions: how many there were.
        early, late: after a tenth of them (caches are full then), and after all.
        seconds: what they took.
    """

    transitions: int
    early: Usage
    late: Usage
    seconds: float

    @property
    def bytes_per_transition(self) -> float:
        return (self.late.rss_mb - self.early.rss_mb) * 2**20 / (0.9 * self.transitions)


def usage() -> Usage:
    """Of this process now (Linux)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Usage(
        rss_mb=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        threads=len(list(Path("/proc/self/task").iterdir())),
        handles=len(list(Path("/proc/self/fd").iterdir())),
        objects=len(gc.get_objects()),
    )


def cycle(model: str, transitions: int, progress: Callable[[int], object] = lambda done: None) -> Leaks:
    """Drive a node of this process through its life; rclpy must be initialised.

    Each time it is active, it has to label a frame. The bundle is not held against its reference outputs, which would
    take most of the time.

    Args:
        model: bundle.
        transitions: in all, at least 40; four make a cycle.
        progress: told the number of transitions after each cycle.

    Raises:
        UserError: too few transitions, a transition that failed, or a frame without a label.
    """
    if transitions < 10 * PER_CYCLE:
        raise UserError(f"at least {10 * PER_CYCLE} transitions are needed, got {transitions}")
    values = {"model.path": model, "model.verify": False}
    node = SegmentNode(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
    other = rclpy.create_node("lifecycle_camera")
    executor = SingleThreadedExecutor()
    labels: list[Image] = []
    try:
        executor.add_node(node)
        executor.add_node(other)
        publisher = other.create_publisher(Image, "image", 1)
        other.create_subscription(Image, "mtaclip/label", labels.append, 1)
        cycles = transitions // PER_CYCLE
        early = usage()
        start = time.monotonic()
        for number in range(1, cycles + 1):
            _step(node, node.trigger_configure)
            _step(node, node.trigger_activate)
            deadline = time.monotonic() + _FRAME_SECONDS
            while not labels:
                if time.monotonic() > deadline:
                    raise UserError(f"no label within {_FRAME_SECONDS:g} s after {number * PER_CYCLE - 2} transitions")
                publisher.publish(_image(other.get_clock().now().to_msg(), number))
                executor.spin_once(timeout_sec=0.05)
            _step(node, node.trigger_deactivate)
            _step(node, node.trigger_cleanup)
            labels.clear()  # of slow machines there are several, which are no leak
            if number == max(3, cycles // 10):
                early = usage()
            progress(number * PER_CYCLE)
        return Leaks(cycles * PER_CYCLE, early, usage(), time.monotonic() - start)
    finally:
        executor.shutdown()
        node.destroy_node()
        other.destroy_node()


def _step(node: SegmentNode, transition: Callable[[], TransitionCallbackReturn]) -> None:
    if transition() != TransitionCallbackReturn.SUCCESS:
        raise UserError(f"a transition failed: {node.last_error or 'see the log'}")


def _image(stamp: object, number: int) -> Image:
    pixels = np.full((*_SIZE, 3), number % 256, np.uint8)
    return fill(Image(), pixels, "rgb8", Header(stamp=stamp, frame_id="lens"))


def main(argv: list[str]) -> None:
    """Cycle, and print what is left.

    Raises:
        UserError: wrong arguments, or what `cycle` raises.
    """
    epilog = "example: python -m mtaclip_ros.lifecycle_cycles --model street-tiny --transitions 1000"
    parser = Parser(prog="lifecycle_cycles", description=__doc__.splitlines()[0], epilog=epilog)
    parser.add_argument("--model", default="street-tiny", help="bundle (default: %(default)s)")
    parser.add_argument("--transitions", type=int, default=1000, help="four make a cycle (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    given = parser.parse_args(argv)
    if given.json is not None:
        prepare_file(given.json)
    prepare_process()
    rclpy.init(args=["lifecycle_cycles", "--ros-args", "--log-level", "mtaclip:=warn"])
    try:
        with tqdm(total=given.transitions, unit="transition") as bar:
            leaks = cycle(given.model, given.transitions, lambda done: bar.update(done - bar.n))
    finally:
        rclpy.try_shutdown()
    early, late = leaks.early, leaks.late
    print(
        f"{leaks.transitions} transitions in {leaks.seconds:.0f} s: memory {early.rss_mb:.1f} -> {late.rss_mb:.1f} MiB "
        f"({leaks.bytes_per_transition:.0f} bytes each), threads {early.threads} -> {late.threads}, "
        f"handles {early.handles} -> {late.handles}, objects {early.objects} -> {late.objects}"
    )
    if given.json is not None:
        numbers = {**asdict(leaks), "bytes_per_transition": leaks.bytes_per_transition}
        write_text(given.json, json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
