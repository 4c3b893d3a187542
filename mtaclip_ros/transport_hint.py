"""What to change so that large images come through, for the middleware in use and only where it fits."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from mtaclip_ros.transport import PROFILE, SEGMENT_BYTES, UDP_BUFFER_BYTES, profile_variable, share_directory

_DEFAULT_SEGMENT = 2**19  # of Fast DDS
_SHARED_MEMORY = Path("/dev/shm")
_RECEIVE_LIMIT = Path("/proc/sys/net/core/rmem_max")


@dataclass(frozen=True)
class Machine:
    """What this machine allows.

    Attributes:
        shared_memory: size of /dev/shm in bytes, None where there is none.
        small_segments: some process here has a Fast DDS segment of the default size.
        receive_buffer: largest socket receive buffer (net.core.rmem_max) in bytes, None where unknown.
        udp_only: Fast DDS is told to use UDP (FASTDDS_BUILTIN_TRANSPORTS).
        domain: ROS_DOMAIN_ID.
    """

    shared_memory: int | None
    small_segments: bool
    receive_buffer: int | None
    udp_only: bool = False
    domain: str = "0"

    @classmethod
    def look(cls) -> Machine:
        """This machine now."""
        try:
            names = [e for e in os.scandir(_SHARED_MEMORY) if re.fullmatch("fastdds_[0-9a-f]{16}", e.name)]
            small = any(entry.stat().st_size < 2 * _DEFAULT_SEGMENT for entry in names)
            size = shutil.disk_usage(_SHARED_MEMORY).total
        except OSError:  # not Linux, or a process ended while we looked
            small, size = True, None
        try:
            limit = int(_RECEIVE_LIMIT.read_text())
        except OSError:
            limit = None
        udp = os.environ.get("FASTDDS_BUILTIN_TRANSPORTS", "").upper().startswith("UDP")
        return cls(size, small, limit, udp, os.environ.get("ROS_DOMAIN_ID", "0"))


def discovery_hint(rmw: str, machine: Machine) -> str:
    """What to check when a publisher should be there and is not seen."""
    domain = f"that it has ROS_DOMAIN_ID {machine.domain} and {rmw} too"
    return f"{domain}, and that a Zenoh router runs (ros2 run rmw_zenoh_cpp rmw_zenohd)" if "zenoh" in rmw else domain


def transport_hint(rmw: str, same_host: bool | None, image_bytes: int | None, machine: Machine) -> str:
    """One clause on what to set so that images come through; empty where nothing fits.

    Args:
        rmw: identifier of the middleware in use.
        same_host: the publisher runs on this machine; None where the middleware does not tell.
        image_bytes: size of the images, None where none has arrived.
    """
    if "zenoh" in rmw:
        return (
            "Zenoh drops images while its queues are full, enable shared memory for camera and node: "
            "ZENOH_CONFIG_OVERRIDE=transport/shared_memory/enabled=true"
        )
    if "cyclone" in rmw:
        hint = _buffer_hint(machine)
        return hint and f"{hint}, and SocketReceiveBufferSize in CYCLONEDDS_URI"
    if "fastrtps" not in rmw:
        return ""
    if machine.udp_only:
        return f"UDP with its default buffers loses images: unset FASTDDS_BUILTIN_TRANSPORTS here, {_use_profile()}"
    return _buffer_hint(machine) if same_host is False else _segment_hint(image_bytes, machine)


def _buffer_hint(machine: Machine) -> str:
    """For images that come over the network: the kernel bounds what profile or configuration ask for."""
    if machine.receive_buffer is None or machine.receive_buffer >= UDP_BUFFER_BYTES:
        return ""
    return (
        f"images need a larger receive buffer than {machine.receive_buffer} bytes: "
        f"sudo sysctl -w net.core.rmem_max={2 * UDP_BUFFER_BYTES}"
    )


def _segment_hint(image_bytes: int | None, machine: Machine) -> str:
    """For Fast DDS within a machine: the segment of the sender must hold the image."""
    if image_bytes is not None and image_bytes < _DEFAULT_SEGMENT:
        return ""
    if machine.shared_memory is not None and machine.shared_memory < 2 * SEGMENT_BYTES + _DEFAULT_SEGMENT:
        return (
            f"/dev/shm has {machine.shared_memory / 2**20:.0f} MiB, too little for images: start the container with "
            f"--ipc=host or --shm-size=1g"
        )
    if not machine.small_segments:
        return "the shared-memory segments here are large enough, so sender, network or this machine is overloaded"
    return f"images above 0.5 MiB need a larger shared-memory segment on the sender: {_use_profile()}"


def _use_profile() -> str:
    return (
        f"set {profile_variable()}={share_directory() / PROFILE} for the camera, and share /dev/shm of its container, "
        f"if it has one (--ipc=host)"
    )
