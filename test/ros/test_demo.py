"""demo: what `make run` does, on a short small drive, with a colour bundle in place of a trained model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from bundles import make_colour_bundle
from helpers_bags import ROOT, command, refusal, run_module

from mtaclip_ros.demo import environment, main
from mtaclip_ros.processes import free_domain
from mtaclip_ros.transport import profile_variable

pytest.importorskip("rclpy")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", network_size=(48, 64))


def small(bundle: Path, out: Path) -> list[object]:
    return ["--model", bundle, "--seconds", 2, "--rate", 10, "--size", "96x128", "--out", out]


def without_domain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}


def test_a_whole_run_ends_with_the_table_and_every_file(bundle: Path, tmp_path: Path) -> None:
    done = run_module("mtaclip_ros.demo", *small(bundle, tmp_path / "run"), env=without_domain(), timeout=120)
    assert done.returncode == 0, done.stderr
    for text in (
        "mIoU",
        "frames in        20",
        "frames labelled",
        "frames dropped",
        "latency p50",
        "latency p99",
        "fps",
    ):
        assert text in done.stdout
    for name in ("report.html", "overlay.mp4", "contact_sheet.png", "frames.csv", "live.json", "drive"):
        assert (tmp_path / "run" / name).exists()
        assert str(tmp_path / "run" / name) in done.stdout
    result = json.loads((tmp_path / "run" / "live.json").read_text())
    assert result["frames_labelled"] >= 15 and result["miou"] is not None
    assert "listening to /camera/image_raw" in (tmp_path / "run" / "node.log").read_text()


def test_interrupted_it_ends_its_children(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    demo = subprocess.Popen(
        command("mtaclip_ros.demo", *small(bundle, out), "--seconds", 4),
        env=without_domain(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while not ((out / "node.log").is_file() and "listening" in (out / "node.log").read_text()):
        assert time.monotonic() < deadline and demo.poll() is None
        time.sleep(0.1)
    assert processes_of(out)
    demo.send_signal(signal.SIGINT)
    _, stderr = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Traceback" not in stderr, stderr
    assert processes_of(out) == []


def test_a_node_that_ends_early_is_reported_with_its_last_words(bundle: Path, tmp_path: Path) -> None:
    env = {**without_domain(), "ROS_DOMAIN_ID": "9999"}  # there is no such domain
    args = [*small(bundle, tmp_path / "run"), "--seconds", 0.2]
    done = run_module("mtaclip_ros.demo", *args, env=env, timeout=60)
    assert done.returncode == 2
    assert "node.log" in done.stderr.splitlines()[-1]


def test_the_users_own_domain_and_profile_stay(tmp_path: Path) -> None:
    own = environment({"ROS_DOMAIN_ID": "7", "FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}, tmp_path)
    assert own["ROS_DOMAIN_ID"] == "7" and own["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
    ours = environment({}, tmp_path)
    assert 1 <= int(ours["ROS_DOMAIN_ID"]) <= 101
    assert Path(ours[profile_variable()]).is_file()
    assert ours["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in environment({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, tmp_path)


def test_a_free_domain_is_one_where_nobody_listens() -> None:
    taken = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7400 + 250 * taken + 10))
        assert free_domain() != taken


def test_what_the_user_got_wrong_is_one_line(bundle: Path, tmp_path: Path) -> None:
    assert "nowhere" in refusal(main, "--model", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert "two frames" in refusal(main, "--model", bundle, "--seconds", 0.05)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not an empty folder" in refusal(main, "--model", bundle, "--out", tmp_path / "full")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def processes_of(out: Path) -> list[str]:
    """Command lines of living processes that name this run's folder, or its model."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        line = b" ".join(words).decode(errors="replace")
        if str(out) in line and "mtaclip_ros.demo" not in line:
            found.append(line)
    return found
