"""Bags whose recorder died: cut off, without footer or metadata.yaml, split, in every storage and compression. What is
there is read, and what is not is told."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
from bundles import make_colour_bundle
from helpers_bags import SIZE, painted_bag, painted_frames
from helpers_damage import CHUNK, STORAGES, chunks_of, copy_of, cut, messages, split_of, storage_of
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_reader import IMAGE_TOPIC, LABEL_TOPIC, Bag, Window
from mtaclip_ros.label_messages import label_array
from mtaclip_ros.replay import main
from mtaclip_ros.salvage_mcap import zstd

FRAMES = 12
RATE = 10.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 37 messages of one or two kilobytes."""
    return painted_bag(tmp_path_factory.mktemp("bags") / "tiny", count=FRAMES, rate=RATE, size=(24, 32))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted_bag(tmp_path_factory.mktemp("bags") / "painted", count=FRAMES, rate=RATE, size=(180, 240))


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


def test_a_chunk_that_is_cut_off_gives_what_is_before_the_cut(tiny: Path, tmp_path: Path) -> None:
    everything, _ = messages(tiny)
    file = storage_of(copy_of(tiny, tmp_path / "bag", StoragePlugin.MCAP, chunks=""))
    data = file.read_bytes()
    at, begin, end, _ = list(chunks_of(data))[2]
    for cut_at, least in ((at + 5, 2 * CHUNK), (at + 30, 2 * CHUNK), (begin, 2 * CHUNK), (end - 1, 3 * CHUNK - 1)):
        file.write_bytes(data[:cut_at])
        got, broken = messages(file)
        assert got == everything[:least] and broken is not None and f"at byte {cut_at}" in broken


def test_a_cut_sqlite_file_gives_no_picture_with_zeros_in_it(tiny: Path, tmp_path: Path) -> None:
    everything, _ = messages(tiny)
    bag = copy_of(tiny, tmp_path / "bag", StoragePlugin.SQLITE3)
    size = storage_of(bag).stat().st_size
    for i, missing in enumerate((207, 1500, 9000, 20001, size // 2 + 1)):
        got, broken = messages(cut(bag, tmp_path / f"cut{i}", 1 - missing / size))
        assert got == everything[: len(got)] and broken is not None
        assert len(got) > 35 - missing / 800


def test_the_log_beside_a_sqlite_file_that_was_not_closed_is_read(tiny: Path, tmp_path: Path) -> None:
    everything, _ = messages(tiny)
    source = storage_of(copy_of(tiny, tmp_path / "bag", StoragePlugin.SQLITE3))
    died = tmp_path / "died"
    died.mkdir()
    base = sqlite3.connect(source)
    rows = base.execute("SELECT * FROM messages ORDER BY id").fetchall()
    base.execute("DELETE FROM messages WHERE id > 10")
    base.commit()
    base.execute("PRAGMA journal_mode=WAL")
    base.executemany(f"INSERT INTO messages VALUES ({','.join('?' * len(rows[0]))})", rows[10:])
    base.commit()
    for file in source.parent.glob("*.db3*"):
        shutil.copy(file, died)
    base.close()
    got, broken = messages(died)
    assert got == everything and broken is not None and "its recorder did not close it" in broken


@pytest.mark.parametrize("storage", StoragePlugin)
def test_files_that_are_compressed_whole_are_read_with_and_without_metadata(
    tiny: Path, storage: StoragePlugin, tmp_path: Path
) -> None:
    everything, _ = messages(tiny)
    bag = copy_of(tiny, tmp_path / "bag", storage, CompressionMode.FILE)
    file = storage_of(bag)
    assert file.suffix == ".zstd"
    assert messages(bag) == messages(file) == (everything, None)
    (bag / "metadata.yaml").unlink()
    got, broken = messages(bag)
    assert got == everything and broken is not None and "metadata.yaml is missing" in broken
    plain = zstd.decompress(file.read_bytes())
    pieces = [zstd.compress(plain[i : i + 4096]) for i in range(0, len(plain), 4096)]
    file.write_bytes(b"".join(pieces)[: len(b"".join(pieces[:-3])) + 9])
    got, broken = messages(bag)
    assert got == everything[: len(got)] and len(got) > 25
    assert broken is not None and "its compression breaks off" in broken


def test_a_split_bag_is_one_drive_and_tells_what_is_missing_of_it(tiny: Path, tmp_path: Path) -> None:
    everything, _ = messages(tiny)
    bag = split_of(tiny, tmp_path / "drive", 3)
    shutil.copy(tiny / "tiny.mcap", bag / "labels.mcap")  # somebody's own file beside them
    assert messages(bag) == (everything, None)
    with Bag(bag) as reader:
        assert reader.topics[IMAGE_TOPIC].count == FRAMES and len(reader.topics[IMAGE_TOPIC].qos) == 1
        assert [round(i.seconds, 1) for i in reader.images(IMAGE_TOPIC, Window(0.3, 0.6))] == [0.3, 0.4, 0.5]
    # The recorder died: the last file is cut off, and not in the metadata that it wrote at the last split.
    last = bag / "drive_2.mcap"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace("    - drive_2.mcap\n", ""))
    got, broken = messages(bag)
    assert got == everything[: len(got)] and 25 < len(got) < 37
    assert broken is not None and "drive_2.mcap is not in metadata.yaml; drive_2.mcap: it is cut off" in broken
    last.unlink()
    (bag / "metadata.yaml").write_text(text)
    got, broken = messages(bag)
    assert got == everything[:24] and broken is not None and "drive_2.mcap is missing" in broken
    for damaged in ("", "{", "rosbag2_bagfile_information:\n  relative_file_paths: 5\n"):
        (bag / "metadata.yaml").write_text(damaged)
        (bag / "labels.mcap").unlink(missing_ok=True)
        got, broken = messages(bag)
        assert got == everything[:24] and broken is not None and "metadata.yaml is damaged" in broken


@pytest.mark.parametrize("storage", StoragePlugin)
def test_windows_beyond_all_time_are_empty_or_everything(tiny: Path, storage: StoragePlugin, tmp_path: Path) -> None:
    bag = copy_of(tiny, tmp_path / "bag", storage)
    for path in (bag, cut(bag, tmp_path / "cut", 0.9)):
        with Bag(path) as reader:
            assert list(reader.images(IMAGE_TOPIC, Window(1e12, 1e300))) == []
            assert len(list(reader.images(IMAGE_TOPIC, Window(0, 1e300)))) == reader.topics[IMAGE_TOPIC].count
