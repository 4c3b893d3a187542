"""Where the messages of a bag come from: its index, or what can be salvaged of files without one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from rosbags.interfaces import Qos


@dataclass(frozen=True)
class Topic:
    """One topic of a bag.

    Attributes:
        name, msgtype: for example `/camera/image_raw`, `sensor_msgs/msg/Image`.
        count: messages recorded.
        qos: what the recorded publishers offered, empty where the recorder did not say.
    """

    name: str
    msgtype: str
    count: int
    qos: tuple[Qos, ...]


@dataclass(frozen=True)
class Record:
    """One recorded message, still serialised: `recorded` is the recorder's time in ns, `data` little-endian CDR."""

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


@dataclass(frozen=True)
class Entry:
    """A message that was found in a file: the recorder's time in ns, its channel, and where the file has it."""

    recorded: int
    channel: int
    place: tuple[int, int, int]


class Source(Protocol):
    """The messages of one bag.

    Attributes:
        topics: by name, sorted.
        start, stop: the recorder's times of the first and the last message, ns; 0 without messages.
        broken: what is missing of the bag, as one line; None for a whole one. A break that only reading shows is told
            here after it was met.
    """

    topics: dict[str, Topic]
    start: int
    stop: int
    broken: str | None

    def records(self, topics: Collection[str] | None, start: int, stop: int) -> Iterator[Record]:
        """Messages recorded from `start` up to, not at, `stop` (ns), in recorded order; `topics` None means all."""
        ...

    def deserialize(self, data: bytes, msgtype: str) -> object:
        """The message. Raises ValueError where the bytes are none of this type."""
        ...

    def close(self) -> None: ...
