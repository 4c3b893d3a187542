"""Boundary IoU against the paper's definition written out: one mask, one erosion, one class at a time."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from helpers_miniatures import blocks, write_cityscapes, write_png
from hypothesis import given, settings
from hypothesis import strategies as st

from mtaclip_core import evaluate
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.labels import CAMVID, UNLABELLED
from mtaclip_core.metrics.boundary_iou import BoundaryIoU, boundary_width


def mask_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (eroded == 0)


def naive(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    for c in CAMVID.classes:
        both = either = 0
        for truth, prediction in pairs:
            ignored = ~np.isin(truth, CAMVID.ids)
            width = max(1, round(0.02 * (truth.shape[0] ** 2 + truth.shape[1] ** 2) ** 0.5))
            true = mask_boundary((truth == c.id) & ~ignored, width)
            predicted = mask_boundary((prediction == c.id) & ~ignored, width)
            both += (true & predicted).sum()
            either += (true | predicted).sum()
        scores[c.name] = both / either if either else None
    return scores


SIZES = st.tuples(st.integers(1, 150), st.integers(1, 150))


@given(st.lists(st.tuples(SIZES, st.integers(0, 9999), st.integers(2, 40)), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_boundary_iou_equals_the_definition(images):
    pairs, parts = [], []
    for size, seed, cell in images:
        random = np.random.default_rng(seed)
        truth = blocks(random, size, [0, 3, 8, 8, 11, UNLABELLED], cell)
        prediction = np.where(random.random(size) < 0.01, 3, blocks(random, size, [0, 3, 8, UNLABELLED], cell))
        pairs.append((truth, prediction.astype(np.uint8)))
        parts.append(BoundaryIoU(CAMVID))
        parts[-1].update(*pairs[-1])
    assert sum(parts[1:], parts[0]).iou() == pytest.approx(naive(pairs), abs=1e-12)


def test_the_boundary_is_as_wide_as_in_the_paper():
    assert boundary_width(1024, 2048) == 46
    assert boundary_width(4, 4) == 1


def test_a_hit_inside_does_not_count_and_a_shifted_outline_does():
    truth = np.zeros((200, 200), np.uint8)
    truth[50:150, 50:150] = 3
    hole, shifted = truth.copy(), np.roll(truth, 3, 1)
    hole[100, 100] = 8
    scores = {}
    for name, prediction in (("truth", truth), ("hole", hole), ("shifted", shifted)):
        counts = BoundaryIoU(CAMVID)
        counts.update(truth, prediction)
        scores[name] = counts.iou()["Road"]
    assert scores["truth"] == 1.0 and scores["shifted"] < 0.75
    assert scores["hole"] is not None and scores["hole"] < 1.0
    with pytest.raises(ValueError, match="differ in shape"):
        BoundaryIoU(CAMVID).update(truth, truth[1:])


def test_the_command_gives_boundary_scores_whoever_counts(tmp_path, capsys):
    root = write_cityscapes(tmp_path / "city", "val", (60, 90))
    data = Cityscapes(root, "val")
    for i, name in enumerate(data.names):
        write_png(tmp_path / "predictions" / f"{name}.png", np.roll(data.label_ids(i), 2, 1))
    out = tmp_path / "result.json"
    arguments = ["--predictions", str(tmp_path / "predictions"), "--data", f"cityscapes:{root}", "--split", "val"]
    results = []
    for processes in ("1", "2"):
        evaluate.main([*arguments, "--boundary", "--processes", processes, "--json", str(out)])
        results.append(json.loads(out.read_text()))
    assert results[0]["boundary"] == results[1]["boundary"]
    assert results[0]["boundary"]["ratio"] == 0.02
    assert 0 < results[0]["boundary"]["miou"] < results[0]["miou"] < 1
    assert "boundary mIoU" in capsys.readouterr().out
    evaluate.main([*arguments, "--processes", "1", "--json", str(out)])
    assert "boundary" not in json.loads(out.read_text())
