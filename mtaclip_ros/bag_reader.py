"""Reading bags in plain Python (mcap or sqlite3), whole or broken: topics, images, the classes of a label topic."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace
from mtaclip_ros.bag_folder import BagFiles
from mtaclip_ros.bag_source import Record, Topic
from mtaclip_ros.label_messages import label_array, parse_classes

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
STRING = "std_msgs/msg/String"
CAMERA_TYPES = (IMAGE, COMPRESSED_IMAGE)
IMAGE_TOPIC = "/camera/image_raw"
LABEL_TOPIC = "/camera/label_gt"
_NANOSECONDS = 1_000_000_000
_FOREVER = 2**63 - 1
HEADER_BYTES = 12
"""Of a serialised message that begins with a std_msgs/Header: encapsulation and stamp."""
_LATE = 2.0  # seconds by which a label may be recorded before or after its image


@dataclass(frozen=True)
class ImageRecord:
    """One recorded image: `stamp` is its header's in ns, `recorded` the recorder's time in ns, `seconds` the same
    after the bag's first message."""

    stamp: int
    recorded: int
    seconds: float
    message: Any


@dataclass(frozen=True)
class Window:
    """The part of a bag that is looked at.

    Attributes:
        start, stop: seconds of recorded time after the bag's first message; `stop` itself is left out.
        every: of the images in between, the first and then one of so many.
    """

    start: float = 0.0
    stop: float = math.inf
    every: int = 1


WHOLE = Window()


class Bag:
    """A rosbag2 folder, or a single .mcap or .db3 file, packed by zstd or not, open for reading; a context manager.

    A bag that breaks off, whose recorder died or whose metadata.yaml is missing, is read as far as it goes. Messages
    are read as the types of ROS 2 Kilted, whatever the bag says that they are made of.

    Attributes:
        path: the folder or file.
        topics: by name, sorted.

    Raises:
        UserError: no such path, not a bag, or without a single whole message.
    """

    path: Path
    topics: dict[str, Topic]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._source = BagFiles(self.path)
        self._types = get_typestore(Stores.ROS2_KILTED)
        self._damaged: set[tuple[str, int]] = set()
        self.topics = self._source.topics
        if not any(t.count for t in self.topics.values()):
            self._source.close()
            raise UserError(f"bag '{path}' is empty: it holds no message on any topic")

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._source.close()

    @property
    def broken(self) -> str | None:
        """What is missing of the bag, as one line; None for a whole one. Some breaks are known only after reading."""
        said = [self._source.broken] if self._source.broken else []
        if self._damaged:
            said.append(f"damaged messages passed over: {len(self._damaged)}")
        return f"bag '{self.path}' is incomplete: {'; '.join(said)}" if said else None

    @property
    def start(self) -> int:
        """The recorder's time of the first message, ns."""
        return self._source.start

    @property
    def length(self) -> float:
        """Seconds from the first message to the last."""
        return (self._source.stop - self._source.start) * 1e-9

    def require(self, name: str, *msgtypes: str) -> Topic:
        """The topic `name`.

        Raises:
            UserError: the bag has no such topic (the ones it has are listed), or it is of another type, or empty.
        """
        topic = self.topics.get(name)
        if topic is None:
            there = ", ".join(f"{t.name} ({t.msgtype}, {t.count})" for t in self.topics.values())
            raise UserError(f"bag '{self.path}' has no topic '{name}'; it has: {there}")
        if topic.msgtype not in msgtypes:
            raise UserError(f"topic '{name}' of bag '{self.path}' is {topic.msgtype}, expected {' or '.join(msgtypes)}")
        if topic.count == 0:
            raise UserError(f"topic '{name}' of bag '{self.path}' holds no message")
        return topic

    def rate(self, topic: str) -> float:
        """Messages per second of a topic over the length of the bag, within 1 to 120; 15 for a single message."""
        count, seconds = self.topics[topic].count, self.length
        return min(max((count - 1) / seconds, 1.0), 120.0) if count > 1 and seconds > 0 else 15.0

    def expected(self, topic: str, window: Window = WHOLE) -> int:
        """About how many images of a topic a window holds, for progress bars: as if they were spread evenly."""
        length = self.length
        share = (min(window.stop, length) - window.start) / length if length > 0 else 1.0
        return max(1, math.ceil(self.topics[topic].count * min(max(share, 0.0), 1.0) / window.every))

    def records(self, topics: Collection[str] | None = None, window: Window = WHOLE) -> Iterator[Record]:
        """Messages in recorded order; `topics` None means all of them. `window.every` is for images only.

        A message whose bytes are damaged is passed over, and told by `broken`.
        """
        for record in self._records(topics, window):
            if record.data:
                yield record
            else:
                self._damaged.add((record.topic, record.recorded))

    def images(self, topic: str, window: Window = WHOLE) -> Iterator[ImageRecord]:
        """The images of one topic, as objects with the fields of its type (`data`: (N,) uint8).

        A message whose bytes are no message of its type is passed over, and told by `broken`.
        """
        self.require(topic, *CAMERA_TYPES)
        for index, record in enumerate(self._records([topic], window)):
            if index % window.every == 0:
                try:
                    message = self._message(record)
                except ValueError:
                    self._damaged.add((topic, record.recorded))
                    continue
                seconds = (record.recorded - self.start) / _NANOSECONDS
                yield ImageRecord(stamp_ns(message), record.recorded, seconds, message)

    def labels(self, topic: str, window: Window = WHOLE) -> Iterator[ImageRecord]:
        """The labels for the images of a window: all that were recorded in it, and somewhat before and after."""
        self.require(topic, IMAGE)
        return self.images(topic, Window(max(0.0, window.start - _LATE), window.stop + _LATE))

    def label(self, message: Any, topic: str) -> np.ndarray | None:
        """The ids of a message of a label topic: (H, W) uint8; None for one that is damaged in an incomplete bag.

        Raises:
            UserError: the message holds no ids, and the bag is whole: the topic is the wrong one.
        """
        try:
            return label_array(message, topic)
        except UserError:
            if not self.broken:
                raise
        self._damaged.add((topic, stamp_ns(message)))
        return None

    def first(self, topic: str, msgtype: str) -> Any:
        """The first message of a topic, deserialised.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        self.require(topic, msgtype)
        record = next(iter(self.records([topic])), None)
        if record is None:
            raise UserError(f"the first message on '{topic}' cannot be read: {self.broken}")
        try:
            return self._message(record)
        except ValueError as error:
            raise UserError(f"the first message on '{topic}' of bag '{self.path}' is damaged: {error}") from error

    def classes(self, label_topic: str) -> LabelSpace:
        """The classes of a label topic, from the latched JSON on `<label_topic>/classes`, or, as the node and
        `replay --write-labels` name it, on `classes` beside the label.

        Raises:
            UserError: the bag has no such topic, or its text is not a list of {id, name, colour}.
        """
        name = f"{label_topic}/classes"
        beside = f"{label_topic.rpartition('/')[0]}/classes"
        if name not in self.topics and beside in self.topics:
            name = beside
        return parse_classes(self.first(name, STRING).data, name)

    def _records(self, topics: Collection[str] | None, window: Window) -> Iterator[Record]:
        start, stop = (
            self.start + round(min(seconds * _NANOSECONDS, float(_FOREVER - self.start)))
            for seconds in (window.start, window.stop)
        )
        return self._source.records(topics, min(start, _FOREVER), min(stop, _FOREVER))

    def _message(self, record: Record) -> Any:
        """Raises ValueError where the bytes are no message of the record's type."""
        try:
            return self._types.deserialize_cdr(record.data, record.msgtype)
        except (SerdeError, KeyError) as error:
            raise ValueError(str(error)) from error


