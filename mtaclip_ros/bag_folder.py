"""A bag of one or several storage files, whole or not: which files there are, and their messages in one order."""

from __future__ import annotations

import heapq
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path, PurePath

import yaml

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_index import open_file
from mtaclip_ros.bag_source import SEVERAL_TYPES, Record, Topic
from mtaclip_ros.salvage import STORAGE
from mtaclip_ros.salvage_mcap import zstd

_METADATA = "metadata.yaml"
_PACKED = ".zstd"  # rosbag2 with compression mode FILE
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # with compression mode MESSAGE each message is packed by itself
_LARGEST_MESSAGE = 2**30
_BLOCK = 2**17  # what zstd packs at once
_NUMBERED = re.compile(r"(.*_)(\d+)\.\w+")  # drive_12.mcap


class BagFiles:
    """All messages of a rosbag2 folder, or of a single storage file; see `Source`.

    Each file is read by its index, or, where it has none that holds, as far as it goes; files may overlap in time.

    Raises:
        UserError: there is no such path, it is no bag, or not a single message can be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: list[str] = []
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()

    @property
    def broken(self) -> str | None:
        said = self._said + [f"{name}: {file.broken}" for name, file in self._files if file.broken]
        if not said:
            return None
        count = sum(topic.count for _, file in self._files for topic in file.topics.values())
        return f"{'; '.join(said)}; read up to {(self.stop - self.start) * 1e-9:.1f} s, {count} messages"

    def records(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        for record in heapq.merge(
            *(file.records(topics, start, stop) for _, file in self._files), key=attrgetter("recorded")
        ):
            if record.data.startswith(_ZSTD_MAGIC):
                record = Record(record.topic, record.msgtype, record.recorded, _unpacked(record.data))
            yield record

    def close(self) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> None:
        try:
            paths = _storage_files(self._path, self._said)
            unpacked = [self._plain(path, stack) for path in paths]
            self._files = [(path.name, open_file(file)) for path, file in zip(paths, unpacked, strict=True)]
        except OSError as error:
            raise UserError(f"bag '{self._path}' cannot be read: {error}") from error
        for _, file in self._files:
            stack.callback(file.close)
        self.topics = _together(topic for _, file in self._files for topic in file.topics.values())
        recorded = [file for _, file in self._files if any(topic.count for topic in file.topics.values())]
        self.start = min((file.start for file in recorded), default=0)
        self.stop = max((file.stop for file in recorded), default=0)
        if not recorded and self.broken:
            said = self.broken.rpartition("; read up to")[0]
            raise UserError(f"bag '{self._path}' cannot be read: no whole message in it; {said}")

    def _plain(self, path: Path, stack: ExitStack) -> Path:
        """The file itself, or for a packed one what could be unpacked of it, in a folder that lives as long as we."""
        if path.suffix != _PACKED:
            return path
        out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.stem
        with out.open("wb") as plain, zstd.open(path) as packed:
            try:
                while block := packed.read1(_BLOCK):  # `read` would lose what came before an error
                    plain.write(block)
            except (zstd.ZstdError, EOFError) as error:
                self._said.append(f"{path.name}: its compression breaks off ({error})")
        return out


def _storage_files(path: Path, said: list[str]) -> list[Path]:
    """The files of a bag; what is missing of them goes to `said`.

    Raises:
        UserError: there are none.
        OSError: the folder cannot be read.
    """
    if not path.exists():
        raise UserError(f"no bag at '{path}': expected a rosbag2 folder ({_METADATA} beside .mcap or .db3)")
    if path.is_file():
        if not _is_storage(path):
            raise UserError(f"'{path}' is not a bag: name a rosbag2 folder, or one {' or '.join(STORAGE)} file")
        return [path]
    there = sorted((p for p in path.iterdir() if _is_storage(p) and p.is_file()), key=_natural)
    there = [p for p in there if p.suffix != _PACKED or p.with_suffix("") not in there]  # packing it did not end
    if not there:
        why = "" if (path / _METADATA).is_file() else f"{_METADATA} is missing, and "
        raise UserError(f"'{path}' is not a rosbag2 folder: {why}there is no .mcap or .db3 file to read")
    listed = _listed(path, said)
    if listed is None:
        return there
    files = []
    for name in listed:
        same = [p for p in there if p.name in (name, name.removesuffix(_PACKED))]
        files += same
        if not same:
            said.append(f"{name} is missing")
    for file in there:
        if file not in files and _follows(file.name, listed):  # begun after the recorder last wrote its metadata
            said.append(f"{file.name} is not in {_METADATA}")
            files.append(file)
    return files


def _listed(path: Path, said: list[str]) -> list[str] | None:
    """The names of the files in metadata.yaml, None where it is missing or makes no sense."""
    try:
        known = yaml.safe_load((path / _METADATA).read_text(encoding="utf-8"))
        paths = known["rosbag2_bagfile_information"]["relative_file_paths"]
        return [PurePath(name).name for name in paths]
    except FileNotFoundError:
        said.append(f"{_METADATA} is missing")
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        said.append(f"{_METADATA} is damaged")
    return None


def _follows(name: str, listed: list[str]) -> bool:
    """Whether a file is a later part of the bag that the listed ones are of."""
    found = [match for other in listed if (match := _NUMBERED.match(other))]
    this = _NUMBERED.match(name)
    return bool(this and found and this[1] == found[-1][1] and int(this[2]) > max(int(m[2]) for m in found))


def _is_storage(path: Path) -> bool:
    return Path(path.name.removesuffix(_PACKED)).suffix in STORAGE


def _natural(path: Path) -> list[tuple[int, str]]:
    """`drive_10.mcap` after `drive_9.mcap`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _together(parts: Iterable[Topic]) -> dict[str, Topic]:
    """The topics of several files, by name, sorted."""
    topics: dict[str, Topic] = {}
    for part in sorted(parts, key=attrgetter("name")):
        before = topics.get(part.name, Topic(part.name, part.msgtype, 0, ()))
        msgtype = part.msgtype if part.msgtype == before.msgtype else SEVERAL_TYPES
        qos = tuple(dict.fromkeys((*before.qos, *part.qos)))
        topics[part.name] = Topic(part.name, msgtype, before.count + part.count, qos)
    return topics


def _unpacked(data: bytes) -> bytes:
    """A message that was packed by itself; empty where it is damaged."""
    unpacking = zstd.ZstdDecompressor()
    try:
        message = unpacking.decompress(data, max_length=_LARGEST_MESSAGE)
    except (zstd.ZstdError, MemoryError):
        return b""
    return message if unpacking.eof else b""
