"""The soak run at small size, and that it notices what it is there to notice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from helpers_node import PROJECT, domain_environment

from mtaclip_core.cli import UserError
from mtaclip_ros.constant_node import LABEL
from mtaclip_ros.driven_node import DrivenNode, Footprint
from mtaclip_ros.soak import table
from mtaclip_ros.soak_phases import PARAMETERS, WINDOW, Phase, Soak

SIZE = (48, 64)
LEAKS = """
import threading, time
from mtaclip_core.cli import run
from mtaclip_ros.constant_node import ConstantSegmenter
from mtaclip_ros.segment_node import main

class Leaks(ConstantSegmenter):
    kept = []
    def segment(self, frames, channel_order="rgb"):
        self.kept.append(bytearray(100_000))
        if len(self.kept) % 20 == 0:
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        return super().segment(frames, channel_order)

run(lambda argv: main(argv, lambda parameters: Leaks()))
"""
WRONG = """
import numpy as np
from mtaclip_core.cli import run
from mtaclip_core.runtime.segmenter import Segmentation
from mtaclip_ros.constant_node import ConstantSegmenter
from mtaclip_ros.segment_node import main

class Wrong(ConstantSegmenter):
    def segment(self, frames, channel_order="rgb"):
        return [Segmentation(s.label ^ 1, s.confidence) for s in super().segment(frames, channel_order)]

run(lambda argv: main(argv, lambda parameters: Wrong()))
"""


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mtaclip_ros.soak", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=domain_environment(), text=True, capture_output=True, timeout=240)


def test_a_short_soak_finds_a_node_that_stays_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    ended = soak("--frames", "300", "--hostile", "3000", "--transitions", "40", "--json", str(out))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    frames, raw, compressed, transitions = json.loads(out.read_text())["phases"]
    assert frames["told"]["labelled"] == frames["good"] == 300
    for phase, least in ((raw, 2100), (compressed, 900)):
        hostile = sum(phase["hostile"].values())
        assert hostile >= least
        assert phase["told"]["received"] == hostile + phase["good"]
        assert phase["told"]["labelled"] == phase["good"] == hostile // WINDOW
        assert set(phase["bad"]) == set(phase["hostile"])
        assert sum(phase["bad"].values()) + phase["told"]["dropped"] == hostile
    assert transitions["good"] == 10
    assert "hostile compressed: 900 messages" in ended.stdout


@pytest.mark.parametrize("arguments", [("--frames", "3"), ("--model", "no-such-model")])
def test_a_wrong_argument_is_one_line(arguments: tuple[str, str]) -> None:
    ended = soak(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1


@contextmanager
def node(program: str, folder: Path) -> Iterator[DrivenNode]:
    file = folder / "node.py"
    file.write_text(program)
    with DrivenNode(None, PARAMETERS, (str(file),)) as driven:
        yield driven


def test_a_node_that_leaks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    with node(LEAKS, tmp_path) as driven:
        phase = Soak(driven, SIZE, LABEL, lambda done: None).frames(300)
    memory, threads = phase.complaints(max_growth_mb=8.0)
    assert memory.startswith("frames: memory grew by ")
    assert threads.startswith("frames: threads grew from ")


def test_a_node_that_gives_a_wrong_label_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    with node(WRONG, tmp_path) as driven, pytest.raises(UserError, match="a good frame got a wrong label"):
        Soak(driven, SIZE, LABEL, lambda done: None).frames(50)


GOOD = Phase(
    name="hostile raw",
    good=2,
    hostile={"step": 60, "size": 40},
    told={"received": 102, "labelled": 2, "dropped": 30, "failed": 0, "limited": 0, "publish errors": 0},
    bad={"step": 40, "size": 30},
    early=Footprint(160.0, 21, 19),
    late=Footprint(160.5, 21, 19),
    messages=80,
    log_lines=4,
    seconds=3.0,
)


def test_every_wrong_count_is_named() -> None:
    assert GOOD.complaints(8.0) == []
    for told, clause in (
        ({"received": 101}, "101 received, expected 102"),
        ({"labelled": 1}, "1 labelled, expected 2"),
        ({"dropped": 29}, "29 dropped, expected 30"),
        ({"failed": 1}, "1 failed, expected 0"),
        ({"publish errors": 3}, "3 publish errors, expected 0"),
    ):
        assert replace(GOOD, told={**GOOD.told, **told}).complaints(8.0) == [f"hostile raw: {clause}"]
    assert replace(GOOD, bad={"step": 70}).complaints(8.0) == [
        "hostile raw: 70 bad by step, 60 were sent",
        "hostile raw: none was refused for size",
    ]
    assert replace(GOOD, late=Footprint(169.0, 21, 20)).complaints(8.0) == [
        "hostile raw: memory grew by 9.0 MiB in 80 messages",
        "hostile raw: handles grew from 19 to 20",
    ]
    assert replace(GOOD, log_lines=90).complaints(8.0) == ["hostile raw: the node wrote 90 lines in 3 s"]
    assert "the node refused 70 (30 of 40 size, 40 of 60 step)" in table([GOOD])
