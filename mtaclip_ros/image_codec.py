"""`sensor_msgs/Image` and `CompressedImage` <-> numpy, without cv_bridge and without ROS.

Messages are only read by attribute, so those of rclpy and those of `rosbags` go through the same code. `step` and
`is_bigendian` are honoured to the byte. Encodings are those of `sensor_msgs/image_encodings.hpp` that carry a picture;
depth and other measurement images (16UC1, 32FC1, ...) are refused rather than shown to a model that expects a photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from mtaclip_core.runtime.segmenter import ChannelOrder

Reason = Literal["encoding", "size", "step", "data_length", "decode"]


class BadImage(Exception):  # noqa: N818 - says what the message is; the node goes on
    """A message that holds no usable picture.

    Attributes:
        reason: what is wrong in one word, for counting.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Frame:
    """A picture as the segmenter takes it.

    Attributes:
        pixels: (H, W, 3) uint8; read-only, and for rgb8 and bgr8 a view of the message's own bytes.
        channel_order: order of the last axis.
    """

    pixels: np.ndarray
    channel_order: ChannelOrder


@dataclass(frozen=True)
class _Packed:
    """Pixels that lie one after the other: `channels` values of `bits`, turned to RGB by one OpenCV conversion."""

    channels: int
    bits: int
    convert: int | None
    order: ChannelOrder = "rgb"


@dataclass(frozen=True)
class _Planar:
    """4:2:0 with a full luma plane above an interleaved chroma plane of half its height, both of one step."""

    convert: int


def _formats() -> dict[str, _Packed | _Planar]:
    formats: dict[str, _Packed | _Planar] = {
        "8UC1": _Packed(1, 8, cv2.COLOR_GRAY2RGB),
        "8UC3": _Packed(3, 8, None, "bgr"),  # OpenCV's order, as cv_bridge reads it
        "8UC4": _Packed(4, 8, cv2.COLOR_BGRA2RGB),
        "yuv422": _Packed(2, 8, cv2.COLOR_YUV2RGB_UYVY),
        "uyvy": _Packed(2, 8, cv2.COLOR_YUV2RGB_UYVY),
        "yuv422_yuy2": _Packed(2, 8, cv2.COLOR_YUV2RGB_YUYV),
        "yuyv": _Packed(2, 8, cv2.COLOR_YUV2RGB_YUYV),
        "nv12": _Planar(cv2.COLOR_YUV2RGB_NV12),
        "nv21": _Planar(cv2.COLOR_YUV2RGB_NV21),
    }
    bayer = {
        "rggb": cv2.COLOR_BayerRGGB2RGB,
        "bggr": cv2.COLOR_BayerBGGR2RGB,
        "gbrg": cv2.COLOR_BayerGBRG2RGB,
        "grbg": cv2.COLOR_BayerGRBG2RGB,
    }
    for bits in (8, 16):
        formats[f"rgb{bits}"] = _Packed(3, bits, None)
        formats[f"bgr{bits}"] = _Packed(3, bits, None, "bgr")
        formats[f"rgba{bits}"] = _Packed(4, bits, cv2.COLOR_RGBA2RGB)
        formats[f"bgra{bits}"] = _Packed(4, bits, cv2.COLOR_BGRA2RGB)
        formats[f"mono{bits}"] = _Packed(1, bits, cv2.COLOR_GRAY2RGB)
        for pattern, convert in bayer.items():
            formats[f"bayer_{pattern}{bits}"] = _Packed(1, bits, convert)
    return formats


FORMATS = _formats()
_TAIL = 1024
_ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}


def decode(message: Any) -> Frame:
    """The picture in a `sensor_msgs/Image` or `sensor_msgs/CompressedImage`.

    rgb8 and bgr8 are not copied: the frame is valid as long as the message.

    Raises:
        BadImage: unknown encoding, no pixels, or bytes that do not fit the sizes the message states.
    """
    return _decode_raw(message) if hasattr(message, "encoding") else _decode_compressed(message)


