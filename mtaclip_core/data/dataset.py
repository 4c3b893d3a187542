"""The one shape of all data sets: numbered pairs of an RGB image and a label image in a known label space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.labels import CAMVID, CITYSCAPES, LabelSpace

T = TypeVar("T")

READ_AHEAD = 2
"""Frames that are read before they are asked for."""


@dataclass(frozen=True)
class Sample:
    """One labelled frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8, ids of the data set's `space`, 255 unlabelled.
        name: what a message or a report calls this frame (unique in its split).
    """

    image: np.ndarray
    label: np.ndarray
    name: str


class SegmentationDataset(ABC):
    """Random access to the labelled frames of one split; reading is safe from several processes."""

    space: LabelSpace
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Read one frame from disk.

        Raises:
            UserError: a file is missing or unreadable, image and label differ in size, or a label value is unknown.
        """

    @abstractmethod
    def label(self, index: int) -> np.ndarray:
        """The frame's `Sample.label` alone, for what needs no image.

        Raises:
            UserError: as `__getitem__`.
        """

    @abstractmethod
    def labels_without_image(self) -> list[Path]:
        """Label files of the split that belong to no image, sorted: an image that got lost on its way here."""

    @abstractmethod
    def files(self, index: int) -> tuple[Path, Path]:
        """The frame's image file and label file."""


def open_dataset(spec: str, split: str) -> SegmentationDataset:
    """Open `KIND:PATH`, for example `camvid:data/camvid`, or `SET.yaml`, a description of a set of one's own.

    A description names the folder that its paths start from; `SET.yaml:PATH` takes another one.

    Args:
        split: name of the split's folder; CamVid also takes `train-0001TP` (all drives but one) and `train=0001TP`
            (one drive only).

    Raises:
        UserError: unknown kind, missing folder, or a split without images.
    """
    from mtaclip_core.data.ade20k import ADE20K150
    from mtaclip_core.data.camvid import CamVid
    from mtaclip_core.data.cityscapes import Cityscapes
    from mtaclip_core.data.custom import CustomSet
    from mtaclip_core.data.description import is_description

    kinds: dict[str, Callable[[str, str], SegmentationDataset]] = {
        "camvid": CamVid,
        "cityscapes": Cityscapes,
        "synthetic": Cityscapes,
        "ade20k": ADE20K150,
    }
    kind, colon, path = spec.partition(":")
    if is_description(spec):
        return CustomSet(kind, split, path or None)
    if not colon or kind not in kinds:
        raise UserError(f"data '{spec}': expected KIND:PATH with KIND one of {', '.join(kinds)}, or a .yaml file")
    return kinds[kind](path, split)


def read_ahead(read: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
    """`read` of every index in turn, while the caller uses one the next ones are read by a thread.

    Raises:
        UserError: what `read` raised, when its frame is due.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(read, index))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def label_space(classes: str) -> LabelSpace:
    """The classes that `cityscapes`, `camvid` or `ade20k` mean, or those of a description `SET.yaml`.

    Raises:
        UserError: an unknown name, or the description is wrong.
    """
    from mtaclip_core.ade20k_labels import ADE20K
    from mtaclip_core.data.description import is_description, load_description

    spaces = {space.name: space for space in (CITYSCAPES, CAMVID, ADE20K)}
    if is_description(classes):
        return load_description(classes).space
    if classes not in spaces:
        raise UserError(f"classes '{classes}': expected one of {', '.join(spaces)}, or a .yaml file (docs/data.md)")
    return spaces[classes]
