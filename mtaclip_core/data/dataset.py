"""The one shape of all data sets: numbered pairs of an RGB image and a label image in a known label space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace


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


def open_dataset(spec: str, split: str) -> SegmentationDataset:
    """Open `KIND:PATH`, for example `camvid:data/camvid` or `cityscapes:/data/cityscapes`.

    Args:
        split: name of the split's folder; CamVid also takes `train-0001TP` (all drives but one) and `train=0001TP`
            (one drive only).

    Raises:
        UserError: unknown kind, missing folder, or a split without images.
    """
    from mtaclip_core.data.camvid import CamVid
    from mtaclip_core.data.cityscapes import Cityscapes

    kinds: dict[str, Callable[[str, str], SegmentationDataset]] = {
        "camvid": CamVid,
        "cityscapes": Cityscapes,
        "synthetic": Cityscapes,
    }
    kind, colon, path = spec.partition(":")
    if not colon or kind not in kinds:
        raise UserError(f"data '{spec}': expected KIND:PATH with KIND one of {', '.join(kinds)}")
    return kinds[kind](path, split)
