"""What can still be read of a storage file whose recorder died or whose index does not hold."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from operator import attrgetter, itemgetter
from pathlib import Path

from rosbags.interfaces import Qos
from rosbags.rosbag2 import ReaderError
from rosbags.rosbag2.metadata import parse_qos

from mtaclip_ros.bag_source import SEVERAL_TYPES, Channel, DamagedError, Finds, Record, Topic
from mtaclip_ros.salvage_mcap import McapFile
from mtaclip_ros.salvage_sqlite import SqliteFile

STORAGE: dict[str, Callable[[Path], Finds]] = {".mcap": McapFile, ".db3": SqliteFile}


class Salvage:
    """All whole messages of one .mcap or .db3 file, in recorded order; see `Source`. There may be none.

    Args:
        why: the file cannot be read by its index; told where the messages themselves are whole.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, why: str) -> None:
        self._file = STORAGE[path.suffix](path)
        self._entries = sorted(self._file.entries, key=attrgetter("recorded"))
        self.topics = self._topics()
        self.start, self.stop = (self._entries[0].recorded, self._entries[-1].recorded) if self._entries else (0, 0)
        self.broken: str | None = self._file.broken or why

    def records(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        begin = bisect_left(self._entries, start, key=attrgetter("recorded"))
        for index in range(begin, len(self._entries)):
            entry = self._entries[index]
            if entry.recorded >= stop:
                return
            channel = self._file.channels[entry.channel]
            if topics is None or channel.topic in topics:
                try:
                    data = self._file.read(entry)
                except (DamagedError, OSError):  # of the file, of the disk
                    data = b""
                yield Record(channel.topic, channel.msgtype, entry.recorded, data)

    def close(self) -> None:
        self._file.close()

    def _topics(self) -> dict[str, Topic]:
        counts = Counter(self._file.channels[entry.channel].topic for entry in self._entries)
        channels: dict[str, list[Channel]] = {}
        for channel in self._file.channels.values():
            channels.setdefault(channel.topic, []).append(channel)
        topics = {}
        for name, same in sorted(channels.items(), key=itemgetter(0)):
            types = {channel.msgtype for channel in same}
            qos = tuple(profile for channel in same for profile in _profiles(channel.offered_qos))
            topics[name] = Topic(name, types.pop() if len(types) == 1 else SEVERAL_TYPES, counts[name], qos)
        return topics


def _profiles(offered: str) -> list[Qos]:
    """Of the recorder's YAML; none where it is damaged."""
    try:
        return parse_qos(offered.strip())
    except (ReaderError, KeyError, TypeError, AttributeError, ValueError):
        return []
