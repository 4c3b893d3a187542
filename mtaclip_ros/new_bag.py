"""New rosbag2 bags that appear whole or not at all, and the QoS that their topics are recorded with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer

from mtaclip_core.cli import UserError

_FOREVER = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE


def _qos(depth: int, durability: QosDurability) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        durability,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


STREAM_QOS = _qos(5, QosDurability.VOLATILE)
LATCHED_QOS = _qos(1, QosDurability.TRANSIENT_LOCAL)


@contextmanager
def new_bag(out: str | Path, option: str, *, single: bool = False) -> Iterator[Writer]:
    """An open mcap writer for a new bag, which appears at `out` when the block ends well, and not at all otherwise.

    Args:
        option: of the command line that `out` came from, for the messages.
        single: `out` is the one mcap file, not a rosbag2 folder.

    Raises:
        UserError: `out` exists already, or its folder cannot be written.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"'{out}' exists already: name a new bag with {option}, or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise UserError(f"cannot write a bag at '{out}': {error.strerror}") from error
    # The writer names the file inside after its folder, so the folder has its final name from the start.
    folder = partial / (out.stem if single else out.name)
    try:
        with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            yield writer
        os.replace(folder / f"{folder.name}.mcap" if single else folder, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
