"""CamVid in its 11-class rendering: `X/NAME.png` with labels of the same names in `Xannot/`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import Sample, SegmentationDataset
from mtaclip_core.data.image_files import NO_ID, MissingLabelsError, list_pngs, read_ids, read_pair, without_image
from mtaclip_core.labels import CAMVID, UNLABELLED

FILE_UNLABELLED = 11
_EXPECTED = f"CamVid ids 0-10 and {FILE_UNLABELLED} (unlabelled)"

_TABLE = np.full(256, NO_ID, np.int16)
_TABLE[CAMVID.ids] = CAMVID.ids
_TABLE[[FILE_UNLABELLED, UNLABELLED]] = UNLABELLED


class CamVid(SegmentationDataset):
    """A split `X` is a folder `X/` of RGB images that has a folder `Xannot/` of ids 0-10, 11 unlabelled.

    `X-DRIVE` is `X` without the frames of one drive, `X=DRIVE` is only them: training on `train-0001TP` and
    evaluating on `train=0001TP` leaves one drive out. The drives are 0001TP, 0006R0 and 0016E5 (and Seq05VD in the
    original test split).
    """

    space = CAMVID

    def __init__(self, path: str | Path, split: str) -> None:
        """List the frames; nothing is decoded yet.

        Raises:
            UserError: missing folder, a split without images, images without labels, or an unknown drive.
        """
        root = Path(path).expanduser()
        folder, drive, keep = _parse_split(root, split)
        self.image_folder, self.label_folder = root / folder, root / f"{folder}annot"
        images = list_pngs(self.image_folder)
        missing = [path for p in images if not (path := self.label_folder / p.name).is_file()]
        if missing:
            raise MissingLabelsError(missing, self.label_folder, self.image_folder)
        self.names = [p.stem for p in images]
        if drive is not None:
            self.names = self._select(split, drive, keep)

    @staticmethod
    def drive(name: str) -> str:
        """The drive that a frame belongs to: `0016E5_07959` -> `0016E5`."""
        return name.split("_", 1)[0]

    def __getitem__(self, index: int) -> Sample:
        image, label = read_pair(*self.files(index), _TABLE, _EXPECTED)
        return Sample(image, label, self.names[index])

    def label(self, index: int) -> np.ndarray:
        return read_ids(self.files(index)[1], _TABLE, _EXPECTED)

    def labels_without_image(self) -> list[Path]:
        return without_image(self.label_folder.glob("*.png"), {p.name for p in self.image_folder.glob("*.png")})

    def files(self, index: int) -> tuple[Path, Path]:
        file = f"{self.names[index]}.png"
        return self.image_folder / file, self.label_folder / file

    def _select(self, split: str, drive: str, keep: bool) -> list[str]:
        drives = sorted({self.drive(n) for n in self.names})
        if drive not in drives:
            raise UserError(f"split '{split}': no drive '{drive}' in {self.image_folder}; it has {', '.join(drives)}")
        names = [n for n in self.names if (self.drive(n) == drive) == keep]
        if not names:
            raise UserError(f"split '{split}': {self.image_folder} has no other drive than {drive}")
        return names


def _parse_split(root: Path, split: str) -> tuple[str, str | None, bool]:
    """(folder, drive or None, whether the drive is kept rather than left out), the folders checked."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected the CamVid folder that holds train/ and trainannot/")
    if (root / f"{split}annot").is_dir():  # a folder may have a dash in its own name
        folder, drive, keep = split, None, True
    else:
        match = re.fullmatch(r"(.+)([-=])([^-=]+)", split)
        folder, drive, keep = (match[1], match[3], match[2] == "=") if match else (split, None, True)
    if split and (root / folder).is_dir() and (root / f"{folder}annot").is_dir():
        return folder, drive, keep
    splits = sorted(p.name.removesuffix("annot") for p in root.glob("?*annot") if p.is_dir())
    have = f"it has {', '.join(splits)}" if splits else "it has no X/ with Xannot/ at all"
    raise UserError(f"{root}: split '{split}' needs the folders {folder}/ and {folder}annot/; {have}")
