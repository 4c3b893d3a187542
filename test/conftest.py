"""What all tests share: a ROS domain per test process, one thread per worker, the real images."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import tempfile
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _take_ros_domain() -> IO[str]:
    """Set ROS_DOMAIN_ID to one that no other test process of this machine has; free again when the file is closed."""
    for domain in random.SystemRandom().sample(range(1, 101), 100):
        try:
            lock = open(Path(tempfile.gettempdir()) / f"mtaclip-ros-domain-{domain}.lock", "w")  # noqa: SIM115
        except PermissionError:
            continue  # another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        return lock
    raise RuntimeError("all 100 ROS domains are taken by other test processes")


# A shell that starts us in the background has us ignore Ctrl-C, and the programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before rclpy and torch are imported anywhere. The lock lives as long as this process.
_ROS_DOMAIN = _take_ros_domain()
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def camvid() -> Path:
    """CamVid (train/, trainannot/, val/, ...): MTACLIP_CAMVID, or ../shared/camvid beside the project."""
    path = Path(os.environ.get("MTACLIP_CAMVID") or ROOT.parent / "shared" / "camvid")
    if not path.is_dir():
        pytest.skip(f"no CamVid images at {path}; set MTACLIP_CAMVID")
    return path
