"""Configure, activate, a frame, deactivate, cleanup, many times: nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import make_colour_bundle

pytest.importorskip("rclpy", reason="ROS is not installed")

from helpers_node import PROJECT, domain_environment


def cycles(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mtaclip_ros.lifecycle_cycles", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=domain_environment(), text=True, capture_output=True, timeout=240)


def test_transitions_leave_no_threads_handles_or_memory_behind(tmp_path: Path) -> None:
    """A leak shows in every run. What a busy machine makes a run hold once, more or less early, does not."""
    bundle = make_colour_bundle(tmp_path / "colour", network_size=(45, 60))
    numbers = tmp_path / "leaks.json"
    grown = []
    for _ in range(3):
        ended = cycles("--model", str(bundle), "--transitions", "80", "--json", str(numbers))
        assert ended.returncode == 0, ended.stderr
        leaks = json.loads(numbers.read_text(encoding="utf-8"))
        assert leaks["transitions"] == 80
        growth = {name: leaks["late"][name] - early for name, early in leaks["early"].items()}
        # At least 17 cycles lie between. A model of a few 100 kB that was not freed would show, as would a kept frame.
        most = {"threads": 0, "handles": 0, "objects": 99, "rss_mb": 12}
        if all(growth[name] <= limit for name, limit in most.items()):
            return
        grown.append(ended.stdout)
    raise AssertionError(f"every run leaves something behind: {grown}")


def test_a_missing_bundle_is_one_line(tmp_path: Path) -> None:
    ended = cycles("--model", str(tmp_path / "none"), "--transitions", "40")
    assert ended.returncode == 2
    assert "error: a transition failed: no bundle" in ended.stderr.splitlines()[-1]
