"""Bags whose recorder died: cut off, without footer or metadata.yaml, in both storages, are read up to the break."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from bundles import make_colour_bundle
from helpers_bags import SIZE, painted_bag, painted_frames
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_reader import IMAGE_TOPIC, LABEL_TOPIC, Bag, Window
from mtaclip_ros.label_messages import label_array
from mtaclip_ros.replay import main

FRAMES = 12
RATE = 10.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted_bag(tmp_path_factory.mktemp("bags") / "painted", count=FRAMES, rate=RATE, size=(180, 240))


def copy_of(bag: Path, out: Path, storage: StoragePlugin, mode: CompressionMode = CompressionMode.NONE) -> Path:
    """The same messages in another storage or compression, as `ros2 bag convert` writes them."""
    types = get_typestore(Stores.ROS2_KILTED)
    writer = Writer(out, version=9, storage_plugin=storage)
    if mode is not CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with Bag(bag) as reader, writer:
        connections = {
            topic.name: writer.add_connection(
                topic.name, topic.msgtype, typestore=types, offered_qos_profiles=list(topic.qos)
            )
            for topic in reader.topics.values()
        }
        for record in reader.records():
            writer.write(connections[record.topic], record.recorded, record.data)
    return out


def cut(bag: Path, out: Path, share: float, metadata: bool = True) -> Path:
    """A copy whose storage file ends after a share of its bytes."""
    out.mkdir()
    for file in bag.iterdir():
        if file.name == "metadata.yaml":
            if metadata:
                shutil.copy(file, out)
        else:
            data = file.read_bytes()
            (out / file.name).write_bytes(data[: int(share * len(data))])
    return out


def messages(bag: Path) -> tuple[list[tuple[str, int, bytes]], str | None]:
    with Bag(bag) as reader:
        return [(r.topic, r.recorded, r.data) for r in reader.records()], reader.broken


STORAGES = {
    "mcap": (StoragePlugin.MCAP, CompressionMode.NONE),
    "mcap_chunks_zstd": (StoragePlugin.MCAP, CompressionMode.STORAGE),
    "mcap_messages_zstd": (StoragePlugin.MCAP, CompressionMode.MESSAGE),
    "sqlite3": (StoragePlugin.SQLITE3, CompressionMode.NONE),
}


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "no_metadata"])
def test_a_bag_that_was_cut_off_gives_its_first_messages_unchanged(
    whole: Path, kind: str, metadata: bool, tmp_path: Path
) -> None:
    bag = copy_of(whole, tmp_path / "bag", *STORAGES[kind])
    everything, broken = messages(bag)
    assert broken is None and len(everything) == 3 * FRAMES + 1
    counts = []
    for i, share in enumerate((0.4, 0.7, 0.999)):
        got, broken = messages(cut(bag, tmp_path / f"cut{i}", share, metadata))
        assert broken is not None and "is incomplete" in broken and "\n" not in broken
        assert got == everything[: len(got)]
        counts.append(len(got))
    # a whole chunk (1 MiB) is lost where it is compressed and cut; else nothing but the message that was being written
    wanted = [0, 0, 0] if kind == "mcap_chunks_zstd" else [0.3 * 37, 0.6 * 37, 34]
    assert all(count >= least for count, least in zip(counts, wanted, strict=True)), counts
    assert counts == sorted(counts) and counts[0] < len(everything)


@pytest.mark.parametrize("kind", STORAGES)
def test_a_bag_without_metadata_is_read_whole_and_said_so(whole: Path, kind: str, tmp_path: Path) -> None:
    bag = copy_of(whole, tmp_path / "bag", *STORAGES[kind])
    everything, _ = messages(bag)
    (bag / "metadata.yaml").unlink()
    got, broken = messages(bag)
    assert got == everything
    assert broken is not None and "metadata.yaml is missing" in broken and "37 messages" in broken


def test_a_single_file_is_a_bag_too(whole: Path, tmp_path: Path) -> None:
    everything, _ = messages(whole)
    assert messages(whole / "painted.mcap") == (everything, None)
    sqlite = copy_of(whole, tmp_path / "bag", StoragePlugin.SQLITE3)
    assert messages(sqlite / "bag.db3") == (everything, None)


def test_a_recorder_killed_between_chunks_and_a_power_cut_that_left_zeros(whole: Path, tmp_path: Path) -> None:
    everything, _ = messages(whole)
    data = (whole / "painted.mcap").read_bytes()
    summary = struct.unpack("<Q", data[-28:-20])[0]
    for name, content in (("killed", data[: summary - 13]), ("zeros", data[: summary - 13] + bytes(5000))):
        (tmp_path / f"{name}.mcap").write_bytes(content)
        got, broken = messages(tmp_path / f"{name}.mcap")
        assert got == everything, name
        assert broken is not None and "37 messages" in broken


def test_every_file_of_a_split_bag_is_read(whole: Path, tmp_path: Path) -> None:
    """Files _2 and _10 in the order of their numbers, a broken one between whole ones."""
    split = tmp_path / "split"
    split.mkdir()
    data = (whole / "painted.mcap").read_bytes()
    (split / "split_2.mcap").write_bytes(data[: len(data) // 2])
    (split / "split_10.mcap").write_bytes(data)
    got, broken = messages(split)
    assert len(got) > 1.4 * 37
    assert broken is not None and "split_2.mcap: it is cut off" in broken and "split_10" not in broken


def test_topics_and_recorded_qos_survive(whole: Path, tmp_path: Path) -> None:
    with Bag(whole) as a, Bag(cut(whole, tmp_path / "cut", 0.9)) as b:
        assert list(a.topics) == list(b.topics)
        for name, topic in a.topics.items():
            assert (topic.msgtype, topic.qos) == (b.topics[name].msgtype, b.topics[name].qos)
        assert b.classes(LABEL_TOPIC) == a.classes(LABEL_TOPIC)
        labels = [label_array(record.message, LABEL_TOPIC) for record in b.labels(LABEL_TOPIC)]
    for label, sample in zip(labels, painted_frames(len(labels), (180, 240)), strict=True):
        assert np.array_equal(label, sample.label)


def test_nothing_to_read_is_one_line(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a rosbag2 folder"):
        Bag(tmp_path / "empty")
    for name, content in (
        ("none.mcap", b""),
        ("text.mcap", b"hello" * 100),
        ("none.db3", b""),
        ("text.db3", b"x" * 999),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read: no whole message"):
            Bag(tmp_path / name)


def test_replay_of_a_broken_bag_says_so_once_and_in_the_json(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_colour_bundle(tmp_path / "colour", network_size=SIZE)
    broken = cut(whole, tmp_path / "cut", 0.6)
    main(["--bag", str(broken), "--model", str(bundle), "--json", str(tmp_path / "out.json")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1 and f"bag '{broken}' is incomplete: painted.mcap: it is cut off at byte" in lines[0]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["incomplete"] == [lines[0].removeprefix("warning: ")] == [result["drives"][0]["incomplete"]]
    assert 5 <= result["frames_labelled"] < FRAMES


def test_a_window_counts_from_the_first_message(whole: Path) -> None:
    with Bag(whole) as bag:
        assert [round(i.seconds, 3) for i in bag.images(IMAGE_TOPIC, Window(0.3, 0.8))] == [0.3, 0.4, 0.5, 0.6, 0.7]
        assert [round(i.seconds, 3) for i in bag.images(IMAGE_TOPIC, Window(0.1, every=4))] == [0.1, 0.5, 0.9]
        assert bag.expected(IMAGE_TOPIC, Window(0.55, every=2)) == 3


def test_a_damaged_message_costs_itself_only(whole: Path, tmp_path: Path) -> None:
    data = (whole / "painted.mcap").read_bytes()
    at = [i for i in range(len(data)) if data.startswith(b"rgb8", i)][3]
    for name, content in (("index", data), ("salvage", data[:-30])):
        hurt = bytearray(content)
        hurt[at - 4 : at] = b"\xff\xff\xff\x7f"  # a string of 2 GiB
        (tmp_path / f"{name}.mcap").write_bytes(hurt)
        with Bag(tmp_path / f"{name}.mcap") as bag:
            assert [round(image.seconds, 1) for image in bag.images(IMAGE_TOPIC)][2:5] == [0.2, 0.4, 0.5]
            assert bag.broken is not None and "damaged messages passed over: 1" in bag.broken
