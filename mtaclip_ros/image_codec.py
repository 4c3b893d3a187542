"""`sensor_msgs/Image` and `CompressedImage` <-> numpy, without ROS.

Messages are only read by attribute, so those of rclpy and those of `rosbags` go through the same code. `step` and
`is_bigendian` are honoured to the byte. Every encoding of ROS that holds a picture is decoded here; what ROS does not
define goes to cv_bridge (`cv_bridge_codec`), and measurements are refused rather than shown to a model of photos.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike

from mtaclip_ros import cv_bridge_codec
from mtaclip_ros.compressed_codec import decode_compressed
from mtaclip_ros.frame import MAX_PIXELS, BadImage, Frame, Reason, Scratch, check_size, frame_of
from mtaclip_ros.image_encodings import FORMATS, NO_PICTURE, Packed, Planar420, Planar444

__all__ = ["FORMATS", "MAX_PIXELS", "NO_PICTURE", "BadImage", "Frame", "Reason", "Scratch", "decode", "fill"]

# BT.601 of limited range, as OpenCV's conversions of the other YUV layouts take it
_YUV_TO_RGB = np.array([[1.164383, 0, 1.596027], [1.164383, -0.391762, -0.812968], [1.164383, 2.017232, 0]])
_YUV_TO_RGB = np.column_stack([_YUV_TO_RGB, -_YUV_TO_RGB @ [16, 128, 128]])


def decode(message: Any, scratch: Scratch | None = None, wait: bool = True) -> Frame:
    """The picture in a `sensor_msgs/Image` or `sensor_msgs/CompressedImage`.

    rgb8 and bgr8 are not copied: the frame is valid as long as the message. Other raw images are valid until the next
    `decode` with the same `scratch`. Compressed ones take fresh memory, OpenCV's decoders have no other way.

    Args:
        message: of rclpy or of `rosbags`.
        scratch: memory to decode into, one for each camera; None takes fresh memory.
        wait: for the trial of cv_bridge, when the first unknown encoding comes; it is refused until then otherwise.

    Raises:
        BadImage: unknown encoding, no or too many pixels, or bytes that do not fit the sizes the message states.
    """
    if not hasattr(message, "encoding"):
        return decode_compressed(message)
    if message.encoding not in FORMATS and message.encoding not in NO_PICTURE:
        return _decode_unknown(message, wait)
    return _decode_raw(message, Scratch() if scratch is None else scratch)


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


def _decode_raw(message: Any, scratch: Scratch) -> Frame:
    encoding, height, width, step = message.encoding, int(message.height), int(message.width), int(message.step)
    if encoding in NO_PICTURE:
        raise BadImage("encoding", f"encoding '{encoding}' holds {NO_PICTURE[encoding]}, not a picture")
    form = FORMATS[encoding]
    check_size(height, width)
    data = np.frombuffer(message.data, np.uint8)
    if isinstance(form, Packed):
        if form.even_width and width % 2:
            raise BadImage("size", f"{encoding} pairs its pixels: width {width} must be even")
        if min(height, width) < form.least:
            raise BadImage("size", f"{encoding} needs at least {form.least}x{form.least} pixels, got {height}x{width}")
        return _decode_packed(form, data, height, width, step, bool(message.is_bigendian), scratch)
    return _decode_planar(form, data, encoding, height, width, step, scratch)


def _decode_packed(
    form: Packed, data: np.ndarray, height: int, width: int, step: int, big: bool, scratch: Scratch
) -> Frame:
    dtype = np.dtype(np.uint8 if form.bits == 8 else ">u2" if big else "<u2")
    _check_layout(len(data), height, width * form.channels * dtype.itemsize, step)
    shape = (height, width, form.channels)
    view = _view(data, shape, step, dtype)
    if form.bits == 16:
        # 65535 / 255 = 257; OpenCV's conversions differ between 8 and 16 bits, so depth goes first
        if not (view.dtype.isnative and view.flags.aligned):
            native = scratch.array("16-bit", shape, np.uint16)
            np.copyto(native, view)
            view = native
        use = "rgb" if form.convert is None else "8-bit"
        view = cv2.convertScaleAbs(view, scratch.array(use, shape), 1 / 257).reshape(shape)
    if form.convert is not None:
        source = view[..., 0] if form.channels == 1 else view
        view = cv2.cvtColor(source, form.convert, scratch.array("rgb", (height, width, 3)))
    return frame_of(view, form.order)


def _decode_planar(
    form: Planar420 | Planar444, data: np.ndarray, encoding: str, height: int, width: int, step: int, scratch: Scratch
) -> Frame:
    rgb = (height, width, 3)
    if isinstance(form, Planar420):
        if height % 2 or width % 2:
            raise BadImage("size", f"{encoding} halves its chroma: height and width must be even, got {height}x{width}")
        _check_layout(len(data), height * 3 // 2, width, step)
        planes = _view(data, (height * 3 // 2, width), step)
        return frame_of(cv2.cvtColor(planes, form.convert, scratch.array("rgb", rgb)), "rgb")
    _check_layout(len(data), height * 3, width, step)
    u, v = scratch.array("u", rgb[:2]), scratch.array("v", rgb[:2])
    cv2.split(_view(data[height * step :], (height, width, 2), 2 * step), [u, v])
    yuv = cv2.merge([_view(data, rgb[:2], step), u, v], scratch.array("yuv", rgb))
    return frame_of(cv2.transform(yuv, _YUV_TO_RGB, scratch.array("rgb", rgb)), "rgb")


def _view(data: np.ndarray, shape: tuple[int, ...], step: int, values: DTypeLike = np.uint8) -> np.ndarray:
    """Rows of pixels within bytes, `step` bytes from row to row."""
    dtype = np.dtype(values)
    inner = dtype.itemsize * (shape[2] if len(shape) == 3 else 1)
    strides = (step, inner, dtype.itemsize)[: len(shape)]
    return np.ndarray(shape, dtype, data, strides=strides)  # type: ignore[call-overload]


def _decode_unknown(message: Any, wait: bool) -> Frame:
    trouble = cv_bridge_codec.trouble(wait)
    if trouble:
        told, known = message.encoding[:40], ", ".join(sorted(FORMATS))
        raise BadImage("encoding", f"encoding {told!r} is not supported ({trouble}); use one of {known}")
    return cv_bridge_codec.decode(message)


def _check_layout(length: int, rows: int, row_bytes: int, step: int) -> None:
    if step < row_bytes:
        raise BadImage("step", f"step {step} is less than a row of {row_bytes} bytes")
    if length != step * rows:
        raise BadImage("data_length", f"{length} bytes of data, but step {step} x {rows} rows are {step * rows}")
