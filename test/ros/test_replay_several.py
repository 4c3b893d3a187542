"""replay as a tool: labels written to a bag, parts of a drive, several cameras and bags, and the gate for CI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_colour_bundle
from helpers_bags import ROOT, SIZE, painted_bag, painted_frames, refusal, rig_bag, run_module

from mtaclip_core.data.dataset import Sample
from mtaclip_core.labels import CAMVID, CITYSCAPES
from mtaclip_ros.bag_reader import IMAGE_TOPIC, Bag
from mtaclip_ros.drive_writer import open_drive
from mtaclip_ros.label_messages import label_array
from mtaclip_ros.replay import main
from mtaclip_ros.report_index import drive_names

FRAMES = 10
ENDED = {
    "SIGTERM": """
import os, signal
from mtaclip_core.cli import run
from mtaclip_ros import replay
add = replay.LabelWriter.add
def counted(*args):
    counted.calls += 1
    if counted.calls == 15:
        os.kill(os.getpid(), signal.SIGTERM)
    return add(*args)
counted.calls = 0
replay.LabelWriter.add = counted
run(replay.main)
""",
    "disk full": """
import resource
from mtaclip_core.cli import run
from mtaclip_ros.replay import main
from mtaclip_ros.report_index import drive_names
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
run(main)
""",
    "video": """
import resource
from pathlib import Path
import numpy as np
from mtaclip_core.cli import run
from mtaclip_core.labels import CAMVID, CITYSCAPES
from mtaclip_ros.report_video import Video
def main(argv):
    video = Video(Path(argv[0]), 10, CAMVID)
    try:
        for i in range(20):
            video.add(np.random.default_rng(i).integers(0, 255, (90, 120, 3), np.uint8))
        video.finish()
    finally:
        video.discard()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
run(main)
""",
}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted_bag(tmp_path_factory.mktemp("bags") / "painted", count=FRAMES, rate=10.0)


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive whose ground truth is the frame before: the model is wrong nearly everywhere."""
    path = tmp_path_factory.mktemp("bags") / "wrong"
    frames = list(painted_frames(5))
    with open_drive(path, CAMVID, 10.0) as drive:
        for before, sample in zip(frames[-1:] + frames, frames, strict=False):
            drive.add(Sample(sample.image, before.label, sample.name))
    return path


def replayed(out: Path, bundle: Path, *args: object) -> dict:
    main(["--model", str(bundle), "--json", str(out / "replay.json"), *map(str, args)])
    return json.loads((out / "replay.json").read_text())


@pytest.mark.parametrize("name", ["labels.mcap", "labels"])
def test_written_labels_are_the_nodes_topics_with_the_images_headers(
    bag: Path, bundle: Path, name: str, tmp_path: Path
) -> None:
    replayed(tmp_path, bundle, "--bag", bag, "--write-labels", tmp_path / name, "--confidence")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "replay.json"])
    with Bag(bag) as images, Bag(tmp_path / name) as labels:
        assert labels.broken is None
        assert list(labels.topics) == ["/mtaclip/classes", "/mtaclip/confidence", "/mtaclip/label"]
        assert labels.topics["/mtaclip/classes"].qos[0].durability.name == "TRANSIENT_LOCAL"
        assert labels.classes("/mtaclip/label") == CAMVID
        rows = zip(
            images.images(IMAGE_TOPIC),
            labels.images("/mtaclip/label"),
            labels.images("/mtaclip/confidence"),
            painted_frames(FRAMES),
            strict=True,
        )
        for image, label, confidence, sample in rows:
            for made in (label, confidence):
                assert made.stamp == image.stamp
                assert made.message.header.frame_id == image.message.header.frame_id
                assert made.recorded == image.recorded
                assert (made.message.encoding, made.message.step) == ("mono8", SIZE[1])
            known = sample.label != 255
            assert np.array_equal(label_array(label.message, "label")[known], sample.label[known])


