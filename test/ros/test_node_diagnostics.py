"""Which findings are OK, WARN or ERROR, and how the limits move them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from mtaclip_ros.diagnostics import ERROR, OK, WARN, CameraHealth, Health, assess_camera, assess_model
from mtaclip_ros.engine import EngineState
from mtaclip_ros.frame_statistics import Percentiles, Snapshot
from mtaclip_ros.parameters import Parameters

BEFORE = Snapshot(100, 0, 0, 100, 0, {}, 0, 30.0, 30.0, 0.01, {})
NOW = replace(BEFORE, received=130, labelled=130)
ACTIVE = Health("active", True, "", EngineState(None, "", 0.0, 0, 0), ())


class Model:
    name, backend, precision = "colour", "openvino", "f32"


def verdict(trouble: str = "", limits: dict[str, Any] | None = None, **changes: Any) -> tuple[bytes, str]:
    camera = CameraHealth("", "/lens", replace(NOW, **changes), trouble, "ValueError: no", {})
    return assess_camera(camera, BEFORE, Parameters().updated(limits or {}), ACTIVE)


def latency(seconds: float) -> dict[str, Percentiles]:
    return {"latency": Percentiles(seconds, seconds)}


@pytest.mark.parametrize(
    ("changes", "limits", "level", "words"),
    [
        ({}, {}, OK, "30.0 Hz in, 30.0 Hz out"),
        ({"bad": {"step": 3}}, {}, WARN, "bad images: 3 step"),
        ({"bad": {"step": 3}}, {"diagnostics.max_bad_ratio": 0.05}, ERROR, "bad images: 3 step"),
        ({"bad": {"step": 20, "size": 9}}, {}, ERROR, "20 step, 9 size"),
        ({"failed": 2}, {}, ERROR, "2 frames failed: ValueError: no"),
        ({"dropped": 20}, {}, OK, "Hz"),
        ({"dropped": 20}, {"diagnostics.max_drop_ratio": 0.5}, WARN, "20 of 30 frames dropped"),
        ({"stamps": {"back": 1}}, {}, WARN, "stamps went back 1 times"),
        ({"publish_errors": 1}, {}, WARN, "1 frames not published"),
        ({"stages": latency(0.5)}, {}, OK, "Hz"),
        ({"stages": latency(1.5)}, {}, WARN, "latency p50 1.50 s"),
        ({"stages": latency(1.5)}, {"diagnostics.max_latency": 0.0}, OK, "Hz"),
        ({"stages": latency(1.5)}, {"diagnostics.error_latency": 1.2}, ERROR, "latency p50 1.50 s"),
        ({"stages": latency(1e6)}, {}, OK, "Hz"),
        ({"input_rate": 4.0}, {"diagnostics.min_input_rate": 5.0}, WARN, "4.0 images a second"),
        ({"output_rate": 4.0}, {"diagnostics.min_output_rate": 5.0}, ERROR, "4.0 labels a second"),
        ({"silence": 6.0}, {}, ERROR, "no image for 6.0 s"),
        ({"silence": 6.0}, {"watchdog.timeout": 0.0}, OK, "Hz"),
        ({"trouble": "/lens: 9 of 10 lost"}, {}, WARN, "/lens: 9 of 10 lost"),
        ({"failed": 1, "stamps": {"back": 2}}, {}, ERROR, "ValueError: no; stamps went back 2 times"),
    ],
)
def test_level_and_words_of_a_camera(changes: dict[str, Any], limits: dict[str, Any], level: bytes, words: str) -> None:
    found = verdict(limits=limits, **changes)
    assert found[0] == level
    assert words in found[1]


def test_counts_that_begin_anew_are_not_held_against_those_before() -> None:
    camera = CameraHealth("", "/lens", replace(BEFORE, received=20, labelled=2, dropped=18), "", "", {})
    level, words = assess_camera(camera, replace(BEFORE, received=900, dropped=880), Parameters(), ACTIVE)
    assert (level, words) == (OK, "30.0 Hz in, 30.0 Hz out")
    again = replace(ACTIVE, engine=EngineState(Model(), "RuntimeError: no", 0.0, 1, 0))  # type: ignore[arg-type]
    assert assess_model(again, 4)[0] == ERROR
    assert assess_model(again, 1)[0] == OK


def test_a_camera_that_nobody_listens_to_is_no_fault() -> None:
    camera = CameraHealth("", "/lens", replace(NOW, silence=99.0), "", "", {})
    for state, enabled, words in (("inactive", True, "inactive"), ("active", False, "disabled by ~/enable")):
        health = replace(ACTIVE, state=state, enabled=enabled)
        assert assess_camera(camera, BEFORE, Parameters(), health) == (OK, words)


def test_level_and_words_of_the_model() -> None:
    assert assess_model(Health("unconfigured", True, "", None, ()), 0) == (OK, "unconfigured")
    assert assess_model(Health("unconfigured", True, "no bundle 'x'", None, ()), 0) == (ERROR, "no bundle 'x'")
    down = EngineState(None, "RuntimeError: no device", 7.6, 3, 0)
    level, words = assess_model(replace(ACTIVE, engine=down), 3)
    assert (level, words) == (ERROR, "no model, next try in 8 s: RuntimeError: no device")
    trying = replace(down, retry_in=0.0)
    assert assess_model(replace(ACTIVE, engine=trying), 3)[1].startswith("no model, it is loaded again now")
