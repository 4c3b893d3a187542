"""Every command line of the project: `--help` shows an example; a wrong argument costs one line and exit code 2."""

from __future__ import annotations

import sys

import pytest
from helpers_package import ROOT, ros_environment, run

COMMANDS = (
    "mtaclip_core.train",
    "mtaclip_core.ablate",
    "mtaclip_core.evaluate",
    "mtaclip_core.export",
    "mtaclip_core.import_hf",
    "mtaclip_core.predict",
    "mtaclip_core.benchmark",
    "mtaclip_core.data.synthetic",
    "mtaclip_ros.drive_writer",
    "mtaclip_ros.replay",
    "mtaclip_ros.play",
    "mtaclip_ros.evaluate_live",
    "mtaclip_ros.demo",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    done = run([sys.executable, "-m", command, "--help"], cwd=ROOT, env=ros_environment())
    assert done.returncode == 0, done.stderr
    assert f"python -m {command}" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_option_is_one_line(command: str) -> None:
    done = run([sys.executable, "-m", command, "--no-such-option"], cwd=ROOT, env=ros_environment())
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