def stamp_ns(message: Any) -> int:
    """The header stamp of a message in nanoseconds."""
    return message.header.stamp.sec * _NANOSECONDS + message.header.stamp.nanosec


def header_stamp_ns(data: bytes) -> int:
    """The stamp in nanoseconds of a serialised message that starts with a std_msgs/Header, without deserialising it."""
    # 4 bytes of encapsulation, whose second one is 1 for little endian; then int32 sec, uint32 nanosec.
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * _NANOSECONDS + nanoseconds


def pair_by_stamp(images: Iterator[ImageRecord], labels: Iterator[ImageRecord]) -> Iterator[tuple[ImageRecord, Any]]:
    """Every image with the label message of equal stamp, or with None; `labels` as `Bag.labels` gives them.

    Both come in recorded order; a label may be recorded somewhat before or after its image, so labels are looked up to
    one second (of recorded time) ahead, and forgotten when they are two seconds behind. Images of equal stamp take the
    labels of that stamp in their order.
    """
    waiting: list[ImageRecord] = []
    read_to = -1
    for image in images:
        waiting = [label for label in waiting if label.recorded >= image.recorded - 2 * _NANOSECONDS]
        found = next((label for label in waiting if label.stamp == image.stamp), None)
        while found is None and read_to <= image.recorded + _NANOSECONDS and (label := next(labels, None)):
            read_to = label.recorded
            waiting.append(label)
            found = label if label.stamp == image.stamp else None
        waiting = [label for label in waiting if label is not found]
        yield image, found.message if found else None