def test_rclpy_reads_the_written_labels(bag: Path, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import Image

    replayed(tmp_path, bundle, "--bag", bag, "--write-labels", tmp_path / "labels.mcap")
    with Bag(tmp_path / "labels.mcap") as labels, Bag(bag) as images:
        ours = [deserialize_message(r.data, Image) for r in labels.records(["/mtaclip/label"])]
        theirs = [deserialize_message(r.data, Image) for r in images.records([IMAGE_TOPIC])]
    assert [m.header for m in ours] == [m.header for m in theirs]
    assert "/mtaclip/confidence" not in labels.topics


def test_written_labels_serve_as_ground_truth_of_the_same_drive(bag: Path, bundle: Path, tmp_path: Path) -> None:
    """Both recordings merged: what replay wrote is a label topic like any other, classes and all."""
    replayed(tmp_path, bundle, "--bag", bag, "--write-labels", tmp_path / "labels")
    both = rig_bag(tmp_path / "both", {"camera": bag, "mtaclip": tmp_path / "labels"})
    result = replayed(tmp_path, bundle, "--bag", both, "--label-topic", "/mtaclip/label")
    assert result["miou"] == 1.0 and result["drives"][0]["label_topic"] == "/mtaclip/label"


def test_labels_are_written_whole_or_not_at_all(bag: Path, bundle: Path, tmp_path: Path) -> None:
    existing = tmp_path / "labels.mcap"
    existing.write_text("mine")
    assert "exists already" in refusal(main, "--bag", bag, "--model", bundle, "--write-labels", existing)
    assert existing.read_text() == "mine"
    small = painted_bag(tmp_path / "small", count=3, rate=10.0, size=(45, 60))
    uneven = rig_bag(tmp_path / "uneven", {"camera": bag, "small": small})
    arguments = ["--bag", uneven, "--label-topic", "/small/label_gt", "--write-labels", tmp_path / "new.mcap"]
    assert "must be of one size" in refusal(main, *arguments, "--model", bundle)  # when labels were written already
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.mcap", "small", "uneven"]
    assert "goes with --write-labels" in refusal(main, "--bag", bag, "--model", bundle, "--confidence")
    within = bag / "labels.mcap"
    assert "lies within the bag" in refusal(main, "--bag", bag, "--model", bundle, "--write-labels", within)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "small.mcap").write_text("mine")  # of the second bag, and told before the first is labelled
    assert "exists already" in refusal(
        main, "--bag", bag, small, "--model", tmp_path / "none", "--write-labels", tmp_path / "out"
    )


