"""evaluate_live: the real node, the real player and the real collector, each a process, over DDS."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_bags import (
    ROOT,
    command,
    painted_bag,
    painted_frames,
    rig_bag,
    ros_environment,
    run_module,
    stamps_of,
)

from mtaclip_core.labels import CAMVID
from mtaclip_ros.drive_writer import START, open_drive
from mtaclip_ros.processes import child

pytest.importorskip("rclpy")

FRAMES = 30


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted_bag(tmp_path_factory.mktemp("bags") / "painted", count=FRAMES, rate=15.0)


@pytest.fixture(scope="module")
def env() -> dict[str, str]:
    return ros_environment()


@contextlib.contextmanager
def running_node(bundle: Path, env: dict[str, str], log: Path, *ros_args: str) -> Iterator[subprocess.Popen[bytes]]:
    args = ["--ros-args", "-p", f"model.path:={bundle}", "-p", "model.threads:=1", *ros_args]
    with (
        log.open("wb") as file,
        child(command("mtaclip_ros.segment_node", *args), env=env, stdout=file, stderr=file) as node,
    ):
        yield node


def wait_until_it_listens(log: Path) -> None:
    deadline = time.monotonic() + 60
    while "listening to" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drive backwards, so that other pictures have the same stamps; the last two images share one."""
    path = tmp_path_factory.mktemp("bags") / "other"
    with open_drive(path, CAMVID, 15.0) as drive:
        for sample in list(painted_frames(FRAMES))[:19:-1]:
            drive.add(sample)
    file = path / "other.mcap"
    last, before = stamps_of(10, 15.0, START)[-1], stamps_of(10, 15.0, START)[-2]
    stamps = [struct.pack("<II", stamp // 10**9, stamp % 10**9) for stamp in (last, before)]
    file.write_bytes(file.read_bytes().replace(b"\0\1\0\0" + stamps[0], b"\0\1\0\0" + stamps[1]))
    return path


def test_live_gives_the_labels_and_the_score_of_the_offline_replay(
    bag: Path, other: Path, bundle: Path, env: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["--bag", bag, other, "--json", tmp_path / "live.json", "--report", tmp_path / "live"]
    with running_node(bundle, env, tmp_path / "node.log") as node:
        done = run_module("mtaclip_ros.evaluate_live", *arguments, "--wait-for", 30, env=env)
        assert node.poll() is None, (tmp_path / "node.log").read_text()
    assert done.returncode == 0, done.stderr + (tmp_path / "node.log").read_text()
    live = json.loads((tmp_path / "live.json").read_text())
    offline_args = [
        "--bag",
        bag,
        other,
        "--model",
        bundle,
        "--json",
        tmp_path / "offline.json",
        "--report",
        tmp_path / "offline",
    ]
    assert run_module("mtaclip_ros.replay", *offline_args).returncode == 0
    offline = json.loads((tmp_path / "offline.json").read_text())

    assert set(live) == set(offline)
    assert live["frames_in"] == FRAMES + 10
    # Which of two images of one stamp a label belongs to cannot be said.
    assert live["frames_bad"] == {"stamp of several images": 2}
    assert live["frames_labelled"] + live["frames_dropped"] == FRAMES + 8
    assert live["frames_labelled"] >= FRAMES - 10  # a busy machine may cost frames
    assert live["miou"] == 1.0
    assert [(d["bag"], d["frames_in"], d["miou"]) for d in live["drives"]] == [
        (str(bag), 30, 1.0),
        (str(other), 10, 1.0),
    ]
    for key in ("model", "backend", "precision", "classes"):
        assert live[key] == offline[key]
    assert 0 < live["latency_ms"]["p50"] <= live["latency_ms"]["p99"] < 2000
    assert live["fps"] == pytest.approx(15, rel=0.25)
    pairs = []
    for name in ("painted", "other"):
        ours, theirs = rows(tmp_path / "live" / name), rows(tmp_path / "offline" / name)
        assert "labelled" in {row["outcome"] for row in ours[:4]}  # the first ones are not lost
        pairs += [(a, b) for a, b in zip(ours, theirs, strict=True) if a["outcome"] == "labelled"]
    assert len(pairs) == live["frames_labelled"]
    assert all(a["label_crc32"] == b["label_crc32"] for a, b in pairs)
    assert "frames labelled" in done.stdout and done.stdout.count("\n") < 20  # the table; progress is on stderr
    assert {"report.html", "overlay.mp4", "contact_sheet.png"} <= {
        p.name for p in (tmp_path / "live" / "other").iterdir()
    }


def test_two_cameras_of_one_node_are_judged_each_and_as_one_on_the_bags_clock(
    bag: Path, bundle: Path, env: dict[str, str], tmp_path: Path
) -> None:
    rig = rig_bag(tmp_path / "rig", {"front": bag, "left": bag})
    topics = ["--image-topic", "/front/image_raw", "/left/image_raw", "--to", 1.2]
    ros_args = ["-p", "cameras:=[front, left]", "-p", "use_sim_time:=true"]
    with running_node(bundle, env, tmp_path / "node.log", *ros_args):
        wait_until_it_listens(tmp_path / "node.log")
        arguments = ["--bag", rig, *topics, "--clock", "--rate", 0.5, "--min-miou", 0.99, "--wait-for", 30]
        arguments += ["--json", tmp_path / "live.json", "--report", tmp_path / "live", "--no-video"]
        done = run_module("mtaclip_ros.evaluate_live", *arguments, env=env, timeout=120)
    assert done.returncode == 0, done.stderr + (tmp_path / "node.log").read_text()
    live = json.loads((tmp_path / "live.json").read_text())
    assert live["miou"] == 1.0 and live["model"]["name"] == "colour"
    assert [(d["camera"], d["label_topic"]) for d in live["drives"]] == [
        ("front", "/front/label_gt"), ("left", "/left/label_gt")
    ]  # fmt: skip
    for drive in live["drives"]:
        assert drive["frames_in"] == 18 and drive["frames_labelled"] >= 12
    offline = ["--bag", rig, *topics, "--model", bundle, "--report", tmp_path / "offline", "--no-video"]
    assert run_module("mtaclip_ros.replay", *offline, timeout=120).returncode == 0
    for name in ("rig_front", "rig_left"):
        ours, theirs = rows(tmp_path / "live" / name), rows(tmp_path / "offline" / name)
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a["outcome"] == "labelled"]
        assert pairs and all(a["label_crc32"] == b["label_crc32"] for a, b in pairs)


def test_a_node_that_listens_elsewhere_is_found_in_its_namespace_and_told_what_to_remap(
    bag: Path, bundle: Path, env: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = ["-r", "__ns:=/front", "-r", "image:=/front/image_raw"]
    with running_node(bundle, env, tmp_path / "node.log", *elsewhere):
        wait_until_it_listens(tmp_path / "node.log")
        arguments = ["--bag", bag, "--namespace", "/front/mtaclip", "--wait-for", 4]
        done = run_module("mtaclip_ros.evaluate_live", *arguments, env=env)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: the node does not listen to the bag's images on /camera/image_raw")
    assert "it listens to /front/image_raw" in last and "Traceback" not in done.stderr


def test_without_a_node_it_says_what_to_start(bag: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    arguments = ["--bag", bag, "--wait-for", 1, "--json", tmp_path / "live.json"]
    done = run_module("mtaclip_ros.evaluate_live", *arguments, env=ros_environment())
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: no node publishes /mtaclip/label") and "mtaclip_ros.segment_node" in last
    assert time.monotonic() - started < 15
    assert list(tmp_path.iterdir()) == []


def test_a_bag_without_the_images_is_refused_before_anything_is_waited_for(bag: Path) -> None:
    done = run_module(
        "mtaclip_ros.evaluate_live", "--bag", bag, "--image-topic", "/front/image_raw", env=ros_environment()
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: bag '{bag}' has no topic '/front/image_raw'; it has: ")


def test_the_launch_file_asks_for_what_evaluate_live_takes(bag: Path) -> None:
    spec = importlib.util.spec_from_file_location("replay_launch", ROOT / "launch" / "replay.launch.py")
    assert spec is not None and spec.loader is not None
    launch_file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launch_file)
    given = {name: default or "" for name, (default, _) in launch_file.ARGUMENTS.items()}
    given.update(bag=str(bag), namespace="front", image="/missing", use_sim_time="true", min_miou="0.5")
    arguments = launch_file.evaluation_arguments(given)
    assert arguments[arguments.index("--namespace") + 1] == "/front/mtaclip"
    done = run_module("mtaclip_ros.evaluate_live", *arguments, env=ros_environment())
    assert "has no topic '/missing'" in done.stderr  # every argument was taken
