"""The subscription to one camera: which reliability to ask for, and a line in the log when images do not arrive."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mtaclip_core.cli import UserError
from mtaclip_ros.distributions import subscribe
from mtaclip_ros.frame_statistics import FrameStatistics
from mtaclip_ros.loss import Loss, LossWatch
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.qos_override import AUTOMATIC, overridden, reliability_override
from mtaclip_ros.silence import Offer, Situation, describe, explain, incompatible, wants_reliable, wrong_type
from mtaclip_ros.topic_view import TopicView
from mtaclip_ros.trouble import Trouble

_LOOK_EVERY = 0.2  # seconds between looks at the publishers
_WAIT_FOR_PUBLISHERS = 2.0
_LOSS_WINDOW = 5.0  # seconds over which the share of lost images is taken, less when the watchdog's timeout is less
_MANY_LOST, _FEW_LOST = 0.2, 0.05  # shares from which on the loss is told, and below which it is over
_ENOUGH_IMAGES, _ENOUGH_LOST = 5, 3  # below these a share says nothing
_LATE = 0.01  # mean delay in seconds from which on images are replaced in our own queue before they are taken
_INFO_DEPTH = 10  # camera_info messages are small, and the stamps of all of them tell which images are lost


class ImageInput:
    """Listens to a camera topic, and to its camera_info, between `start` and `stop`.

    With `image_reliability: auto` it subscribes as soon as a publisher shows, or after 2 s without one, and again
    whenever a change in the set of publishers asks for the other reliability. The parameter
    `qos_overrides.TOPIC.subscription.reliability` goes before `image_reliability`. Looking at the graph is a timer's
    work: the executor is never blocked.

    Args:
        node: owner of the subscriptions and timers.
        parameters: gives the current values.
        statistics: hears of every message that arrives, and counts those that are `lost` on the way.
        on_image: called in the executor's thread with every message.
        topic: name before remapping.
        setting: the parameter that the topic comes from, for the log.

    Raises:
        UserError: `topic` cannot be the name of one.
    """

    def __init__(
        self,
        node: Node,
        parameters: Callable[[], Parameters],
        statistics: FrameStatistics,
        on_image: Callable[[Any], None],
        topic: str,
        setting: str = "image_topic",
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._statistics = statistics
        self._on_image = on_image
        compressed = parameters().image_transport == "compressed"
        try:
            base = node.resolve_topic_name(topic)
        except RuntimeError as error:  # RCLError
            raise UserError(f"parameter '{setting}' is '{topic}': {str(error).partition(', at ')[0]}") from error
        other = node.resolve_topic_name(f"{base}/compressed")
        self._message: Any = CompressedImage if compressed else Image
        self.message_type = f"sensor_msgs/msg/{self._message.__name__}"
        self.topic, sibling = (other, base) if compressed else (base, other)
        self._view = TopicView(node, self.topic, self.message_type, sibling, setting)
        self._info_topic = base.rpartition("/")[0] + "/camera_info"  # where image_transport has it
        self._image: Subscription | None = None
        self._info: Subscription | None = None
        self._timer: Timer | None = None
        self._group: CallbackGroup | None = None
        self._override = AUTOMATIC
        self._reliable = False
        self._publishers: frozenset[bytes] = frozenset()
        self._connected: int | None = None  # publishers that matched, where the middleware tells
        self._refused_once = False
        self._image_bytes: int | None = None
        self._started = self._waiting_since = 0.0
        self._looked = 0.0
        self._delays: deque[float] = deque([0.0], maxlen=round(_LOSS_WINDOW / _LOOK_EVERY))  # of the looks, in seconds
        self._watch = LossWatch()
        self._quiet, self._lossy, self._mismatch = (Trouble(node.get_logger()) for _ in range(3))
        self.camera_info: CameraInfo | None = None

    @property
    def trouble(self) -> str:
        """The line that says why images do not arrive and what to change, empty while they do."""
        return self._quiet.line or self._lossy.line or self._mismatch.line

    @property
    def loss(self) -> Loss | None:
        """Images published and not delivered in the last seconds; None while nothing can be said."""
        return self._watch.estimate(self._loss_window()) if self._image is not None else None

    def start(self) -> None:
        """Begin to listen. Returns at once; the subscription follows when its reliability is known.

        Raises:
            UserError: a `qos_overrides` parameter of the image or the camera_info topic is wrong.
        """
        self._override = reliability_override(self._node, self.topic)
        overridden(self._node, self.topic, 1, False)
        info_reliable = reliability_override(self._node, self._info_topic) == "reliable"
        info_profile = overridden(self._node, self._info_topic, _INFO_DEPTH, info_reliable)
        self._started = self._waiting_since = self._looked = time.monotonic()
        self._publishers = frozenset()
        self._group = MutuallyExclusiveCallbackGroup()  # anew: a group keeps a trace of all that was ever in it
        self._statistics.listening()
        self._info = self._node.create_subscription(
            CameraInfo, self._info_topic, self._take_info, info_profile, callback_group=self._group
        )
        # not the node's clock: with use_sim_time and no /clock its timers never fire
        self._timer = self._node.create_timer(
            _LOOK_EVERY, self._look, callback_group=self._group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._look()

    def stop(self) -> None:
        """End the subscriptions; no `on_image` call follows."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for subscription in (self._image, self._info):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._image = self._info = self._timer = self.camera_info = None
        for trouble in (self._quiet, self._lossy, self._mismatch):
            trouble.forget()

    def _look(self) -> None:
        now = time.monotonic()
        self._delays.append(max(0.0, now - self._looked - _LOOK_EVERY))
        self._looked = now
        publishers, offers = self._view.publishers()
        changed, self._publishers = publishers != self._publishers, publishers
        setting = self._parameters().image_reliability if self._override == AUTOMATIC else self._override
        waiting = setting == "auto" and not offers and now - self._started < _WAIT_FOR_PUBLISHERS
        if (self._image is None and not waiting) or (changed and offers):
            self._subscribe(setting, wants_reliable(setting, offers, self.message_type), len(offers))
        if changed:
            self._waiting_since = now
            self._watch.restart(self._reliable)
            self._quiet.renew()
            self._lossy.forget()
        self._compare(offers, setting == "auto")
        self._watch_silence(now)
        self._watch_loss()

    def _subscribe(self, setting: str, reliable: bool, publishers: int) -> None:
        if self._image is not None:
            if reliable == self._reliable:
                return
            self._node.destroy_subscription(self._image)
        self._reliable = reliable
        self._connected = None
        self._watch.restart(reliable)
        self._image = subscribe(
            self._node,
            self._message,
            self.topic,
            self._take_image,
            overridden(self._node, self.topic, 1, reliable),
            {"incompatible_qos": self._refused, "message_lost": self._lost, "matched": self._matched},
            self._group,
        )
        source = "image_reliability" if self._override == AUTOMATIC else "qos_overrides"
        found = f"{publishers} publisher{'' if publishers == 1 else 's'}"
        self._node.get_logger().info(
            f"listening to {self.topic} ({self.message_type}), {'reliable' if reliable else 'best_effort'} "
            f"({source}: {setting}, {found})"
        )

    def _compare(self, offers: list[Offer], automatic: bool) -> None:
        """One line on publishers whose images cannot come: of the wrong type, or refused for their QoS."""
        wrong = [offer for offer in offers if offer.message_type != self.message_type]
        weak = [offer for offer in offers if self._reliable and not offer.reliable and offer not in wrong]
        self._refused_once = self._refused_once and bool(weak)
        if not all(offer.known for offer in offers):  # the middleware tells a publisher's node a little later
            return
        if wrong:
            reason = f"{describe(wrong)}; {wrong_type(self.message_type, wrong)}"
            self._mismatch.report(lambda: f"{self.topic}: wrong type, {reason}")
        elif self._refused_once and not automatic:  # `auto` asks for less at the next look
            self._mismatch.report(lambda: f"{self.topic}: refused, {describe(weak)}; {incompatible()}")
        else:
            self._mismatch.over(f"all publishers on {self.topic} fit")

    def _refused(self, event: Any) -> None:
        """A publisher offers less than is asked."""
        self._refused_once = True

    def _matched(self, event: Any) -> None:
        self._connected = event.current_count
        if event.current_count == 0 and event.current_count_change < 0:
            self._node.get_logger().info(f"the last publisher of {self.topic} left")

    def _lost(self, event: Any) -> None:
        self._count_lost(self._watch.event(event.total_count_change))

    def _take_image(self, message: Any, info: Mapping[str, Any]) -> None:
        self._quiet.over(f"images arrive on {self.topic} now")
        self._statistics.received()
        gid = info.get("publisher_gid")  # not on Jazzy, where the numbers of several publishers cannot be told apart
        number = info.get("publication_sequence_number") if gid or len(self._publishers) == 1 else None
        stamp = message.header.stamp
        self._image_bytes = len(message.data)
        self._count_lost(self._watch.image(_nanoseconds(stamp), gid["data"] if gid else b"", number))
        self._on_image(message)

    def _take_info(self, message: CameraInfo) -> None:
        self.camera_info = message
        self._watch.info(_nanoseconds(message.header.stamp))

    def _count_lost(self, count: int) -> None:
        if count:
            self._statistics.count("lost", count)

    def _watch_silence(self, now: float) -> None:
        timeout = self._parameters().watchdog_timeout
        silence = self._statistics.silence()
        if self._lossy.line:
            timeout *= 2  # the line on the loss, just told, has the same reason
        if timeout and min(silence, now - self._waiting_since) >= timeout:
            self._quiet.report(lambda: f"no image on {self.topic} for {silence:.1f} s; {explain(self._situation())}")

    def _watch_loss(self) -> None:
        window = self._loss_window()
        loss = self._watch.estimate(window) if window else None
        if loss is None or loss.published < _ENOUGH_IMAGES or self._quiet.line:
            return
        if loss.share < _FEW_LOST:
            self._lossy.over(f"images arrive on {self.topic} without loss again")
        elif loss.share >= _MANY_LOST and loss.lost >= _ENOUGH_LOST:
            self._lossy.report(lambda: f"{self.topic}: {loss.describe(window)}; {self._advice()}")

    def _situation(self) -> Situation:
        seconds = self._parameters().watchdog_timeout
        return self._view.situation(
            reliable=self._reliable,
            connected=self._connected,
            lost=self._watch.events(seconds),
            camera_info=self._watch.infos(seconds) > 0,
            image_bytes=self._image_bytes,
        )

    def _advice(self) -> str:
        hint = self._view.transport_hint(self._image_bytes)
        advice = hint or "the network or this process cannot keep up: send smaller or fewer images"
        late = sum(self._delays) / len(self._delays) > _LATE
        return f"this process runs late, so this machine is overloaded, or {advice}" if late else advice

    def _loss_window(self) -> float:
        return min(_LOSS_WINDOW, self._parameters().watchdog_timeout)


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec
