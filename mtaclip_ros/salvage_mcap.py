"""An mcap file read record by record from its beginning, as far as it goes: no footer, no index is needed."""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import lz4.frame

from mtaclip_ros.bag_source import Channel, DamagedError, Entry

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x03, 0x04, 0x05, 0x06
_END = (0x0F, 4)  # of the messages: what it is, bytes that follow; then the summary, which repeats the channels
_FOOTER = (0x02, 20)
_LAST_OPCODE, _PRIVATE = 0x0F, 0x80
_HEAD = struct.Struct("<BQ")  # of every record: what it is, bytes that follow
_MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_CHUNK_HEAD = struct.Struct("<QQQII")  # first and last time, size when unpacked, checksum, bytes of the next string
_LONGEST_TIME = 2**63  # ns; rosbag2 counts in 63 bits
_LONGEST_NAME = 64  # bytes of the name of a compression
_LARGEST_CHANNEL = 2**24  # bytes of the description of a channel or schema
_LARGEST_CHUNK = 2**31  # bytes when unpacked
_BLOCK = 2**20


class _BreakError(Exception):
    """The records end here; the text says how."""


@dataclass(frozen=True)
class _Chunk:
    """Where a chunk's records are: `begin` and `packed` bytes in the file, `size` bytes when unpacked.

    The times of its messages lie within `first` and `last`; `crc` is that of the unpacked bytes, 0 for none.
    """

    begin: int
    packed: int
    size: int
    crc: int
    compression: str
    first: int
    last: int


