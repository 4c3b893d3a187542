"""Bags in every storage and compression, and ways to break them."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import lz4.frame
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mtaclip_ros.bag_reader import Bag
from mtaclip_ros.salvage_mcap import zstd

PACK = {"": lambda data: data, "lz4": lz4.frame.compress, "zstd": zstd.compress}
UNPACK = {"": lambda data: data, "lz4": lz4.frame.decompress, "zstd": zstd.decompress}
CHUNK = 8  # messages


def copy_of(
    bag: Path,
    out: Path,
    storage: StoragePlugin,
    mode: CompressionMode = CompressionMode.NONE,
    chunks: str | None = None,
) -> Path:
    """The same messages in another storage or compression, as `ros2 bag convert` writes them.

    With `chunks`, a compression of mcap, each 8 messages make a chunk that is packed so and has a checksum.
    """
    types = get_typestore(Stores.ROS2_KILTED)
    writer = Writer(out, version=9, storage_plugin=storage)
    if mode is not CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with Bag(bag) as reader, writer:
        if chunks is not None:
            writer.storage.compression, writer.storage.compressor = chunks, PACK[chunks]
        connections = {
            topic.name: writer.add_connection(
                topic.name, topic.msgtype, typestore=types, offered_qos_profiles=list(topic.qos)
            )
            for topic in reader.topics.values()
        }
        for index, record in enumerate(reader.records()):
            writer.write(connections[record.topic], record.recorded, record.data)
            if chunks is not None and index % CHUNK == CHUNK - 1:
                writer.storage.close_chunk()
    if chunks is not None:
        with_checksums(storage_of(out))
    return out


def storage_of(bag: Path) -> Path:
    return next(file for file in bag.iterdir() if file.name != "metadata.yaml")


def chunks_of(data: bytes) -> Iterator[tuple[int, int, int, str]]:
    """Where each chunk record begins, its packed records begin and end, and how they are packed."""
    at = 8
    while at < len(data) - 8:
        opcode, length = struct.unpack_from("<BQ", data, at)
        if opcode == 6:
            (name,) = struct.unpack_from("<I", data, at + 37)
            yield at, at + 49 + name, at + 9 + length, bytes(data[at + 41 : at + 41 + name]).decode()
        at += 9 + length


def with_checksums(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for at, begin, end, name in list(chunks_of(data)):
        struct.pack_into("<I", data, at + 33, zlib.crc32(UNPACK[name](bytes(data[begin:end]))))
    file.write_bytes(data)


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


def split_of(bag: Path, out: Path, parts: int) -> Path:
    """The bag in several files, as `ros2 bag record -d` splits it; each has the topics and some messages."""
    types = get_typestore(Stores.ROS2_KILTED)
    out.mkdir()
    with Bag(bag) as reader:
        records = list(reader.records())
        for part in range(parts):
            writer = Writer(out / f"part{part}", version=9, storage_plugin=StoragePlugin.MCAP)
            with writer:
                connections = {
                    t.name: writer.add_connection(t.name, t.msgtype, typestore=types, offered_qos_profiles=list(t.qos))
                    for t in reader.topics.values()
                }
                for record in records[part * len(records) // parts : (part + 1) * len(records) // parts]:
                    writer.write(connections[record.topic], record.recorded, record.data)
            shutil.move(out / f"part{part}" / f"part{part}.mcap", out / f"drive_{part}.mcap")
            shutil.rmtree(out / f"part{part}")
    files = "".join(f"    - drive_{part}.mcap\n" for part in range(parts))
    (out / "metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  relative_file_paths:\n{files}")
    return out
