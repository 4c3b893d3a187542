"""Reading rosbag2 folders in plain Python (mcap or sqlite3): topics, images, the classes of a label topic."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection, Qos
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import UserError
from mtaclip_core.labels import CAMVID, CITYSCAPES, CITYSCAPES_IDS, LabelSpace

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
IMAGE_TOPIC = "/camera/image_raw"
LABEL_TOPIC = "/camera/label_gt"
_NANOSECONDS = 1_000_000_000


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
class ImageRecord:
    """One recorded sensor_msgs/Image: `stamp` is its header's in ns, `recorded` the recorder's time in ns."""

    stamp: int
    recorded: int
    message: Any


class Bag:
    """A rosbag2 folder, open for reading; a context manager.

    Attributes:
        path: the folder.
        topics: by name, sorted.

    Raises:
        UserError: no such folder, not a bag, broken, or without a single message.
    """

    path: Path
    topics: dict[str, Topic]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(f"no bag at '{path}': expected a rosbag2 folder (metadata.yaml beside .mcap or .db3)")
        if not (self.path / "metadata.yaml").is_file():
            raise UserError(f"'{path}' is not a rosbag2 folder: it has no metadata.yaml; name the bag's folder itself")
        try:
            self._reader = AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_KILTED))
            self._reader.open()
        except (AnyReaderError, OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"bag '{path}' cannot be read: {error}; was its recorder stopped properly?") from error
        self.topics = {
            name: Topic(name, info.msgtype or "several types", info.msgcount, _offered(info.connections))
            for name, info in self._reader.topics.items()
        }
        if not any(t.count for t in self.topics.values()):
            self._reader.close()
            raise UserError(f"bag '{path}' is empty: it holds no message on any topic")

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    def require(self, name: str, msgtype: str) -> Topic:
        """The topic `name`.

        Raises:
            UserError: the bag has no such topic (the ones it has are listed), or it is of another type, or empty.
        """
        topic = self.topics.get(name)
        if topic is None:
            there = ", ".join(f"{t.name} ({t.msgtype}, {t.count})" for t in self.topics.values())
            raise UserError(f"bag '{self.path}' has no topic '{name}'; it has: {there}")
        if topic.msgtype != msgtype:
            raise UserError(f"topic '{name}' of bag '{self.path}' is {topic.msgtype}, expected {msgtype}")
        if topic.count == 0:
            raise UserError(f"topic '{name}' of bag '{self.path}' holds no message")
        return topic

    def rate(self, topic: str) -> float:
        """Messages per second of a topic over the length of the bag, within 1 to 120; 15 for a single message."""
        count, seconds = self.topics[topic].count, self._reader.duration * 1e-9
        return min(max((count - 1) / seconds, 1.0), 120.0) if count > 1 and seconds > 0 else 15.0

    def records(self, topics: Collection[str] | None = None) -> Iterator[Record]:
        """Messages in recorded order; `topics` None means all of them."""
        for connection, recorded, data in self._messages(topics):
            yield Record(connection.topic, connection.msgtype, recorded, bytes(data))

    def images(self, topic: str) -> Iterator[ImageRecord]:
        """The images of one topic, as objects with the fields of sensor_msgs/Image (`data`: (N,) uint8)."""
        self.require(topic, IMAGE)
        for connection, recorded, data in self._messages([topic]):
            message: Any = self._reader.deserialize(data, connection.msgtype)
            yield ImageRecord(stamp_ns(message), recorded, message)

    def first(self, topic: str, msgtype: str) -> Any:
        """The first message of a topic, deserialised."""
        self.require(topic, msgtype)
        connection, _, data = next(iter(self._messages([topic])))
        return self._reader.deserialize(data, connection.msgtype)

    def classes(self, label_topic: str) -> LabelSpace:
        """The classes of a label topic, from its latched JSON on `<label_topic>/classes`.

        Raises:
            UserError: the bag has no such topic, or its text is not a list of {id, name, colour}.
        """
        name = f"{label_topic}/classes"
        return parse_classes(self.first(name, STRING).data, name)

    def _messages(self, topics: Collection[str] | None) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if wanted:
            yield from self._reader.messages(connections=wanted)


def stamp_ns(message: Any) -> int:
    """The header stamp of a message in nanoseconds."""
    return message.header.stamp.sec * _NANOSECONDS + message.header.stamp.nanosec


def header_stamp_ns(data: bytes) -> int:
    """The stamp in nanoseconds of a serialised message that starts with a std_msgs/Header, without deserialising it."""
    # 4 bytes of encapsulation, whose second one is 1 for little endian; then int32 sec, uint32 nanosec.
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * _NANOSECONDS + nanoseconds


def label_array(message: Any, topic: str) -> np.ndarray:
    """The ids in a label message: (H, W) uint8, a view of the message's bytes, row padding left out.

    Raises:
        UserError: not 8 bits in one channel, or its bytes do not fit its size.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    if message.encoding not in ("mono8", "8UC1"):
        raise UserError(f"labels on {topic} have encoding '{message.encoding}'; expected mono8, one id per pixel")
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < width or data.size < step * height:
        raise UserError(f"a label on {topic} says {height}x{width} with step {step}, but holds {data.size} bytes")
    return data[: step * height].reshape(height, step)[:, :width]


def parse_classes(text: str, source: str) -> LabelSpace:
    """A label space from the JSON `[{"id": 0, "name": "road", "colour": [r, g, b]}, ...]` of a classes topic.

    A list with the ids and names of a known space carries that space's name, so that the joins between known spaces
    (19 Cityscapes -> 11 CamVid classes) hold for messages too.

    Raises:
        UserError: not such a list; `source` says where the text came from.
    """
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source}: not JSON ({error}); expected a list of {{id, name, colour}}") from error
    if not isinstance(rows, list):
        raise UserError(f"{source}: expected a JSON list of {{id, name, colour}}, got {type(rows).__name__}")
    space = LabelSpace.from_list(source, rows)
    for known in (CAMVID, CITYSCAPES, CITYSCAPES_IDS):
        if space.ids == known.ids and [n.lower() for n in space.names] == [n.lower() for n in known.names]:
            return LabelSpace(known.name, space.classes)
    return space


def pair_by_stamp(images: Iterator[ImageRecord], labels: Iterator[ImageRecord]) -> Iterator[tuple[ImageRecord, Any]]:
    """Every image with the label message of equal stamp, or with None.

    Both come in recorded order; a label may be recorded somewhat before or after its image, so labels are looked up to
    one second (of recorded time) ahead, and forgotten when they are two seconds behind.
    """
    waiting: dict[int, ImageRecord] = {}
    read_to = -1
    for image in images:
        while image.stamp not in waiting and read_to <= image.recorded + _NANOSECONDS:
            label = next(labels, None)
            if label is None:
                break
            waiting[label.stamp] = label
            read_to = label.recorded
        found = waiting.pop(image.stamp, None)
        yield image, found.message if found else None
        for stamp in [s for s, kept in waiting.items() if kept.recorded < image.recorded - 2 * _NANOSECONDS]:
            del waiting[stamp]


def _offered(connections: Collection[Connection]) -> tuple[Qos, ...]:
    profiles: list[Qos] = []
    for connection in connections:
        profiles += getattr(connection.ext, "offered_qos_profiles", [])
    return tuple(profiles)
