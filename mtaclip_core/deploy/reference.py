"""The stored answers of a bundle, `reference/`: generated images with the label, confidence and class maps of each."""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from mtaclip_core.bundle import Bundle
from mtaclip_core.cli import UserError

IMAGES = 4
CLASS_MAPS = "reference/class_maps.npz"
STORED_MAP_BYTES = 128 * 1024
"""About what the class maps may take in a bundle, however many classes and pixels there are."""

_KINDS = ("image", "label", "confidence")
_MAX_PIXELS = 4096 * 4096
_MAX_MAP_BYTES = 256 * 1024**2
# What zipfile and NumPy raise at files that are damaged or made to harm.
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError, KeyError, ValueError, TypeError, EOFError),
    *(OverflowError, OSError, RuntimeError),
)


@dataclass(frozen=True)
class Reference:
    """Images and the answers of the trained model in float32.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        label, confidence: (N, H, W) uint8.
        class_maps: (N, C, h, w) float16, before they are resized to H x W; every `map_step`-th pixel, see `on_grid`.
        map_step: 1: every pixel.
    """

    images: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    class_maps: np.ndarray
    map_step: int = 1


def on_grid(maps: np.ndarray, step: int) -> np.ndarray:
    """Every `step`-th pixel of the last two axes (..., h, w), the first one half a step from the border."""
    height, width = maps.shape[-2:]
    return maps[..., min(step // 2, height // 2) :: step, min(step // 2, width // 2) :: step]


def grid_step(shape: tuple[int, ...]) -> int:
    """The smallest odd step with which float16 maps of this shape (N, C, h, w) fit into `STORED_MAP_BYTES`.

    Odd, so that the grid meets even and odd rows and columns: a fault that spares every second pixel is seen. Label
    and confidence are stored for every pixel in any case.
    """
    whole = np.broadcast_to(np.float16(0), shape)  # takes no memory
    steps = range(1, max(shape) + 2, 2)
    return next((step for step in steps if 2 * on_grid(whole, step).size <= STORED_MAP_BYTES), steps[-1])


def reference_files(reference: Reference) -> dict[str, bytes]:
    """The files of `reference/` by their path inside a bundle: PNGs that a person can look at, and the class maps."""
    files = {}
    for i in range(len(reference.images)):
        files[f"reference/{i}_image.png"] = _png(cv2.cvtColor(reference.images[i], cv2.COLOR_RGB2BGR))
        files[f"reference/{i}_label.png"] = _png(reference.label[i])
        files[f"reference/{i}_confidence.png"] = _png(reference.confidence[i])
    step = grid_step(reference.class_maps.shape) if reference.map_step == 1 else 1
    maps = on_grid(reference.class_maps, step).astype(np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, class_maps=maps, step=np.array(step * reference.map_step, np.int64))
    files[CLASS_MAPS] = buffer.getvalue()
    return files


def load_reference(bundle: Bundle) -> Reference:
    """Read `reference/` of a bundle.

    Raises:
        UserError: the bundle has none, or it is not readable.
    """
    needed = [CLASS_MAPS, *(f"reference/{i}_{kind}.png" for i in range(IMAGES) for kind in _KINDS)]
    missing = [name for name in needed if name not in bundle.metadata["files"]]
    if missing:
        raise UserError(
            f"bundle '{bundle.path}' has no {missing[0]}, which its answers are held against; export it again"
        )
    images = [cv2.cvtColor(_read_png(bundle, f"reference/{i}_image.png", 3), cv2.COLOR_BGR2RGB) for i in range(IMAGES)]
    label, confidence = (
        [_read_png(bundle, f"reference/{i}_{kind}.png", 1) for i in range(IMAGES)] for kind in _KINDS[1:]
    )
    if len({array.shape[:2] for array in (*images, *label, *confidence)}) != 1:
        raise UserError(f"the reference images and labels of bundle '{bundle.path}' differ in size; export it again")
    maps, step = _read_maps(bundle)
    return Reference(np.stack(images), np.stack(label), np.stack(confidence), maps, step)


def _png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _read_png(bundle: Bundle, name: str, channels: int) -> np.ndarray:
    raw = bundle.read(name)
    width, height = struct.unpack(">II", raw[16:24]) if raw[:8] == b"\x89PNG\r\n\x1a\n" and len(raw) > 24 else (0, 0)
    if not 0 < width * height <= _MAX_PIXELS:
        raise UserError(f"'{bundle.path / name}' is not a PNG of at most {_MAX_PIXELS} pixels; export the bundle again")
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise UserError(f"'{bundle.path / name}' is not a readable PNG; export the bundle again")
    return image


def _read_maps(bundle: Bundle) -> tuple[np.ndarray, int]:
    """Class maps and step; bundles from before the grid hold every pixel and name no step."""
    path, stream = bundle.path / CLASS_MAPS, io.BytesIO(bundle.read(CLASS_MAPS))
    try:
        with zipfile.ZipFile(stream) as archive:
            for member in archive.infolist():
                _check_declared(archive, member)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            maps, step = arrays["class_maps"], int(arrays["step"]) if "step" in arrays else 1
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"'{path}' does not hold class maps ({reason}); export the bundle again") from error
    if maps.ndim != 4 or len(maps) != IMAGES or maps.dtype != np.float16 or not 1 <= step <= 8192:
        raise UserError(
            f"'{path}' does not hold class maps ({maps.dtype} {maps.shape}, step {step}; expected float16 "
            f"({IMAGES}, classes, height, width)); export the bundle again"
        )
    return maps, step


def _check_declared(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """An array's own header decides what NumPy allocates: it must fit the bytes that are there, and those a bound."""
    if member.file_size > _MAX_MAP_BYTES or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} takes {member.file_size} bytes, or is packed in an unusual way")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        size = dtype.itemsize
        for side in shape:  # plain integers, which do not overflow
            size *= side
        if min((*shape, 0)) < 0 or stream.tell() + size != member.file_size:
            raise ValueError(f"{member.filename} says {dtype} {shape}, which is not what it holds")
