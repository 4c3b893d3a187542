"""What can still be read of a bag whose recorder died: files without a footer, cut off, or without metadata.yaml."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from operator import itemgetter
from pathlib import Path

from rosbags.interfaces import Qos
from rosbags.rosbag2.metadata import parse_qos
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_source import Channel, Entry, Record, Topic
from mtaclip_ros.salvage_mcap import McapFile, zstd
from mtaclip_ros.salvage_sqlite import SqliteFile

STORAGE: dict[str, type[McapFile] | type[SqliteFile]] = {".mcap": McapFile, ".db3": SqliteFile}
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # a recorder with compression mode MESSAGE packs each message by itself


class Salvage:
    """All whole messages of a bag's files, in recorded order; see `Source`. Messages are of the types of ROS 2 Kilted.

    Args:
        path: a folder with storage files, or one such file.
        why: the bag cannot be read by its index; told where the files themselves are whole.

    Raises:
        UserError: there is no storage file, or no whole message in them.
        OSError: a file cannot be read.
    """

    def __init__(self, path: Path, why: str) -> None:
        paths = [path] if path.is_file() else sorted((p for p in path.iterdir() if p.suffix in STORAGE), key=_natural)
        if not paths:
            raise UserError(f"'{path}' is not a rosbag2 folder: {why}, and there is no .mcap or .db3 file to read")
        self._types = get_typestore(Stores.ROS2_KILTED)
        self._files = [STORAGE[p.suffix](p) for p in paths]
        found = [(entry, file) for file in self._files for entry in file.entries]
        self._found: list[tuple[Entry, McapFile | SqliteFile]] = sorted(found, key=lambda pair: pair[0].recorded)
        broken = [f"{p.name}: {f.broken}" for p, f in zip(paths, self._files, strict=True) if f.broken]
        if not self._found:
            self.close()
            raise UserError(f"bag '{path}' cannot be read: no whole message in it; {'; '.join(broken) or why}")
        self.topics = self._topics()
        self.start, self.stop = self._found[0][0].recorded, self._found[-1][0].recorded
        seconds = (self.stop - self.start) * 1e-9
        said = "; ".join(broken) or why
        self.broken: str | None = f"{said}; read up to {seconds:.1f} s, {len(self._found)} messages"

    def records(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        for entry, file in self._found:
            channel = file.channels[entry.channel]
            if start <= entry.recorded < stop and (topics is None or channel.topic in topics):
                data = file.read(entry)
                if data.startswith(_ZSTD_MAGIC):
                    data = zstd.decompress(data)
                yield Record(channel.topic, channel.msgtype, entry.recorded, data)

    def deserialize(self, data: bytes, msgtype: str) -> object:
        try:
            return self._types.deserialize_cdr(data, msgtype)
        except (SerdeError, KeyError) as error:
            raise ValueError(str(error)) from error

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _topics(self) -> dict[str, Topic]:
        counts = Counter(file.channels[entry.channel].topic for entry, file in self._found)
        channels: dict[str, list[Channel]] = {}
        for file in self._files:
            for channel in file.channels.values():
                channels.setdefault(channel.topic, []).append(channel)
        topics = {}
        for name, same in sorted(channels.items(), key=itemgetter(0)):
            types = {channel.msgtype for channel in same}
            qos = tuple(profile for channel in same for profile in _profiles(channel.offered_qos))
            topics[name] = Topic(name, types.pop() if len(types) == 1 else "several types", counts[name], qos)
        return topics


def _profiles(offered: str) -> list[Qos]:
    return parse_qos(offered) if offered.strip() else []


def _natural(path: Path) -> list[tuple[int, str]]:
    """`drive_10.mcap` after `drive_9.mcap`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
