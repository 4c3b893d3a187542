"""Every encoding of ROS 2's `sensor_msgs/image_encodings.hpp`: how its bytes become a picture, or why they are none."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from mtaclip_core.runtime.segmenter import ChannelOrder


@dataclass(frozen=True)
class Packed:
    """Pixels one after the other.

    Attributes:
        channels, bits: values of a pixel and bits of a value, 8 or 16.
        convert: OpenCV's conversion to `order`, None where the channels already are.
        even_width: two pixels share their colour.
        least: smallest height and width.
    """

    channels: int
    bits: int
    convert: int | None
    order: ChannelOrder = "rgb"
    even_width: bool = False
    least: int = 1


@dataclass(frozen=True)
class Planar420:
    """A luma plane above an interleaved chroma plane of half its height, both of one step; height and width even."""

    convert: int


@dataclass(frozen=True)
class Planar444:
    """A luma plane, then interleaved chroma of the full size whose rows are two steps long."""


Form = Packed | Planar420 | Planar444


def _forms() -> dict[str, Form]:
    uyvy = Packed(2, 8, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
    yuyv = Packed(2, 8, cv2.COLOR_YUV2RGB_YUYV, even_width=True)
    forms: dict[str, Form] = {
        "yuv422": uyvy,
        "uyvy": uyvy,
        "yuv422_yuy2": yuyv,
        "yuyv": yuyv,
        "nv12": Planar420(cv2.COLOR_YUV2RGB_NV12),
        "nv21": Planar420(cv2.COLOR_YUV2RGB_NV21),
        "nv24": Planar444(),
    }
    bayer = {
        "rggb": cv2.COLOR_BayerRGGB2RGB,
        "bggr": cv2.COLOR_BayerBGGR2RGB,
        "gbrg": cv2.COLOR_BayerGBRG2RGB,
        "grbg": cv2.COLOR_BayerGRBG2RGB,
    }
    for bits in (8, 16):
        forms[f"rgb{bits}"] = Packed(3, bits, None)
        # OpenCV's types are in OpenCV's order, as cv_bridge reads them
        forms[f"bgr{bits}"] = forms[f"{bits}UC3"] = Packed(3, bits, None, "bgr")
        forms[f"rgba{bits}"] = Packed(4, bits, cv2.COLOR_RGBA2RGB)
        forms[f"bgra{bits}"] = forms[f"{bits}UC4"] = Packed(4, bits, cv2.COLOR_BGRA2RGB)
        forms[f"mono{bits}"] = forms[f"{bits}UC1"] = Packed(1, bits, cv2.COLOR_GRAY2RGB)
        for pattern, convert in bayer.items():
            forms[f"bayer_{pattern}{bits}"] = Packed(1, bits, convert, least=2)
    return forms


def _no_picture() -> dict[str, str]:
    why = {f"{bits}UC2": "two values a pixel" for bits in (8, 16)}
    for kind, what in (
        ("8S", "signed"),
        ("16S", "signed"),
        ("32S", "signed"),
        ("32F", "floating"),
        ("64F", "floating"),
    ):
        why |= {f"{kind}C{channels}": f"{what} values" for channels in (1, 2, 3, 4)}
    return why


FORMATS = _forms()
"""encoding -> how it is decoded."""

NO_PICTURE = _no_picture()
"""encoding -> what it holds instead of a picture: depth, disparity, flow, masks, and the like."""
