"""replay: labels and numbers of a bag without ROS, the report, and what a wrong bag or topic is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_bags import ROOT, SIZE, painted_bag, refusal
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.data.dataset import Sample
from mtaclip_core.evaluate import main as evaluate
from mtaclip_core.labels import CAMVID, CITYSCAPES
from mtaclip_ros.bag_reader import IMAGE, IMAGE_TOPIC, LABEL_TOPIC, STRING, Bag, ImageRecord, pair_by_stamp
from mtaclip_ros.drive_writer import START, open_drive
from mtaclip_ros.drive_writer import main as write
from mtaclip_ros.label_messages import parse_classes
from mtaclip_ros.replay import main

KEYS = {
    "miou", "per_class", "classes", "images", "model", "backend", "precision", "command", "seconds",
    "frames_in", "frames_labelled", "frames_dropped", "frames_bad", "latency_ms", "fps",
    "flicker", "incomplete", "drives",
}  # fmt: skip


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted_bag(tmp_path_factory.mktemp("bags") / "painted", count=20, rate=10.0)


def replayed(bag: Path, bundle: Path, out: Path, *args: str) -> dict:
    main(["--bag", str(bag), "--model", str(bundle), "--json", str(out / "replay.json"), *args])
    return json.loads((out / "replay.json").read_text())


def frames_of(report: Path) -> list[str]:
    """The rows of frames.csv without the measured latency."""
    rows = (report / "frames.csv").read_text().splitlines()
    return [",".join(cell for i, cell in enumerate(row.split(",")) if i != 4) for row in rows]


def test_a_perfect_model_scores_one_with_every_key(
    bag: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = replayed(bag, bundle, tmp_path)
    assert set(result) == KEYS
    assert result["miou"] == 1.0  # also: the unlabelled strip does not count
    assert result["classes"] == CAMVID.names
    assert result["per_class"] == dict.fromkeys(CAMVID.names, 1.0)
    assert (result["images"], result["frames_in"], result["frames_labelled"]) == (20, 20, 20)
    assert (result["frames_dropped"], result["frames_bad"]) == (0, {})
    assert result["model"]["name"] == "colour" and len(result["model"]["hash"]) == 64
    assert (result["backend"], result["precision"]) == ("openvino", "f32")
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p90"] <= result["latency_ms"]["p99"]
    assert result["fps"] > 0
    assert f"--bag {bag}" in result["command"]
    assert "mIoU             1.0000" in capsys.readouterr().out


def test_bgr8_gives_the_same_labels_as_rgb8(bundle: Path, tmp_path: Path) -> None:
    for encoding in ("rgb8", "bgr8"):
        path = painted_bag(tmp_path / encoding, count=3, encoding=encoding)
        replayed(path, bundle, tmp_path, "--report", str(tmp_path / f"{encoding}_report"), "--no-video")
    assert frames_of(tmp_path / "rgb8_report") == frames_of(tmp_path / "bgr8_report")


def test_two_replays_are_equal_frame_by_frame(bag: Path, bundle: Path, tmp_path: Path) -> None:
    results = []
    for name in ("first", "second"):
        result = replayed(bag, bundle, tmp_path, "--report", str(tmp_path / name), "--no-video")
        measured = ("seconds", "latency_ms", "fps", "command", "drives")
        results.append({k: v for k, v in result.items() if k not in measured})
    assert results[0] == results[1]
    rows = frames_of(tmp_path / "first")
    assert rows == frames_of(tmp_path / "second")
    assert len({row.split(",")[4] for row in rows[1:]}) == 20  # 20 different pictures, 20 different labels


def test_the_report_holds_pictures_that_can_be_seen(bag: Path, bundle: Path, tmp_path: Path) -> None:
    replayed(bag, bundle, tmp_path, "--report", str(tmp_path / "report"))
    report = tmp_path / "report"
    assert {p.name for p in report.iterdir()} == {"report.html", "overlay.mp4", "contact_sheet.png", "frames.csv"}
    video = cv2.VideoCapture(str(report / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)
    pictures = []
    while (read := video.read())[0]:
        pictures.append(read[1])
    assert len(pictures) == 20
    assert np.abs(pictures[0].astype(int) - pictures[10].astype(int)).mean() > 10  # not one picture again and again
    sheet = cv2.imread(str(report / "contact_sheet.png"))
    assert sheet is not None and sheet.shape[1] == 4 * 360 + 3 * 4
    html = (report / "report.html").read_text()
    assert 'src="http' not in html and 'href="http' not in html
    for text in (
        "100.0",
        "Timeline",
        "Label flicker",
        "Contact sheet",
        "Worst frames",
        "Pedestrian",
        "python -m mtaclip_ros.replay",
    ):
        assert text in html


@pytest.mark.camvid
def test_real_images_in_a_bag_score_as_evaluate_scores_them(camvid: Path, bundle: Path, tmp_path: Path) -> None:
    for folder in ("val", "valannot"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
        for file in sorted((camvid / folder).glob("*.png"))[::20]:
            (tmp_path / "camvid" / folder / file.name).symlink_to(file)
    data = ["--data", f"camvid:{tmp_path / 'camvid'}", "--split", "val"]
    write([*data, "--out", str(tmp_path / "bag")])
    result = replayed(tmp_path / "bag", bundle, tmp_path)
    evaluate([*data, "--model", str(bundle), "--json", str(tmp_path / "evaluate.json")])
    expected = json.loads((tmp_path / "evaluate.json").read_text())
    for key in ("miou", "per_class", "classes", "images", "model", "backend", "precision"):
        assert result[key] == expected[key], key


def test_a_bag_without_ground_truth_is_segmented_all_the_same(bundle: Path, tmp_path: Path) -> None:
    bag = image_bag(tmp_path / "unlabelled", [good_image(), good_image()])
    result = replayed(bag, bundle, tmp_path, "--report", str(tmp_path / "report"))
    assert result["miou"] is None and result["images"] == 0
    assert set(result["per_class"].values()) == {None}
    assert result["frames_labelled"] == 2
    assert (tmp_path / "report" / "contact_sheet.png").is_file()


def test_bad_frames_are_counted_by_reason_and_the_rest_is_scored(bundle: Path, tmp_path: Path) -> None:
    short = {**good_image(), "data": np.zeros(100, np.uint8)}
    odd = {**good_image(), "encoding": "32FC1"}
    bag = image_bag(tmp_path / "hostile", [good_image(), short, odd, odd, good_image()])
    result = replayed(bag, bundle, tmp_path, "--report", str(tmp_path / "report"))
    assert result["frames_bad"] == {"data_length": 1, "encoding": 2}
    assert (result["frames_in"], result["frames_labelled"], result["frames_dropped"]) == (5, 2, 0)


def test_nineteen_classes_are_judged_in_the_eleven_of_the_model(bundle: Path, tmp_path: Path) -> None:
    # a road of Cityscapes painted in CamVid's colour of road; "truck" in that of car, which covers it
    label = np.full(SIZE, 0, np.uint8)
    label[:45] = 14
    image = CAMVID.palette[np.where(label == 0, 3, 8).astype(np.uint8)]
    with open_drive(tmp_path / "street", CITYSCAPES, 15.0) as drive:
        drive.add(Sample(image, label, "one"))
    result = replayed(tmp_path / "street", bundle, tmp_path)
    assert result["miou"] == 1.0
    assert {name for name, iou in result["per_class"].items() if iou is not None} == {"Road", "Car"}


def test_replay_needs_neither_rclpy_nor_torch(bag: Path, bundle: Path, tmp_path: Path) -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(('torch', 'rclpy', 'sensor_msgs')))  # as if they were not installed
from mtaclip_ros.replay import main
main(sys.argv[1:])
"""
    args = ["--bag", str(bag), "--model", str(bundle), "--report", str(tmp_path / "report")]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "frames labelled  20" in done.stdout


def test_what_the_user_got_wrong_is_one_line(bag: Path, bundle: Path, tmp_path: Path) -> None:
    def told(path: object, *args: object) -> str:
        return refusal(main, "--bag", path, "--model", bundle, *args)

    assert "no bag at" in told(tmp_path / "nowhere")
    assert "is not a bag" in told(bag / "metadata.yaml")
    line = told(bag, "--image-topic", "/front/image_raw")
    assert "no topic '/front/image_raw'" in line and "/camera/image_raw (sensor_msgs/msg/Image, 20)" in line
    assert "no topic '/truth'" in told(bag, "--label-topic", "/truth")
    assert "is std_msgs/msg/String, expected sensor_msgs/msg/Image" in told(
        bag, "--image-topic", f"{LABEL_TOPIC}/classes"
    )
    assert "is empty" in told(image_bag(tmp_path / "empty", []))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metadata.yaml").write_text((bag / "metadata.yaml").read_text())
    (broken / "painted.mcap").write_bytes((bag / "painted.mcap").read_bytes()[:1000])
    assert "cannot be read" in told(broken)
    assert "nowhere" in refusal(main, "--bag", bag, "--model", tmp_path / "nowhere")
    assert "cannot create this folder" in told(bag, "--report", bag / "metadata.yaml" / "report")


