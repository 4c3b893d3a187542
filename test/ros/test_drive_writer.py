"""drive_writer: what is in the bag, that ROS can read it, and that a bag is there whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_bags import ROOT, painted_bag, painted_frames, refusal, run_module, stamps_of
from rosbags.interfaces import QosDurability, QosReliability

from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import Sample
from mtaclip_core.labels import CAMVID, CITYSCAPES
from mtaclip_ros.bag_reader import IMAGE, IMAGE_TOPIC, LABEL_TOPIC, STRING, Bag, pair_by_stamp
from mtaclip_ros.drive_writer import CAMERA_INFO, CAMERA_INFO_TOPIC, START, main, open_drive
from mtaclip_ros.image_codec import decode
from mtaclip_ros.label_messages import label_array


@pytest.fixture(scope="module")
def bag_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted_bag(tmp_path_factory.mktemp("drive") / "painted", count=5, rate=15.0)


@pytest.fixture
def bag(bag_path: Path) -> Iterator[Bag]:
    with Bag(bag_path) as bag:
        yield bag


def test_topics_types_and_counts(bag: Bag) -> None:
    assert {n: (t.msgtype, t.count) for n, t in bag.topics.items()} == {
        IMAGE_TOPIC: (IMAGE, 5),
        CAMERA_INFO_TOPIC: (CAMERA_INFO, 5),
        LABEL_TOPIC: (IMAGE, 5),
        f"{LABEL_TOPIC}/classes": (STRING, 1),
    }


def test_classes_are_latched_and_images_reliable(bag: Bag) -> None:
    assert [q.durability for q in bag.topics[f"{LABEL_TOPIC}/classes"].qos] == [QosDurability.TRANSIENT_LOCAL]
    assert [q.reliability for q in bag.topics[IMAGE_TOPIC].qos] == [QosReliability.RELIABLE]
    assert [q.durability for q in bag.topics[IMAGE_TOPIC].qos] == [QosDurability.VOLATILE]


def test_images_and_labels_come_back_exactly_in_pairs_of_equal_stamp(bag: Bag) -> None:
    pairs = list(pair_by_stamp(bag.images(IMAGE_TOPIC), bag.images(LABEL_TOPIC)))
    assert [image.stamp for image, _ in pairs] == stamps_of(5, 15.0, START)
    for (image, label), sample in zip(pairs, painted_frames(5), strict=True):
        assert (image.message.encoding, label.encoding) == ("rgb8", "mono8")
        assert label.step == label.width
        assert np.array_equal(decode(image.message).pixels, sample.image)
        assert np.array_equal(label_array(label, LABEL_TOPIC), sample.label)


def test_bgr8_holds_the_same_picture(tmp_path: Path) -> None:
    with Bag(painted_bag(tmp_path / "bgr", count=1, encoding="bgr8")) as bag:
        frame = decode(next(bag.images(IMAGE_TOPIC)).message)
    assert frame.channel_order == "bgr"
    assert np.array_equal(frame.pixels[:, :, ::-1], next(painted_frames(1)).image)


def test_classes_say_what_the_ids_mean(bag: Bag) -> None:
    rows = json.loads(bag.first(f"{LABEL_TOPIC}/classes", STRING).data)
    assert rows == CAMVID.to_list()
    assert bag.classes(LABEL_TOPIC) == CAMVID


def test_the_same_drive_is_the_same_bag(bag_path: Path, tmp_path: Path) -> None:
    again = painted_bag(tmp_path / "painted", count=5, rate=15.0)
    assert (again / "painted.mcap").read_bytes() == (bag_path / "painted.mcap").read_bytes()


def test_rclpy_reads_what_rosbags_wrote(bag_path: Path) -> None:
    pytest.importorskip("rclpy")
    code = """
import sys
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from mtaclip_ros.bag_reader import Bag
types = {'sensor_msgs/msg/Image': Image, 'sensor_msgs/msg/CameraInfo': CameraInfo, 'std_msgs/msg/String': String}
with Bag(sys.argv[1]) as bag:
    read = {}
    for record in bag.records():
        read.setdefault(record.topic, deserialize_message(record.data, types[record.msgtype]))
image, info = read['/camera/image_raw'], read['/camera/camera_info']
print(image.height, image.width, image.step, image.encoding, len(image.data), image.header.frame_id)
print(info.height, info.width)
print(info.header.stamp == image.header.stamp == read['/camera/label_gt'].header.stamp)
print(read['/camera/label_gt/classes'].data[:22])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bag_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines() == [
        "90 120 360 rgb8 32400 camera",
        "90 120",
        "True",
        '[{"id": 0, "name": "Sk',
    ]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one size"), open_drive(tmp_path / "half", CAMVID, 15.0) as drive:
        drive.add(next(painted_frames(1)))
        drive.add(Sample(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), np.uint8), "crooked"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bag_is_not_overwritten(bag_path: Path) -> None:
    before = (bag_path / "painted.mcap").read_bytes()
    with pytest.raises(UserError, match="exists already"), open_drive(bag_path, CAMVID, 15.0):
        pass
    assert (bag_path / "painted.mcap").read_bytes() == before


def test_a_data_set_split_becomes_a_bag_at_the_size_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("val", "valannot"):
        (tmp_path / "camvid" / folder).mkdir(parents=True)
    for sample in painted_frames(3):
        label = np.where(sample.label == 255, 11, sample.label)  # CamVid's own value of unlabelled
        cv2.imwrite(str(tmp_path / "camvid/val" / f"{sample.name}.png"), sample.image[:, :, ::-1])
        cv2.imwrite(str(tmp_path / "camvid/valannot" / f"{sample.name}.png"), label)
    out = tmp_path / "bags" / "camvid"
    main(["--data", f"camvid:{tmp_path / 'camvid'}", "--split", "val", "--out", str(out), "--size", "45x60"])
    assert "3 frames" in capsys.readouterr().out
    with Bag(out) as bag:
        labels = [label_array(record.message, LABEL_TOPIC) for record in bag.images(LABEL_TOPIC)]
        images = [record.message for record in bag.images(IMAGE_TOPIC)]
    assert {label.shape for label in labels} == {(m.height, m.width) for m in images} == {(45, 60)}
    for label, sample in zip(labels, painted_frames(3), strict=True):
        assert set(np.unique(label)) <= set(np.unique(sample.label))  # labels are never mixed by interpolation


def test_a_generated_street_has_its_ground_truth(tmp_path: Path) -> None:
    out = tmp_path / "street"
    done = run_module(
        "mtaclip_ros.drive_writer", "--synthetic", 0.4, "--rate", 10, "--size", "96x128", "--seed", 5, "--out", out
    )
    assert done.returncode == 0, done.stderr
    with Bag(out) as bag:
        assert bag.classes(LABEL_TOPIC) == CITYSCAPES
        pairs = list(pair_by_stamp(bag.images(IMAGE_TOPIC), bag.images(LABEL_TOPIC)))
        labels = [label_array(label, LABEL_TOPIC) for _, label in pairs]
    assert len(pairs) == 4
    assert all(label.shape == (96, 128) for label in labels)
    road, sky = 0, 10
    assert {road, sky} <= set(np.unique(np.stack(labels)))
    assert not np.array_equal(labels[0], labels[-1])  # the street moves


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--synthetic", "1", "--data", "camvid:x"], "not allowed with"),
        (["--data", "camvid:nowhere"], "needs --split"),
        (["--data", "camvid:nowhere", "--split", "val"], "nowhere"),
        (["--synthetic", "0"], "above 0"),
        (["--synthetic", "nan"], "above 0"),
        (["--synthetic", "0.01"], "at least one frame"),
        (["--synthetic", "1", "--rate", "0"], "--rate"),
        (["--synthetic", "1", "--size", "360"], "HEIGHTxWIDTH"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(args: list[str], says: str, tmp_path: Path) -> None:
    assert says in refusal(main, *args, "--out", tmp_path / "bag")
    assert list(tmp_path.iterdir()) == []
