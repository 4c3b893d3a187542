"""The procedural street: seeded, random access, labelled exactly, and a data set that Cityscapes' readers take."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import open_dataset
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.data.synthetic.__main__ import main
from mtaclip_core.data.synthetic.actors import Walker
from mtaclip_core.labels import CITYSCAPES, CITYSCAPES_IDS, CITYSCAPES_LABELS, UNLABELLED

SIZE = (120, 160)
ROAD, SKY = 0, 10


@pytest.fixture(scope="module")
def drive() -> StreetDrive:
    return StreetDrive(SIZE, seed=3)


def test_same_seed_same_bytes_in_any_order(drive: StreetDrive) -> None:
    late, early = drive.frame(400), drive.frame(5)
    again = StreetDrive(SIZE, seed=3)
    for expected in (early, late):
        got = again.frame(int(expected.name.split("_")[1]))
        assert got.name == expected.name
        assert np.array_equal(got.image, expected.image)
        assert np.array_equal(got.label, expected.label)


def test_frame_has_the_promised_types(drive: StreetDrive) -> None:
    sample = drive.frame(0)
    assert sample.image.shape == (*SIZE, 3) and sample.image.dtype == np.uint8
    assert sample.label.shape == SIZE and sample.label.dtype == np.uint8
    assert set(np.unique(sample.label)) <= {*CITYSCAPES.ids, UNLABELLED}


def test_seeds_differ() -> None:
    a, b = (StreetDrive(SIZE, seed=s).frame(0) for s in (1, 2))
    assert np.mean(a.label != b.label) > 0.05
    assert np.abs(a.image.astype(int) - b.image).mean() > 5


def test_time_passes_smoothly(drive: StreetDrive) -> None:
    """Consecutive frames are alike, a second later the scene has moved on, and the rate only scales time."""
    first, following, later = (drive.frame(i).label for i in (30, 31, 60))
    assert 0 < np.mean(first != following) < np.mean(first != later)
    assert np.mean(first != following) < 0.15
    assert np.array_equal(StreetDrive(SIZE, seed=3, fps=30.0).frame(60).label, first)


def test_traffic_moves_both_ways_and_people_walk() -> None:
    """Between two moments every actor goes where it faces: some with the ego vehicle, some against it."""
    speeds: dict[str, list[float]] = {"with": [], "against": [], "walkers": []}
    for seed in range(4):
        drive = StreetDrive(SIZE, seed=seed)
        before, after = ([p.prop for p in drive.traffic.props(t, [])] for t in (10.0, 10.1))
        along = float(drive.street.line.heading(drive.ego.s(10.0)))
        for actor in before:
            ahead = np.array([np.sin(actor.pose.heading), np.cos(actor.pose.heading)])
            steps = [
                ahead @ (other.pose.x - actor.pose.x, other.pose.z - actor.pose.z)
                for other in after
                if type(other) is type(actor) and np.hypot(other.pose.x - actor.pose.x, other.pose.z - actor.pose.z) < 2
            ]
            if steps:
                group = "with" if np.cos(actor.pose.heading - along) > 0 else "against"
                nearest = min(steps, key=abs) / 0.1
                speeds["walkers" if isinstance(actor, Walker) else group].append(nearest)
    assert np.median(speeds["with"]) > 2 and np.median(speeds["against"]) > 2
    assert 0.8 < np.median(speeds["walkers"]) < 2


def test_fifteen_classes_with_a_tenth_of_a_percent() -> None:
    count = np.zeros(256)
    for seed in range(9):
        drive = StreetDrive(SIZE, seed=100 + seed)
        for index in (0, 60, 120):
            count += np.bincount(drive.frame(index).label.ravel(), minlength=256)
    share = {c.name: count[c.id] / count.sum() for c in CITYSCAPES.classes}
    assert sum(v >= 0.001 for v in share.values()) >= 15, share
    assert 0.2 < share["road"] < 0.45 and 0.08 < share["building"] < 0.35 and 0.08 < share["sky"] < 0.3, share
    assert count[UNLABELLED] / count.sum() < 0.05


def test_labels_lie_on_the_edges_of_the_image() -> None:
    """The image changes most where the label changes: moving the label by two pixels makes the match worse."""
    scores: dict[tuple[int, int], float] = {}
    for seed in range(4):
        sample = StreetDrive((180, 240), seed=seed).frame(10)
        grey = cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        step = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        border = cv2.morphologyEx(sample.label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        for shift in ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2)):
            moved = np.roll(border, shift, (0, 1))[4:-4, 4:-4]
            scores[shift] = scores.get(shift, 0.0) + float(step[4:-4, 4:-4][moved].mean())
    best = scores.pop((0, 0))
    assert best > 1.15 * max(scores.values()), (best, scores)


def test_sky_above_road() -> None:
    for seed in range(3):
        label = StreetDrive(SIZE, seed=seed).frame(0).label
        rows = [np.nonzero(label == c)[0].mean() for c in (SKY, ROAD)]
        assert rows[0] < rows[1]


def test_instances_belong_to_instance_classes(drive: StreetDrive) -> None:
    ids = drive.render(7).instance_ids
    assert ids.dtype == np.uint16 and ids.max() >= 1000
    with_instances = {row.id for row in CITYSCAPES_LABELS if row.has_instances}
    for value in np.unique(ids):
        assert (value // 1000 in with_instances) if value >= 1000 else (value not in with_instances)


def test_written_set_reads_as_cityscapes(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    argv = [
        "--out",
        str(tmp_path),
        "--frames",
        "5",
        "--size",
        "64x96",
        "--seed",
        "4",
        "--drives",
        "2",
        "--split",
        "val",
    ]
    main(argv)
    assert "5 frames of 64x96" in capsys.readouterr().out
    data = open_dataset(f"synthetic:{tmp_path}", "val")
    assert len(data) == 5
    for i in range(5):
        sample = data[i]
        assert sample.image.shape == (64, 96, 3)
        assert set(np.unique(sample.label)) <= {*CITYSCAPES.ids, UNLABELLED}
        base = tmp_path / "gtFine" / "val" / "street" / f"{sample.name}_gtFine"
        labels = cv2.imread(f"{base}_labelIds.png", cv2.IMREAD_UNCHANGED)
        instances = cv2.imread(f"{base}_instanceIds.png", cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8 and instances.dtype == np.uint16
        assert set(np.unique(labels)) <= set(CITYSCAPES_IDS.ids)
        assert np.array_equal(np.where(instances >= 1000, instances // 1000, instances), labels)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.png")}
    main(argv)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.png")} == before


def test_another_set_in_the_folder_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    argv = ["--out", str(tmp_path), "--size", "32x48", "--seed", "4", "--drives", "1", "--frames"]
    main([*argv, "2"])
    with pytest.raises(UserError, match="another set"):
        main([*argv, "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "large"], "not a size"),
        (["--size", "8x8"], "between 32 and 4096"),
        (["--frames", "0"], "--frames 0"),
        (["--seed", "-1"], "seed -1"),
        (["--drives", "9"], "--drives 9"),
    ],
)
def test_command_explains_what_is_wrong(tmp_path, arguments, message) -> None:  # type: ignore[no-untyped-def]
    command = [sys.executable, "-m", "mtaclip_core.data.synthetic", "--out", str(tmp_path / "x"), "--frames", "2"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_negative_index_is_refused(drive: StreetDrive) -> None:
    with pytest.raises(UserError, match="frame -1"):
        drive.frame(-1)
