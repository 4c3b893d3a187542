"""Small painted drives whose labels a colour bundle finds again, and real processes around them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr
from pathlib import Path

from bundles import paint
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import run
from mtaclip_core.data.dataset import Sample
from mtaclip_core.labels import CAMVID, LabelSpace
from mtaclip_ros.bag_reader import Bag
from mtaclip_ros.drive_writer import open_drive
from mtaclip_ros.processes import free_domain
from mtaclip_ros.transport import transport_environment

ROOT = Path(__file__).resolve().parents[2]
SIZE = (90, 120)


def painted_frames(count: int, size: tuple[int, int] = SIZE, space: LabelSpace = CAMVID) -> Iterator[Sample]:
    """Random rectangles in the classes' colours, another picture in every frame; a strip on the left is unlabelled."""
    for i in range(count):
        image, label = paint(space, size, seed=i)
        label = label.copy()
        label[:, :5] = 255
        yield Sample(image, label, f"painted{i}")


def painted_bag(
    path: Path, count: int = 12, rate: float = 15.0, encoding: str = "rgb8", size: tuple[int, int] = SIZE
) -> Path:
    """A bag of painted frames with CamVid classes."""
    with open_drive(path, CAMVID, rate, encoding) as drive:
        for sample in painted_frames(count, size):
            drive.add(sample)
    return path


def rig_bag(path: Path, cameras: dict[str, Path]) -> Path:
    """A bag with several cameras: the topics `/camera/...` of a bag each become `/NAME/...`."""
    types = get_typestore(Stores.ROS2_KILTED)
    with ExitStack() as stack:
        writer = stack.enter_context(Writer(path, version=9, storage_plugin=StoragePlugin.MCAP))
        found = []
        for name, source in cameras.items():
            bag = stack.enter_context(Bag(source))
            connections = {
                topic.name: writer.add_connection(
                    topic.name.replace("/camera/", f"/{name}/"),
                    topic.msgtype,
                    typestore=types,
                    offered_qos_profiles=list(topic.qos),
                )
                for topic in bag.topics.values()
            }
            found += [(record.recorded, connections[record.topic], record.data) for record in bag.records()]
        for recorded, connection, data in sorted(found, key=lambda row: row[0]):
            writer.write(connection, recorded, data)
    return path


def ros_environment() -> dict[str, str]:
    """A domain of its own for a test's processes, and few threads for a shared machine."""
    env = {**os.environ, **transport_environment(os.environ), "OMP_NUM_THREADS": "1"}
    env["ROS_DOMAIN_ID"] = str(free_domain())
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    return env


def command(module: str, *args: object) -> list[str]:
    """`python -m module args`"""
    return [sys.executable, "-m", module, *map(str, args)]


def run_module(
    module: str, *args: object, env: dict[str, str] | None = None, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end, output captured."""
    return subprocess.run(
        command(module, *args), env=env, capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False
    )


def refusal(main: Callable[[list[str]], int | None], *args: object) -> str:
    """The one line on stderr with which a command line refuses its input; fails when there is more or another code."""
    stderr = io.StringIO()
    argv = sys.argv
    sys.argv = ["command", *map(str, args)]
    try:
        with redirect_stderr(stderr):
            run(main)
    except SystemExit as exit_:
        assert exit_.code == 2, (exit_.code, stderr.getvalue())
    finally:
        sys.argv = argv
    # progress bars may stand before it
    lines = [line for line in stderr.getvalue().splitlines() if line.strip() and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr.getvalue()
    return lines[0]


def stamps_of(count: int, rate: float, start: int) -> list[int]:
    """The stamps of a written drive in ns."""
    return [start + round(i * 1e9 / rate) for i in range(count)]
