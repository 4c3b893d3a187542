"""Bags whose disk failed: damage in between costs what it hit, is told, and never gives what was not recorded."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
from bundles import make_colour_bundle
from helpers_bags import SIZE, painted_bag
from helpers_damage import CHUNK, PACK, STORAGES, chunks_of, copy_of, messages, storage_of
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_reader import IMAGE, IMAGE_TOPIC, LABEL_TOPIC, Bag
from mtaclip_ros.replay import main

FRAMES = 12
RATE = 10.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 37 messages of one or two kilobytes."""
    return painted_bag(tmp_path_factory.mktemp("bags") / "tiny", count=FRAMES, rate=RATE, size=(24, 32))


def test_a_damaged_message_costs_itself_only(tiny: Path, tmp_path: Path) -> None:
    data = (tiny / "tiny.mcap").read_bytes()
    at = [i for i in range(len(data)) if data.startswith(b"rgb8", i)][3]
    for name, content in (("index", data), ("salvage", data[:-30])):
        hurt = bytearray(content)
        hurt[at - 4 : at] = b"\xff\xff\xff\x7f"  # a string of 2 GiB
        (tmp_path / f"{name}.mcap").write_bytes(hurt)
        with Bag(tmp_path / f"{name}.mcap") as bag:
            assert [round(image.seconds, 1) for image in bag.images(IMAGE_TOPIC)][2:5] == [0.2, 0.4, 0.5]
            assert bag.broken is not None and "damaged messages passed over: 1" in bag.broken


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("index", [True, False], ids=["index", "no_index"])
def test_a_damaged_chunk_costs_itself_only(tiny: Path, name: str, index: bool, tmp_path: Path) -> None:
    """Its checksum tells it, where one flipped bit of a picture would not show."""
    everything, _ = messages(tiny)
    file = storage_of(copy_of(tiny, tmp_path / "bag", StoragePlugin.MCAP, chunks=name))
    assert messages(file) == (everything, None)
    data = bytearray(file.read_bytes())
    for lost in (2, 0):  # the first describes the topics, and so does the end of the file
        hurt = data.copy()
        _, begin, end, _ = list(chunks_of(data))[lost]
        hurt[(begin + end) // 2] ^= 4
        file.write_bytes(hurt if index else hurt[:-20])
        got, broken = messages(file)
        assert got == everything[: lost * CHUNK] + everything[(lost + 1) * CHUNK :]
        assert broken is not None and "damaged" in broken


def test_sizes_that_no_file_has_are_no_memory_and_no_crash(tiny: Path, tmp_path: Path) -> None:
    file = storage_of(copy_of(tiny, tmp_path / "bag", StoragePlugin.MCAP, chunks="zstd"))
    plain = storage_of(copy_of(tiny, tmp_path / "plain", StoragePlugin.MCAP, chunks=""))
    data, records = file.read_bytes(), plain.read_bytes()
    at, begin, *_ = list(chunks_of(data))[1]
    message = list(chunks_of(records))[1][1]
    assert records[message] == 5
    for content, offset, value in (
        (data, at + 1, struct.pack("<Q", 2**62)),  # the chunk record
        (data, at + 25, struct.pack("<Q", 2**62)),  # its size when unpacked
        (data, at + 37, struct.pack("<I", 2**32 - 1)),  # the name of its compression
        (data, begin - 8, struct.pack("<Q", 2**63 + 5)),  # its packed bytes
        (records, message + 1, struct.pack("<Q", 2**64 - 1)),  # a message
        (records, message + 1, struct.pack("<Q", 7)),  # a message that is shorter than its own head
        (records, 9 + 8, struct.pack("<Q", 2**40)),  # the head of the file
    ):
        hurt = bytearray(content)
        hurt[offset : offset + len(value)] = value
        for index in (True, False):
            file.write_bytes(hurt if index else hurt[:-20])
            try:
                got, broken = messages(file)
            except UserError:
                continue
            assert set(got) <= set(messages(tiny)[0]) and (len(got) == 37 or broken is not None)


def test_a_damaged_message_that_is_compressed_by_itself_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    everything, _ = messages(tiny)
    file = storage_of(copy_of(tiny, tmp_path / "bag", StoragePlugin.MCAP, CompressionMode.MESSAGE))
    data = bytearray(file.read_bytes())
    at = [i for i in range(len(data)) if data.startswith(b"\x28\xb5\x2f\xfd", i)][7]
    data[at + 4] = 0xFF
    for name, content in (("index", data), ("salvage", data[:-30])):
        (tmp_path / f"{name}.mcap").write_bytes(content)
        got, broken = messages(tmp_path / f"{name}.mcap")
        assert got == everything[:7] + everything[8:]
        assert broken is not None and "damaged messages passed over: 1" in broken


def test_random_damage_is_read_or_refused_in_one_line_and_told(tiny: Path, tmp_path: Path) -> None:
    everything = set(messages(tiny)[0])
    bags = [copy_of(tiny, tmp_path / f"chunks_{name}", StoragePlugin.MCAP, chunks=name) for name in PACK]
    bags += [copy_of(tiny, tmp_path / name, *arguments) for name, arguments in STORAGES.items()]
    chance = random.Random(5)
    for round_ in range(56):
        bag = bags[round_ % len(bags)]
        data = bytearray(storage_of(bag).read_bytes())
        if whole_bytes := chance.random() < 0.5:
            data = data[: chance.randrange(len(data))]
        else:
            for _ in range(chance.choice([1, 5, 50])):
                data[chance.randrange(len(data))] = chance.choice([0, 255, chance.randrange(256)])
        file = tmp_path / f"hurt{storage_of(bag).suffix}"
        file.write_bytes(data)
        try:
            got, broken = messages(file)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            continue
        assert broken is not None or len(got) == len(everything)
        if whole_bytes:  # a flipped byte of a picture cannot be told where nothing has a checksum
            assert set(got) <= everything
        with Bag(file) as reader:
            for topic in {IMAGE_TOPIC, LABEL_TOPIC} & set(reader.topics):
                if reader.topics[topic].count and reader.topics[topic].msgtype == IMAGE:
                    list(reader.images(topic))


def test_a_damaged_label_costs_its_frame_the_score_and_not_the_run(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_colour_bundle(tmp_path / "colour", network_size=SIZE)
    data = bytearray((tiny / "tiny.mcap").read_bytes())
    at = [i for i in range(len(data)) if data.startswith(b"mono8", i)][4]
    data[at : at + 5] = b"mono9"
    (tmp_path / "cut.mcap").write_bytes(data[:-30])
    main(["--bag", str(tmp_path / "cut.mcap"), "--model", str(bundle), "--json", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["frames_labelled"], result["images"]) == (FRAMES, FRAMES - 1)
    assert "damaged messages passed over: 1" in result["incomplete"][0]
    capsys.readouterr()