class McapFile:
    """The messages of one mcap file up to where its records end; see https://mcap.dev/spec for the records, and
    `Finds` for the attributes. A damaged chunk costs what is in it from the damage on, not what follows it.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.channels: dict[int, Channel] = {}
        self.entries: list[Entry] = []
        self._schemas: dict[int, str] = {}
        self._chunks: list[_Chunk] = []
        self._sound: dict[int, bool] = {}  # by chunk: whether its checksum holds
        self._unpacked: tuple[int, bytes] = (-1, b"")
        self._end = ""
        self._complete = False  # messages are read
        self._damages: list[str] = []
        self._strays = 0
        self._size = path.stat().st_size
        self._file = path.open("rb")
        try:
            if self._file.read(len(_MAGIC)) != _MAGIC:
                raise _BreakError("it does not begin as an mcap file")
            self._scan_file()
        except _BreakError as error:
            self._end = str(error) if not self._complete else ""
        except OSError as error:  # of the disk
            self._end = f"it cannot be read on ({error.strerror})"
        found = len(self.entries)
        self.entries = [entry for entry in self.entries if entry.channel in self.channels]
        self._strays += found - len(self.entries)

    @property
    def broken(self) -> str | None:
        said = [self._end] if self._end else []
        if self._damages:
            said.append(f"{len(self._damages)} damaged in it, first {self._damages[0]}")
        if self._strays:
            said.append(f"{self._strays} messages without a topic or out of their time")
        return "; ".join(said) or None

    def read(self, entry: Entry) -> bytes:
        number, offset, length = entry.place
        if number >= 0 and self._chunks[number].compression:
            if self._unpacked[0] != number:
                self._unpacked = (number, self._unpack(self._chunks[number]))
            return self._unpacked[1][offset : offset + length]
        if number >= 0 and not self._holds(number):
            raise DamagedError("the checksum of its chunk does not hold")
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) < length:
            raise DamagedError("the file is shorter than it was")
        return data

    def close(self) -> None:
        self._file.close()

    def _scan_file(self) -> None:
        while True:
            start = self._file.tell()
            head = self._file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise _BreakError(f"it ends at byte {self._size} without a footer")
            opcode, length = _HEAD.unpack(head)
            if (opcode, length) == _FOOTER:
                return
            self._complete = self._complete or (opcode, length) == _END
            _check_opcode(opcode, start)
            if opcode == _CHUNK:
                self._scan_chunk(start, length)
            elif start + _HEAD.size + length > self._size:
                raise _BreakError(f"it is cut off at byte {self._size}, within a record")
            else:
                self._take(self._file, opcode, length, -1)
            self._file.seek(start + _HEAD.size + length)

    def _scan_chunk(self, start: int, length: int) -> None:
        """Note the messages of a chunk; of one that is cut off, those before the cut, unless it is compressed."""
        end = start + _HEAD.size + length
        chunk = self._chunk(start)
        self._chunks.append(chunk)
        last = min(chunk.begin + chunk.packed, end, self._size)
        try:
            if chunk.compression and end <= self._size:
                content = self._unpack(chunk)
                self._scan_records(BytesIO(content), len(content), len(self._chunks) - 1)
            elif not chunk.compression:
                self._scan_records(self._file, last, len(self._chunks) - 1)
        except (_BreakError, DamagedError) as error:
            if end <= self._size:
                self._damages.append(f"the chunk at byte {start} ({error})")
        if end > self._size:
            raise _BreakError(f"it is cut off at byte {self._size}, within a chunk")
        if chunk.begin + chunk.packed != end:
            raise _BreakError(f"the chunk at byte {start} has two lengths")

    def _chunk(self, start: int) -> _Chunk:
        head = self._file.read(_CHUNK_HEAD.size)
        if len(head) == _CHUNK_HEAD.size:
            first, last, size, crc, name_length = _CHUNK_HEAD.unpack(head)
            if name_length > _LONGEST_NAME:
                raise _BreakError(f"the head of the chunk at byte {start} is damaged")
            compression = self._file.read(name_length).decode(errors="replace")
            packed = self._file.read(8)
            if len(packed) == 8:
                length = int.from_bytes(packed, "little")
                return _Chunk(self._file.tell(), length, size, crc, compression, first, last)
        raise _BreakError(f"it is cut off at byte {self._size}, within a chunk")

    def _scan_records(self, stream: BinaryIO, end: int, chunk: int) -> None:
        while (start := stream.tell()) < end:
            head = stream.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise _BreakError("its last record has no length")
            opcode, length = _HEAD.unpack(head)
            _check_opcode(opcode, start)
            if start + _HEAD.size + length > end:
                raise _BreakError(f"its record at byte {start} is longer than the chunk")
            self._take(stream, opcode, length, chunk)
            stream.seek(start + _HEAD.size + length)

    def _take(self, stream: BinaryIO, opcode: int, length: int, chunk: int) -> None:
        """Note a message, a channel or a schema; the stream stands behind the record's head."""
        begin = stream.tell()
        try:
            if opcode == _MESSAGE:
                number, _, recorded, _ = _MESSAGE_HEAD.unpack(stream.read(min(length, _MESSAGE_HEAD.size)))
                if self._in_time(recorded, chunk):
                    place = (chunk, begin + _MESSAGE_HEAD.size, length - _MESSAGE_HEAD.size)
                    self.entries.append(Entry(recorded, number, place))
                else:
                    self._strays += 1
            elif opcode in (_SCHEMA, _CHANNEL):
                if length > _LARGEST_CHANNEL:
                    raise DamagedError(f"{length} bytes for a topic")
                self._describe(opcode, BytesIO(stream.read(length)))
        except (struct.error, UnicodeDecodeError, DamagedError) as error:
            self._damages.append(f"the record at byte {begin} ({error})")

    def _in_time(self, recorded: int, chunk: int) -> bool:
        if chunk < 0:
            return recorded < _LONGEST_TIME
        return self._chunks[chunk].first <= recorded <= min(self._chunks[chunk].last, _LONGEST_TIME - 1)

    def _describe(self, opcode: int, record: BytesIO) -> None:
        (number,) = struct.unpack("<H", record.read(2))
        if opcode == _SCHEMA:
            self._schemas[number] = _string(record)
            return
        (schema,) = struct.unpack("<H", record.read(2))
        topic, _, extra = _string(record), _string(record), BytesIO(_sized(record))
        pairs = {}
        while extra.tell() < len(extra.getbuffer()):
            key = _string(extra)
            pairs[key] = _string(extra)
        channel = Channel(topic, self._schemas.get(schema, ""), pairs.get("offered_qos_profiles", ""))
        if self.channels.setdefault(number, channel) != channel:
            raise DamagedError(f"channel {number} is described in two ways")

    def _unpack(self, chunk: _Chunk) -> bytes:
        """The records of a compressed chunk. Raises DamagedError."""
        if chunk.size > _LARGEST_CHUNK:
            raise DamagedError(f"it says that it holds {chunk.size} bytes")
        self._file.seek(chunk.begin)
        packed = self._file.read(min(chunk.packed, self._size - chunk.begin))
        try:
            if chunk.compression == "zstd":
                content = zstd.ZstdDecompressor().decompress(packed, max_length=chunk.size)
            elif chunk.compression == "lz4":
                content = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=chunk.size)
            else:
                raise DamagedError(f"it is compressed by '{chunk.compression}', which is not known")
        except (zstd.ZstdError, RuntimeError, EOFError) as error:
            raise DamagedError(str(error)) from error
        if len(content) != chunk.size:
            raise DamagedError(f"it holds {len(content)} bytes instead of {chunk.size}")
        if chunk.crc and zlib.crc32(content) != chunk.crc:
            raise DamagedError("its checksum does not hold")
        return content

    def _holds(self, number: int) -> bool:
        """Whether the checksum of a chunk that is not compressed holds; True where it has none, or was cut off."""
        if number not in self._sound:
            chunk, crc = self._chunks[number], 0
            if chunk.crc and chunk.begin + chunk.packed <= self._size:
                self._file.seek(chunk.begin)
                for done in range(0, chunk.packed, _BLOCK):
                    crc = zlib.crc32(self._file.read(min(_BLOCK, chunk.packed - done)), crc)
            else:
                crc = chunk.crc
            self._sound[number] = crc == chunk.crc
        return self._sound[number]


def _check_opcode(opcode: int, start: int) -> None:
    if not 0 < opcode <= _LAST_OPCODE and opcode < _PRIVATE:
        raise _BreakError(f"it holds no record at byte {start}")


def _sized(stream: BytesIO) -> bytes:
    (length,) = struct.unpack("<I", stream.read(4))
    data = stream.read(length)
    if len(data) < length:
        raise struct.error(f"{length} bytes wanted, {len(data)} are there")
    return data


def _string(stream: BytesIO) -> str:
    return _sized(stream).decode()
