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
from sensor_msgs.msg import CompressedImage

from mtaclip_core.cli import UserError
from mtaclip_ros.qos_override import overridden, reliability_override

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
        ("reliability", "sometimes", "expected one of auto, reliable, best_effort"),
        ("history", "keep_all", "expected keep_last"),
        ("depth", 0, "must be like 1"),
        ("depth", "deep", "must be like 1"),
    ],
)
def test_a_wrong_qos_override_is_refused_in_one_line(probe: Probe, policy: str, value: object, expected: str) -> None:
    override = Parameter(f"{OVERRIDE}{policy}", value=value)
    node = Node("overridden", context=probe.node.context, parameter_overrides=[override])
    with pytest.raises(UserError, match=f"{policy}' .*{expected}"):
        overridden(node, TOPIC, 1, reliability_override(node, TOPIC) == "reliable")
    node.destroy_node()


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


def test_the_watchdog_can_be_switched_off(probe: Probe) -> None:
    with InputProcess(watchdog__timeout=0.0) as receiver:
        receiver.wait_for("listening", "0 publishers")
        camera = probe.camera(TOPIC)
        receiver.wait_for("listening", "1 publisher")
        image_arrives(probe, receiver, camera)
        assert not receiver.find("WARN")
    probe.node.destroy_publisher(camera)
    wait_until(lambda: not probe.node.get_subscriptions_info_by_topic(TOPIC), "the end of the subscription")
