"""What the node sends, clause by clause of what consumers such as Nav2 need, and what it does not send unasked."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mtaclip_core.labels import CAMVID, UNLABELLED

pytest.importorskip("rclpy", reason="ROS is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from helpers_node import Probe, StandInProcess, as_array, picture, wait_until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from mtaclip_ros.image_codec import decode

TOPIC = "/camera/image_raw"
SIZE = (50, 70)
SLOW_TOPIC = "/slow/image_raw"
NOW = 5000

# vision_msgs is not among the ROS wheels. In its place: a message that is there, with the constructors of vision_msgs.
VISION_MSGS = """
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

class VisionClass:
    def __init__(self, class_id, class_name):
        self.pair = KeyValue(key=str(class_id), value=class_name)

def fill(self, class_map, threshold):
    DiagnosticStatus.__init__(self, values=[c.pair for c in class_map], message=str(threshold))

names = {"__init__": fill, "__module__": DiagnosticStatus.__module__}
LabelInfo = type("DiagnosticStatus", (DiagnosticStatus,), names)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInProcess]:
    stand_in = tmp_path_factory.mktemp("python")
    (stand_in / "vision_msgs").mkdir()
    (stand_in / "vision_msgs" / "__init__.py").touch()
    (stand_in / "vision_msgs" / "msg.py").write_text(VISION_MSGS, encoding="utf-8")
    process = StandInProcess(
        *("-p", "qos_overrides./mtaclip/color.publisher.durability:=transient_local"),
        use_sim_time=True,
        watchdog__timeout=0.0,
        env={"PYTHONPATH": str(stand_in)},
    )
    process.wait_for_line("model stand-in")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture(scope="module")
def probe(node: StandInProcess) -> Iterator[Probe]:
    probe = Probe()
    for name in ("label", "confidence"):
        probe.listen(f"/mtaclip/{name}", Image)
    probe.listen("/diagnostics", DiagnosticArray)
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def camera(probe: Probe) -> Any:
    return probe.camera(TOPIC)


def gradient() -> np.ndarray:
    values = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 11
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def camera_values(probe: Probe, node: str = "mtaclip") -> dict[str, str]:
    """The key-value pairs of the camera's next status."""
    probe.received["/diagnostics"].clear()
    message = probe.wait_for("/diagnostics", lambda m: m.status[0].name.startswith(f"{node}:"))
    status = next(status for status in message.status if status.name == f"{node}: camera")
    return {pair.key: pair.value for pair in status.values}


def test_latency_is_taken_by_the_simulated_clock_also_after_it_jumps_back(probe: Probe, camera: Any) -> None:
    clock = probe.node.create_publisher(Clock, "/clock", 1)

    def told(now: int, stamp: Time) -> dict[str, str]:
        """What diagnostics say after a frame of that stamp, by a clock that stands still."""
        clock.publish(Clock(clock=Time(sec=now)))
        header = probe.header()
        header.stamp = stamp
        probe.labelled(camera, picture(gradient(), header))
        return camera_values(probe)

    stamp = Time(sec=NOW - 2, nanosec=500_000_000)
    wait_until(lambda: told(NOW, stamp).get("latency p50 (ms)") == "1500.00", "a latency of 1.5 s", 60.0)
    early = Time(sec=7, nanosec=500_000_000)

    def jumped() -> bool:
        values = told(10, early)
        return float(values.get("latency p99 (ms)", 0)) > 2000 and values["stamps back"] != "0"

    wait_until(jumped, "a latency of 2.5 s, as the bag begins again", 60.0)
    assert camera_values(probe)["frames failed"] == "0"
    probe.node.destroy_publisher(clock)


def test_label_and_confidence_fit_each_other_and_the_image(probe: Probe, camera: Any) -> None:
    """Nav2's semantic layer pairs them by stamp and reads them against a point cloud of the image's size."""
    image = picture(gradient(), probe.header("front_lens"), pad=5)
    label = probe.labelled(camera, image)
    confidence = probe.wait_for("/mtaclip/confidence", lambda m: m.header == image.header)
    for message in (label, confidence):
        assert message.header.stamp == image.header.stamp
        assert message.header.frame_id == "front_lens"
        assert message.encoding == "mono8"
        assert (message.height, message.width) == SIZE
        assert message.step == message.width, "no row padding"
        assert len(message.data) == SIZE[0] * SIZE[1]
    np.testing.assert_array_equal(as_array(label), gradient()[..., 0])
    for name in ("label", "confidence"):
        (publisher,) = probe.node.get_publishers_info_by_topic(f"/mtaclip/{name}")
        assert publisher.qos_profile.reliability.name == "RELIABLE"


def test_label_info_waits_for_a_late_joiner(probe: Probe) -> None:
    topic = "/mtaclip/label_info"
    (publisher,) = probe.node.get_publishers_info_by_topic(topic)
    assert publisher.qos_profile.reliability.name == "RELIABLE"
    assert publisher.qos_profile.durability.name == "TRANSIENT_LOCAL"
    probe.listen(topic, DiagnosticStatus, latched=True)
    message = probe.wait_for(topic)
    assert {int(pair.key): pair.value for pair in message.values} == {c.id: c.name for c in CAMVID.classes}
    assert UNLABELLED not in {int(pair.key) for pair in message.values}
    assert message.message == "0.0"