def fill(message: Any, pixels: np.ndarray, encoding: str, header: Any) -> Any:
    """Fill a fresh rclpy `sensor_msgs/Image` with (H, W) or (H, W, C) uint8 pixels, no row padding.

    `frombytes` on the message's own array is the one way that is fast with every rclpy.

    Returns:
        The message.
    """
    pixels = np.ascontiguousarray(pixels)
    message.header = header
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = pixels.strides[0]
    message.data.frombytes(pixels.data)
    return message


def _decode_raw(message: Any) -> Frame:
    encoding, height, width, step = message.encoding, int(message.height), int(message.width), int(message.step)
    form = FORMATS.get(encoding)
    if form is None:
        raise BadImage("encoding", f"encoding '{encoding}' is not supported; use one of {', '.join(sorted(FORMATS))}")
    if height < 1 or width < 1:
        raise BadImage("size", f"image of {height}x{width} has no pixels")
    data = np.frombuffer(message.data, np.uint8)
    if isinstance(form, _Planar):
        return _decode_planar(form, data, encoding, height, width, step)
    if form.convert in (cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUYV) and width % 2:
        raise BadImage("size", f"{encoding} pairs its pixels: width {width} must be even")
    if encoding.startswith("bayer_") and (height < 2 or width < 2):
        raise BadImage("size", f"{encoding} needs at least 2x2 pixels, got {height}x{width}")
    pixel = form.channels * form.bits // 8
    _check_layout(len(data), height, width * pixel, step)
    order = ">" if message.is_bigendian else "<"
    dtype = np.dtype(np.uint8 if form.bits == 8 else f"{order}u2")
    shape, strides = (height, width, form.channels), (step, pixel, dtype.itemsize)
    view = np.ndarray(shape, dtype, data, strides=strides)  # type: ignore[call-overload]
    if form.bits == 16:
        # 65535 / 255 = 257; OpenCV's conversions differ between 8 and 16 bits, so depth goes first
        view = cv2.convertScaleAbs(view.astype(np.uint16), alpha=1 / 257).reshape(shape)
    if form.convert is not None:
        view = cv2.cvtColor(view[..., 0] if form.channels == 1 else view, form.convert)
    view.flags.writeable = False
    return Frame(view, form.order)


def _decode_planar(form: _Planar, data: np.ndarray, encoding: str, height: int, width: int, step: int) -> Frame:
    if height % 2 or width % 2:
        raise BadImage("size", f"{encoding} halves its chroma: height and width must be even, got {height}x{width}")
    _check_layout(len(data), height * 3 // 2, width, step)
    planes = np.ndarray((height * 3 // 2, width), np.uint8, data, strides=(step, 1))  # type: ignore[call-overload]
    pixels = cv2.cvtColor(planes, form.convert)
    pixels.flags.writeable = False
    return Frame(pixels, "rgb")


def _decode_compressed(message: Any) -> Frame:
    data = np.frombuffer(message.data, np.uint8)
    stored, _, inside = message.format.partition("compressed")
    if "compressedDepth" in message.format or ("bayer" in stored and not inside.strip()):
        raise BadImage("encoding", f"format '{message.format}' holds no colour or grey picture")
    head, tail = data[:4].tobytes(), data[-_TAIL:].tobytes()
    ending = next((end for start, end in _ENDINGS.items() if head.startswith(start)), None)
    if ending is None:
        raise BadImage("decode", f"{len(data)} bytes of format '{message.format}' are neither JPEG nor PNG")
    if ending not in tail:
        # the decoders fill what is missing with grey and say nothing
        raise BadImage("decode", f"data of format '{message.format}' is cut off after {len(data)} bytes")
    try:
        # without the EXIF rotation: the label must lie on the pixels that camera_info speaks of
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise BadImage("decode", f"OpenCV cannot decode format '{message.format}': {error.err}") from error
    if pixels is None:
        raise BadImage("decode", f"{len(data)} bytes of format '{message.format}' are damaged")
    pixels.flags.writeable = False
    return Frame(pixels, "bgr")


def _check_layout(length: int, rows: int, row_bytes: int, step: int) -> None:
    if step < row_bytes:
        raise BadImage("step", f"step {step} is less than a row of {row_bytes} bytes")
    if length != step * rows:
        raise BadImage("data_length", f"{length} bytes of data, but step {step} x {rows} rows are {step * rows}")
