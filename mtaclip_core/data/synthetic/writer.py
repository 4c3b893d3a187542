"""Generated frames as a Cityscapes folder."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
from tqdm import tqdm

from mtaclip_core.cli import UserError
from mtaclip_core.data.image_files import encode_ids
from mtaclip_core.data.synthetic.drive import StreetDrive, check
from mtaclip_core.files import write_bytes

CITY = "street"
FPS = 15.0
_STRIDE = 2.2
"""Seconds between two frames of a drive: about 18 m, so that no two show the same scene."""


def drive_seed(seed: int, drive: int) -> int:
    """The seed of the `drive`-th drive of a set: different for every (seed, drive), the same on every machine."""
    return zlib.crc32(f"{seed}/{drive}".encode())


def write(
    out: Path, frames: int, size: tuple[int, int], seed: int, split: str = "train", drives: int | None = None
) -> list[str]:
    """Write `frames` images and their labels.

    Files: `leftImg8bit/SPLIT/street/street_DDDDDD_FFFFFF_leftImg8bit.png` (RGB) and, under `gtFine`,
    `..._gtFine_labelIds.png` (8 bit, ids 0-33) and `..._gtFine_instanceIds.png` (16 bit, id * 1000 + n for instances),
    with D the drive and F the frame at 15 frames per second.

    Args:
        drives: how many different streets; None for one per 8 frames.

    Returns:
        The names written, without suffix.

    Raises:
        UserError: no frames, more drives than frames, a size that cannot be drawn, or a folder that cannot be written
            or holds another set.
    """
    drives = max(1, frames // 8) if drives is None else drives
    if frames < 1:
        raise UserError(f"--frames {frames}: expected 1 or more")
    if not 1 <= drives <= frames:
        raise UserError(f"--drives {drives}: expected 1 to {frames} (the number of frames)")
    check(size, seed)
    folders = [out / kind / split / CITY for kind in ("leftImg8bit", "gtFine")]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {error.filename}: {error.strerror}; choose another --out") from error
    plan = [(k, round(i * _STRIDE * FPS)) for k in range(drives) for i in range(_share(frames, drives, k))]
    names = [f"{CITY}_{k:06d}_{index:06d}" for k, index in plan]
    foreign = {p.name.removesuffix("_leftImg8bit.png") for p in folders[0].glob("*_leftImg8bit.png")} - set(names)
    if foreign:
        raise UserError(
            f"{folders[0]} already holds {len(foreign)} images of another set; choose another --out or --split"
        )
    drive: StreetDrive | None = None
    for (k, index), name in zip(tqdm(plan, unit="frame", desc="synthetic"), names, strict=True):
        if drive is None or index == 0:
            drive = StreetDrive(size, drive_seed(seed, k), FPS)
        frame = drive.render(index)
        image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        png = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
        write_bytes(folders[1] / f"{name}_gtFine_labelIds.png", encode_ids(frame.label_ids))
        write_bytes(folders[1] / f"{name}_gtFine_instanceIds.png", encode_ids(frame.instance_ids))
        write_bytes(folders[0] / f"{name}_leftImg8bit.png", png)
    return names


def _share(frames: int, drives: int, k: int) -> int:
    return frames * (k + 1) // drives - frames * k // drives
