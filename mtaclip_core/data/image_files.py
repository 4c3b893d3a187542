"""Reading pairs of image and label files, with errors that name the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mtaclip_core.cli import UserError

NO_ID = -1
"""Entry of a label table for a file value that no class and no ignored region has."""


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
        path: single-channel 8-bit image of ids.
        table: (256,) int16, id to return for every file value, `NO_ID` for the values that must not occur.
        space: what the file's values should be, for the message.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: the file is missing, is not single-channel 8-bit, or holds a value that `table` does not know.
    """
    values = _decode(path, cv2.IMREAD_UNCHANGED)
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
    if image.shape[:2] != label.shape:
        raise UserError(
            f"{image_path} is {_size(image)} but its label {label_path} is {_size(label)}: "
            "both must have the same height x width"
        )
    return image, label


def list_pngs(folder: Path, pattern: str = "*.png") -> list[Path]:
    """The files of a folder that match, sorted by name; hidden files (such as macOS' `._*`) left out.

    Raises:
        UserError: none is there.
    """
    found = sorted(p for p in folder.glob(pattern) if not p.name.startswith("."))
    if not found:
        raise UserError(f"{folder}: no image matches {pattern}")
    return found


def some(items: Sequence[str], limit: int = 3) -> str:
    """`a, b, c and 14 more`"""
    shown = ", ".join(items[:limit])
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise UserError(f"{path}: not a readable image (empty, cut off, or not PNG or JPEG)")
    return np.asarray(image)


def _kind(image: np.ndarray) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return f"{channels} channel{'s' * (channels > 1)} of {image.dtype}"


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"
