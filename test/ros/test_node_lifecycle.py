"""Transitions by request, failed starts, compressed input: nodes that the test module starts as it needs them."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import paint

from mtaclip_core.labels import CAMVID

pytest.importorskip("rclpy", reason="ROS is not installed")

from helpers_node import NodeProcess, Probe, StandInProcess, as_array, picture, wait_until
from sensor_msgs.msg import CompressedImage, Image

SIZE = (90, 120)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    missing = tmp_path_factory.mktemp("empty") / "missing"
    remaps = ("-r", "__ns:=/front", "-r", "image:=lens/image")
    process = NodeProcess(*remaps, autostart=False, model__path=missing, max_rate=30.0)
    yield process
    assert process.stop() == 0, process.log


@pytest.fixture(scope="module")
def probe(node: NodeProcess) -> Iterator[Probe]:
    probe = Probe("/front/mtaclip")
    probe.listen("/front/mtaclip/label", Image)
    yield probe
    probe.close()


def test_a_failed_configure_says_why_and_can_be_repeated(node: NodeProcess, probe: Probe, bundle: Path) -> None:
    for _ in range(2):
        assert probe.state() == "unconfigured"
        assert not probe.transition("configure")
    assert len([line for line in node.lines if "missing" in line]) == 2
    assert probe.set_parameter("model.path", str(bundle)) == (True, "")
    assert probe.transition("configure")
    assert probe.state() == "inactive"


def test_the_whole_circle_labels_only_while_active(probe: Probe) -> None:
    painted, expected = paint(CAMVID, SIZE)
    camera = probe.camera("/front/lens/image")
    labels = probe.received["/front/mtaclip/label"]
    for _ in range(2):
        assert probe.transition("activate")
        np.testing.assert_array_equal(as_array(probe.labelled(camera, picture(painted, probe.header()))), expected)
        assert probe.transition("deactivate")
        labels.clear()
        for _ in range(3):
            camera.publish(picture(painted, probe.header()))
            time.sleep(0.1)
        assert not labels
        assert probe.transition("cleanup")
        assert probe.state() == "unconfigured"
        assert probe.transition("configure")
    probe.node.destroy_publisher(camera)
    assert probe.transition("cleanup")


def test_compressed_images(node: NodeProcess, probe: Probe) -> None:
    assert probe.set_parameter("image_transport", "compressed") == (True, "")
    assert probe.transition("configure")
    assert probe.transition("activate")
    camera = probe.camera("/front/lens/image/compressed", CompressedImage, reliable=False)
    painted, expected = paint(CAMVID, SIZE, seed=6)
    png = cv2.imencode(".png", painted[..., ::-1])[1].tobytes()
    image = CompressedImage(header=probe.header("lens"), format="rgb8; png compressed bgr8", data=png)
    label = probe.labelled(camera, image)
    np.testing.assert_array_equal(as_array(label), expected)
    cut = CompressedImage(header=probe.header(), format="png", data=png[:-30])
    line = r"bad image \(decode\) on /front/lens/image/compressed"
    probe.publish_until(camera, cut, lambda: node.find_line(line), "the line")
    probe.labelled(camera, CompressedImage(header=probe.header(), format="png", data=png))
    probe.node.destroy_publisher(camera)


def test_after_a_shutdown_nothing_is_published_and_the_program_still_ends_in_order(probe: Probe) -> None:
    assert probe.transition("shut down")
    assert probe.state() == "finalized"
    wait_until(lambda: not probe.node.count_publishers("/front/mtaclip/label"), "the end of the label's publisher")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"model__path": "no-such-model"}, "no bundle 'no-such-model'"),
        ({"overlay__alpha": 7.0}, "parameter 'overlay.alpha' must be of type double from 0 to 1"),
        ({"use_sim_time": "perhaps"}, "'use_sim_time' to 'perhaps'"),
        ({"image_transport": "pigeon"}, "parameter 'image_transport' must be one of raw, compressed; got 'pigeon'"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_line_and_code_2(parameters: dict[str, object], words: str) -> None:
    process = NodeProcess(**parameters)
    assert process.wait() == 2
    assert len(process.lines) == 1, process.log
    assert words in process.log


def test_it_ends_in_order_while_the_model_is_loaded() -> None:
    process = StandInProcess(env={"STAND_IN_LOADING": "100"})
    process.wait_for_line("stand-in wanted")
    assert process.stop(signal.SIGTERM) == 0, process.log
    assert process.lines == ["stand-in wanted"]


def test_it_ends_in_order_while_a_frame_is_in_work() -> None:
    process = StandInProcess("-r", "__ns:=/busy", env={"STAND_IN_SECONDS": "1.5"})
    process.wait_for_line("model stand-in")
    probe = Probe()
    camera = probe.camera("/camera/image_raw")
    image = picture(np.zeros((4, 4, 3), np.uint8), probe.header())
    probe.publish_until(camera, image, lambda: process.find_line("stand-in batch"), "work")
    process.interrupt()
    time.sleep(0.3)
    assert process.stop() == 0, "a second one comes from some launchers"
    probe.close()
    assert process.lines[-1] == "stand-in close", process.log
    assert not process.find_line("Traceback|ERROR|WARN")


def test_a_missing_parameter_file_is_one_line_too() -> None:
    process = NodeProcess("--params-file", "no-such.yaml")
    assert process.wait() == 2
    assert len(process.lines) == 1, process.log
    assert "no-such.yaml" in process.log


def test_a_misspelt_parameter_is_pointed_out(bundle: Path) -> None:
    process = NodeProcess(model__path=bundle, overlay__alfa=0.3)
    process.wait_for_line("'overlay.alfa' is not one of the node's, ignored; did you mean 'overlay.alpha'?")
    assert process.stop() == 0
