"""JPEG and PNG as cameras and image_transport send them, and as no one should."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest

from mtaclip_ros.image_codec import MAX_PIXELS, BadImage, decode

sensor_msgs = pytest.importorskip("sensor_msgs.msg", reason="ROS is not installed")
H, W = 12, 16
RANDOM = np.random.default_rng(0)


def rgb_of(message: Any) -> np.ndarray:
    frame = decode(message)
    assert frame.pixels.dtype == np.uint8 and not frame.pixels.flags.writeable
    return frame.pixels if frame.channel_order == "rgb" else frame.pixels[..., ::-1]


def random_pixels(channels: int, bits: int = 8, size: tuple[int, int] = (H, W)) -> np.ndarray:
    return RANDOM.integers(0, 2**bits, (*size, channels), f"u{bits // 8}")


def compressed(data: bytes, form: str) -> Any:
    message = sensor_msgs.CompressedImage(format=form)
    message.data.frombytes(data)
    return message


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, rows: bytes, kind: tuple[int, int] = (8, 2), more: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, *kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg_of_size(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its head."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize("form", ["png", "rgb8; png compressed bgr8"])
def test_png_is_lossless(form: str) -> None:
    pixels = random_pixels(3)
    np.testing.assert_array_equal(rgb_of(compressed(encoded(".png", pixels), form)), pixels[..., ::-1])


def test_grey_png_and_jpeg_become_three_channels() -> None:
    grey = np.full((H, W), 77, np.uint8)
    for suffix in (".png", ".jpg"):
        np.testing.assert_array_equal(rgb_of(compressed(encoded(suffix, grey), suffix[1:])), np.full((H, W, 3), 77))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_png_is_scaled_and_alpha_is_dropped(channels: int) -> None:
    pixels = random_pixels(channels, 16)
    expected = pixels[..., [0, 0, 0] if channels == 1 else [2, 1, 0]] / 257
    decoded = rgb_of(compressed(encoded(".png", pixels), "mono16; png compressed "))
    assert np.abs(decoded - expected).max() <= 1


def test_transparent_png_keeps_its_colours() -> None:
    pixels = random_pixels(4)
    decoded = rgb_of(compressed(encoded(".png", pixels), "rgba8; png compressed bgra8"))
    np.testing.assert_array_equal(decoded, pixels[..., 2::-1])


@pytest.mark.parametrize("depth_and_kind", [(1, 0), (8, 4), (8, 3), (2, 3)])
def test_png_with_few_bits_a_palette_or_grey_with_alpha(depth_and_kind: tuple[int, int]) -> None:
    bits = depth_and_kind[0] * {0: 1, 4: 2, 3: 1}[depth_and_kind[1]]
    rows = b"\0" + bytes(-(-W * bits // 8))
    palette = chunk(b"PLTE", bytes((9, 8, 7)) * 4) if depth_and_kind[1] == 3 else b""
    decoded = rgb_of(compressed(png(W, H, rows * H, depth_and_kind, palette), "png"))
    np.testing.assert_array_equal(decoded, np.broadcast_to([9, 8, 7] if palette else 0, (H, W, 3)))


@pytest.mark.parametrize(
    "form", ["jpeg", "", "jpg", "rgb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed bgr8", "\u00fc\n" * 40]
)
def test_the_bytes_count_not_the_spelling_of_the_format(form: str) -> None:
    assert rgb_of(compressed(encoded(".jpg", random_pixels(3)), form)).shape == (H, W, 3)


def test_jpeg_with_trailing_bytes_restarts_comments_and_fill_bytes() -> None:
    pixels = random_pixels(3, size=(48, 64))
    plain = encoded(".jpg", pixels)
    restarts = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    comment = plain[:2] + b"\xff\xfe\x00\x06\xff\xd9\xff\xc0" + plain[2:]  # markers inside do not count
    filled = plain[:2] + b"\xff" * 3000 + plain[2:]
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    for data in (plain + bytes(500), restarts, comment, filled, progressive):
        decoded = rgb_of(compressed(data, "jpeg"))
        assert np.abs(decoded.astype(int) - rgb_of(compressed(plain, "jpeg"))).max() <= 2


def test_jpeg_is_close() -> None:
    pixels = cv2.resize(random_pixels(3, size=(3, 4)), (160, 120), interpolation=cv2.INTER_CUBIC)
    decoded = rgb_of(compressed(encoded(".jpg", pixels), "bgr8; jpeg compressed bgr8"))
    assert np.abs(decoded.astype(int) - pixels[..., ::-1]).mean() < 2


def test_exif_rotation_does_not_turn_the_picture_away_from_its_camera_info() -> None:
    jpeg = encoded(".jpg", random_pixels(3, size=(16, 32)))
    orientation_6 = bytes.fromhex(
        "ffe1002245786966000049492a00080000000100120103000100000006000000 00000000".replace(" ", "")
    )
    turned = jpeg[:2] + orientation_6 + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (32, 16)
    assert decode(compressed(turned, "jpeg")).pixels.shape[:2] == (16, 32)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_compressed_data_is_refused_at_every_length(suffix: str) -> None:
    data = encoded(suffix, random_pixels(3, size=(64, 64)))
    for keep in (0, 1, 4, 20, len(data) // 2, len(data) - 2):
        with pytest.raises(BadImage) as caught:
            decode(compressed(data[:keep], suffix[1:]))
        assert caught.value.reason == "decode"


def test_compressed_data_that_is_damaged_or_no_picture_is_refused() -> None:
    png = encoded(".png", random_pixels(3))
    damaged = png[:20] + bytes(30) + png[50:]
    for data in (b"hello world" * 9, damaged, b"\xff\xd8\xff\xd9"):
        with pytest.raises(BadImage) as caught:
            decode(compressed(data, "png"))
        assert caught.value.reason == "decode"


def test_files_that_declare_a_huge_size_are_refused_by_their_head() -> None:
    jpeg = encoded(".jpg", random_pixels(3))
    side = int(MAX_PIXELS**0.5)
    for width, height in ((65535, 65535), (side + 1, side), (1, 0), (0, 1)):
        for data in (jpeg_of_size(jpeg, width, height), png(width, height, b"")):
            with pytest.raises(BadImage, match=f"{height}x{width}") as caught:
                decode(compressed(data, "jpeg"))
            assert caught.value.reason == "size"


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_file_whose_head_lies_about_the_size_holds_no_whole_picture(suffix: str) -> None:
    data = jpeg_of_size(encoded(".jpg", random_pixels(3)), 500, 8) if suffix == ".jpg" else png(500, 8, b"\0" * 9)
    try:
        pixels = decode(compressed(data, "jpeg")).pixels
    except BadImage as error:
        assert error.reason == "decode"
    else:
        assert pixels.shape == (8, 500, 3)


@pytest.mark.parametrize("byte", range(8, 60))
def test_a_flipped_byte_of_a_png_is_found(byte: int) -> None:
    data = bytearray(encoded(".png", random_pixels(3)))
    data[byte] ^= 0x20
    with pytest.raises(BadImage) as caught:
        decode(compressed(bytes(data), "png"))
    assert caught.value.reason == "decode"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("16UC1; compressedDepth png", "depth"),
        ("32FC1; compressedDepth rvl", "depth"),
        ("theora", "video"),
        ("bayer_rggb8; png compressed ", "mosaic"),
    ],
)
def test_formats_that_hold_no_picture_are_named(form: str, words: str) -> None:
    with pytest.raises(BadImage, match=words) as caught:
        decode(compressed(encoded(".png", random_pixels(1)), form))
    assert caught.value.reason == "encoding" and form in str(caught.value)


def test_other_files_are_named_by_their_format() -> None:
    for data in (b"II*\0" + bytes(99), b"RIFF\x10\0\0\0WEBPVP8 " + bytes(99), b"\0\0\0\x01\x67" + bytes(99)):
        with pytest.raises(BadImage, match="'rgb8; tiff compressed rgb8' are neither JPEG nor PNG") as caught:
            decode(compressed(data, "rgb8; tiff compressed rgb8"))
        assert caught.value.reason == "decode"
