"""Install the project, editable, with some of its extras into a virtual environment. Where it is installed: nothing.

    python3 tools/install.py .venv onboard,ros

What is installed is noted in the environment with a hash of all that it depends on. An environment that another
Python made, or whose installation was cut off, is made anew. Run by the Makefile, after mtaclip_core/preflight.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = ("setup.py", "setup.cfg", "constraints.txt", "mtaclip_core/__init__.py", "tools/install.py")
# The official Cityscapes script, oracle of the tests. One of the packages it asks for replaces the standard library's
# `typing`, so these come without what they ask for; what the evaluation imports besides is in the extras.
ALONE = {"test": ["cityscapesscripts", "pyquaternion"]}
# Python bindings of TensorRT and CUDA, to hold our code against (10 MB; that needs no libraries of theirs). Several are
# the same module, so each lies in a folder of its own, where only the tests look: folder in the environment -> package.
APART = {
    "test": {
        "tensorrt-bindings/10.3.0": "tensorrt_cu12_bindings==10.3.0",
        "tensorrt-bindings/11.4.0.106": "tensorrt_cu13_bindings==11.4.0.106",
        "cuda-bindings/12.9.10": "cuda_bindings==12.9.10",
    }
}


def main(argv: list[str]) -> int:
    """Install the extras argv[1] ("onboard,ros") into the environment argv[0]; 0, or 2 after an error."""
    venv, extras = Path(argv[0]).absolute(), set(argv[1].split(","))
    if venv.exists() and not (venv / "pyvenv.cfg").is_file():
        print(f"error: {venv} is no virtual environment; delete it, or name another with VENV=FOLDER", file=sys.stderr)
        return 2
    with open(ROOT / "setup.py", "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another installation of this project to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        # pip keeps the lock open too: it may outlive a `make` that was killed, and must not be disturbed then.
        return _install(venv, extras, lock.fileno())


def _install(venv: Path, extras: set[str], lock: int) -> int:
    state, unfinished = venv / "mtaclip_ros.json", venv / "mtaclip_ros.unfinished"
    python, key = venv / "bin" / "python", _key()
    usable = not unfinished.exists() and _version(venv) == list(sys.version_info[:2])
    if usable and state.is_file():
        installed = json.loads(state.read_text())
        if installed["key"] == key and extras <= set(installed["extras"]):
            return 0
    began = time.monotonic()
    if not usable:
        _make(venv)
    unfinished.touch()
    print(f"installing mtaclip_ros[{','.join(sorted(extras))}] into {venv}", flush=True)
    pip = [str(python), "-m", "pip", "install", "--prefer-binary", "--constraint", "constraints.txt"]
    calls = [[*pip, "--editable", f".[{','.join(sorted(extras))}]"]]
    calls += [[*pip, "--no-deps", *ALONE[extra]] for extra in sorted(extras & ALONE.keys())]
    for extra in sorted(extras & APART.keys()):
        for folder, package in APART[extra].items():
            # Not for every other processor; where a folder is missing, its tests skip themselves.
            if platform.machine() == "x86_64" and not (venv / folder).is_dir():  # pip makes it when all is there
                calls.append([*pip, "--no-deps", "--target", str(venv / folder), package])
    for call in calls:
        if subprocess.run(call, cwd=ROOT, env=_environment(), pass_fds=(lock,), check=False).returncode != 0:
            print("error: pip could not install (its message stands above); mend that and repeat", file=sys.stderr)
            return 2
    temporary = state.with_suffix(".tmp")
    temporary.write_text(json.dumps({"key": key, "extras": sorted(extras)}))
    os.replace(temporary, state)
    unfinished.unlink()
    print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def _make(venv: Path) -> None:
    """Make an empty environment. An old one is renamed before it is deleted, so that none is ever half there."""
    old = venv.with_name(venv.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if venv.exists():
        os.replace(venv, old)
        shutil.rmtree(old, ignore_errors=True)
    print(f"making the virtual environment {venv}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], env=_environment(), check=True)


def _key() -> str:
    """Hash of all that an installation depends on besides its extras and the Python."""
    return hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in INPUTS)).hexdigest()


def _version(venv: Path) -> list[int] | None:
    """[major, minor] of an environment's Python; None where there is no environment with a working pip.

    A damaged environment's python can be its base interpreter, into which nothing may be installed.
    """
    python = venv / "bin" / "python"
    if not python.exists():
        return None
    code = "import sys, pip; print(sys.prefix, *sys.version_info[:2], sep='\\n')"
    asked = subprocess.run([str(python), "-c", code], env=_environment(), capture_output=True, text=True, check=False)
    prefix, *version = asked.stdout.splitlines() or [""]
    return [int(part) for part in version] if Path(prefix).resolve() == venv.resolve() else None


def _environment() -> dict[str, str]:
    """The user's environment less what leads Python and pip astray; pip refuses to work outside of an environment."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET")}
    pip = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    return {**kept, **pip}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted; the next call begins anew", file=sys.stderr)
        sys.exit(130)
    except subprocess.CalledProcessError as failed:
        print(f"error: `{' '.join(failed.cmd)}` failed (its message stands above); mend that", file=sys.stderr)
        sys.exit(2)