def test_the_qos_of_an_output_is_that_of_its_override_and_a_subscriber_that_wants_more_is_told(
    node: StandInProcess, probe: Probe
) -> None:
    (publisher,) = probe.node.get_publishers_info_by_topic("/mtaclip/color")
    assert publisher.qos_profile.durability.name == "TRANSIENT_LOCAL"
    probe.node.destroy_subscription(probe.listen("/mtaclip/overlay", Image, latched=True))
    line = node.wait_for_line("a subscriber of /mtaclip/overlay gets nothing, for its durability: volatile is offered")
    assert "qos_overrides./mtaclip/overlay.publisher.durability" in line


def test_nothing_is_made_for_topics_that_nobody_listens_to(probe: Probe, camera: Any) -> None:
    assert probe.set_parameter("overlay.max_rate", 0.0) == (True, "")
    probe.labelled(camera, picture(gradient(), probe.header()))
    before = {key: value for key, value in camera_values(probe).items() if key.startswith("made on request")}
    assert set(before) == {f"made on request: {name}" for name in ("label/compressed", "color", "overlay")}
    assert set(before.values()) == {"0"}
    color = probe.listen("/mtaclip/color", Image)

    def shown() -> Any:
        probe.labelled(camera, picture(gradient(), probe.header()))
        return probe.received["/mtaclip/color"]

    wait_until(shown, "color")
    probe.node.destroy_subscription(color)
    after = camera_values(probe)
    assert int(after["made on request: color"]) > 0
    assert after["made on request: overlay"] == after["made on request: label/compressed"] == "0"


def test_the_rate_of_pictures_is_limited(probe: Probe, camera: Any) -> None:
    assert probe.set_parameter("overlay.max_rate", 0.01) == (True, "")
    overlay = probe.listen("/mtaclip/overlay", Image)
    wait_until(lambda: probe.node.count_subscribers("/mtaclip/overlay"), "discovery")
    before = int(camera_values(probe)["frames labelled"])
    for _ in range(8):
        probe.labelled(camera, picture(gradient(), probe.header()))
    values = camera_values(probe)
    assert int(values["frames labelled"]) >= before + 8
    assert int(values["made on request: overlay"]) <= 1
    probe.node.destroy_subscription(overlay)


def test_a_png_of_the_label_comes_while_someone_listens(probe: Probe, camera: Any) -> None:
    topic = "/mtaclip/label/compressed"
    subscription = probe.listen(topic, CompressedImage)

    labels = []

    def seen() -> Any:
        labels.append(probe.labelled(camera, picture(gradient(), probe.header("lens"))))
        return next(((n, m) for m in list(probe.received[topic]) for n in labels if m.header == n.header), None)

    label, message = wait_until(seen, topic)
    assert message.format == "mono8; png compressed "
    pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, as_array(label))
    np.testing.assert_array_equal(decode(message).pixels[..., 0], as_array(label))
    probe.node.destroy_subscription(subscription)


def test_under_overload_the_newest_frame_is_labelled_and_no_queue_grows() -> None:
    process = StandInProcess("-r", "__ns:=/slow", "-r", f"image:={SLOW_TOPIC}", env={"STAND_IN_SECONDS": "0.1"})
    process.wait_for_line("model stand-in")
    probe = Probe("/slow/mtaclip")
    try:
        overload(probe)
    finally:  # its diagnostics would be heard in other tests
        probe.close()
        stopped = process.stop()
    assert stopped == 0


def overload(probe: Probe) -> None:
    probe.listen("/slow/mtaclip/label", Image)
    probe.listen("/diagnostics", DiagnosticArray)
    camera = probe.camera(SLOW_TOPIC)
    probe.labelled(camera, picture(gradient(), probe.header()))
    probe.received["/slow/mtaclip/label"].clear()
    stamps = []
    for _ in range(60):
        image = picture(gradient(), probe.header())
        stamps.append(image.header.stamp)
        camera.publish(image)
        time.sleep(0.02)
    labels = probe.received["/slow/mtaclip/label"]
    at_the_end = len(labels)
    wait_until(lambda: labels and labels[-1].header.stamp == stamps[-1], "the label of the last image")
    assert len(labels) - at_the_end <= 6, "a queue would go on"
    order = [stamps.index(label.header.stamp) for label in labels]
    assert order == sorted(set(order))
    assert len(order) < len(stamps) / 2

    def all_counted() -> bool:
        values = camera_values(probe, "slow/mtaclip")
        done = ("labelled", "dropped", "limited", "failed", "publish errors", "bad")
        return sum(int(values[f"frames {key}"]) for key in done) == int(values["frames received"]) > len(order)

    wait_until(all_counted, "every image accounted for")


def test_build_only_says_what_it_built_and_ends(tmp_path: Path) -> None:
    process = StandInProcess(build_only=True)
    assert process.wait() == 0, process.log
    assert re.search(r"built stand-in \(0+\), 11 classes, 90x120, none f32, engine sm00-stand-in in", process.output)
    assert "listening" not in process.log
    gone = tmp_path / "gone"
    gone.touch()
    process = StandInProcess(build_only=True, env={"STAND_IN_BROKEN": str(gone)})
    assert process.wait() == 2
    assert "no device" in process.log
    assert not process.output
