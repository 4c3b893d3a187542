"""Predictions that stand in PNG files, written by this program or by another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.data.dataset import SegmentationDataset
from mtaclip_core.data.image_files import NO_ID, encode_ids, read_ids, some
from mtaclip_core.files import prepare_file, write_bytes
from mtaclip_core.labels import CITYSCAPES, CITYSCAPES_IDS, UNLABELLED, LabelSpace, join

FileIds = Literal["label", "train"]
"""What the files of Cityscapes predictions hold: label ids, as its server and script want, or train ids."""


class PredictionFolder:
    """One PNG per frame of a data set, found by the frame's name.

    A frame's file is called `NAME.png` or `NAME_ANYTHING.png` and lies anywhere below the folder, as the official
    Cityscapes script has it. It holds one 8-bit channel of ids, or indices with a palette for show: Cityscapes' label
    ids, else the data set's own; 255 is none.

    Attributes:
        space: of the ids that are read; all 34 of Cityscapes, the ones that are not evaluated included.
        paths: the files, in the order of the data set.
    """

    def __init__(self, folder: Path, dataset: SegmentationDataset, ids: FileIds = "label") -> None:
        """
        Raises:
            UserError: no such folder, a frame without a file or with several, or `ids` is of no use here.
        """
        cityscapes = isinstance(dataset, Cityscapes)
        if ids == "train" and not cityscapes:
            raise UserError("train ids are a thing of Cityscapes; predictions for other data hold the data's own ids")
        self.space: LabelSpace = CITYSCAPES_IDS if cityscapes else dataset.space
        in_file = CITYSCAPES if ids == "train" else self.space
        self._table = np.full(256, NO_ID, np.int16)
        self._table[in_file.ids] = join(in_file, self.space)[in_file.ids]
        self._table[UNLABELLED] = UNLABELLED
        self._expected = f"ids of {in_file.name}, {min(in_file.ids)}-{max(in_file.ids)}, or 255 for none"
        self.paths = _find(folder.expanduser(), dataset.names)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W) uint8 ids of `space`, 255 for none.

        Raises:
            UserError: the file is unreadable, of another kind, or holds an id that is none.
        """
        return read_ids(self.paths[index], self._table, self._expected)


def prediction_writer(
    folder: Path, dataset: SegmentationDataset, space: LabelSpace
) -> Callable[[int, np.ndarray], None]:
    """A function that writes what was predicted for a frame as `NAME.png`, in the ids that `PredictionFolder` reads.

    For Cityscapes the files are what its benchmark server takes: label ids alone, `unlabeled` where there is no class.

    Args:
        space: of the ids to write.

    Raises:
        UserError: the model's classes cannot be said in the classes of the data, or the folder cannot be made.
    """
    cityscapes = isinstance(dataset, Cityscapes)
    table = join(space, CITYSCAPES_IDS if cityscapes else dataset.space)
    if cityscapes:
        table = np.where(table == UNLABELLED, np.uint8(CITYSCAPES_IDS.names.index("unlabeled")), table)
    prepare_file(folder / "NAME.png")

    def write(index: int, predicted: np.ndarray) -> None:
        write_bytes(folder / f"{dataset.names[index]}.png", encode_ids(cv2.LUT(predicted, table)))

    return write


def _find(folder: Path, names: list[str]) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of predictions")
    wanted, found = set(names), dict[str, list[Path]]()
    for path in sorted(folder.rglob("*.png")):
        parts = path.stem.split("_")
        for end in range(len(parts), 0, -1):  # the longest name that the file's begins with
            if (name := "_".join(parts[:end])) in wanted:
                found.setdefault(name, []).append(path)
                break
    missing = [f"{name}*.png" for name in names if name not in found]
    if missing:
        raise UserError(f"{folder}: no prediction {some(missing)}; expected one for each of {len(names)} frames")
    for name in names:
        if len(found[name]) > 1:
            several = some([str(p.relative_to(folder)) for p in found[name]])
            raise UserError(f"{folder}: several predictions of {name}: {several}; expected one")
    return [found[name][0] for name in names]
