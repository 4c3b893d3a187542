"""A storage file that was closed properly, through its index; from where that fails on, what can be salvaged."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path

import apsw
from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import Reader, ReaderError

from mtaclip_ros.bag_source import SEVERAL_TYPES, Record, Source, Topic
from mtaclip_ros.salvage import Salvage
from mtaclip_ros.salvage_mcap import zstd
from mtaclip_ros.salvage_sqlite import unfinished

# What rosbags lets through when a file is not what its index says; lz4 raises RuntimeError.
_UNREADABLE = (
    ReaderError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, EOFError, RuntimeError,
    ArithmeticError, MemoryError, struct.error, apsw.Error, zstd.ZstdError,
)  # fmt: skip


class IndexedFile:
    """One .mcap or .db3 file by its index; see `Source`.

    Raises:
        whatever `_UNREADABLE` names, where there is no index that holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = Reader(path)
        self._reader.open()
        self._salvaged: Salvage | None = None
        self._lost = 0
        try:
            self.topics = {
                name: Topic(name, info.msgtype or SEVERAL_TYPES, info.msgcount, _offered(info.connections))
                for name, info in self._reader.topics.items()
            }
            recorded = any(t.count for t in self.topics.values())
            self.start, self.stop = (self._reader.start_time, self._reader.end_time - 1) if recorded else (0, 0)
        except BaseException:
            self._reader.close()
            raise

    @property
    def broken(self) -> str | None:
        if self._salvaged:
            return self._salvaged.broken
        return f"{self._lost} messages of its index are not there" if self._lost else None

    def records(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        whole = start <= self.start and stop > self.stop
        # A time beyond the file's own first and last one is damaged.
        start, stop = max(start, self.start), min(stop, self.stop + 1)
        latest: list[Record] = []
        found = 0
        if self._salvaged is None:
            try:
                for record in self._by_index(topics, start, stop):
                    latest = [r for r in latest if r.recorded >= record.recorded]
                    latest.append(record)
                    found += 1
                    yield record
            except _UNREADABLE as error:
                self._salvaged = self._salvaged or Salvage(self._path, _why(error))
            else:
                there = sum(t.count for t in self.topics.values() if topics is None or t.name in topics)
                self._lost = max(self._lost, there - found if whole else 0)
                return
        for record in self._salvaged.records(topics, latest[0].recorded if latest else start, stop):
            if record in latest:
                latest.remove(record)
            else:
                yield record

    def close(self) -> None:
        self._reader.close()
        if self._salvaged:
            self._salvaged.close()

    def _by_index(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        for connection, recorded, data in self._reader.messages(wanted, start, stop) if wanted else ():
            yield Record(connection.topic, connection.msgtype, recorded, bytes(data))


def open_file(path: Path) -> Source:
    """The messages of one .mcap or .db3 file, as many as are there.

    Raises:
        OSError: it cannot be read.
    """
    why = unfinished(path) if path.suffix == ".db3" else None
    if why is None:
        try:
            return IndexedFile(path)
        except _UNREADABLE as error:
            why = _why(error)
    return Salvage(path, why)


def _why(error: BaseException) -> str:
    return f"its index does not hold ({' '.join(str(error).split()) or type(error).__name__})"


def _offered(connections: Collection[Connection]) -> tuple[Qos, ...]:
    profiles: list[Qos] = []
    for connection in connections:
        profiles += getattr(connection.ext, "offered_qos_profiles", [])
    return tuple(profiles)
