"""Flicker: what labels change beyond what the scene changes."""

from __future__ import annotations

import numpy as np
import pytest

from mtaclip_core.labels import CAMVID, CITYSCAPES
from mtaclip_ros.drive_score import DriveScore
from mtaclip_ros.flicker import Flicker

SKY, BUILDING, ROAD, CAR = 0, 1, 3, 8


def labels(*columns: int) -> np.ndarray:
    """(10, n): each column of one class."""
    return np.tile(np.array(columns, np.uint8), (10, 1))


def test_labels_that_follow_the_scene_do_not_flicker() -> None:
    flicker = Flicker(CAMVID)
    for truth in (labels(ROAD, ROAD, CAR), labels(ROAD, CAR, ROAD), labels(CAR, ROAD, ROAD)):
        flicker.add(truth, truth)
    assert flicker.share == 0.0 and flicker.pairs == 2
    assert flicker.result()["label_change"] == pytest.approx(2 / 3)  # which holds the motion of the car


def test_a_label_that_changes_where_the_truth_does_not_is_flicker() -> None:
    flicker = Flicker(CAMVID)
    assert flicker.add(labels(ROAD, ROAD, SKY, SKY), labels(ROAD, ROAD, SKY, SKY)) == (None, None)
    pair = flicker.add(labels(ROAD, BUILDING, SKY, SKY), labels(ROAD, ROAD, SKY, SKY))
    assert pair == (0.25, 0.25)
    by_class = flicker.by_class()
    assert (by_class["Road"], by_class["Sky"], by_class["Car"]) == (0.5, 0.0, None)
    # the way back is a change too; being steadily wrong is none
    assert flicker.add(labels(ROAD, ROAD, SKY, SKY), labels(ROAD, ROAD, SKY, SKY))[0] == 0.25
    wrong = labels(CAR, CAR, CAR, CAR)
    flicker.interrupt()
    flicker.add(wrong, labels(ROAD, ROAD, SKY, SKY))
    assert flicker.add(wrong, labels(ROAD, ROAD, SKY, SKY)) == (0.0, 0.0)


def test_unknown_ground_truth_and_moving_edges_do_not_count() -> None:
    flicker = Flicker(CAMVID)
    flicker.add(labels(ROAD, ROAD, ROAD), labels(255, ROAD, CAR))
    assert flicker.add(labels(CAR, ROAD, CAR), labels(255, ROAD, ROAD))[0] == 0.0  # one steady column, unchanged
    only_unknown = Flicker(CAMVID)
    only_unknown.add(labels(ROAD), labels(255))
    assert only_unknown.add(labels(CAR), labels(255)) == (None, 1.0)


def test_no_pair_spans_a_lost_frame_or_another_size() -> None:
    score = DriveScore(CAMVID, CAMVID)
    for seconds, change in ((0.0, None), (0.1, 0.0)):
        assert score.add(seconds, labels(ROAD), labels(ROAD), 1.0).record.flicker == change
    score.add_dropped(0.2)
    assert score.add(0.3, labels(CAR), labels(ROAD), 1.0).record.flicker is None
    assert score.add(0.4, labels(ROAD, ROAD), labels(ROAD, ROAD), 1.0).record.label_change is None
    assert score.flicker.pairs == 1 and score.flicker.share == 0.0


def test_drives_add_up_by_their_pixels_and_without_ground_truth_only_change_is_known() -> None:
    a, b = Flicker(CAMVID), Flicker(CAMVID)
    for flicker, second in ((a, labels(CAR)), (b, labels(ROAD))):
        flicker.add(labels(ROAD), labels(ROAD))
        flicker.add(second, labels(ROAD))
    assert (a + b).share == 0.5 and (a + b).pairs == 2
    with pytest.raises(ValueError, match="cityscapes"):
        a + Flicker(CITYSCAPES)
    blind = Flicker(CAMVID)
    blind.add(labels(ROAD), None)
    assert blind.add(labels(CAR), None) == (None, 1.0)
    assert blind.result()["share"] is None and blind.result()["label_change"] == 1.0
