"""Can the project be installed on this machine? One line says what is wrong and what to do; exit code 2.

Runs before anything is installed and under Pythons that are too old: it imports nothing of the project, and its
syntax is that of Python 3.6. Command: `python3 mtaclip_core/preflight.py`.
"""

import collections
import importlib.util
import platform
import shutil
import subprocess
import sys

PYTHONS = ((3, 12), (3, 11), (3, 10))  # those that the ROS 2 wheels are built for
GLIBC = (2, 28)  # manylinux_2_28

# version: (major, minor, micro); bits: 32 or 64 of the interpreter; libc: as platform.libc_ver(), ("glibc", "2.36");
# lacks: those of the modules venv and ensurepip that are missing; others: names of usable Pythons, "python3.11".
Machine = collections.namedtuple("Machine", "implementation version bits system processor libc lacks others")


def this_machine() -> Machine:
    """The machine and the interpreter that this runs on. Other Pythons are looked for only where this one is wrong."""
    version = tuple(sys.version_info[:3])
    lacks = tuple(name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None)
    others = () if version[:2] in PYTHONS else tuple(name for name in _names() if _starts(name))
    return Machine(
        implementation=platform.python_implementation(),
        version=version,
        bits=64 if sys.maxsize > 2**32 else 32,
        system=platform.system(),
        processor=platform.machine(),
        libc=platform.libc_ver(),
        lacks=lacks,
        others=others,
    )


def problem(machine: Machine) -> str:
    """What stands against an installation, as one line: what is wrong, what is needed, what to do. Empty if nothing."""
    ros = "the ROS 2 wheels exist only for it; on other machines build the package with colcon in an installed ROS 2"
    if machine.system != "Linux" or machine.processor not in ("x86_64", "AMD64", "amd64"):
        found = "{} on {}".format(machine.system or "an unknown system", machine.processor or "an unknown processor")
        return f"this is {found}, but x86-64 Linux is needed: {ros}"
    if machine.implementation != "CPython" or machine.bits != 64:
        found = f"{machine.implementation}, {machine.bits} bits"
        return f"this Python is {found}, but 64-bit CPython is needed: name one, for example PYTHON=/usr/bin/python3"
    name, number = machine.libc
    if name != "glibc" or _numbers(number) < GLIBC:
        found = f"{name} {number}".strip() if name else "no glibc (musl?)"
        return f"this system has {found}, but glibc 2.28 is needed: use Debian 10, Ubuntu 20.04 or a newer system"
    if machine.version[:2] not in PYTHONS:
        found = ".".join(str(part) for part in machine.version)
        if machine.others:
            todo = f"{machine.others[0]} is installed, so add PYTHON={machine.others[0]}"
        else:
            todo = "install one with its venv module and name it, for example PYTHON=python3.12"
        return f"this is Python {found}, but Python 3.10, 3.11 or 3.12 is needed: {todo}"
    if machine.lacks:
        found = "Python {}.{}".format(*machine.version)
        package = "python{}.{}-venv".format(*machine.version)
        return "{} lacks the module {}, needed to make .venv: run `sudo apt install {}`".format(
            found, " and ".join(machine.lacks), package
        )
    return ""


def _names() -> list:
    return ["python{}.{}".format(*version) for version in PYTHONS]


def _starts(name: str) -> bool:
    """Whether a program of that name is a Python with venv; what stands on PATH need not work (pyenv's shims)."""
    if shutil.which(name) is None:
        return False
    done = subprocess.call([name, "-c", "import ensurepip, venv"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done == 0


def _numbers(text: str) -> tuple:
    """`2.36` -> (2, 36); what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))


if __name__ == "__main__":
    wrong = problem(this_machine())
    if wrong:
        print("error: " + wrong, file=sys.stderr)
        sys.exit(2)
