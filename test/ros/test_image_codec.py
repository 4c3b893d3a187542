"""Raw images against conversions written out in numpy, on messages of rclpy and of rosbags."""

from __future__ import annotations

import array
import os
import re
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtaclip_ros.image_codec import FORMATS, MAX_PIXELS, NO_PICTURE, BadImage, Scratch, decode, fill
from mtaclip_ros.image_encodings import Form, Packed, Planar420, Planar444

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


def rgb_of(message: Any, scratch: Scratch | None = None) -> np.ndarray:
    frame = decode(message, scratch)
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
        ("16UC1", 1, [0, 0, 0]),
        ("16UC3", 3, [2, 1, 0]),
        ("16UC4", 4, [2, 1, 0]),
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


def test_every_16_bit_value_is_rounded_to_the_nearest() -> None:
    values = np.arange(65536, dtype="<u2").reshape(256, 256)
    expected = np.rint(values / 257)
    for message in (image("mono16", values, (256, 256)), image("mono16", values.astype(">u2"), (256, 256), big=True)):
        np.testing.assert_array_equal(rgb_of(message)[..., 1], expected)


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


@pytest.mark.parametrize("pad", [0, 8])
def test_yuv444_has_chroma_rows_of_two_steps(pad: int) -> None:
    y = RANDOM.integers(16, 236, (H - 1, W - 1), np.uint8)
    u, v = RANDOM.integers(60, 200, (2, H - 1, W - 1), np.uint8)
    luma = np.pad(y, ((0, 0), (0, pad)))
    chroma = np.pad(np.stack([u, v], axis=-1).reshape(H - 1, -1), ((0, 0), (0, 2 * pad)))
    message = sensor_msgs.Image(height=H - 1, width=W - 1, encoding="nv24", step=luma.shape[1])
    message.data.frombytes(luma.tobytes() + chroma.tobytes())
    assert np.abs(rgb_of(message) - yuv_to_rgb(y, u, v)).max() <= 2


def plane_of(form: Form, height: int = H, width: int = W) -> np.ndarray:
    """Random rows of the shape that an encoding wants."""
    if isinstance(form, Packed):
        return RANDOM.integers(0, 256, (height, width * form.channels * form.bits // 8), np.uint8)
    return RANDOM.integers(0, 256, (height * 3 // 2 if isinstance(form, Planar420) else height * 3, width), np.uint8)


def test_every_encoding_that_ros_defines_is_decoded_or_refused_as_no_picture() -> None:
    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    headers = [Path(prefix) / "include/sensor_msgs/sensor_msgs/image_encodings.hpp" for prefix in prefixes]
    header = next((path for path in headers if path.is_file()), None)
    if header is None:
        pytest.skip("sensor_msgs is installed without its C++ headers")
    defined = set(re.findall(r"const char [A-Z0-9_]+\[\] *= *\"(.*?)\";", header.read_text()))
    assert {"rgb8", "64FC4", "bayer_grbg16", "nv24"} <= defined
    assert defined <= set(FORMATS) | set(NO_PICTURE)
    assert not set(FORMATS) & set(NO_PICTURE)
    for encoding in NO_PICTURE:
        with pytest.raises(BadImage, match="not a picture") as caught:
            decode(image(encoding, np.zeros((H, W * 16), np.uint8)))
        assert caught.value.reason == "encoding"


def test_what_does_not_fit_a_reused_buffer_of_another_frame_never_shows() -> None:
    scratch = Scratch()
    sizes = [(H, W), (2, 2), (H, W), (40, 64), (H, W)]
    for _ in range(2):
        for encoding, form in FORMATS.items():
            for height, width in sizes:
                message = image(encoding, plane_of(form, height, width), (height, width))
                np.testing.assert_array_equal(rgb_of(message, scratch), rgb_of(message), encoding)


@pytest.mark.parametrize("pad", [0, 3])
def test_frames_of_one_camera_are_decoded_into_the_same_memory(pad: int) -> None:
    size = (240, 320)
    for encoding, form in FORMATS.items():
        pad_of_it = 0 if isinstance(form, Planar444) else pad
        messages = [image(encoding, plane_of(form, *size), size, pad_of_it, big=True) for _ in range(4)]
        scratch = Scratch()
        decode(messages[0], scratch)
        tracemalloc.start()
        for message in messages:
            frame = decode(message, scratch)
            assert not frame.pixels.flags.writeable
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20_000, f"{encoding}: a frame of {240 * 320 * 3} bytes took {peak} more"


def test_one_large_frame_is_not_paid_for_for_ever() -> None:
    scratch, large, small = Scratch(), (1024, 1024), (64, 64)
    tracemalloc.start()
    decode(image("mono8", np.zeros(large, np.uint8), large), scratch)
    decode(image("mono8", np.zeros(small, np.uint8), small), scratch)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 3 * 2**20 > 100_000 > held


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
        ({"encoding": "16SC1"}, "encoding"),
        ({"encoding": "8UC2"}, "encoding"),
        ({"encoding": "x\ny" * 1000}, "encoding"),
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
        ({"width": 2**32 - 1}, "size"),
        ({"height": 2**32 - 1}, "size"),
        ({"height": 2**16, "width": 2**16}, "size"),
        ({"height": 1, "width": MAX_PIXELS + 1}, "size"),
        ({"height": 1, "width": MAX_PIXELS}, "step"),
        ({"height": MAX_PIXELS // W}, "data_length"),
        ({"height": H + 1}, "data_length"),
        ({"step": 2**32 - 1}, "data_length"),
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
    assert 10 < len(str(caught.value)) < 600 and "\n" not in str(caught.value)


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
