"""An mcap file read record by record from its beginning, as far as it goes: no footer, no index is needed."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import lz4.frame

from mtaclip_ros.bag_source import Channel, Entry

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_LAST_OPCODE = 0x0F
_HEAD = struct.Struct("<BQ")  # of every record: what it is, bytes that follow
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct("<QQQII")  # first and last time, size when unpacked, checksum, bytes of the next string
_UNPACK: dict[str, Callable[[bytes], bytes]] = {"lz4": lz4.frame.decompress, "zstd": zstd.decompress}


class _BreakError(Exception):
    """The records end here; the text says how."""


class McapFile:
    """The messages of one mcap file up to where its records end; see https://mcap.dev/spec for the records.

    Attributes:
        channels: by the file's own numbers.
        entries: in the order of the file.
        broken: how and where the file breaks off; None when all its messages are there.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.channels: dict[int, Channel] = {}
        self.entries: list[Entry] = []
        self.broken: str | None = None
        self._schemas: dict[int, str] = {}
        self._unpacked: tuple[int, bytes] = (-1, b"")
        self._file = path.open("rb")
        try:
            if self._file.read(len(_MAGIC)) != _MAGIC:
                raise _BreakError("it does not begin as an mcap file")
            self._scan(self._file, path.stat().st_size, chunk=-1)
        except _BreakError as error:
            self.broken = str(error)

    def read(self, entry: Entry) -> bytes:
        """The serialised message of an entry."""
        chunk, offset, length = entry.place
        if chunk < 0:
            self._file.seek(offset)
            return self._file.read(length)
        if self._unpacked[0] != chunk:
            self._file.seek(chunk)
            self._unpacked = (chunk, self._unpack_chunk(self._file))
        return self._unpacked[1][offset : offset + length]

    def close(self) -> None:
        self._file.close()

    def _scan(self, stream: BinaryIO, size: int, chunk: int) -> None:
        """Note all messages from here on; `chunk` is where the packed chunk begins that is scanned, -1 for the file."""
        while (start := stream.tell()) < size or chunk < 0:
            head = stream.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise _BreakError(f"it ends at byte {size} without a footer")
            opcode, length = _HEAD.unpack(head)
            begin, end = stream.tell(), stream.tell() + length
            if opcode in (_FOOTER, _DATA_END) and chunk < 0:
                return
            if not 0 < opcode <= _LAST_OPCODE and opcode < 0x80:
                raise _BreakError(f"it holds no record at byte {start}")
            if opcode == _CHUNK and chunk < 0 and self._is_plain(stream, size):
                continue  # its records follow one by one like those of the file, up to the break when there is one
            if end > size:
                raise _BreakError(f"it is cut off at byte {size}, within a record")
            try:
                self._take(stream, opcode, length, chunk, begin)
            except (struct.error, UnicodeDecodeError) as error:
                raise _BreakError(f"the record at byte {start} is damaged") from error
            stream.seek(end)

    def _take(self, stream: BinaryIO, opcode: int, length: int, chunk: int, begin: int) -> None:
        if opcode == _MESSAGE:
            number, _, recorded, _ = _MESSAGE_HEAD.unpack(stream.read(_MESSAGE_HEAD.size))
            if number in self.channels:
                place = (chunk, begin + _MESSAGE_HEAD.size, length - _MESSAGE_HEAD.size)
                self.entries.append(Entry(recorded, number, place))
        elif opcode == _SCHEMA:
            (number,) = struct.unpack("<H", stream.read(2))
            self._schemas[number] = _string(stream)
        elif opcode == _CHANNEL:
            number, schema = struct.unpack("<HH", stream.read(4))
            topic, _, extra = _string(stream), _string(stream), BytesIO(_sized(stream))
            pairs = {}
            while extra.tell() < len(extra.getbuffer()):
                key = _string(extra)
                pairs[key] = _string(extra)
            self.channels[number] = Channel(topic, self._schemas.get(schema, ""), pairs.get("offered_qos_profiles", ""))
        elif opcode == _CHUNK and chunk < 0:
            stream.seek(begin)
            content = self._unpack_chunk(stream)
            self._scan(BytesIO(content), len(content), chunk=begin)

    def _is_plain(self, stream: BinaryIO, size: int) -> bool:
        """Whether the chunk that begins here is not compressed; if so, the stream then stands at its first record."""
        begin = stream.tell()
        head = stream.read(_CHUNK_HEAD.size + 8)
        if len(head) < _CHUNK_HEAD.size + 8:
            raise _BreakError(f"it is cut off at byte {size}, within a chunk")
        plain = _CHUNK_HEAD.unpack_from(head)[4] == 0
        if not plain:
            stream.seek(begin)
        return plain

    def _unpack_chunk(self, stream: BinaryIO) -> bytes:
        begin = stream.tell()
        _, _, size, _, name_length = _CHUNK_HEAD.unpack(stream.read(_CHUNK_HEAD.size))
        name = stream.read(name_length).decode()
        (packed,) = struct.unpack("<Q", stream.read(8))
        if name not in _UNPACK:
            raise _BreakError(f"the chunk at byte {begin} is compressed by '{name}', which is not known")
        try:
            content = _UNPACK[name](stream.read(packed))
        except (zstd.ZstdError, RuntimeError, EOFError) as error:
            raise _BreakError(f"the chunk at byte {begin} is damaged ({error})") from error
        if len(content) != size:
            raise _BreakError(f"the chunk at byte {begin} holds {len(content)} bytes instead of {size}")
        return content


def _sized(stream: BinaryIO) -> bytes:
    (length,) = struct.unpack("<I", stream.read(4))
    return stream.read(length)


def _string(stream: BinaryIO) -> str:
    return _sized(stream).decode()
