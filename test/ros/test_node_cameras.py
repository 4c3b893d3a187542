"""Several cameras on one model: names, batches, fairness, regions, rates, and a status for each."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from mtaclip_core.labels import CAMVID, LabelSpace

pytest.importorskip("rclpy", reason="ROS is not installed")

from diagnostic_msgs.msg import DiagnosticArray
from helpers_node import Probe, StandInProcess, as_array, picture, wait_until
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

SIZE = (40, 60)


def flat(value: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def statuses(probe: Probe, node: str = "mtaclip") -> dict[str, dict[str, str]]:
    """The key-value pairs of the next statuses, by `model`, `camera front` and so on."""
    probe.received["/diagnostics"].clear()
    message = probe.wait_for("/diagnostics", lambda m: m.status[0].name.startswith(f"{node}:"))
    return {s.name.removeprefix(f"{node}: "): {pair.key: pair.value for pair in s.values} for s in message.status}


class Camera:
    """Publishes pictures of one value at a rate, in a thread of its own, for the length of a block."""

    def __init__(self, probe: Probe, topic: str, rate: float, value: int) -> None:
        self._probe, self._rate, self._value = probe, rate, value
        self._publisher = probe.camera(topic)
        self._stop = threading.Event()
        self.sent = 0

    def __enter__(self) -> Camera:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._probe.node.destroy_publisher(self._publisher)

    def _run(self) -> None:
        while not self._stop.wait(1 / self._rate):
            self._publisher.publish(picture(flat(self._value), self._probe.header()))
            self.sent += 1


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mask") / "hood.png"
    hood = np.full(SIZE, 255, np.uint8)
    hood[30:] = 0
    cv2.imwrite(str(path), hood)
    return path


@pytest.fixture(scope="module")
def node(mask: Path) -> Iterator[StandInProcess]:
    process = StandInProcess(
        cameras="[front, left]",
        camera__front__image="/front/camera/image_raw",
        camera__left__roi="[10, 5, 40, 20]",
        camera__left__mask=mask,
        watchdog__timeout=0.0,
        env={"STAND_IN_SECONDS": "0.05"},
    )
    process.wait_for_line("model stand-in")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


@pytest.fixture(scope="module")
def probe(node: StandInProcess) -> Iterator[Probe]:
    probe = Probe()
    probe.listen("/diagnostics", DiagnosticArray)
    for camera in ("front", "left"):
        probe.listen(f"/mtaclip/{camera}/label", Image)
        probe.listen(f"/mtaclip/{camera}/confidence", Image)
    yield probe
    probe.close()


def test_each_camera_has_outputs_of_its_own_and_there_is_one_model(node: StandInProcess, probe: Probe) -> None:
    info = probe.node.create_publisher(CameraInfo, "/front/camera/camera_info", 5)
    probe.listen("/mtaclip/front/camera_info", CameraInfo)
    for name, topic, value in (("front", "/front/camera/image_raw", 3), ("left", "/left/image_raw", 7)):
        camera = probe.camera(topic)
        image = picture(flat(value), probe.header(f"{name}_lens"))
        info.publish(CameraInfo(width=SIZE[1], height=SIZE[0]))
        label = probe.labelled(camera, image, f"/mtaclip/{name}/label")
        assert (label.height, label.width, label.step, label.encoding) == (*SIZE, SIZE[1], "mono8")
        assert as_array(label)[10, 30] == value
        classes = probe.listen(f"/mtaclip/{name}/classes", String, latched=True)
        rows = json.loads(probe.wait_for(f"/mtaclip/{name}/classes").data)
        assert LabelSpace.from_list("camvid", rows) == CAMVID
        probe.node.destroy_subscription(classes)
        probe.node.destroy_publisher(camera)
    assert all(info.header.frame_id == "front_lens" for info in probe.received["/mtaclip/front/camera_info"])
    assert node.log.count("stand-in load") == 1


def test_region_and_mask_of_a_camera_leave_the_rest_unlabelled(probe: Probe) -> None:
    camera = probe.camera("/left/image_raw")
    image = picture(flat(9), probe.header())
    label = as_array(probe.labelled(camera, image, "/mtaclip/left/label"))
    expected = np.full(SIZE, 255, np.uint8)
    expected[5:25, 10:50] = 9
    np.testing.assert_array_equal(label, expected)
    confidence = probe.wait_for("/mtaclip/left/confidence", lambda m: m.header == image.header)
    np.testing.assert_array_equal(as_array(confidence), np.where(expected == 255, 0, 255))
    probe.node.destroy_publisher(camera)


def test_frames_that_wait_together_are_one_batch(node: StandInProcess, probe: Probe) -> None:
    before = len(node.lines)
    with Camera(probe, "/front/camera/image_raw", 40, 1), Camera(probe, "/left/image_raw", 40, 2):
        node.wait_for_line("stand-in batch of 2", before)
        wait_until(lambda: min(len(probe.received[f"/mtaclip/{c}/label"]) for c in ("front", "left")) > 5, "labels")
    assert {m.data[0] for m in probe.received["/mtaclip/front/label"][-3:]} == {1}
    assert {int(as_array(m)[10, 30]) for m in probe.received["/mtaclip/left/label"][-3:]} == {2}


def test_the_rate_of_each_camera_can_be_limited_while_it_runs(probe: Probe) -> None:
    assert probe.set_parameter("camera.left.max_rate", 2000.0)[0] is False
    assert probe.set_parameter("camera.left.max_rate", 2.0) == (True, "")
    before = statuses(probe)
    after: dict[str, dict[str, str]] = {}

    def enough() -> bool:
        after.update(statuses(probe))
        done = (int(s["camera front"]["frames labelled"]) for s in (after, before))
        return next(done) - next(done) >= 12

    with Camera(probe, "/front/camera/image_raw", 10, 1), Camera(probe, "/left/image_raw", 10, 2):
        wait_until(enough, "frames of the front camera")
    assert after["camera front"]["frames limited"] == "0"
    keys = ("frames labelled", "frames limited")
    more = {key: int(after["camera left"][key]) - int(before["camera left"][key]) for key in keys}
    assert more["frames limited"] > more["frames labelled"] >= 2
    assert probe.set_parameter("camera.left.max_rate", 0.0) == (True, "")


def test_there_is_a_status_for_each_camera_and_one_for_the_model(probe: Probe) -> None:
    found = statuses(probe)
    assert set(found) == {"model", "camera front", "camera left"}
    assert found["model"]["backend"] == "none"
    assert found["model"]["engine key"] == "sm00-stand-in"
    assert found["model"]["GPU memory (MiB)"] == "12"
    front, left = found["camera front"], found["camera left"]
    assert (front["image topic"], left["image topic"]) == ("/front/camera/image_raw", "/left/image_raw")
    for values in (front, left):
        assert int(values["frames labelled"]) > 0
        assert values["stamps back"] == "0"


def test_stamps_that_go_back_are_counted_and_told(node: StandInProcess, probe: Probe) -> None:
    camera = probe.camera("/front/camera/image_raw")
    probe.labelled(camera, picture(flat(1), probe.header()), "/mtaclip/front/label")
    old = probe.header()
    old.stamp.sec -= 1000
    probe.labelled(camera, picture(flat(1), old), "/mtaclip/front/label")
    node.wait_for_line("stamps go back on /front/camera/image_raw")
    assert int(statuses(probe)["camera front"]["stamps back"]) >= 1
    probe.node.destroy_publisher(camera)


def test_cameras_can_change_between_cleanup_and_configure(node: StandInProcess, probe: Probe, mask: Path) -> None:
    assert probe.set_parameter("cameras", ["front", "rear"])[1].startswith("'cameras' can change only while")
    assert probe.transition("deactivate")
    assert probe.transition("cleanup")
    assert probe.set_parameter("cameras", ["front", "front"]) == (False, "parameter 'cameras' names 'front' twice")
    assert probe.set_parameter("cameras", ["front", "rear"]) == (True, "")
    assert probe.transition("configure")
    assert not probe.set_parameter("camera.rear.mask", "none.png")[0]
    assert probe.transition("cleanup")
    before = len(node.lines)
    assert probe.set_parameter("camera.rear.mask", "none.png") == (True, "")
    assert not probe.transition("configure")
    node.wait_for_line("camera.rear.mask: cannot read mask 'none.png'", before)
    assert probe.set_parameter("camera.rear.mask", str(mask)) == (True, "")
    assert probe.transition("configure")
    assert probe.transition("activate")
    probe.listen("/mtaclip/rear/label", Image)
    camera = probe.camera("/rear/image_raw")
    label = as_array(probe.labelled(camera, picture(flat(4), probe.header()), "/mtaclip/rear/label"))
    assert set(label[:30].ravel()) == {4}
    assert set(label[30:].ravel()) == {255}
    assert not probe.node.count_publishers("/mtaclip/left/label")
    probe.node.destroy_publisher(camera)


@pytest.fixture
def one_at_a_time() -> Iterator[StandInProcess]:
    arguments = ("-r", "__ns:=/one")
    process = StandInProcess(*arguments, cameras="[fast, slow]", model__max_batch=1, env={"STAND_IN_SECONDS": "0.05"})
    process.wait_for_line("model stand-in")
    yield process
    assert process.stop() == 0, process.log


def test_a_fast_camera_does_not_starve_a_slow_one(one_at_a_time: StandInProcess) -> None:
    probe = Probe("/one/mtaclip")
    probe.listen("/diagnostics", DiagnosticArray)
    for camera in ("fast", "slow"):
        probe.listen(f"/one/mtaclip/{camera}/label", Image)

    def labels(camera: str) -> int:
        return len(probe.received[f"/one/mtaclip/{camera}/label"])

    with Camera(probe, "/one/fast/image_raw", 60, 1), Camera(probe, "/one/slow/image_raw", 5, 2) as slow:
        wait_until(lambda: labels("fast") > 5 and labels("slow") > 0, "labels of both")
        sent, had = slow.sent, labels("slow")
        wait_until(lambda: slow.sent >= sent + 10, "ten slow frames")
    wait_until(lambda: labels("slow") - had >= 7, "the labels of most of ten slow frames beside a camera of 60 Hz")
    assert int(statuses(probe, "one/mtaclip")["camera fast"]["frames dropped"]) > 0
    assert "stand-in batch of 2" not in one_at_a_time.log
    probe.close()
