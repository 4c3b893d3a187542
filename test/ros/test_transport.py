"""Process settings for large images, and three cells of the transport matrix."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mtaclip_ros.transport import (
    PROFILE_VARIABLES,
    SEGMENT_BYTES,
    UDP_BUFFER_BYTES,
    profile_variable,
    share_directory,
    transport_environment,
)
from mtaclip_ros.transport_matrix import Cell, Matrix, Measured, all_cells, camera_environment, quick_cells, table


def test_transport_settings_are_added_unless_the_user_chose_his_own() -> None:
    added = transport_environment({})
    assert set(added) == {profile_variable(), "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    assert Path(added[profile_variable()]).parent.parent == share_directory()
    for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS"):
        assert not set(PROFILE_VARIABLES) & set(transport_environment({name: "own"}))
    assert set(transport_environment({"MALLOC_TRIM_THRESHOLD_": "1"})) == {profile_variable()}
    assert transport_environment(added) == {}


def test_the_profile_asks_for_the_sizes_that_the_hints_count_with() -> None:
    profile = ElementTree.parse(transport_environment({})[profile_variable()])
    values = {element.tag.rpartition("}")[2]: element.text for element in profile.iter()}
    assert values["segment_size"] == str(SEGMENT_BYTES)
    assert values["receiveBufferSize"] == values["sendBufferSize"] == str(UDP_BUFFER_BYTES)


def test_a_camera_without_our_settings_has_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in transport_environment({}).items():
        monkeypatch.setenv(name, value)
    bare = camera_environment(profile=False, domain=3)
    assert bare["ROS_DOMAIN_ID"] == "3"
    assert not [name for name in bare if name.startswith(("FASTDDS_", "FASTRTPS_", "MALLOC_"))]
    assert profile_variable() in camera_environment(profile=True, domain=3)


def test_the_matrix_has_every_qos_size_and_rate() -> None:
    cells = all_cells()
    assert len(set(cells)) == len(cells) == 40
    assert set(quick_cells()) < set(cells)
    assert all(Cell.parse(str(cell)) == cell for cell in cells)
    for text in ("best_effort,480x640,30", "lossy,480x640,30,default", "reliable,480,30,default"):
        with pytest.raises(argparse.ArgumentTypeError, match="write one like"):
            Cell.parse(text)


@pytest.mark.parametrize(
    ("arrived", "line", "silent"), [(100, "", False), (60, "", True), (0, "", True), (0, "no image; set it", False)]
)
def test_a_cell_is_silent_when_images_are_missing_and_nothing_was_said(arrived: int, line: str, silent: bool) -> None:
    result = Measured(Cell("reliable", 480, 640, 30.0, False), 100, 0, arrived, None, line)
    assert result.silent is silent
    assert ("SILENCE" in table([result])) is silent


def test_images_arrive_or_the_node_says_why() -> None:
    cells = [
        Cell("best_effort", 480, 640, 30.0, False),
        Cell("reliable", 1024, 2048, 30.0, False),
        Cell("best_effort", 1024, 2048, 10.0, True),
    ]
    results = {result.cell: result for result in Matrix(seconds=3.0, watchdog=1.5).measure(cells)}
    assert not [str(cell) for cell, result in results.items() if result.silent]
    lossy, _, shipped = (results[cell] for cell in cells)
    assert lossy.arrived < lossy.sent
    assert "images above 0.5 MiB need a larger shared-memory segment on the sender" in lossy.line
    assert "config/fastdds_large_images.xml" in lossy.line
    assert shipped.arrived > 0
