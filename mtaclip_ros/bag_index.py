"""A bag that was closed properly, through its index; and the choice between that and salvage."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path

import apsw
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_source import Record, Source, Topic
from mtaclip_ros.salvage import STORAGE, Salvage
from mtaclip_ros.salvage_mcap import zstd

# What rosbags lets through when a file is not what its index says; lz4 raises RuntimeError.
_UNREADABLE = (
    AnyReaderError, ReaderError, OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, struct.error,
    apsw.Error, zstd.ZstdError,
)  # fmt: skip


class Indexed:
    """A rosbag2 folder or a single storage file by its index; see `Source`.

    Raises:
        whatever `_UNREADABLE` names, where there is no index that holds.
    """

    def __init__(self, path: Path) -> None:
        self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_KILTED))
        self._reader.open()
        self.topics = {
            name: Topic(name, info.msgtype or "several types", info.msgcount, _offered(info.connections))
            for name, info in self._reader.topics.items()
        }
        recorded = any(t.count for t in self.topics.values())
        self.start, self.stop = (self._reader.start_time, self._reader.end_time - 1) if recorded else (0, 0)
        self.broken: str | None = None

    def records(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        messages = self._reader.messages(connections=wanted, start=start, stop=stop) if wanted else iter(())
        last = self.start
        while True:
            try:
                connection, last, data = next(messages)
            except StopIteration:
                return
            except _UNREADABLE as error:
                at = (last - self.start) * 1e-9
                self.broken = f"it breaks off {at:.1f} s after its start ({' '.join(str(error).split())})"
                return
            yield Record(connection.topic, connection.msgtype, last, bytes(data))

    def deserialize(self, data: bytes, msgtype: str) -> object:
        try:
            return self._reader.deserialize(data, msgtype)
        except AnyReaderError as error:
            raise ValueError(str(error)) from error

    def close(self) -> None:
        self._reader.close()


def open_source(path: Path) -> Source:
    """The messages of a rosbag2 folder, or of a single .mcap or .db3 file, as many as are there.

    Raises:
        UserError: there is no such path, it is no bag, or not a single message can be read.
    """
    if not path.exists():
        raise UserError(f"no bag at '{path}': expected a rosbag2 folder (metadata.yaml beside .mcap or .db3)")
    if path.is_file() and path.suffix not in STORAGE:
        raise UserError(f"'{path}' is not a bag: name a rosbag2 folder, or one {' or '.join(STORAGE)} file")
    why = "metadata.yaml is missing"
    if path.is_file() or (path / "metadata.yaml").is_file():
        try:
            return Indexed(path)
        except _UNREADABLE as error:
            why = " ".join(str(error).split())
    try:
        return Salvage(path, why)
    except OSError as error:
        raise UserError(f"bag '{path}' cannot be read: {error}") from error


def _offered(connections: Collection[Connection]) -> tuple[Qos, ...]:
    profiles: list[Qos] = []
    for connection in connections:
        profiles += getattr(connection.ext, "offered_qos_profiles", [])
    return tuple(profiles)
