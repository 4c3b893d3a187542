"""What the tests of the package share: a clean copy of the sources, and an environment without our own settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {".git", ".venv", "runs", "build", "install", "log", "dist"}
# Of this process: the ROS wheels set the last two for our own interpreter.
NOT_INHERITED = ("PYTHONPATH", "AMENT_PREFIX_PATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")


def copy_sources(folder: Path) -> Path:
    """Copy the project without what is built, so that a build leaves nothing in the work tree."""

    def left_out(parent: str, names: list[str]) -> set[str]:
        cached = {name for name in names if name.endswith((".egg-info", "_cache", "__pycache__"))}
        return cached | (LEFT_OUT & set(names) if Path(parent) == ROOT else set())

    shutil.copytree(ROOT, folder, ignore=left_out)
    return folder


def clean_environment(**added: str) -> dict[str, str]:
    """The environment that a new shell would have, and `added`."""
    return {name: value for name, value in os.environ.items() if name not in NOT_INHERITED} | added


def ros_environment() -> dict[str, str]:
    """As a new shell, but with the libraries of our ROS wheels, which a borrowing environment does not find alone."""
    ours = ("LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    return clean_environment(**{name: os.environ[name] for name in ours if name in os.environ})


def make_venv(folder: Path) -> Path:
    """A virtual environment with pip; its python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], env=clean_environment(), check=True)
    return folder / "bin" / "python"


def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run a command without standard input; its output as text."""
    kwargs.setdefault("env", clean_environment())
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240, **kwargs
    )  # type: ignore[call-overload]


def files_below(folder: Path) -> set[str]:
    """Relative paths of the files in a folder, less compiled ones."""
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
