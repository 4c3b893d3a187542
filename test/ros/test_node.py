"""The running node, as its users meet it: one process for the whole module, started by itself (`autostart`)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bundles import make_colour_bundle, paint

from mtaclip_core.drawing import colourise, overlay
from mtaclip_core.labels import CAMVID, LabelSpace

pytest.importorskip("rclpy", reason="ROS is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from helpers_node import NodeProcess, Probe, as_array, picture, wait_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

TOPIC = "/camera/image_raw"
SIZE = (90, 120)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    bundle = make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", network_size=SIZE)
    process = NodeProcess(model__path=bundle, watchdog__timeout=1.5)
    process.wait_for_line("model colour ")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


def same_header(image: Any) -> Any:
    """Tells a message with the header of `image`."""
    return lambda message: message.header == image.header


def diagnosis(probe: Probe, of: str = "camera") -> tuple[DiagnosticStatus, dict[str, str]]:
    """The next status after now, of the camera or the model."""
    probe.received["/diagnostics"].clear()
    statuses = {status.name: status for status in probe.wait_for("/diagnostics").status}
    assert set(statuses) == {"mtaclip: model", "mtaclip: camera"}
    status = statuses[f"mtaclip: {of}"]
    return status, {pair.key: pair.value for pair in status.values}


def test_a_painted_image_comes_back_as_its_label_with_the_very_header(probe: Probe, camera: Any) -> None:
    probe.listen("/mtaclip/confidence", Image)
    painted, expected = paint(CAMVID, SIZE, seed=1)
    for encoding, pad in (("rgb8", 0), ("bgr8", 7)):
        pixels = painted if encoding == "rgb8" else np.ascontiguousarray(painted[..., ::-1])
        image = picture(pixels, probe.header("caméra/左"), encoding, pad)
        label = probe.labelled(camera, image)
        assert label.header.frame_id == "caméra/左"
        assert label.header.stamp == image.header.stamp
        assert (label.encoding, label.height, label.width, label.step) == ("mono8", *SIZE, SIZE[1])
        np.testing.assert_array_equal(as_array(label), expected)
        confidence = probe.wait_for("/mtaclip/confidence", same_header(image))
        assert (confidence.encoding, confidence.height, confidence.width, confidence.step) == ("mono8", *SIZE, SIZE[1])
        assert as_array(confidence).min() > 255 // len(CAMVID)


def test_label_has_the_size_of_the_input_whatever_that_is(probe: Probe, camera: Any) -> None:
    for size in ((181, 243), (40, 50)):
        painted, expected = paint(CAMVID, size, seed=2, cell=20)
        label = probe.labelled(camera, picture(painted, probe.header()))
        assert (label.height, label.width, label.step) == (*size, size[1])
        assert (as_array(label) == expected).mean() > 0.8


def test_a_full_hd_image_passes_over_best_effort(node: NodeProcess, probe: Probe) -> None:
    before = len(node.lines)
    camera = probe.camera(TOPIC, reliable=False)
    painted, expected = paint(CAMVID, (1080, 1920), seed=3, cell=120)
    label = probe.labelled(camera, picture(painted, probe.header()))
    probe.node.destroy_publisher(camera)
    assert (as_array(label) == expected).mean() > 0.95
    assert not [line for line in node.lines[before:] if "WARN" in line]


def test_auto_reliability_follows_the_publishers(node: NodeProcess, probe: Probe) -> None:
    painted, _ = paint(CAMVID, SIZE)
    for reliable, word in ((True, "reliable"), (False, "best_effort"), (True, "reliable")):
        before = len(node.lines)
        camera = probe.camera(TOPIC, reliable=reliable)
        wait_until(
            lambda wanted=reliable: any(
                (info.qos_profile.reliability.name == "RELIABLE") == wanted
                for info in probe.node.get_subscriptions_info_by_topic(TOPIC)
            ),
            f"a {word} subscription",
        )
        probe.labelled(camera, picture(painted, probe.header()))
        changes = [line for line in node.lines[before:] if "listening to" in line]
        assert all(f"{TOPIC} (sensor_msgs/msg/Image), {word}" in line for line in changes)
        probe.node.destroy_publisher(camera)
    both = [probe.camera(TOPIC, reliable=reliable) for reliable in (True, False)]
    node.wait_for_line("best_effort .*2 publishers", before)
    for camera in both:
        probe.labelled(camera, picture(painted, probe.header()))
        probe.node.destroy_publisher(camera)


def test_classes_wait_for_a_late_joiner(probe: Probe) -> None:
    subscription = probe.listen("/mtaclip/classes", String, latched=True)
    rows = json.loads(probe.wait_for("/mtaclip/classes").data)
    assert LabelSpace.from_list("camvid", rows) == CAMVID
    probe.node.destroy_subscription(subscription)


def test_overlay_and_color_come_while_someone_looks(probe: Probe, camera: Any) -> None:
    painted, expected = paint(CAMVID, SIZE, seed=4)
    grey = np.full_like(painted, 128)
    assert probe.set_parameter("overlay.max_rate", 0.0) == (True, "")
    for topic, picture_of in (
        ("/mtaclip/color", lambda label: colourise(label, CAMVID)),
        ("/mtaclip/overlay", lambda label: overlay(grey, label, CAMVID, 0.25)),
    ):
        publisher = next(iter(probe.node.get_publishers_info_by_topic(topic)))
        assert publisher.topic_type == "sensor_msgs/msg/Image"
        pixels = grey if topic.endswith("overlay") else painted
        assert probe.set_parameter("overlay.alpha", 0.25) == (True, "")
        subscription = probe.listen(topic, Image)
        wait_until(lambda t=topic: probe.node.count_subscribers(t), "discovery")
        image = picture(pixels, probe.header("lens"))

        def seen(topic: str = topic, image: Image = image) -> Any:
            probe.labelled(camera, image)
            return next((m for m in probe.received[topic] if m.header == image.header), None)

        shown = wait_until(seen, topic)
        assert shown.encoding == "rgb8"
        label = as_array(probe.labelled(camera, image))
        np.testing.assert_array_equal(as_array(shown), picture_of(label))
        probe.node.destroy_subscription(subscription)
    assert (expected == as_array(probe.labelled(camera, picture(painted, probe.header())))).all()


def test_bad_messages_are_counted_and_explained_and_the_next_frame_is_served(
    node: NodeProcess, probe: Probe, camera: Any
) -> None:
    painted, expected = paint(CAMVID, SIZE, seed=5)
    probe.labelled(camera, picture(painted, probe.header()))
    bad = {}
    for reason, change in {
        "encoding": {"encoding": "32FC1"},
        "step": {"step": 10},
        "data_length": {"height": SIZE[0] + 1},
        "size": {"height": 0},
    }.items():
        message = picture(painted, probe.header())
        for name, value in change.items():
            setattr(message, name, value)
        bad[reason] = message
    for reason, message in bad.items():
        wanted = rf"bad image \({reason}\) on {TOPIC}"
        probe.publish_until(camera, message, lambda wanted=wanted: node.find_line(wanted), wanted)
        camera.publish(message)
        label = probe.labelled(camera, picture(painted, probe.header()))
        np.testing.assert_array_equal(as_array(label), expected)
    _, values = diagnosis(probe)
    assert int(values["frames bad"]) >= len(bad)
    for reason in bad:
        assert int(values[f"frames bad: {reason}"]) >= 1
        assert len([line for line in node.lines if f"bad image ({reason})" in line]) == 1, "throttled"


def test_diagnostics_say_what_runs_and_how_well(probe: Probe, camera: Any) -> None:
    painted, _ = paint(CAMVID, SIZE)
    for _ in range(3):
        probe.labelled(camera, picture(painted, probe.header()))
    status, values = diagnosis(probe, "model")
    assert status.level == DiagnosticStatus.OK
    assert (values["model"], values["backend"], values["precision"]) == ("colour", "openvino", "f32")
    assert (values["failures"], values["rebuilds"]) == ("0", "0")
    assert re.fullmatch("[0-9a-f]{64}", values["model hash"])
    status, values = diagnosis(probe)
    assert status.hardware_id == TOPIC
    assert int(values["frames labelled"]) >= 3
    assert 0 < float(values["segment p50 (ms)"]) <= float(values["segment p99 (ms)"])
    assert 0 < float(values["latency p50 (ms)"]) < 5000
    done = sum(
        int(values[f"frames {k}"]) for k in ("labelled", "bad", "dropped", "limited", "failed", "publish errors")
    )
    assert int(values["frames received"]) - done in (0, 1, 2)
    assert probe.set_parameter("diagnostics.min_input_rate", 1000.0) == (True, "")

    def limit_holds() -> bool:
        probe.labelled(camera, picture(painted, probe.header()))
        return "images a second" in diagnosis(probe)[0].message

    wait_until(limit_holds, "a warning by the new limit")
    assert probe.set_parameter("diagnostics.min_input_rate", 0.0) == (True, "")


def test_enable_stops_and_starts_the_work(probe: Probe, camera: Any) -> None:
    painted, _ = paint(CAMVID, SIZE)
    probe.labelled(camera, picture(painted, probe.header()))
    assert probe.call(SetBool, "enable", SetBool.Request(data=False)).success
    image = picture(painted, probe.header())
    probe.received["/mtaclip/label"].clear()
    for _ in range(5):
        camera.publish(image)
        time.sleep(0.1)
    assert not probe.received["/mtaclip/label"]
    assert probe.state() == "active"
    assert probe.call(SetBool, "enable", SetBool.Request(data=True)).success
    probe.labelled(camera, picture(painted, probe.header()))


def test_wrong_parameter_values_are_refused_with_the_reason(probe: Probe) -> None:
    for name, value, why in (
        ("overlay.alpha", 1.5, "range"),
        ("confidence_floor", 256, "range"),
        ("image_reliability", "perhaps", "one of auto, reliable, best_effort"),
        ("model.path", "other", "only while the node is unconfigured"),
        ("autostart", False, "read-only"),
        ("max_rate", "fast", "type"),
    ):
        accepted, reason = probe.set_parameter(name, value)
        assert not accepted
        assert why in reason, (name, reason)


def test_confidence_floor_makes_uncertain_pixels_unlabelled(probe: Probe, camera: Any) -> None:
    probe.listen("/mtaclip/confidence", Image)
    weight = np.linspace(0, 1, SIZE[1])[None, :, None]
    blend = (1 - weight) * CAMVID.palette[3] + weight * CAMVID.palette[5]
    pixels = np.broadcast_to(np.rint(blend).astype(np.uint8), (*SIZE, 3))
    certain = as_array(probe.labelled(camera, picture(pixels, probe.header())))
    assert probe.set_parameter("confidence_floor", 240) == (True, "")
    image = picture(pixels, probe.header())
    label = as_array(probe.labelled(camera, image))
    confidence = as_array(probe.wait_for("/mtaclip/confidence", same_header(image)))
    assert 0 < (confidence < 240).sum() < confidence.size
    np.testing.assert_array_equal(label, np.where(confidence < 240, 255, certain))
    assert probe.set_parameter("confidence_floor", 0) == (True, "")
    np.testing.assert_array_equal(as_array(probe.labelled(camera, picture(pixels, probe.header()))), certain)


def test_camera_info_comes_beside_the_label_with_its_header(probe: Probe, camera: Any) -> None:
    topic = "/mtaclip/camera_info"
    publisher = probe.node.create_publisher(CameraInfo, "/camera/camera_info", 5)
    subscription = probe.listen(topic, CameraInfo)
    painted, _ = paint(CAMVID, SIZE)

    def seen() -> Any:
        publisher.publish(CameraInfo(width=SIZE[1], height=SIZE[0], k=[float(i) for i in range(9)]))
        image = picture(painted, probe.header("lens"))
        probe.labelled(camera, image)
        return next((m for m in probe.received[topic] if m.header == image.header), None)

    info = wait_until(seen, topic)
    assert list(info.k) == list(range(9))
    probe.node.destroy_publisher(publisher)
    probe.node.destroy_subscription(subscription)


def test_silence_is_explained(node: NodeProcess, probe: Probe, camera: Any) -> None:
    painted, _ = paint(CAMVID, SIZE)
    probe.labelled(camera, picture(painted, probe.header()))
    before = len(node.lines)
    node.wait_for_line(f"no image on {TOPIC} for", before)
    status, _ = diagnosis(probe)
    assert status.level == DiagnosticStatus.ERROR
    assert "no image" in status.message
    probe.labelled(camera, picture(painted, probe.header()))
    node.wait_for_line("images arrive", before)


def test_a_publisher_of_another_type_on_the_topic_does_no_harm(probe: Probe, camera: Any) -> None:
    elsewhere = Probe()  # one participant has one type for a topic
    wrong = elsewhere.camera(TOPIC, CompressedImage)
    wait_until(lambda: probe.node.count_publishers(TOPIC) == 2, "the other publisher")
    wrong.publish(CompressedImage(format="jpeg"))
    painted, _ = paint(CAMVID, SIZE)
    probe.labelled(camera, picture(painted, probe.header()))
    elsewhere.close()
