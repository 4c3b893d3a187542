"""What a node publishes while it is evaluated: its classes, its diagnostics, and its labels by stamp."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace
from mtaclip_ros.bag_reader import IMAGE, header_stamp_ns, label_array, parse_classes
from mtaclip_ros.drive_score import Run

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Received:
    """Where a label lies in the spool, and when it came (ns of the monotonic clock, one for the whole machine)."""

    offset: int
    length: int
    received: int


class LabelCollector:
    """Listens to one segmentation node. Labels go to a temporary file as they come, serialised: nothing is converted
    while the drive runs, and a long drive does not fill the memory.

    Args:
        rclpy: the module, initialised.
        namespace: the node's full name, for example `/mtaclip`.

    Attributes:
        labels: by stamp (ns).
    """

    def __init__(self, rclpy: Any, namespace: str) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import Image
        from std_msgs.msg import String

        self.label_topic, self.classes_topic = f"{namespace}/label", f"{namespace}/classes"
        self.labels: dict[int, Received] = {}
        self._node_name = namespace.lstrip("/")
        self._model_status: Any = None
        self._camera_status: Any = None
        self._classes: str | None = None
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._types = get_typestore(Stores.ROS2_KILTED)
        self.node = rclpy.create_node("mtaclip_evaluate", start_parameter_services=False)
        self.node.create_subscription(Image, self.label_topic, self._take_label, QoSProfile(depth=50), raw=True)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(String, self.classes_topic, self._take_classes, latched)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def close(self) -> None:
        """Forget the labels; `label` must not be called afterwards."""
        self._spool.close()

    def spin_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Receive until `done()`, at most so long; returns whether it came true."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def has_node(self) -> bool:
        """Whether a node with a model is there: its classes came, and it publishes labels."""
        return self._classes is not None and self.node.count_publishers(self.label_topic) > 0

    def has_status(self) -> bool:
        """Whether the node's diagnostics came, with a model in them."""
        return "model" in self._values() and self._camera_status is not None

    def listens_to(self, topic: str) -> bool:
        """Whether anybody subscribes to a topic."""
        return self.node.count_subscribers(topic) > 0

    @property
    def space(self) -> LabelSpace:
        """The classes whose ids the labels hold."""
        assert self._classes is not None
        return parse_classes(self._classes, self.classes_topic)

    @property
    def image_topic(self) -> str | None:
        """What the node listens to, as its diagnostics say; None while they have not come."""
        return None if self._camera_status is None else str(self._camera_status.hardware_id)

    @property
    def run(self) -> Run:
        """What runs in the node, as its diagnostics say."""
        values = self._values()
        return Run(
            values.get("model", _UNKNOWN),
            values.get("model hash", _UNKNOWN),
            values.get("backend", _UNKNOWN),
            values.get("precision", _UNKNOWN),
        )

    def label(self, stamp: int) -> np.ndarray:
        """(H, W) uint8: the label that came with a stamp.

        Raises:
            UserError: it is not a mono8 image.
        """
        entry = self.labels[stamp]
        self._spool.seek(entry.offset)
        message: Any = self._types.deserialize_cdr(self._spool.read(entry.length), IMAGE)
        return label_array(message, self.label_topic)

    def _values(self) -> dict[str, str]:
        return {} if self._model_status is None else {pair.key: pair.value for pair in self._model_status.values}

    def _take_label(self, data: bytes) -> None:
        received = time.monotonic_ns()
        if len(data) < 12:
            raise UserError(f"{self.label_topic} sent {len(data)} bytes, which is no image")
        offset = self._spool.seek(0, 2)
        self._spool.write(data)
        self.labels[header_stamp_ns(data)] = Received(offset, len(data), received)

    def _take_classes(self, message: Any) -> None:
        self._classes = message.data

    def _take_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == f"{self._node_name}: model":
                self._model_status = status
            elif status.name == f"{self._node_name}: camera":
                self._camera_status = status
