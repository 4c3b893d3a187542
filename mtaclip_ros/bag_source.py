"""What a bag's files are read as: topics, records, and the interfaces of those who find them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from rosbags.interfaces import Qos

SEVERAL_TYPES = "several types"


class DamagedError(Exception):
    """The bytes of a message cannot be read, or are not what was recorded."""


@dataclass(frozen=True)
class Topic:
    """One topic of a bag.

    Attributes:
        name, msgtype: for example `/camera/image_raw`, `sensor_msgs/msg/Image`; `SEVERAL_TYPES` where they differ.
        count: messages recorded.
        qos: what the recorded publishers offered, empty where the recorder did not say.
    """

    name: str
    msgtype: str
    count: int
    qos: tuple[Qos, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded message, still serialised: `recorded` is the recorder's time in ns, `data` CDR with its head of four
    bytes, empty where the file's bytes of this message are damaged."""

    topic: str
    msgtype: str
    recorded: int
    data: bytes


@dataclass(frozen=True)
class Channel:
    """A topic as one file knows it; `offered_qos` is the recorder's YAML."""

    topic: str
    msgtype: str
    offered_qos: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that was found in a file: the recorder's time in ns, its channel, and where the file has it."""

    recorded: int
    channel: int
    place: tuple[int, int, int]


class Finds(Protocol):
    """The messages of one storage file, found without its index, as far as it goes.

    Attributes:
        channels: by the file's own numbers.
        entries: in the order of the file.
    """

    channels: dict[int, Channel]
    entries: list[Entry]

    @property
    def broken(self) -> str | None:
        """How and where the file breaks off, or what of it is damaged; None when all its messages are there."""
        ...

    def read(self, entry: Entry) -> bytes:
        """The message of an entry as it was recorded. Raises DamagedError."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """The messages of one storage file, or of a bag of several."""

    @property
    def topics(self) -> dict[str, Topic]:
        """By name, sorted."""
        ...

    @property
    def start(self) -> int:
        """The recorder's time of the first message, ns; 0 without messages."""
        ...

    @property
    def stop(self) -> int:
        """The recorder's time of the last message, ns; 0 without messages."""
        ...

    @property
    def broken(self) -> str | None:
        """What is missing, as one line; None for what is whole. A break that only reading shows is told after it."""
        ...

    def records(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        """Messages recorded from `start` up to, not at, `stop` (ns), in recorded order; `topics` None means all."""
        ...

    def close(self) -> None: ...
