"""The input's subscription in a process of its own against cameras of every QoS: what it asks for, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers_input import TOPIC, InputProcess
from helpers_node import Probe, picture, wait_until
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from mtaclip_core.cli import UserError
from mtaclip_ros import distributions
from mtaclip_ros.frame_statistics import FrameStatistics
from mtaclip_ros.image_input import ImageInput
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.qos_override import overridden, publisher_profile, reliability_override

PIXELS = np.zeros((60, 80, 3), np.uint8)
OVERRIDE = f"qos_overrides.{TOPIC}.subscription."


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


def image_arrives(probe: Probe, receiver: InputProcess, camera: Any) -> None:
    before = receiver.images()
    probe.publish_until(camera, picture(PIXELS, probe.header()), lambda: receiver.images() > before, "an image")


def test_auto_follows_the_set_of_publishers(probe: Probe) -> None:
    reliable = probe.camera(TOPIC, reliable=True)
    with InputProcess() as receiver:
        receiver.wait_for("listening", "reliable (image_reliability: auto, 1 publisher)")
        image_arrives(probe, receiver, reliable)
        best_effort = probe.camera(TOPIC, reliable=False)
        receiver.wait_for("listening", "best_effort (image_reliability: auto, 2 publishers)")
        for camera in (reliable, best_effort):
            image_arrives(probe, receiver, camera)
        before = len(receiver.lines)
        probe.node.destroy_publisher(best_effort)
        receiver.wait_for("listening", " reliable (image_reliability: auto, 1 publisher)", after=before)
        image_arrives(probe, receiver, reliable)
        probe.node.destroy_publisher(reliable)
        receiver.wait_for(f"the last publisher of {TOPIC} left")
        assert not receiver.find("WARN")


@pytest.mark.parametrize(("setting", "offered"), [("best_effort", True), ("reliable", True)])
def test_what_is_set_is_asked_for(probe: Probe, setting: str, offered: bool) -> None:
    camera = probe.camera(TOPIC, reliable=offered)
    with InputProcess(image_reliability=setting) as receiver:
        receiver.wait_for("listening", f"{setting} (image_reliability: {setting}")
        image_arrives(probe, receiver, camera)
    probe.node.destroy_publisher(camera)


def test_a_refused_publisher_costs_one_line_that_says_what_to_change(probe: Probe) -> None:
    camera = probe.camera(TOPIC, reliable=False)
    with InputProcess(image_reliability="reliable", watchdog__timeout=1.0) as receiver:
        line = receiver.wait_for("WARN", "refused,")
        assert "1 publisher: /probe offers best effort sensor_msgs/msg/Image" in line
        assert "set image_reliability to auto or best_effort" in line
        probe.publish_until(
            camera, picture(PIXELS, probe.header()), lambda: receiver.find(f"no image on {TOPIC}"), "the watchdog"
        )
        assert len(receiver.find("refused,")) == 1
        assert receiver.images() == 0
    probe.node.destroy_publisher(camera)


def test_a_qos_override_goes_before_auto(probe: Probe) -> None:
    camera = probe.camera(TOPIC, reliable=True)
    with InputProcess("-p", f"{OVERRIDE}reliability:=best_effort", "-p", f"{OVERRIDE}depth:=3") as receiver:
        receiver.wait_for("listening", "best_effort (qos_overrides: best_effort, ")
        image_arrives(probe, receiver, camera)
    probe.node.destroy_publisher(camera)


@pytest.mark.parametrize(
    ("policy", "value", "expected"),
    [
        ("reliability", "sometimes", "reliable, best_effort; got 'sometimes'"),
        ("reliability", 1, "reliable, best_effort: .*'1'"),
        ("durability", "latched", "one of volatile, transient_local; got 'latched'"),
        ("history", "keep_all", "keep_last; got 'keep_all'"),
        ("depth", 0, "an integer from 1 to 100: .*0"),
        ("depth", "deep", "an integer from 1 to 100: .*'deep'"),
    ],
)
@pytest.mark.parametrize("endpoint", ["subscription", "publisher"])
def test_a_wrong_qos_override_is_refused_in_one_line(
    probe: Probe, endpoint: str, policy: str, value: object, expected: str
) -> None:
    name = f"qos_overrides.{TOPIC}.{endpoint}.{policy}"
    node = Node("overridden", context=probe.node.context, parameter_overrides=[Parameter(name, value=value)])
    try:
        if (endpoint, policy) == ("subscription", "durability"):
            overridden(node, TOPIC, 1, True)  # of an image there is none to choose
            return
        with pytest.raises(UserError, match=f"'{name}' must be .*{expected}") as caught:
            if endpoint == "publisher":
                publisher_profile(node, TOPIC, 10)
            else:
                overridden(node, TOPIC, 1, reliability_override(node, TOPIC) == "reliable")
        assert "\n" not in str(caught.value)
    finally:
        node.destroy_node()


@pytest.mark.parametrize("refuses", [False, True])
def test_an_older_rclpy_or_middleware_gets_the_events_that_it_knows(
    probe: Probe, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    class Older(distributions.SubscriptionEventCallbacks):  # type: ignore[misc, name-defined]
        def __init__(self, *, message_lost: Any = None, use_default_callbacks: bool = True) -> None:
            super().__init__(message_lost=message_lost, use_default_callbacks=use_default_callbacks)

        def create_event_handlers(self, *given: Any) -> Any:
            if refuses and self.message_lost:
                raise distributions._UNSUPPORTED
            return super().create_event_handlers(*given)

    monkeypatch.setattr(distributions, "SubscriptionEventCallbacks", Older)
    monkeypatch.setattr(distributions, "_TELLS_MESSAGE_INFO", False)
    heard: list[Any] = []
    events = dict.fromkeys(("matched", "message_lost", "incompatible_qos"), heard.append)
    topic, profile = "/older/image_raw", QoSProfile(depth=1)
    taken = distributions.subscribe(
        probe.node, Image, topic, lambda message, info: heard.append(info), profile, events, None
    )
    camera = probe.camera(topic)
    probe.publish_until(camera, picture(PIXELS, probe.header()), lambda: {} in heard, "an image without its info")
    probe.node.destroy_publisher(camera)
    probe.node.destroy_subscription(taken)


def test_what_no_topic_can_be_called_is_refused_with_its_parameter(probe: Probe) -> None:
    with pytest.raises(UserError, match=r"parameter 'camera\.front\.image' is 'two words': .*topic name must not"):
        ImageInput(probe.node, Parameters, FrameStatistics(), print, "two words", "camera.front.image")


def test_a_publisher_of_the_wrong_type_is_named_at_once(probe: Probe) -> None:
    camera = probe.camera(TOPIC, CompressedImage)
    with InputProcess() as receiver:
        line = receiver.wait_for("WARN", "wrong type")
        assert "/probe offers reliable sensor_msgs/msg/CompressedImage" in line
        assert "set image_transport to compressed" in line
        probe.node.destroy_publisher(camera)
        receiver.wait_for(f"all publishers on {TOPIC} fit")
        assert len(receiver.find("WARN")) == 1


def test_the_watchdog_says_why_and_that_images_are_back(probe: Probe) -> None:
    consumer = probe.listen("/elsewhere/image_raw", Image)  # a topic without a publisher is no camera
    with InputProcess(watchdog__timeout=1.0) as receiver:
        assert "0 publishers; nobody publishes sensor_msgs/msg/Image: start the camera" in receiver.wait_for("no image")
        sibling = probe.camera(f"{TOPIC}/compressed", CompressedImage)
        camera = probe.camera(TOPIC)  # what was said no longer holds: a new line, without the 30 s between repetitions
        line = receiver.wait_for("no image on", "1 publisher")
        assert "/probe offers reliable sensor_msgs/msg/Image" in line
        before = len(receiver.lines)
        image_arrives(probe, receiver, camera)
        receiver.wait_for(f"images arrive on {TOPIC} now", after=before)
        line = receiver.wait_for("no image on", after=before)
        assert "fastdds_large_images.xml" not in line  # these images fit without it
        probe.node.destroy_publisher(camera)
        line = receiver.wait_for("no image on", "0 publishers", after=before)
        assert f"{TOPIC}/compressed has a publisher: set image_transport to compressed" in line
        probe.node.destroy_publisher(sibling)
    probe.node.destroy_subscription(consumer)


def test_the_watchdog_can_be_switched_off(probe: Probe) -> None:
    with InputProcess(watchdog__timeout=0.0) as receiver:
        receiver.wait_for("listening", "0 publishers")
        camera = probe.camera(TOPIC)
        receiver.wait_for("listening", "1 publisher")
        image_arrives(probe, receiver, camera)
        assert not receiver.find("WARN")
    probe.node.destroy_publisher(camera)
    wait_until(lambda: not probe.node.get_subscriptions_info_by_topic(TOPIC), "the end of the subscription")
