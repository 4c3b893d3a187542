"""The installer behind `make`: it repeats what was cut off, does nothing twice, and touches no Python but its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_package import ROOT, clean_environment, run

SETUP = (
    "from setuptools import setup\nsetup(name='tiny', version='1', py_modules=[], extras_require={'a': [], 'b': []})"
)


@pytest.fixture()
def project(tmp_path: Path) -> Path:
    """A project without dependencies, with our installer."""
    folder = tmp_path / "project"
    for name, text in {
        "setup.py": SETUP,
        "setup.cfg": "",
        "constraints.txt": "",
        "mtaclip_core/__init__.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "install.py", folder / "tools")
    return folder


def install(project: Path, extras: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "tools/install.py", ".venv", extras], cwd=project)


@pytest.mark.slow
def test_installs_once_and_again_after_a_change_or_a_cut(project: Path) -> None:
    first = install(project, "a")
    assert first.returncode == 0, first.stderr
    assert "installing mtaclip_ros[a]" in first.stdout
    assert install(project, "a").stdout == ""

    more = install(project, "a,b")
    assert "installing" in more.stdout
    assert "making the virtual environment" not in more.stdout
    assert install(project, "b").stdout == ""  # a part of what is there

    (project / "constraints.txt").write_text("# changed\n")
    assert "installing" in install(project, "a").stdout

    (project / ".venv" / "mtaclip_ros.unfinished").touch()  # what an installation that was cut off leaves
    again = install(project, "a")
    assert again.returncode == 0, again.stderr
    assert "making the virtual environment" in again.stdout
    assert not (project / ".venv" / "mtaclip_ros.unfinished").exists()


@pytest.mark.parametrize("configured", [False, True], ids=["no-configuration", "foreign-configuration"])
def test_never_installs_into_the_interpreter_behind_a_damaged_environment(project: Path, configured: bool) -> None:
    """Without its pyvenv.cfg the python of an environment is the base interpreter, which others use."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to(base)
    # Any pip call of the installer outside of an environment would leave its traces here instead of on the machine.
    environment = clean_environment(PIP_REPORT=str(project / "report.json"), PIP_DRY_RUN="1")
    if configured:
        (project / ".venv" / "pyvenv.cfg").write_text("home = /nowhere\n")
        (project / ".venv" / "bin" / "python").unlink()
        (project / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{base}" "$@"\n')
        (project / ".venv" / "bin" / "python").chmod(0o755)
    done = run([sys.executable, "tools/install.py", ".venv", "a"], cwd=project, env=environment)
    if configured:
        assert "making the virtual environment" in done.stdout
        assert (project / ".venv" / "bin" / "pip").exists()
    else:
        assert done.returncode == 2
        assert "is no virtual environment" in done.stderr
        assert not (project / "report.json").exists()


def test_keeps_a_folder_that_is_no_environment(project: Path) -> None:
    (project / ".venv").mkdir()
    (project / ".venv" / "thesis.tex").write_text("years of work")
    assert install(project, "a").returncode == 2
    assert (project / ".venv" / "thesis.tex").read_text() == "years of work"
