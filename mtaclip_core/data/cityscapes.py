"""Cityscapes in its own layout, which the generated street (`synthetic`) is written in too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import Sample, SegmentationDataset
from mtaclip_core.data.image_files import (
    NO_ID,
    MissingLabelsError,
    list_pngs,
    read_ids,
    read_instances,
    read_pair,
    some,
    without_image,
)
from mtaclip_core.labels import CITYSCAPES, CITYSCAPES_IDS, LABEL_ID_TO_TRAIN_ID, UNLABELLED

_IMAGE = "_leftImg8bit.png"
_LABEL = "_gtFine_labelIds.png"
_INSTANCES = "_gtFine_instanceIds.png"
_EXPECTED = "Cityscapes label ids 0-33 (not train ids)"

_LABEL_IDS = np.full(256, NO_ID, np.int16)
_LABEL_IDS[CITYSCAPES_IDS.ids] = CITYSCAPES_IDS.ids
_LABEL_IDS[UNLABELLED] = 0  # 255 is how a license plate (-1) looks in 8 bits; it counts as `unlabeled`
_TRAIN_IDS = _LABEL_IDS.copy()
_TRAIN_IDS[_LABEL_IDS != NO_ID] = LABEL_ID_TO_TRAIN_ID[_LABEL_IDS[_LABEL_IDS != NO_ID]]


class Cityscapes(SegmentationDataset):
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` with `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.

    Labels are the 19 train ids, 255 where a pixel is not evaluated. Names are `CITY_SEQUENCE_FRAME`.
    """

    space = CITYSCAPES

    def __init__(self, path: str | Path, split: str) -> None:
        """List the frames; nothing is decoded yet.

        Raises:
            UserError: missing folder, a split without images, or images without labels.
        """
        self.root = Path(path).expanduser()
        image_folder, label_folder = self.root / "leftImg8bit" / split, self.root / "gtFine" / split
        self._label_folder = label_folder
        for folder in (self.root, image_folder, label_folder):
            if not split or not folder.is_dir():
                raise UserError(
                    f"{folder}: no such folder; split '{split}' needs leftImg8bit/SPLIT/CITY/ and gtFine/SPLIT/CITY/ "
                    f"under {self.root}{_splits(self.root)}"
                )
        self._images = list_pngs(image_folder, f"*/*{_IMAGE}")
        self._bases = [label_folder / p.parent.name / p.name.removesuffix(_IMAGE) for p in self._images]
        self.names = [b.name for b in self._bases]
        missing = [path for i in range(len(self)) if not (path := self.label_path(i)).is_file()]
        if missing:
            raise MissingLabelsError(missing, label_folder, image_folder)
        twice = sorted({n for n in self.names if self.names.count(n) > 1}) if len(set(self.names)) < len(self) else []
        if twice:
            raise UserError(f"{image_folder}: {some(twice)} occurs in several cities; names must be unique in a split")

    def __getitem__(self, index: int) -> Sample:
        image, label = read_pair(*self.files(index), _TRAIN_IDS, _EXPECTED)
        return Sample(image, label, self.names[index])

    def label(self, index: int) -> np.ndarray:
        return read_ids(self.label_path(index), _TRAIN_IDS, _EXPECTED)

    def labels_without_image(self) -> list[Path]:
        return without_image(self._label_folder.glob(f"*/*{_LABEL}"), {f"{name}{_LABEL}" for name in self.names})

    def files(self, index: int) -> tuple[Path, Path]:
        return self._images[index], self.label_path(index)

    def label_path(self, index: int) -> Path:
        """The `labelIds` file of a frame."""
        return Path(f"{self._bases[index]}{_LABEL}")

    def label_ids(self, index: int) -> np.ndarray:
        """(H, W) uint8: the 34 label ids of a frame, as its file holds them, for the category metric.

        Raises:
            UserError: as `__getitem__`.
        """
        return read_ids(self.label_path(index), _LABEL_IDS, _EXPECTED)

    def instances(self, index: int) -> np.ndarray | None:
        """(H, W) uint16: label id x 1000 + instance, the plain label id where there is none; None without the file.

        Raises:
            UserError: the file is unreadable, or not single-channel 16-bit.
        """
        path = self.instances_path(index)
        return read_instances(path) if path else None

    def without_instances(self) -> list[str]:
        """Names of the frames that have no `instanceIds` file."""
        return [name for index, name in enumerate(self.names) if self.instances_path(index) is None]

    def instances_path(self, index: int) -> Path | None:
        """The `instanceIds` file of a frame, None where there is none."""
        path = Path(f"{self._bases[index]}{_INSTANCES}")
        return path if path.is_file() else None


def _splits(root: Path) -> str:
    found = sorted(p.name for p in (root / "leftImg8bit").glob("*") if p.is_dir())
    return f"; it has {', '.join(found)}" if found else ""
