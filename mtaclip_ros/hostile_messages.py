"""Camera messages that no camera should send, endless and repeatable: for tests and for runs of many hours.

Each is as the wire can carry it, so that it reaches the node and not an assertion of the sender. All are refused by
`image_codec.decode`, each for the reason it states.
"""

from __future__ import annotations

import array
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mtaclip_ros.frame import MAX_PIXELS, Reason
from mtaclip_ros.image_encodings import FORMATS, NO_PICTURE

_U32 = 2**32 - 1


@dataclass(frozen=True)
class Hostile:
    """One message.

    Attributes:
        kind: what was done to it, for a line of a log.
        reason: `BadImage.reason` it is refused with.
        message: rclpy's `sensor_msgs/Image` or `sensor_msgs/CompressedImage`, fresh.
    """

    kind: str
    reason: Reason
    message: Any


_Change = Callable[[random.Random, Any], None]


def hostile_images(seed: int) -> Iterator[Hostile]:
    """Raw images of at most a few hundred bytes, without end; equal seeds give equal messages."""
    from sensor_msgs.msg import Image

    return _endless(seed, _RAW, lambda rng: _small_image(rng, Image()))


def hostile_compressed(seed: int) -> Iterator[Hostile]:
    """The same for `sensor_msgs/CompressedImage`."""
    from sensor_msgs.msg import CompressedImage

    return _endless(seed, _COMPRESSED, lambda rng: CompressedImage(format=rng.choice(("jpeg", "png"))))


def _endless(
    seed: int, kinds: dict[str, tuple[Reason, _Change]], fresh: Callable[[random.Random], Any]
) -> Iterator[Hostile]:
    rng = random.Random(seed)
    choices = [(kind, reason, change) for kind, (reason, change) in kinds.items()]
    stamp = 0
    while True:
        kind, reason, change = rng.choice(choices)
        message = fresh(rng)
        stamp = max(0, stamp + rng.randrange(-3, 6))  # stamps go backwards now and then
        message.header.stamp.sec = stamp
        change(rng, message)
        yield Hostile(kind, reason, message)


def _small_image(rng: random.Random, message: Any) -> Any:
    """An rgb8 image that is in order."""
    message.height, message.width = rng.randrange(2, 7), rng.randrange(2, 9)
    message.encoding = "rgb8"
    message.step = 3 * message.width + rng.choice((0, 0, 5))
    message.data = array.array("B", rng.randbytes(message.step * message.height))
    message.header.frame_id = rng.choice(("front", "", "kamera vorn links \u00fc", "f" * 300))
    return message


def _random_word(rng: random.Random) -> str:
    return "".join(
        chr(rng.choice((rng.randrange(1, 128), rng.randrange(0x80, 0xD000)))) for _ in range(rng.randrange(12))
    )


def _unknown_encoding(rng: random.Random, message: Any) -> None:
    word = rng.choice(("RGB8", " rgb8", "rgb8 ", "yuv", "bayer_rggb12", "jpeg", _random_word(rng), "x" * 2000))
    message.encoding = "?" + word if word in FORMATS else word


def _measurement(rng: random.Random, message: Any) -> None:
    message.encoding = rng.choice(sorted(NO_PICTURE))


def _no_pixels(rng: random.Random, message: Any) -> None:
    message.height, message.width = rng.choice(((0, 0), (0, 4), (4, 0), (0, _U32), (_U32, 0)))
    if rng.random() < 0.5:
        message.step, message.data = 0, array.array("B")


def _huge_size(rng: random.Random, message: Any) -> None:
    # products of 32 and of 64 bits overflow to small numbers here: 65536 x 65536 is 0 in 32 bits
    message.height, message.width = rng.choice(
        ((_U32, _U32), (65536, 65536), (2**31, 2), (2, MAX_PIXELS), (_U32, 1), (1, _U32))
    )
    message.step = rng.choice((0, message.step, 3 * message.width % 2**32, _U32))


def _odd_size(rng: random.Random, message: Any) -> None:
    message.encoding, message.height, message.width = rng.choice(
        (("uyvy", 4, 3), ("yuyv", 4, 5), ("nv12", 3, 4), ("nv21", 4, 3), ("bayer_rggb8", 1, 4), ("bayer_grbg16", 4, 1))
    )


def _short_step(rng: random.Random, message: Any) -> None:
    message.step = rng.randrange(3 * message.width)


def _huge_step(rng: random.Random, message: Any) -> None:
    message.step = rng.choice((_U32, 2**31, 2**30, message.step * 1000))


def _wrong_step(rng: random.Random, message: Any) -> None:
    message.step += rng.randrange(1, 9)


def _no_data(rng: random.Random, message: Any) -> None:
    message.data = array.array("B")


def _short_data(rng: random.Random, message: Any) -> None:
    message.data = message.data[: rng.randrange(1, len(message.data))]


def _long_data(rng: random.Random, message: Any) -> None:
    message.data.frombytes(bytes(rng.randrange(1, 40)))


def _grown_height(rng: random.Random, message: Any) -> None:
    message.height += rng.randrange(1, 1000)


