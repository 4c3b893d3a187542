"""Process settings that let raw images through: the Fast DDS profile, the allocator, and where the shared files lie."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mtaclip_core.cli import UserError

PROFILE = Path("config") / "fastdds_large_images.xml"
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS looks for a profile: 3 (from Kilted on) at the first, 2 (Humble, Jazzy) only at the second."""
_FIRST_WITH_FAST_DDS_3 = 8  # major version of rclpy; Jazzy has 7, Kilted 9
SEGMENT_BYTES = 64 * 2**20
"""Shared memory that the profile gives to each process."""
UDP_BUFFER_BYTES = 16 * 2**20
"""Socket buffers that the profile asks for, as far as the kernel allows."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = 33554432, 67108864
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h


def share_directory() -> Path:
    """The folder that holds `config/`, `launch/` and `models/`.

    The project root in a source tree, `share/mtaclip_ros` of the installation otherwise.

    Raises:
        UserError: neither is there (the package was copied without its share files).
    """
    package = Path(__file__).resolve()
    candidates = [package.parents[1]]
    candidates += [parent / "share" / "mtaclip_ros" for parent in package.parents]
    candidates += [Path(sys.prefix) / "share" / "mtaclip_ros"]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(prefix) / "share" / "mtaclip_ros" for prefix in prefixes if prefix]
    for folder in candidates:
        if (folder / PROFILE).is_file():
            return folder
    raise UserError(f"the share folder of mtaclip_ros ({PROFILE}) is missing; install the package with pip or colcon")


def profile_variable() -> str:
    """That of `PROFILE_VARIABLES` which the Fast DDS of this ROS reads; the other is ignored or warned about."""
    try:
        major = int(importlib.metadata.version("rclpy").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        major = _FIRST_WITH_FAST_DDS_3
    return PROFILE_VARIABLES[major < _FIRST_WITH_FAST_DDS_3]


def transport_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to `env` before a process that sends or receives images starts.

    A larger Fast DDS shared-memory segment, and malloc thresholds that keep the pages of a frame's buffers (either
    threshold alone does nothing). Empty where the user chose for himself: another profile, `FASTDDS_BUILTIN_TRANSPORTS`
    (which a profile would override), his own thresholds.
    """
    added = {}
    if not any(env.get(name) for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")):
        added[profile_variable()] = str(share_directory() / PROFILE)
    if not _chose_thresholds(env):
        added["MALLOC_MMAP_THRESHOLD_"] = str(_MMAP_THRESHOLD)
        added["MALLOC_TRIM_THRESHOLD_"] = str(_TRIM_THRESHOLD)
    return added


def prepare_process() -> None:
    """Give this process, before `rclpy.init`, what `transport_environment` gives to one that is started.

    The profile is read when the first participant is made; malloc reads its variables only at program start, so its
    thresholds are set by call (glibc; elsewhere they stay as they are).
    """
    added = transport_environment(os.environ)
    libc = ctypes.CDLL(None)
    if "MALLOC_MMAP_THRESHOLD_" in added and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    os.environ.update(added)


def _chose_thresholds(env: Mapping[str, str]) -> bool:
    return any(env.get(name) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"))
