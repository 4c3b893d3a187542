"""What a node publishes while it is evaluated: its classes, its diagnostics, and its labels by stamp."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace
from mtaclip_ros.bag_reader import HEADER_BYTES, IMAGE, header_stamp_ns
from mtaclip_ros.drive_cameras import Camera
from mtaclip_ros.drive_score import Run
from mtaclip_ros.label_messages import label_array, parse_classes

_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Received:
    """Where a label lies in the spool, and when it came (ns of the monotonic clock, one for the whole machine)."""

    offset: int
    length: int
    received: int


class LabelCollector:
    """Listens to the cameras of one segmentation node. Labels go to a temporary file as they come, serialised: nothing
    is converted while the drive runs, and a long drive does not fill the memory.

    Args:
        rclpy: the module, initialised.
        namespace: the node's full name, for example `/mtaclip`.
        cameras: as the node has them.

    Attributes:
        labels: of each camera, by stamp (ns).
    """

    def __init__(self, rclpy: Any, namespace: str, cameras: Sequence[Camera]) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import Image
        from std_msgs.msg import String

        self.cameras = list(cameras)
        self.labels: dict[Camera, dict[int, Received]] = {camera: {} for camera in cameras}
        self._namespace = namespace
        self._node_name = namespace.lstrip("/")
        self._model_status: Any = None
        self._camera_statuses: dict[str, Any] = {}
        self._classes: dict[Camera, str] = {}
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._types = get_typestore(Stores.ROS2_KILTED)
        self.node = rclpy.create_node("mtaclip_evaluate", start_parameter_services=False)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for camera in self.cameras:
            take = partial(self._take_label, camera)
            self.node.create_subscription(Image, self.label_topic(camera), take, QoSProfile(depth=50), raw=True)
            take_classes = partial(self._take_classes, camera)
            self.node.create_subscription(String, self._classes_topic(camera), take_classes, latched)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)

    def stop(self) -> None:
        """Listen no longer; what came stays."""
        self._executor.shutdown()
        self.node.destroy_node()

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
        """Whether a node with a model is there: its classes came, and it publishes labels of every camera."""
        return self.missing() is None

    def missing(self) -> str | None:
        """The first label topic on which no node with a model publishes, None when there is none."""
        for camera in self.cameras:
            topic = self.label_topic(camera)
            if camera not in self._classes or self.node.count_publishers(topic) == 0:
                return topic
        return None

    def label_topic(self, camera: Camera) -> str:
        """Where the node publishes the labels of a camera."""
        return f"{camera.outputs(self._namespace)}/label"

    def _classes_topic(self, camera: Camera) -> str:
        return f"{camera.outputs(self._namespace)}/classes"

    def has_status(self) -> bool:
        """Whether the node's diagnostics came, with a model in them."""
        return "model" in self._values() and all(self._status_name(c) in self._camera_statuses for c in self.cameras)

    def listens_to(self, topic: str) -> bool:
        """Whether anybody subscribes to a topic."""
        return self.node.count_subscribers(topic) > 0

    @property
    def space(self) -> LabelSpace:
        """The classes whose ids the labels hold."""
        camera = self.cameras[0]  # all share one model
        return parse_classes(self._classes[camera], self._classes_topic(camera))

    def image_topic(self, camera: Camera) -> str | None:
        """What the node listens to for a camera, as its diagnostics say; None while they have not come."""
        status = self._camera_statuses.get(self._status_name(camera))
        return None if status is None else str(status.hardware_id)

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

    def count(self) -> int:
        """Labels that came, of all cameras."""
        return sum(map(len, self.labels.values()))

    def label(self, camera: Camera, stamp: int) -> np.ndarray:
        """(H, W) uint8: the label of a camera that came with a stamp.

        Raises:
            UserError: it is not a mono8 image.
        """
        entry = self.labels[camera][stamp]
        self._spool.seek(entry.offset)
        message: Any = self._types.deserialize_cdr(self._spool.read(entry.length), IMAGE)
        return label_array(message, self.label_topic(camera))

    def _values(self) -> dict[str, str]:
        return {} if self._model_status is None else {pair.key: pair.value for pair in self._model_status.values}

    def _status_name(self, camera: Camera) -> str:
        return f"{self._node_name}: camera {camera.name}".rstrip()

    def _take_label(self, camera: Camera, data: bytes) -> None:
        received = time.monotonic_ns()
        if len(data) < HEADER_BYTES:
            raise UserError(f"{self.label_topic(camera)} sent {len(data)} bytes, which is no image")
        offset = self._spool.seek(0, 2)
        self._spool.write(data)
        self.labels[camera][header_stamp_ns(data)] = Received(offset, len(data), received)

    def _take_classes(self, camera: Camera, message: Any) -> None:
        self._classes[camera] = message.data

    def _take_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == f"{self._node_name}: model":
                self._model_status = status
            elif status.name.startswith(f"{self._node_name}: camera"):
                self._camera_statuses[status.name] = status
