"""The codec against conversions written out in numpy, on messages of rclpy and of rosbags."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from mtaclip_ros.image_codec import FORMATS, BadImage, decode, fill

sensor_msgs = pytest.importorskip("sensor_msgs.msg", reason="ROS is not installed")
H, W = 12, 16
RANDOM = np.random.default_rng(0)


def image(encoding: str, rows: np.ndarray, size: tuple[int, int] = (H, W), pad: int = 0, big: bool = False) -> Any:
    """A message whose rows of bytes are followed by `pad` bytes each."""
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    raw = np.pad(raw, ((0, 0), (0, pad)), constant_values=99)
    message = sensor_msgs.Image(
        height=size[0], width=size[1], encoding=encoding, step=raw.shape[1], is_bigendian=int(big)
    )
    message.data.frombytes(raw.tobytes())
    return message


def rgb_of(message: Any) -> np.ndarray:
    frame = decode(message)
    assert frame.pixels.dtype == np.uint8
    return frame.pixels if frame.channel_order == "rgb" else frame.pixels[..., ::-1]


def random_pixels(channels: int, bits: int = 8, size: tuple[int, int] = (H, W)) -> np.ndarray:
    return RANDOM.integers(0, 2**bits, (*size, channels), f"u{bits // 8}")


def rows_of(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1)


def yuv_to_rgb(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """BT.601 of limited range, in floating point."""
    y, u, v = 1.164383 * (y.astype(float) - 16), u.astype(float) - 128, v.astype(float) - 128
    rgb = np.stack([y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], axis=-1)
    return np.clip(np.rint(rgb), 0, 255)


@pytest.mark.parametrize("pad", [0, 1, 2, 5, 48])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "8UC3"])
def test_three_channel_colour_is_a_view_of_the_message_whatever_the_step(encoding: str, pad: int) -> None:
    pixels = random_pixels(3)
    message = image(encoding, rows_of(pixels), pad=pad)
    frame = decode(message)
    assert frame.channel_order == ("rgb" if encoding == "rgb8" else "bgr")
    np.testing.assert_array_equal(frame.pixels, pixels)
    assert np.shares_memory(frame.pixels, np.frombuffer(message.data, np.uint8))
    assert not frame.pixels.flags.writeable


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "channels", "pick"),
    [
        ("rgba8", 4, [0, 1, 2]),
        ("bgra8", 4, [2, 1, 0]),
        ("8UC4", 4, [2, 1, 0]),
        ("mono8", 1, [0, 0, 0]),
        ("8UC1", 1, [0, 0, 0]),
    ],
)
def test_other_8_bit_colour_and_grey(encoding: str, channels: int, pick: list[int], pad: int) -> None:
    pixels = random_pixels(channels)
    np.testing.assert_array_equal(rgb_of(image(encoding, rows_of(pixels), pad=pad)), pixels[..., pick])


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 6])
@pytest.mark.parametrize(
    ("encoding", "channels", "pick"),
    [
        ("mono16", 1, [0, 0, 0]),
        ("rgb16", 3, [0, 1, 2]),
        ("bgr16", 3, [2, 1, 0]),
        ("rgba16", 4, [0, 1, 2]),
        ("bgra16", 4, [2, 1, 0]),
    ],
)
def test_16_bit_is_scaled_in_the_byte_order_it_states(
    encoding: str, channels: int, pick: list[int], pad: int, big: bool
) -> None:
    values = random_pixels(channels, 16)
    stored = values.astype(">u2" if big else "<u2")
    expected = np.rint(values / 257).astype(np.uint8)[..., pick]
    np.testing.assert_array_equal(rgb_of(image(encoding, rows_of(stored), pad=pad, big=big)), expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_gives_back_the_colour_that_the_mosaic_was_taken_of(pattern: str, bits: int) -> None:
    colour = {"r": 200, "g": 120, "b": 40}
    tile = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (H // 2, W // 2))
    if bits == 16:
        mosaic = (mosaic.astype("<u2") * 257).astype("<u2")
    decoded = rgb_of(image(f"bayer_{pattern}{bits}", mosaic, pad=2))
    np.testing.assert_array_equal(decoded, np.broadcast_to(np.array([200, 120, 40]), (H, W, 3)))


@pytest.mark.parametrize("pad", [0, 2, 7])
@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
def test_yuv422(encoding: str, order: str, pad: int) -> None:
    y = RANDOM.integers(16, 236, (H, W), np.uint8)
    u, v = RANDOM.integers(60, 200, (2, H, W // 2), np.uint8)
    planes = {"u": u, "v": v}
    luma = iter((y[:, 0::2], y[:, 1::2]))
    packed = np.stack([next(luma) if c == "y" else planes[c] for c in order], axis=-1)
    expected = yuv_to_rgb(y, u.repeat(2, axis=1), v.repeat(2, axis=1))
    decoded = rgb_of(image(encoding, rows_of(packed), pad=pad))
    assert np.abs(decoded - expected).max() <= 2


@pytest.mark.parametrize("pad", [0, 8])
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_yuv420(encoding: str, pad: int) -> None:
    y = RANDOM.integers(16, 236, (H, W), np.uint8)
    u, v = RANDOM.integers(60, 200, (2, H // 2, W // 2), np.uint8)
    chroma = np.stack([u, v] if encoding == "nv12" else [v, u], axis=-1).reshape(H // 2, W)
    expected = yuv_to_rgb(y, *(c.repeat(2, axis=0).repeat(2, axis=1) for c in (u, v)))
    decoded = rgb_of(image(encoding, np.vstack([y, chroma]), pad=pad))
    assert np.abs(decoded - expected).max() <= 2


def test_every_format_decodes_to_the_size_of_the_message() -> None:
    for encoding, form in FORMATS.items():
        if hasattr(form, "channels"):
            rows = np.zeros((H, W * form.channels * form.bits // 8), np.uint8)
        else:
            rows = np.zeros((H * 3 // 2, W), np.uint8)
        assert decode(image(encoding, rows)).pixels.shape == (H, W, 3), encoding


@pytest.mark.parametrize(
    "container", [bytes, bytearray, lambda b: array.array("B", b), lambda b: np.frombuffer(b, np.uint8)]
)
def test_messages_of_rosbags_decode_as_those_of_rclpy(container: Any) -> None:
    pixels = random_pixels(3)
    data = container(pixels.tobytes())
    message = SimpleNamespace(height=H, width=W, encoding="bgr8", is_bigendian=0, step=3 * W, data=data)
    np.testing.assert_array_equal(decode(message).pixels, pixels)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "16UC1"}, "encoding"),
        ({"encoding": "32FC1"}, "encoding"),
        ({"encoding": ""}, "encoding"),
        ({"encoding": "RGB8"}, "encoding"),
        ({"height": 0}, "size"),
        ({"width": 0}, "size"),
        ({"width": W - 1, "encoding": "uyvy"}, "size"),
        ({"height": H - 1, "encoding": "nv12"}, "size"),
        ({"height": 1, "encoding": "bayer_rggb8"}, "size"),
        ({"step": 3 * W - 1}, "step"),
        ({"step": 0}, "step"),
        ({"width": 2**31 - 1}, "step"),
        ({"height": H + 1}, "data_length"),
        ({"height": 2**32 - 1}, "data_length"),
        ({"step": 3 * W + 1}, "data_length"),
        ({"data": array.array("B")}, "data_length"),
        ({"data": array.array("B", bytes(3 * W * H - 1))}, "data_length"),
        ({"data": array.array("B", bytes(3 * W * H + 1))}, "data_length"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason_to_count(change: dict[str, Any], reason: str) -> None:
    message = image("rgb8", rows_of(random_pixels(3)))
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(BadImage) as caught:
        decode(message)
    assert caught.value.reason == reason
    assert str(caught.value)


def compressed(data: bytes, form: str) -> Any:
    message = sensor_msgs.CompressedImage(format=form)
    message.data.frombytes(data)
    return message


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
    for form in ("16UC1; compressedDepth png", "bayer_rggb8; jpeg compressed "):
        with pytest.raises(BadImage) as caught:
            decode(compressed(encoded(".png", random_pixels(1)), form))
        assert caught.value.reason == "encoding"


@pytest.mark.parametrize(("shape", "encoding"), [((H, W), "mono8"), ((H, W, 3), "rgb8")])
def test_filled_message_is_tight_and_decodes_back(shape: tuple[int, ...], encoding: str) -> None:
    pixels = RANDOM.integers(0, 256, shape, np.uint8)
    strided = np.repeat(pixels, 2, axis=1)[:, ::2]
    header = sensor_msgs.Image().header
    header.frame_id = "front"
    message = fill(sensor_msgs.Image(), strided, encoding, header)
    assert (message.height, message.width, message.step) == (H, W, W * (3 if len(shape) == 3 else 1))
    assert message.header == header
    assert bytes(message.data) == pixels.tobytes()
