"""Labels of a replay as a bag: what the node would have published, at the images' stamps and recorded times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Qos
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.labels import LabelSpace
from mtaclip_core.runtime.segmenter import Segmentation
from mtaclip_ros.bag_reader import IMAGE, STRING
from mtaclip_ros.drive_cameras import Camera
from mtaclip_ros.new_bag import LATCHED_QOS, STREAM_QOS, new_bag

NAMESPACE = "/mtaclip"


class LabelWriter:
    """Writes the node's topics `label`, `classes` and, if asked, `confidence` of each camera; made by `open_labels`.

    Args:
        writer: an open rosbags writer.
        space: the model's classes, latched on `classes`.
        confidence: write `confidence` too.
    """

    def __init__(self, writer: Writer, space: LabelSpace, confidence: bool) -> None:
        self._writer, self._space, self._confidence = writer, space, confidence
        self._types = get_typestore(Stores.ROS2_KILTED)
        self._topics: dict[str, Any] = {}

    def add(self, camera: Camera, recorded: int, header: Any, segmentation: Segmentation) -> None:
        """Append a frame's labels.

        Args:
            recorded: the recorder's time of its image, ns.
            header: of its image, taken over unchanged.
        """
        prefix = camera.outputs(NAMESPACE)
        if prefix not in self._topics:
            self._topics[prefix] = True
            text = self._types.types[STRING](data=self._space.to_json())
            self._write(f"{prefix}/classes", STRING, LATCHED_QOS, recorded, text)
        self._write(f"{prefix}/label", IMAGE, STREAM_QOS, recorded, self._image(header, segmentation.label))
        if self._confidence:
            image = self._image(header, segmentation.confidence)
            self._write(f"{prefix}/confidence", IMAGE, STREAM_QOS, recorded, image)

    def _write(self, topic: str, msgtype: str, qos: Qos, recorded: int, message: object) -> None:
        if topic not in self._topics:
            self._topics[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._types, offered_qos_profiles=[qos]
            )
        self._writer.write(self._topics[topic], recorded, self._types.serialize_cdr(message, msgtype))

    def _image(self, header: Any, array: np.ndarray) -> Any:
        types = self._types.types
        stamp = types["builtin_interfaces/msg/Time"](sec=header.stamp.sec, nanosec=header.stamp.nanosec)
        height, width = array.shape
        return types[IMAGE](
            header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=header.frame_id),
            height=height,
            width=width,
            encoding="mono8",
            is_bigendian=0,
            step=width,
            data=np.ascontiguousarray(array).reshape(-1),
        )


@contextmanager
def open_labels(out: str | Path, space: LabelSpace, confidence: bool = False) -> Iterator[LabelWriter]:
    """A writer for new labels at `out`, which appear there when the block ends well, and not at all otherwise.

    `out` is a single mcap file where its name ends in .mcap, else a rosbag2 folder. Frames come in recorded order, as
    the bag has them; those of several cameras may follow one another.

    Raises:
        UserError: `out` exists already, or its folder cannot be written.
    """
    with new_bag(out, "--write-labels", single=Path(out).suffix == ".mcap") as writer:
        yield LabelWriter(writer, space, confidence)