def _wider_pixels(rng: random.Random, message: Any) -> None:
    # as when a driver changes its encoding and forgets the rest
    message.step = 3 * message.width
    message.data = array.array("B", bytes(message.step * message.height))
    message.encoding = rng.choice(("rgba8", "bgra8", "rgb16", "bgra16", "8UC4"))


def _planes_missing(rng: random.Random, message: Any) -> None:
    message.encoding, message.height, message.width = rng.choice(("nv12", "nv21", "nv24")), 4, 6
    message.step, message.data = 6, array.array("B", rng.randbytes(24))


_RAW: dict[str, tuple[Reason, _Change]] = {
    "unknown encoding": ("encoding", _unknown_encoding),
    "measurement, no picture": ("encoding", _measurement),
    "no pixels": ("size", _no_pixels),
    "huge size": ("size", _huge_size),
    "size its encoding cannot have": ("size", _odd_size),
    "step too short": ("step", _short_step),
    "pixels wider than step": ("step", _wider_pixels),
    "huge step": ("data_length", _huge_step),
    "wrong step": ("data_length", _wrong_step),
    "no data": ("data_length", _no_data),
    "data too short": ("data_length", _short_data),
    "data too long": ("data_length", _long_data),
    "taller than its data": ("data_length", _grown_height),
    "luma without chroma": ("data_length", _planes_missing),
}


def _png(width: int, height: int, pixels: bytes, kind: tuple[int, int] = (8, 2)) -> bytes:
    """A PNG file whose header may say what it likes; every checksum is right."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, *kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def _jpeg(width: int, height: int) -> bytes:
    """The head of a JPEG file of that size, no picture behind it, with the end marker."""
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes.fromhex("012200 021101 031101")
    return b"\xff\xd8\xff\xc0" + frame + b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00" + b"\xff\xd9"


def _put(message: Any, data: bytes) -> None:
    message.data = array.array("B", data)


def _small_png(rng: random.Random) -> bytes:
    rows = b"".join(b"\0" + rng.randbytes(12) for _ in range(4))
    return _png(4, 4, rows)


def _no_bytes(rng: random.Random, message: Any) -> None:
    _put(message, b"")


def _no_file(rng: random.Random, message: Any) -> None:
    _put(message, b"x" + rng.randbytes(rng.randrange(200)))


def _other_file(rng: random.Random, message: Any) -> None:
    start = rng.choice((b"RIFF\x10\0\0\0WEBPVP8 ", b"II*\0", b"BM", b"GIF89a", b"\0\0\0\x01\x67", b"P6\n4 4\n255\n"))
    message.format = rng.choice(("jpeg", "webp", "rgb8; tiff compressed bgr8", "h264", ""))
    _put(message, start + rng.randbytes(100))


def _cut_off(rng: random.Random, message: Any) -> None:
    data = _small_png(rng)
    _put(message, data[: rng.randrange(1, len(data) - 8)])


def _damaged(rng: random.Random, message: Any) -> None:
    data = bytearray(_small_png(rng))
    data[37 + rng.randrange(4)] ^= 0xFF  # in IDAT's name: the file ends well and holds no picture
    _put(message, bytes(data))


def _markers_alone(rng: random.Random, message: Any) -> None:
    inside = rng.choice(
        (b"", b"\xff" * 50, b"\xff\xe0\x00\x00", b"\xff\xc0\x00\x03\x08", b"\xff\xe1\xff\xff", b"\0" * 9)
    )
    _put(message, b"\xff\xd8" + inside + b"\xff\xd9")


def _bomb(rng: random.Random, message: Any) -> None:
    width, height = rng.choice(((30000, 30000), (65535, 65535), (20000, 50000)))
    _put(message, rng.choice((_jpeg(width, height), _png(width, height, b""), _png(2**31 - 1, 2**31 - 1, b""))))


def _no_area(rng: random.Random, message: Any) -> None:
    _put(message, rng.choice((_jpeg(0, 4), _jpeg(4, 0), _png(0, 4, b""), _png(4, 0, b""))))


def _depth_file(rng: random.Random, message: Any) -> None:
    message.format = rng.choice(("16UC1; compressedDepth png", "32FC1; compressedDepth", "32FC1; compressedDepth rvl"))
    _put(message, bytes(12) + _small_png(rng))


def _video(rng: random.Random, message: Any) -> None:
    message.format = "theora"
    _put(message, b"OggS" + rng.randbytes(60))


def _raw_mosaic(rng: random.Random, message: Any) -> None:
    message.format = "bayer_rggb8; png compressed "
    _put(message, _small_png(rng))


_COMPRESSED: dict[str, tuple[Reason, _Change]] = {
    "no bytes": ("decode", _no_bytes),
    "no file of a picture": ("decode", _no_file),
    "file of another format": ("decode", _other_file),
    "cut off": ("decode", _cut_off),
    "damaged": ("decode", _damaged),
    "markers without a picture": ("decode", _markers_alone),
    "declares a huge size": ("size", _bomb),
    "declares no area": ("size", _no_area),
    "depth": ("encoding", _depth_file),
    "video": ("encoding", _video),
    "mosaic without its colours": ("encoding", _raw_mosaic),
}
