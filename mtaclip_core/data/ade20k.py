"""ADE20K's scene parsing benchmark with 150 classes, in the layout of ADEChallengeData2016."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtaclip_core.ade20k_labels import ADE20K
from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import Sample, SegmentationDataset
from mtaclip_core.data.image_files import NO_ID, MissingLabelsError, list_pngs, read_ids, read_pair, without_image
from mtaclip_core.labels import UNLABELLED

_EXPECTED = "ADE20K-150 values: 0 (unlabelled) and 1-150"

_TABLE = np.full(256, NO_ID, np.int16)
_TABLE[1 : len(ADE20K) + 1] = ADE20K.ids
_TABLE[[0, UNLABELLED]] = UNLABELLED


class ADE20K150(SegmentationDataset):
    """`images/SPLIT/*.jpg` with `annotations/SPLIT/*.png`; the splits are `training` and `validation`.

    Files hold 0 for unlabelled and 1-150, which become the ids 0-149.
    """

    space = ADE20K

    def __init__(self, path: str | Path, split: str) -> None:
        """List the frames; nothing is decoded yet.

        Raises:
            UserError: missing folder, a split without images, or images without labels.
        """
        root = Path(path).expanduser()
        if not (root / "images").is_dir() and (root / "ADEChallengeData2016" / "images").is_dir():
            root /= "ADEChallengeData2016"  # the folder that the archive was unpacked in
        self._images, self._labels = root / "images" / split, root / "annotations" / split
        for folder in (root, self._images, self._labels):
            if not split or not folder.is_dir():
                found = sorted(p.name for p in (root / "images").glob("*") if p.is_dir())
                raise UserError(
                    f"{folder}: no such folder; split '{split}' needs images/SPLIT/ and annotations/SPLIT/ under {root}"
                    + (f"; it has {', '.join(found)}" if found else "")
                )
        self.names = [p.stem for p in list_pngs(self._images, "*.jpg")]
        missing = [path for n in self.names if not (path := self._labels / f"{n}.png").is_file()]
        if missing:
            raise MissingLabelsError(missing, self._labels, self._images)

    def __getitem__(self, index: int) -> Sample:
        image, label = read_pair(*self.files(index), _TABLE, _EXPECTED)
        return Sample(image, label, self.names[index])

    def label(self, index: int) -> np.ndarray:
        return read_ids(self.files(index)[1], _TABLE, _EXPECTED)

    def labels_without_image(self) -> list[Path]:
        return without_image(self._labels.glob("*.png"), {f"{name}.png" for name in self.names})

    def files(self, index: int) -> tuple[Path, Path]:
        name = self.names[index]
        return self._images / f"{name}.jpg", self._labels / f"{name}.png"
