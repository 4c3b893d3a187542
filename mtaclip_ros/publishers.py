"""What leaves the node for one camera: label and confidence always, PNG and pictures only while someone listens."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from mtaclip_core.drawing import colourise, overlay
from mtaclip_core.labels import LabelSpace
from mtaclip_ros.distributions import advertise
from mtaclip_ros.frame_statistics import RateLimit
from mtaclip_ros.image_codec import fill
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.pipeline import FrameResult
from mtaclip_ros.qos_override import publisher_profile

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:
    LabelInfo = None

_DEPTH = 10
_PNG_FORMAT = "mono8; png compressed "  # to the letter what compressed_image_transport writes for a mono8 image
_PNG_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


class Outputs:
    """Publishers of one camera, made and destroyed with the model. `publish` may run in a thread of its own.

    Args:
        node: owner of the publishers.
        space: the model's classes, latched on `classes` (and `label_info` where vision_msgs is installed).
        prefix: what stands before the names, `~/` for the only camera.

    Attributes:
        made: how many of the outputs that are made on request (`label/compressed`, `color`, `overlay`) were made.

    Raises:
        UserError: a `qos_overrides` parameter of one of the topics is wrong.
    """

    def __init__(self, node: Node, space: LabelSpace, prefix: str = "~/") -> None:
        self._node = node
        self._space = space
        self._publishers: list[Publisher] = []
        self._group = MutuallyExclusiveCallbackGroup()  # a group keeps a trace of all that was ever in it
        self._pictures = RateLimit()
        self.made = {"label/compressed": 0, "color": 0, "overlay": 0}
        try:
            self._open(prefix)
        except Exception:
            self.close()
            raise

    def publish(
        self, header: Header, result: FrameResult, camera_info: CameraInfo | None, parameters: Parameters
    ) -> None:
        """Publish a frame's outputs, each with the header of its input.

        Raises:
            RuntimeError: the middleware refused a message (a reliable publisher under overload).
        """
        label, confidence = result.segmentation.label, result.segmentation.confidence
        self._label.publish(fill(Image(), label, "mono8", header))
        self._confidence.publish(fill(Image(), confidence, "mono8", header))
        if camera_info is not None:
            camera_info.header = header
            self._camera_info.publish(camera_info)
        if self._compressed.get_subscription_count() > 0:
            self.made["label/compressed"] += 1
            self._compressed.publish(_png(label, header))
        wants_color = self._color.get_subscription_count() > 0
        wants_overlay = self._overlay.get_subscription_count() > 0
        if (wants_color or wants_overlay) and self._pictures.ready(parameters.overlay_max_rate):
            if wants_color:
                self.made["color"] += 1
                self._color.publish(fill(Image(), colourise(label, self._space), "rgb8", header))
            if wants_overlay:
                self.made["overlay"] += 1
                picture = overlay(_rgb(result), label, self._space, parameters.overlay_alpha)
                self._overlay.publish(fill(Image(), picture, "rgb8", header))

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def _open(self, prefix: str) -> None:
        self._label = self._create(Image, f"{prefix}label")
        self._confidence = self._create(Image, f"{prefix}confidence")
        self._compressed = self._create(CompressedImage, f"{prefix}label/compressed")
        self._overlay = self._create(Image, f"{prefix}overlay")
        self._color = self._create(Image, f"{prefix}color")
        self._camera_info = self._create(CameraInfo, f"{prefix}camera_info")
        self._create(String, f"{prefix}classes", latched=True).publish(String(data=self._space.to_json()))
        if LabelInfo is not None:
            self._create(LabelInfo, f"{prefix}label_info", latched=True).publish(_label_info(self._space))

    def _create(self, message_type: Any, name: str, latched: bool = False) -> Publisher:
        topic = self._node.resolve_topic_name(name)
        profile = publisher_profile(self._node, topic, 1 if latched else _DEPTH, latched)

        def refused(policy: str) -> None:
            offered = {"reliability": profile.reliability, "durability": profile.durability}.get(policy)
            what = f"{offered.name.lower()} is offered" if offered else f"it asks for another {policy}"
            self._node.get_logger().warning(
                f"a subscriber of {topic} gets nothing, for its {policy}: {what}; change it there, or here with the "
                f"parameter qos_overrides.{topic}.publisher.{policy}"
            )

        publisher = advertise(self._node, message_type, name, profile, refused, self._group)
        self._publishers.append(publisher)
        return publisher


def _rgb(result: FrameResult) -> np.ndarray:
    pixels = result.frame.pixels
    return pixels if result.frame.channel_order == "rgb" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _png(label: np.ndarray, header: Header) -> CompressedImage:
    message = CompressedImage(header=header, format=_PNG_FORMAT)
    message.data.frombytes(cv2.imencode(".png", label, _PNG_FAST)[1].data)
    return message


def _label_info(space: LabelSpace) -> Any:
    classes = [VisionClass(class_id=c.id, class_name=c.name) for c in space.classes]
    return LabelInfo(class_map=classes, threshold=0.0)