def test_ground_truth_of_another_size_is_refused(bundle: Path, tmp_path: Path) -> None:
    small = {**good_image(), "height": 45, "encoding": "mono8", "step": 120, "data": np.zeros(45 * 120, np.uint8)}
    bag = image_bag(tmp_path / "sizes", [good_image()], labels=[small])
    line = refusal(main, "--bag", bag, "--model", bundle)
    assert "45x120" in line and "90x120" in line


def test_classes_that_are_no_classes_are_refused() -> None:
    for text in ("{", '{"id": 0}', '[{"id": 0, "name": "road"}]'):
        with pytest.raises(Exception, match="/x/classes"):
            parse_classes(text, "/x/classes")
    assert parse_classes(CITYSCAPES.to_json(), "/x/classes") == CITYSCAPES


def test_stamps_pair_labels_that_were_recorded_late_or_only_now_and_then(bundle: Path, tmp_path: Path) -> None:
    images = [good_image() for _ in range(60)]
    label = {**good_image(), "encoding": "mono8", "step": 120, "data": np.zeros(90 * 120, np.uint8)}
    labels = [label if i % 7 == 0 else None for i in range(60)]
    path = image_bag(tmp_path / "sparse", images, labels=labels, label_delay=300_000_000)
    with Bag(path) as bag:
        pairs = list(pair_by_stamp(bag.images(IMAGE_TOPIC), bag.images(LABEL_TOPIC)))
    assert [i for i, (_, found) in enumerate(pairs) if found is not None] == list(range(0, 60, 7))


def test_images_of_one_stamp_take_the_labels_of_that_stamp_in_their_order() -> None:
    """As of a camera whose driver sets no stamp; the one before them has no label, so that is looked for ahead."""

    def record(stamp: int, at: float, message: str) -> ImageRecord:
        return ImageRecord(stamp, round(at * 1e9), at, message)

    images = [record(5, 0.0, "first"), record(0, 0.1, "a"), record(0, 0.2, "b"), record(3, 0.1, "back")]
    labels = [record(0, 0.1, "A"), record(0, 0.2, "B"), record(3, 0.3, "BACK")]
    pairs = [(image.message, label) for image, label in pair_by_stamp(iter(images), iter(labels))]
    assert pairs == [("first", None), ("a", "A"), ("b", "B"), ("back", "BACK")]


def good_image() -> dict:
    return {
        "height": 90, "width": 120, "encoding": "rgb8", "is_bigendian": 0, "step": 360,
        "data": np.full(90 * 360, 128, np.uint8),
    }  # fmt: skip


def image_bag(path: Path, images: list[dict], labels: list[dict | None] | None = None, label_delay: int = 0) -> Path:
    """A bag of raw messages, good or not, at 15 Hz; labels (None for none) have the stamps of the images."""
    types = get_typestore(Stores.ROS2_KILTED)
    header, time = types.types["std_msgs/msg/Header"], types.types["builtin_interfaces/msg/Time"]
    messages = []
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {IMAGE_TOPIC: images, **({LABEL_TOPIC: labels} if labels else {})}
        for topic, rows in topics.items():
            connection = writer.add_connection(topic, IMAGE, typestore=types)
            for i, row in enumerate(rows):
                if row is not None:
                    stamp = START + i * 66_666_667
                    at = header(stamp=time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera")
                    data = types.serialize_cdr(types.types[IMAGE](header=at, **row), IMAGE)
                    messages.append((stamp + (label_delay if topic == LABEL_TOPIC else 0), connection, data))
        for recorded, connection, data in sorted(messages, key=lambda m: m[0]):
            writer.write(connection, recorded, data)
        if labels:
            connection = writer.add_connection(f"{LABEL_TOPIC}/classes", STRING, typestore=types)
            writer.write(connection, START, types.serialize_cdr(types.types[STRING](data=CAMVID.to_json()), STRING))
    return path
