"""Data sets of a few small random images, in the folders and under the file names of the real ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mtaclip_core.labels import CITYSCAPES_LABELS

CAMVID_NAMES = ("0001TP_006690", "0001TP_006720", "0006R0_f00930", "0016E5_00390")
CITIES = {"lindau": ("lindau_000000_000019", "lindau_000001_000019"), "aachen": ("aachen_000000_000019",)}
INSTANCE_IDS = [row.id for row in CITYSCAPES_LABELS if row.has_instances]


def write_camvid(root: Path, split: str, label: np.ndarray, names: tuple[str, ...] = CAMVID_NAMES) -> Path:
    """Frames that all have one label image of file ids (0-10, 11 unlabelled); the image of frame i is all i."""
    for i, name in enumerate(names):
        write_png(root / split / f"{name}.png", np.full((*label.shape, 3), i, np.uint8))
        write_png(root / f"{split}annot" / f"{name}.png", label)
    return root


def write_cityscapes(root: Path, split: str, size: tuple[int, int] = (24, 48), seed: int = 0) -> Path:
    """Blocks of random label ids, some of them instances, with labelIds and instanceIds files."""
    random = np.random.default_rng(seed)
    for city, names in CITIES.items():
        for name in names:
            ids = blocks(random, size)
            folder = root / "gtFine" / split / city
            write_png(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", noise(random, size))
            write_png(folder / f"{name}_gtFine_labelIds.png", ids)
            write_png(folder / f"{name}_gtFine_instanceIds.png", instances_of(random, ids))
    return root


def blocks(
    random: np.random.Generator, size: tuple[int, int], ids: list[int] | None = None, cell: int = 6
) -> np.ndarray:
    """(H, W) uint8: squares of random ids, by default of all 34 Cityscapes ids."""
    rows, columns = -(-size[0] // cell), -(-size[1] // cell)
    coarse = random.choice(ids or [row.id for row in CITYSCAPES_LABELS], (rows, columns))
    return np.kron(coarse, np.ones((cell, cell)))[: size[0], : size[1]].astype(np.uint8)


def instances_of(random: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """(H, W) uint16 instance ids of random rectangles; some regions of these classes stay groups without instances."""
    instances = ids.astype(np.uint16)
    number = np.kron(random.integers(0, 4, (-(-ids.shape[0] // 8), -(-ids.shape[1] // 5))), np.ones((8, 5), np.uint16))
    number = number[: ids.shape[0], : ids.shape[1]].astype(np.uint16)
    single = np.isin(ids, INSTANCE_IDS) & (number > 0)
    instances[single] = instances[single] * 1000 + number[single] - 1
    return instances


def noise(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8."""
    return random.integers(0, 256, (*size, 3), dtype=np.uint8)


def write_png(path: Path, image: np.ndarray) -> Path:
    """Write RGB, ids or 16-bit values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path
