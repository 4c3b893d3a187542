"""The subscription to one camera: which reliability to ask for, and a line in the log when nothing comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mtaclip_ros.frame_statistics import FrameStatistics
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.silence import Offer, explain, wants_reliable

_LOOK_EVERY = 0.2  # seconds between looks at the publishers
_WAIT_FOR_PUBLISHERS = 2.0
_REPEAT_WARNING = 30.0


class ImageInput:
    """Listens to a camera topic, and to its camera_info, between `start` and `stop`.

    With `image_reliability: auto` it subscribes as soon as a publisher shows, or after 2 s without one, and again
    whenever a change in the set of publishers asks for the other reliability. Looking at the graph is a timer's work:
    the executor is never blocked.

    Args:
        node: owner of the subscriptions and timers.
        parameters: gives the current values.
        statistics: hears of every message that arrives.
        on_image: called in the executor's thread with every message.
        topic: name before remapping.
    """

    def __init__(
        self,
        node: Node,
        parameters: Callable[[], Parameters],
        statistics: FrameStatistics,
        on_image: Callable[[Any], None],
        topic: str,
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._statistics = statistics
        self._on_image = on_image
        compressed = parameters().image_transport == "compressed"
        base = node.resolve_topic_name(topic)
        self._message: Any = CompressedImage if compressed else Image
        self.message_type = f"sensor_msgs/msg/{self._message.__name__}"
        self.topic = node.resolve_topic_name(f"{base}/compressed") if compressed else base
        self._info_topic = base.rpartition("/")[0] + "/camera_info"  # where image_transport has it
        self._image: Subscription | None = None
        self._info: Subscription | None = None
        self._timer: Timer | None = None
        self._reliable = False
        self._publishers: frozenset[bytes] = frozenset()
        self._started = 0.0
        self._warned: float | None = None
        self.camera_info: CameraInfo | None = None

    def start(self) -> None:
        """Begin to listen. Returns at once; the subscription follows when its reliability is known."""
        self._started = time.monotonic()
        self._publishers = frozenset()
        self._warned = None
        self._statistics.listening()
        profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._info = self._node.create_subscription(
            CameraInfo,
            self._info_topic,
            self._take_info,
            profile,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        # not the node's clock: with use_sim_time and no /clock its timers never fire
        self._timer = self._node.create_timer(_LOOK_EVERY, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._look()

    def stop(self) -> None:
        """End the subscriptions; no `on_image` call follows."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for subscription in (self._image, self._info):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._image = self._info = self._timer = self.camera_info = None

    def _look(self) -> None:
        infos = self._node.get_publishers_info_by_topic(self.topic)
        offers = [_offer(info) for info in infos]
        publishers = frozenset(bytes(info.endpoint_gid) for info in infos)
        changed, self._publishers = publishers != self._publishers, publishers
        setting = self._parameters().image_reliability
        waiting = setting == "auto" and not offers and time.monotonic() - self._started < _WAIT_FOR_PUBLISHERS
        if (self._image is None and not waiting) or (changed and offers):
            self._subscribe(setting, wants_reliable(setting, offers, self.message_type), len(offers))
        self._watch()

    def _subscribe(self, setting: str, reliable: bool, publishers: int) -> None:
        if self._image is not None:
            if reliable == self._reliable:
                return
            self._node.destroy_subscription(self._image)
        self._reliable = reliable
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        # reliability has a parameter of its own; an override declared once would pin the first choice of `auto`
        overridable = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
        self._image = self._node.create_subscription(
            self._message,
            self.topic,
            self._take_image,
            QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability),
            qos_overriding_options=overridable,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._refused, incompatible_type=None, use_default_callbacks=False
            ),
        )
        found = f"{publishers} publisher{'' if publishers == 1 else 's'}"
        self._node.get_logger().info(
            f"listening to {self.topic} ({self.message_type}), {reliability.name.lower()} "
            f"(image_reliability: {setting}, {found})"
        )

    def _refused(self, event: Any) -> None:
        """A publisher offers less than is asked; `auto` asks for less itself when it sees that publisher."""
        if self._parameters().image_reliability != "auto":
            self._warn("a publisher does not match")

    def _take_image(self, message: Any) -> None:
        if self._warned is not None:
            self._warned = None
            self._node.get_logger().info(f"images arrive on {self.topic} again")
        self._statistics.received()
        self._on_image(message)

    def _take_info(self, message: CameraInfo) -> None:
        self.camera_info = message

    def _watch(self) -> None:
        timeout = self._parameters().watchdog_timeout
        silence = self._statistics.silence()
        now = time.monotonic()
        if timeout and silence >= timeout and (self._warned is None or now - self._warned >= _REPEAT_WARNING):
            self._warned = now
            self._warn(f"no image for {silence:.1f} s")

    def _warn(self, what: str) -> None:
        ours = f"{self._node.get_fully_qualified_name()}/"
        topics = [n for n, types in self._node.get_topic_names_and_types() if self.message_type in types]
        elsewhere = sorted(name for name in topics if name != self.topic and not name.startswith(ours))
        offers = [_offer(info) for info in self._node.get_publishers_info_by_topic(self.topic)]
        rmw = rclpy.get_rmw_implementation_identifier()
        reason = explain(self.message_type, self._reliable, offers, elsewhere, rmw)
        self._node.get_logger().warning(f"{self.topic}: {what}; {reason}")


def _offer(info: TopicEndpointInfo) -> Offer:
    reliable = info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    return Offer(f"{info.node_namespace.rstrip('/')}/{info.node_name}", info.topic_type, reliable)
