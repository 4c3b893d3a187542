"""The node's benchmark: what it measures on small images, and what its tables say."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from mtaclip_core.cli import UserError
from mtaclip_ros.frame_statistics import STAGES
from mtaclip_ros.node_benchmark import LARGE, RATES, SMALL, as_json, cases, inference_ms, own_table, rate_table
from mtaclip_ros.node_case import Case, Measured, measure


def stages(decode: float, segment: float, publish: float, node: float, latency: float) -> dict[str, dict[str, float]]:
    values = {"decode": decode, "segment": segment, "publish": publish, "node": node, "latency": latency}
    values["own"] = node - segment
    return {name: {"p50": value, "p99": 3 * value} for name, value in values.items()}


OWN = Measured(Case(None, *LARGE, "rgb8", None, 300), 300, 300, 300, 0, 0, 4.5, stages(0.1, 0.02, 1.3, 1.8, 5.0), 2.0)
REAL = replace(OWN, case=replace(OWN.case, model="street-tiny"), stages=stages(0.1, 150, 1.3, 152.5, 155))
SLOW = replace(OWN, case=replace(OWN.case, encoding="jpeg"), stages=stages(9, 0.02, 1.3, 11.02, 14))
RATE = Measured(
    Case("street-tiny", *SMALL, "bgr8", 60.0, 600, True), 600, 590, 250, 4, 90, 55.0, stages(0, 38, 1, 50, 62), 10
)


def test_frames_one_by_one_are_all_labelled_and_timed() -> None:
    for encoding in ("rgb8", "jpeg"):
        found = measure(Case(None, 48, 64, encoding, None, 30))  # type: ignore[arg-type]
        assert (found.sent, found.received, found.labelled, found.lost, found.replaced) == (30, 30, 30, 0, 0)
        assert found.overlays == 0
        assert set(found.stages) == set(STAGES)
        assert found.own_ms is not None and 0 < found.own_ms < found.stages["latency"]["p50"]
        assert 0 < found.cpu_ms < 1000 * found.seconds


def test_frames_at_a_rate_are_accounted_for_and_the_overlay_is_made() -> None:
    found = measure(Case(None, 48, 64, "bgr8", 20.0, 40, overlay=True))
    assert found.seconds >= 39 / 20
    assert found.labelled + found.replaced + found.lost == found.sent == 40
    assert 0 < found.overlays <= found.labelled
    assert found.own_ms is None, "frames wait for each other, so their time in the node is not the node's own"
    assert as_json(found)["rate"] == 20.0


def test_the_tables_hold_the_numbers_and_the_verdict() -> None:
    inference = inference_ms([OWN, REAL])
    assert inference == 150
    rows = own_table([OWN, SLOW, REAL], inference).splitlines()
    assert (
        rows[2] == "| rgb8 1024x2048 | constant | 0.10 | 1.30 | 1.78 | 5.34 | 0.0 | 1.2% of 150 ms | met | 4.5 | 5.0 |"
    )
    assert "| 11.00 | 33.00 | 0.0 | 7.3% of 150 ms | missed |" in rows[3]
    assert "| street-tiny | 0.10 | 1.30 | 2.50 | 7.50 | 150.0 | 1.7% of 150 ms | met |" in rows[4]
    assert rows[-1] == "goal: at most 7.5 ms, the larger of 4 ms and 5% of 150 ms"
    row = rate_table([RATE]).splitlines()[-1]
    assert row == "| 360x480 | street-tiny | 60 | yes | 600 | 250 | 346 | 4 | 62.0 | 186.0 |"


def test_a_model_that_labelled_nothing_is_told() -> None:
    with pytest.raises(UserError, match="labelled no frame"):
        inference_ms([OWN, replace(REAL, stages={})])


def test_the_whole_benchmark_has_every_encoding_rate_and_overlay() -> None:
    own, rates = cases("street-tiny", quick=False)
    assert [(c.encoding, c.model) for c in own] == [
        ("rgb8", None),
        ("bgr8", None),
        ("jpeg", None),
        ("rgb8", "street-tiny"),
    ]
    assert {(c.rate, c.overlay, c.model, c.height) for c in rates} == {
        (rate, overlay, model, height)
        for rate in RATES
        for overlay in (False, True)
        for model, height in (("street-tiny", 360), (None, 1024))
    }
