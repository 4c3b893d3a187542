"""A data set of one's own, in whatever folders it lies: see docs/data.md for the file that describes it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import Sample, SegmentationDataset
from mtaclip_core.data.description import Description, load_description
from mtaclip_core.data.image_files import MissingLabelsError, check_pair, read_colour_ids, read_ids, read_rgb, some


class CustomSet(SegmentationDataset):
    """Images and labels whose paths follow two patterns.

    `{name}` stands for the frame, folders included: both patterns must have a file for it. A frame in folders is
    called `FOLDER_FRAME`.
    """

    def __init__(self, description: str | Path, split: str, root: str | Path | None = None) -> None:
        """List the frames; nothing is decoded yet.

        Args:
            root: in place of the one that the description names.

        Raises:
            UserError: the description is wrong, a split without images, or images without labels.
        """
        self.description: Description = load_description(description)
        self.space = self.description.space
        self._root = Path(root).expanduser() if root else self.description.root
        if not self._root.is_dir():
            raise UserError(f"{self._root}: no such folder, the root of {self.description.path}")
        if not split or Path(split).name != split:
            raise UserError(f"split '{split}' of {self.description.path} must be the name of a folder")
        images, labels = (p.replace("{split}", split) for p in (self.description.images, self.description.labels))
        self._label_pattern = labels
        self._files: list[tuple[Path, Path]] = []
        self.names = []
        missing = []
        for key in self._keys(images):
            pair = self._path(images, key), self._path(labels, key)
            self._files.append(pair)
            self.names.append(key.replace("/", "_"))
            if not pair[1].is_file():
                missing.append(pair[1])
        if not self._files:
            raise UserError(f"{self._root}: no image matches {images} (pattern of {self.description.path})")
        if missing:
            raise MissingLabelsError(missing, self._root, images)
        if len(set(self.names)) < len(self):
            twice = sorted({n for n in self.names if self.names.count(n) > 1})
            raise UserError(f"{self._root}: {some(twice)} means several images; names must be unique in a split")
        ids = [f"{c.id} {c.name}" for c in self.space.classes]
        self._expected = f"the values that {self.description.path.name} names for {some(ids)}"

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self._files[index]
        image, label = read_rgb(image_path), self.label(index)
        check_pair(image_path, image.shape[:2], label_path, label.shape)
        return Sample(image, label, self.names[index])

    def label(self, index: int) -> np.ndarray:
        path = self._files[index][1]
        if self.description.id_of_value is None:
            return read_colour_ids(path, self.description.id_of_colour, self._expected)
        return read_ids(path, self.description.id_of_value, self._expected)

    def labels_without_image(self) -> list[Path]:
        if "{split}" in self.description.images and "{split}" not in self.description.labels:
            return []  # the labels of the other splits lie there too
        labels = [self._path(self._label_pattern, key) for key in self._keys(self._label_pattern)]
        known = {label for _, label in self._files}
        return [label for label in labels if label not in known]

    def files(self, index: int) -> tuple[Path, Path]:
        return self._files[index]

    def _path(self, pattern: str, key: str) -> Path:
        return self._root / pattern.replace("{name}", key)

    def _keys(self, pattern: str) -> list[str]:
        """What `{name}` stands for in the files there are, sorted."""
        whole = (self._root / pattern).as_posix()  # patterns may begin with `./` or `/`
        before, after = (re.escape(part) for part in whole.split("{name}"))
        expression = re.compile(f"{before}(.+){after}")
        start = Path(whole.split("{name}")[0] + "x").parent  # no other folder needs to be searched
        found = []
        for path in start.rglob("*"):
            match = expression.fullmatch(path.as_posix())
            if match and not path.name.startswith(".") and path.is_file():
                found.append(match[1])
        return sorted(found)
