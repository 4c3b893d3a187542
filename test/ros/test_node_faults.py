"""A model that breaks while the node runs: the frame is lost and counted, the model is loaded again, the node lives."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from helpers_node import Probe, StandInProcess, as_array, picture, wait_until
from stand_in_node import StandIn

from mtaclip_core.runtime.segmenter import Segmenter
from mtaclip_ros.engine import Engine, EngineDown

TOPIC = "/camera/image_raw"


def flat(value: int) -> np.ndarray:
    return np.full((30, 40, 3), value, np.uint8)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, the model cannot be loaded."""
    return tmp_path_factory.mktemp("device") / "gone"


@pytest.fixture(scope="module")
def node(broken: Path) -> Iterator[StandInProcess]:
    process = StandInProcess(watchdog__timeout=0.0, env={"STAND_IN_BROKEN": str(broken)})
    process.wait_for_line("model stand-in")
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


def model_status(probe: Probe, fits: Callable[[DiagnosticStatus, dict[str, str]], bool]) -> dict[str, str]:
    """The values of the next status of the model that fits."""
    seen: list[dict[str, str]] = []

    def fitting(message: DiagnosticArray) -> bool:
        status = next((s for s in message.status if s.name == "mtaclip: model"), None)
        if status is None:
            return False
        values = {pair.key: pair.value for pair in status.values}
        seen.append(values)
        return fits(status, values)

    probe.received["/diagnostics"].clear()
    probe.wait_for("/diagnostics", fitting)
    return seen[-1]


@pytest.mark.parametrize(
    ("fault", "words"), [(201, "RuntimeError: CUDA error 700"), (202, "MemoryError: out of memory")]
)
def test_a_fault_that_sticks_costs_one_frame_and_the_model_is_loaded_again(
    node: StandInProcess, probe: Probe, camera: Any, fault: int, words: str
) -> None:
    probe.labelled(camera, picture(flat(5), probe.header()))
    before = len(node.lines)
    image = picture(flat(fault), probe.header())
    probe.publish_until(camera, image, lambda: node.find_line(f"the model failed .{words}", before), "the fault")
    node.wait_for_line("stand-in close", before)
    node.wait_for_line("stand-in load", before)
    np.testing.assert_array_equal(as_array(probe.labelled(camera, picture(flat(6), probe.header()))), 6)
    values = model_status(probe, lambda status, values: status.level == DiagnosticStatus.OK)
    assert values["last failure"].startswith(words)
    assert probe.state() == "active"
    assert image.header not in [m.header for m in probe.received["/mtaclip/label"]]


def test_the_node_can_be_stopped_while_it_waits_for_the_next_try(
    node: StandInProcess, probe: Probe, camera: Any, broken: Path
) -> None:
    probe.labelled(camera, picture(flat(5), probe.header()))
    broken.touch()
    before = len(node.lines)
    fault = picture(flat(201), probe.header())
    probe.publish_until(camera, fault, lambda: node.find_line("the model failed", before), "the fault")
    assert probe.transition("deactivate")
    assert probe.transition("cleanup")
    assert not probe.transition("configure")
    broken.unlink()
    assert probe.transition("configure")
    assert probe.transition("activate")
    probe.labelled(camera, picture(flat(9), probe.header()))


def test_while_the_model_cannot_be_loaded_frames_are_dropped_and_diagnostics_say_error(
    node: StandInProcess, probe: Probe, camera: Any, broken: Path
) -> None:
    probe.labelled(camera, picture(flat(5), probe.header()))
    broken.touch()
    before = len(node.lines)
    fault = picture(flat(201), probe.header())
    probe.publish_until(camera, fault, lambda: node.find_line("could not be loaded again", before), "a failed try")
    stale = [picture(flat(7), probe.header()) for _ in range(5)]
    for image in stale:
        camera.publish(image)

    def down(status: DiagnosticStatus, values: dict[str, str]) -> bool:
        return status.level == DiagnosticStatus.ERROR and "no model" in status.message and "no device" in status.message

    model_status(probe, down)
    node.wait_for_line(r"could not be loaded again .*next try in 2 s", before)
    broken.unlink()
    node.wait_for_line("the model is loaded again", before)
    np.testing.assert_array_equal(as_array(probe.labelled(camera, picture(flat(8), probe.header()))), 8)
    headers = [message.header for message in probe.received["/mtaclip/label"]]
    assert not [image for image in stale if image.header in headers], "a frame that waited for the model is stale"
    model_status(probe, lambda status, values: status.level == DiagnosticStatus.OK)


def pauses(load: Callable[[], Segmenter], until: int, bad: np.ndarray) -> list[str]:
    """The log lines of an engine that is given a bad frame whenever it is ready, until it failed so often."""
    lines: list[str] = []
    engine = Engine(load, lines.append, first_pause=0.01)
    engine.open()
    while engine.state.failures < until:
        try:
            engine.segment([bad])
        except (RuntimeError, EngineDown):
            time.sleep(0.001)
    engine.close()
    return [line for line in lines if line.startswith("the model failed")]


def test_a_model_that_breaks_at_every_frame_is_loaded_less_and_less_often() -> None:
    lines = pauses(StandIn, 5, flat(201))
    assert [line.rpartition("loaded again ")[2] for line in lines] == [
        "now",
        "in 0.01 s",
        "in 0.02 s",
        "in 0.04 s",
        "in 0.08 s",
    ]


def test_a_model_that_cannot_even_be_closed_hinders_neither_its_successor_nor_a_cleanup() -> None:
    class Stuck(StandIn):
        def close(self) -> None:
            raise RuntimeError("CUDA error 700")

    lines: list[str] = []
    engine = Engine(Stuck, lines.append)
    engine.open()
    with contextlib.suppress(RuntimeError):
        engine.segment([flat(201)])
    wait_until(lambda: engine.ready, "a model")
    engine.close()
    assert not engine.ready
    assert [line for line in lines if "closed" in line] == 2 * [
        "the model could not be closed (RuntimeError: CUDA error 700)"
    ]


def test_the_broken_model_is_free_before_the_new_one_is_loaded_and_its_frames_are_let_go() -> None:
    alive: list[weakref.ref[Segmenter]] = []
    held: list[int] = []
    loaded = threading.Event()

    def load() -> Segmenter:
        gc.collect()
        held.append(sum(ref() is not None for ref in alive))
        segmenter = StandIn()
        alive.append(weakref.ref(segmenter))
        if len(alive) == 3:
            loaded.set()
        return segmenter

    engine = Engine(load, lambda line: None, first_pause=0.05)
    engine.open()
    for failures in (1, 2):
        wait_until(lambda: engine.ready, "a model")
        with contextlib.suppress(RuntimeError):
            engine.segment([flat(201)])
        assert engine.state.failures == failures
    assert loaded.wait(30)
    assert held[2] == 0, "two models at once would need twice the memory"
    engine.close()
    with pytest.raises(EngineDown):
        engine.segment([flat(1)])
