"""The check that runs before anything is installed: what it refuses, in which words, under which Pythons."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from helpers_package import ROOT, run

from mtaclip_core.preflight import Machine, problem, this_machine

SCRIPT = ROOT / "mtaclip_core" / "preflight.py"
GOOD = Machine("CPython", (3, 11, 2), 64, "Linux", "x86_64", ("glibc", "2.36"), (), ())


def test_this_machine_is_good() -> None:
    assert problem(this_machine()) == ""


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 12, 3)])
def test_supported_pythons_pass(version: tuple[int, int, int]) -> None:
    assert problem(GOOD._replace(version=version)) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": (3, 9, 18)}, ["Python 3.9.18", "3.10, 3.11 or 3.12", "PYTHON="]),
        (
            {"version": (3, 13, 0), "others": ("python3.11",)},
            ["3.13.0", "python3.11 is installed", "PYTHON=python3.11"],
        ),
        ({"processor": "aarch64"}, ["Linux on aarch64", "x86-64 Linux", "colcon"]),
        ({"system": "Darwin", "processor": "arm64"}, ["Darwin", "x86-64 Linux"]),
        ({"bits": 32}, ["32 bits", "64-bit CPython"]),
        ({"implementation": "PyPy"}, ["PyPy", "CPython", "PYTHON="]),
        ({"libc": ("glibc", "2.27")}, ["glibc 2.27", "2.28", "Debian 10"]),
        ({"libc": ("", "")}, ["no glibc", "2.28"]),
        ({"lacks": ("ensurepip",)}, ["ensurepip", "sudo apt install python3.11-venv"]),
    ],
)
def test_what_is_wrong_and_what_to_do_stand_in_one_line(change: dict[str, object], words: list[str]) -> None:
    message = problem(GOOD._replace(**change))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_old_pythons_can_read_the_script() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))
    assert "annotations" not in SCRIPT.read_text()  # `from __future__ import annotations` is a syntax error in 3.6


def python_that_says(folder: Path, lines: str) -> Path:
    """An executable that is this Python, but first runs `lines`, which change what it says of itself."""
    file = folder / "python"
    file.write_text(
        f"#!{sys.executable}\nimport platform, runpy, sys\n{lines}\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


@pytest.mark.parametrize("goal", ["run", "test", "setup"])
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("platform.machine = lambda: 'aarch64'", "this is Linux on aarch64, but x86-64 Linux is needed"),
        ("sys.version_info = (3, 9, 2, 'final', 0)", "this is Python 3.9.2, but Python 3.10, 3.11 or 3.12 is needed"),
    ],
    ids=["processor", "python"],
)
def test_make_stops_on_the_wrong_machine_with_one_line(tmp_path: Path, goal: str, lines: str, words: str) -> None:
    python = python_that_says(tmp_path, lines)
    venv = tmp_path / "venv"
    done = run(["make", goal, f"PYTHON={python}", f"VENV={venv}"], cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"error: {words}")
    assert "Traceback" not in done.stderr
    assert not venv.exists()


def test_make_names_the_python_that_is_missing(tmp_path: Path) -> None:
    done = run(["make", "run", "PYTHON=no-such-python", f"VENV={tmp_path / 'venv'}"], cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no no-such-python")


def unsupported_pythons() -> list[str]:
    """Other Pythons of this machine that start: on PATH, or kept by pyenv."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [f"python3.{minor}" for minor in (6, 7, 8, 9, 13, 14)]
    candidates += [str(folder / "bin" / "python") for folder in sorted(kept.glob("3.*"))]
    found = [name for name in candidates if shutil.which(name) and run([name, "-c", ""]).returncode == 0]
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    return [name for name in found if run([name, "-c", version]).stdout.strip() not in ("3.10", "3.11", "3.12")]


def test_other_pythons_say_so_themselves() -> None:
    names = unsupported_pythons()
    if not names:
        pytest.skip("no Python here but 3.10-3.12")
    for name in names:
        done = run([name, str(SCRIPT)])
        assert done.returncode == 2, name
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: this is Python 3.")
