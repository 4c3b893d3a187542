"""Our codec against rosbags-image, an independent one, for every encoding that both know. It ignores `step`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from mtaclip_ros.image_codec import FORMATS, Scratch, decode
from mtaclip_ros.image_encodings import Form, Packed, Planar420

rosbags_image = pytest.importorskip("rosbags.image", reason="rosbags-image is not installed")
H, W = 24, 32
RANDOM = np.random.default_rng(0)
OWN = {"nv24", "8UC1", "8UC4", "16UC1", "16UC4"}
"""What rosbags-image does not know, or not as colour."""


def tight(encoding: str, form: Form, big: int) -> SimpleNamespace:
    row, rows = (W * form.channels * form.bits // 8, H) if isinstance(form, Packed) else (W, H * 3 // 2)
    data = RANDOM.integers(0, 256, row * rows, np.uint8)
    return SimpleNamespace(height=H, width=W, encoding=encoding, is_bigendian=big, step=row, data=data)


def test_it_knows_all_the_others() -> None:
    known = set(rosbags_image.image.ENCODINGMAP)
    assert set(FORMATS) - known == OWN | {"8UC3", "16UC3"}
    assert known <= set(FORMATS)


@pytest.mark.parametrize("encoding", sorted(set(FORMATS) - OWN))
def test_the_same_pixels(encoding: str) -> None:
    form, scratch = FORMATS[encoding], Scratch()
    for big in (False, True) if isinstance(form, Packed) and form.bits == 16 else (False,):
        message = tight(encoding, form, big)
        frame = decode(message, scratch)
        theirs = message
        if isinstance(form, Planar420):  # it takes the height of both planes together
            theirs = SimpleNamespace(**{**vars(message), "height": H * 3 // 2})
        expected: Any = rosbags_image.image_to_cvimage(theirs, frame.channel_order + "8")
        # of 16 bits it cuts off what we round
        tolerance = 1 if isinstance(form, Packed) and form.bits == 16 else 0
        assert expected.shape == frame.pixels.shape
        assert np.abs(frame.pixels.astype(int) - expected).max() <= tolerance, f"{encoding}, big-endian {big}"


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_the_same_compressed_pixels(suffix: str) -> None:
    data = cv2.imencode(suffix, RANDOM.integers(0, 256, (H, W, 3), np.uint8))[1].ravel()
    message = SimpleNamespace(format=f"bgr8; {suffix[1:]} compressed bgr8", data=data)
    np.testing.assert_array_equal(decode(message).pixels, rosbags_image.compressed_image_to_cvimage(message))
