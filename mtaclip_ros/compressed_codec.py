"""`sensor_msgs/CompressedImage`: JPEG and PNG, whose size is read from the file's head before any memory is taken."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

import cv2
import numpy as np

from mtaclip_ros.frame import BadImage, Frame, check_size, frame_of

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_TAIL = 1024  # cameras append a few bytes behind the end of a picture
_MOST_SEGMENTS = 4096  # before the picture; colour profiles and EXIF need a few hundred at most
_MOST_CHUNKS = 65536
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # JPEG markers without a length
_REFUSED = {"compresseddepth": "depth", "theora": "video"}


def decode_compressed(message: Any) -> Frame:
    """The picture in a `sensor_msgs/CompressedImage`, whatever its `format` claims beside its bytes.

    Alpha is dropped, grey is repeated, 16 bits become 8. EXIF's rotation is not applied: the label must lie on the
    pixels that camera_info speaks of.

    Raises:
        BadImage: a format that holds no colour or grey picture, another file than JPEG or PNG, one that is damaged or
            cut off, or one that is too large.
    """
    told = message.format[:60]
    stored, _, inside = message.format.partition("compressed")
    for name, what in _REFUSED.items():
        if name in message.format.lower():
            raise BadImage("encoding", f"format {told!r} holds {what}; take image_transport's 'compressed' of a camera")
    if "bayer" in stored and not inside.strip():
        raise BadImage("encoding", f"format {told!r} holds a mosaic without its colours; publish it raw")
    return frame_of(read_picture(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR, f"format {told!r}"), "bgr")


def read_picture(data: np.ndarray, flags: int, what: str) -> np.ndarray:
    """Decode the bytes of a whole JPEG or PNG file.

    Args:
        data: (N,) uint8.
        flags: of `cv2.imdecode`; the EXIF rotation is never applied.
        what: names the data in errors.

    Returns:
        (H, W) or (H, W, C), as `flags` ask.

    Raises:
        BadImage: with reason `decode` or `size`.
    """
    start = data[: len(_PNG_START)].tobytes()
    if start == _PNG_START:
        size = _png_size(data.data, what)
    elif start.startswith(_JPEG_START):
        size = _jpeg_size(data.data, what)
    else:
        raise BadImage("decode", f"{len(data)} bytes of {what} are neither JPEG nor PNG")
    check_size(*size)
    try:
        pixels = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise BadImage("decode", f"OpenCV cannot decode {what}: {error.err}") from error
    if pixels is None or pixels.shape[:2] != size:
        raise BadImage("decode", f"{len(data)} bytes of {what} are damaged")
    return pixels


# OpenCV's decoders fill what is missing with grey and print a line for each damaged file, so files are looked at first.


def _png_size(stream: memoryview, what: str) -> tuple[int, int]:
    """(height, width) of a file whose chunks are all there and have the right checksums."""
    at, size = len(_PNG_START), None
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(stream):
            raise BadImage("decode", f"PNG of {what} is cut off after {len(stream)} bytes")
        length, name = struct.unpack_from(">I4s", stream, at)
        body = at + 8
        at = body + length + 4
        if at > len(stream):
            raise BadImage("decode", f"PNG of {what} is cut off after {len(stream)} bytes")
        if zlib.crc32(stream[body - 4 : at - 4]) != struct.unpack_from(">I", stream, at - 4)[0]:
            raise BadImage("decode", f"PNG of {what} is damaged: wrong checksum at byte {body - 8}")
        if size is None:
            if name != b"IHDR" or length != 13:
                break
            width, height = struct.unpack_from(">II", stream, body)
            size = height, width
        if name == b"IEND":
            return size
    raise BadImage("decode", f"PNG of {what} is damaged: no picture among its chunks")


def _jpeg_size(stream: memoryview, what: str) -> tuple[int, int]:
    """(height, width) of the first frame, found as libjpeg finds it, of a file that has an end."""
    if _JPEG_END not in bytes(stream[-_TAIL:]):
        raise BadImage("decode", f"JPEG of {what} is cut off after {len(stream)} bytes")
    at = len(_JPEG_START)
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(stream, at)  # garbage and fill bytes may stand before a marker
        if found is None or found.end() + 8 > len(stream):
            break
        at = found.end()
        marker = stream[at - 1]
        if marker in _ALONE:
            continue
        length, _, height, width = struct.unpack_from(">HBHH", stream, at)
        if marker in _START_OF_FRAME and length >= 8:
            return height, width
        if marker == _JPEG_END[1] or marker in _START_OF_FRAME or length < 2:
            break
        at += length
    raise BadImage("decode", f"JPEG of {what} is damaged: no picture behind its head")
