"""Reading pairs of image and label files, with errors that name the file."""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from mtaclip_core.cli import UserError

NO_ID = -1
"""Entry of a label table for a file value that no class and no ignored region has."""

_PNG = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPE = 25  # where a PNG says what it holds, one byte after the bits of a sample
_INDEXED = b"\3"
_HEAD = 1 << 16  # bytes to look for an image's size in


class MissingLabelsError(UserError):
    """Images of a split have no label.

    Attributes:
        paths: the label files that should be there.
    """

    def __init__(self, paths: Sequence[Path], folder: Path, images: object) -> None:
        """
        Args:
            folder: where the labels should be; the message names the first few from there.
            images: what the images are called in the message.
        """
        self.paths = list(paths)
        names = [path.relative_to(folder).as_posix() for path in self.paths]
        super().__init__(f"{folder}: missing {some(names)}, the labels of images in {images}")


def read_rgb(path: Path) -> np.ndarray:
    """Read a colour image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: the file is missing or is not an image.
    """
    image = _decode(path, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def read_ids(path: Path, table: np.ndarray, space: str) -> np.ndarray:
    """Read a label image and translate its values.

    Args:
        path: single-channel image of ids of up to 8 bits; an indexed PNG counts as its indices, not as its colours.
        table: (256,) int16, id to return for every file value, `NO_ID` for the values that must not occur.
        space: what the file's values should be, for the message.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: the file is missing, is not single-channel 8-bit, or holds a value that `table` does not know.
    """
    values = _decode(path, cv2.IMREAD_UNCHANGED, indices=True)
    if values.ndim != 2 or values.dtype != np.uint8:
        raise UserError(f"{path}: expected a single-channel 8-bit label image of ids, found {_kind(values)}")
    present = np.arange(int(values.max()) + 1)
    if (table[present] == NO_ID).any():
        # The histogram's float32 counts may round, but never to zero.
        present = np.flatnonzero(cv2.calcHist([values], [0], None, [256], [0, 256]))
    unknown = present[table[present] == NO_ID]
    if unknown.size:
        raise UserError(f"{path}: unknown label id {some([str(v) for v in unknown])}; expected {space}")
    return values if (table[present] == present).all() else np.asarray(cv2.LUT(values, table.astype(np.uint8)))


def read_instances(path: Path) -> np.ndarray:
    """Read a single-channel 16-bit image.

    Returns:
        (H, W) uint16.

    Raises:
        UserError: the file is missing or is of another kind.
    """
    values = _decode(path, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2 or values.dtype != np.uint16:
        raise UserError(f"{path}: expected a single-channel 16-bit image of instance ids, found {_kind(values)}")
    return values


def read_pair(image_path: Path, label_path: Path, table: np.ndarray, space: str) -> tuple[np.ndarray, np.ndarray]:
    """`read_rgb` and `read_ids` of one frame.

    Raises:
        UserError: as theirs, or image and label differ in size.
    """
    image, label = read_rgb(image_path), read_ids(label_path, table, space)
    check_pair(image_path, image.shape[:2], label_path, label.shape)
    return image, label


def check_pair(image_path: Path, image_size: tuple[int, ...], label_path: Path, label_size: tuple[int, ...]) -> None:
    """Raise UserError unless an image and its label have one size, (height, width)."""
    if image_size != label_size:
        raise UserError(
            f"{image_path} is {_size(image_size)} but its label {label_path} is {_size(label_size)}: "
            "both must have the same height x width"
        )


def read_colour_ids(path: Path, id_of_colour: Mapping[int, int], space: str) -> np.ndarray:
    """Read a label image that shows each class in a colour; an indexed PNG counts as the colours it shows.

    Args:
        id_of_colour: id of every colour, given as red x 65536 + green x 256 + blue.
        space: what the file's colours should be, for the message.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: the file is missing or no image, or has a colour that is not known.
    """
    image = read_rgb(path).astype(np.int32)
    packed = image[..., 0] << 16 | image[..., 1] << 8 | image[..., 2]
    present, places = np.unique(packed, return_inverse=True)
    unknown = [f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in present.tolist() if c not in id_of_colour]
    if unknown:
        raise UserError(f"{path}: unknown label colour {some(unknown)}; expected {space}")
    return np.array([id_of_colour[c] for c in present.tolist()], np.uint8)[places].reshape(packed.shape)


def encode_ids(ids: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16 -> PNG.

    Every row is stored as its difference to the one above: labels so become smaller than with the encoder's choice of
    filters, in a third of the time, and are read in half of it.
    """
    options = [cv2.IMWRITE_PNG_COMPRESSION, 3]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # older ones give no choice
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return cv2.imencode(".png", ids, options)[1].tobytes()


def header_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of a PNG or JPEG from its first bytes; None where they do not tell.

    A JPEG that says how it is to be turned gives None too: its pixels decide.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    if head[:8] == _PNG and len(head) >= 24:
        return _number(head[20:24]), _number(head[16:20])
    at = 2
    while head[:2] == b"\xff\xd8" and at + 9 <= len(head) and head[at] == 0xFF:
        if head[at + 4 : at + 8] == b"Exif":
            return None
        if 0xC0 <= head[at + 1] <= 0xCF and head[at + 1] not in (0xC4, 0xC8, 0xCC):  # a frame header
            return _number(head[at + 5 : at + 7]), _number(head[at + 7 : at + 9])
        at += 2 + _number(head[at + 2 : at + 4])
    return None


def list_pngs(folder: Path, pattern: str = "*.png") -> list[Path]:
    """The files of a folder that match, sorted by name; hidden files (such as macOS' `._*`) left out.

    Raises:
        UserError: none is there.
    """
    found = sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: no image matches {pattern}")
    return found


def without_image(labels: Iterable[Path], expected: Container[str]) -> list[Path]:
    """The label files, sorted, whose names are not among those that the images ask for; hidden ones left out."""
    return sorted(path for path in labels if path.name not in expected and not path.name.startswith("."))


def some(items: Sequence[str], limit: int = 3) -> str:
    """`a, b, c and 14 more`"""
    shown = ", ".join(items[:limit])
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")


def _decode(path: Path, flags: int, *, indices: bool = False) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    head = data[: _COLOUR_TYPE + 1].tobytes()
    indexed = indices and head[:8] == _PNG and head[_COLOUR_TYPE:] == _INDEXED
    if indexed:
        data = _without_palette(data.tobytes())
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise UserError(f"{path}: not a readable image (empty, cut off, or not PNG or JPEG)")
    if indexed and (depth := int(data[_COLOUR_TYPE - 1])) < 8:  # decoders spread greys of few bits over 0-255
        return np.asarray(image) // (255 // (2**depth - 1))
    return np.asarray(image)


def _without_palette(png: bytes) -> np.ndarray:
    """An indexed PNG as the grey one of its indices: OpenCV gives the colours of a palette, never the indices."""
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(png):
        end = at + 12 + _number(png[at : at + 4])  # length, name, content, checksum
        name, content = png[at + 4 : at + 8], png[at + 8 : end - 4]
        if name == b"IHDR":
            content = content[:9] + b"\0" + content[10:]
            parts.append(png[at : at + 8] + content + zlib.crc32(name + content).to_bytes(4, "big"))
        elif name not in (b"PLTE", b"tRNS"):
            parts.append(png[at:end])
        at = end
    return np.frombuffer(b"".join(parts), np.uint8)


def _kind(image: np.ndarray) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return f"{channels} channel{'s' * (channels > 1)} of {image.dtype}"


def _size(size: tuple[int, ...]) -> str:
    return f"{size[0]}x{size[1]}"


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