@pytest.mark.parametrize("how", ["SIGTERM", "disk full"])
def test_a_replay_that_is_ended_leaves_nothing_half_written(bag: Path, bundle: Path, how: str, tmp_path: Path) -> None:
    """SIGTERM comes, or the disk is full, while labels and video are being written."""
    out = tmp_path / "out"
    arguments = ["--bag", *2 * [bag], "--model", bundle, "--report", out / "report", "--write-labels", out / "labels"]
    command = [sys.executable, "-c", ENDED[how], *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert done.returncode == (143 if how == "SIGTERM" else 2), done.stderr
    assert "Traceback" not in done.stderr
    if how == "disk full":
        assert "File too large" in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("error: ")
    left = [path for path in out.rglob("*") if path.is_file()]
    assert [path for path in left if path.name.startswith(".")] == []
    for path in left:
        if path.suffix == ".mcap":
            with Bag(path) as labels:
                assert labels.broken is None and labels.topics["/mtaclip/label"].count == FRAMES
        if path.suffix == ".mp4":
            assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES


def test_a_video_that_did_not_fit_on_the_disk_is_no_video(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED["video"], str(tmp_path / "overlay.mp4")],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "is the disk full?" in done.stderr.splitlines()[-1], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_bags_of_one_name_and_the_folder_one_stands_in_have_names_of_their_own(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/drive", "b/drive", "drive_2", "c/drive.mcap")]
    assert drive_names([(path, "") for path in paths]) == ["drive", "drive_2", "drive_2_2", "drive.mcap"]
    assert drive_names([(Path("."), "front")]) == [f"{Path.cwd().name}_front"]


def test_ground_truths_that_cannot_be_added_are_refused_before_the_work(bag: Path, tmp_path: Path) -> None:
    bundle = make_colour_bundle(tmp_path / "nineteen", space=CITYSCAPES, network_size=SIZE)
    with open_drive(tmp_path / "other", CITYSCAPES, 10.0) as drive:
        drive.add(next(painted_frames(1, space=CITYSCAPES)))
    arguments = ["--bag", bag, tmp_path / "other", "--model", bundle, "--write-labels", tmp_path / "labels"]
    assert "hold different classes (camvid, cityscapes)" in refusal(main, *arguments)
    assert not (tmp_path / "labels").exists()


def test_a_part_of_a_drive_and_one_of_n_frames(bag: Path, bundle: Path, tmp_path: Path) -> None:
    args = ["--from", 0.2, "--to", 0.85, "--every", 3, "--report", tmp_path / "report", "--no-video"]
    result = replayed(tmp_path, bundle, "--bag", bag, *args)
    assert (result["frames_in"], result["images"], result["miou"]) == (3, 3, 1.0)
    rows = (tmp_path / "report" / "frames.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["0.2", "0.5", "0.8"]  # seconds of the bag, as --from takes them
    for bad in (["--from", 3], ["--from", 0.5, "--to", 0.5], ["--every", 0], ["--from", -1]):
        assert refusal(main, "--bag", bag, "--model", bundle, *bad)


def test_the_gate_of_ci(bag: Path, wrong: Path, bundle: Path, tmp_path: Path) -> None:
    assert main(["--model", str(bundle), "--bag", str(bag), "--min-miou", "1"]) is None
    out = tmp_path / "out.json"
    done = run_module(
        "mtaclip_ros.replay", "--bag", wrong, "--model", bundle, "--min-miou", 0.9, "--json", out, timeout=120
    )
    assert done.returncode == 1
    miou = json.loads(out.read_text())["miou"]  # written all the same
    assert done.stderr.splitlines()[-1] == f"failed: mIoU {miou:.4f}, --min-miou asks for 0.9"
    assert "--min-miou 65" in refusal(main, "--bag", bag, "--model", bundle, "--min-miou", 65)


def test_two_cameras_and_two_bags_make_one_result_and_one_of_each(
    bag: Path, wrong: Path, bundle: Path, tmp_path: Path
) -> None:
    rig = rig_bag(tmp_path / "rig", {"front": bag, "left": wrong})
    topics = ["--image-topic", "/front/image_raw", "/left/image_raw"]
    arguments = ["--bag", rig, rig, *topics, "--report", tmp_path / "report", "--no-video"]
    result = replayed(tmp_path, bundle, *arguments, "--write-labels", tmp_path / "labels")
    assert [(d["camera"], d["frames_in"]) for d in result["drives"]] == 2 * [("front", FRAMES), ("left", 5)]
    front, left = result["drives"][:2]
    assert front["label_topic"] == "/front/label_gt"
    assert front["miou"] == 1.0 > result["miou"] > left["miou"]
    assert (result["frames_in"], result["images"]) == (30, 30)
    assert left["flicker"]["share"] > front["flicker"]["share"] == 0.0
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "report.html", "rig_front", "rig_left", "rig_front_2", "rig_left_2",
    }  # fmt: skip
    page = (tmp_path / "report" / "report.html").read_text()
    assert '<a href="rig_left_2/report.html">rig_left_2</a>' in page
    assert "<th>rig_front</th>" in page and "IoU by class" in page  # of all, and of each
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == ["rig.mcap", "rig_2.mcap"]
    with Bag(tmp_path / "labels" / "rig.mcap") as labels:
        assert {t: n.count for t, n in labels.topics.items()} == {
            "/mtaclip/front/classes": 1, "/mtaclip/front/label": FRAMES,
            "/mtaclip/left/classes": 1, "/mtaclip/left/label": 5,
        }  # fmt: skip


def test_cameras_that_do_not_fit_are_one_line(bag: Path, bundle: Path) -> None:
    def told(*args: object) -> str:
        return refusal(main, "--bag", bag, "--model", bundle, *args)

    two = ["--image-topic", "/front/image_raw", "/left/image_raw"]
    assert "no topic '/front/image_raw'" in told(*two)
    assert "--label-topic names 1, but there are 2" in told(*two, "--label-topic", "/front/label_gt")
    assert "'/front/image_raw' is there twice" in told("--image-topic", "/front/image_raw", "/front/image_raw")
    assert "'a' is there twice" in told(*two, "--camera", "a", "a")


def test_a_region_and_a_floor_as_the_node_has_them(bag: Path, bundle: Path, tmp_path: Path) -> None:
    mask = np.full(SIZE, 255, np.uint8)
    mask[60:] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    out = tmp_path / "labels.mcap"
    replayed(
        tmp_path, bundle, "--bag", bag, "--roi", "0,10,120,80", "--mask", tmp_path / "mask.png", "--write-labels", out
    )
    with Bag(out) as labels:
        for label in labels.images("/mtaclip/label"):
            outside = label_array(label.message, "label") == 255
            assert outside[:10].all() and outside[60:].all() and not outside[10:60].any()
