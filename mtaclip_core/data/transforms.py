"""Training augmentation and the endless stream of samples; every draw is keyed by (seed, sample number)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from mtaclip_core.config import AugmentConfig, SourceConfig
from mtaclip_core.data.dataset import Sample, open_dataset
from mtaclip_core.labels import UNLABELLED, LabelSpace, join


class Augmentation:
    """Random scale, crop, flip and colour (Mask2Former's recipe: short side jitter, SSD photometric distortion).

    A crop window is cut from the source and resized once, so that the cost does not grow with the scale. Some windows,
    by `class_balanced`, are placed to hold a pixel of a class drawn evenly from the frame's: small and rare things are
    then seen more often than their pixels count.
    """

    def __init__(self, config: AugmentConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        self.config = config
        self.colour = _photometric_distortion(config.swap_channels) if config.colour else None
        self.mean = torch.tensor(mean)[:, None, None] * 255.0
        self.std = torch.tensor(std)[:, None, None] * 255.0

    def __call__(self, sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
        """-> image (3, h, w) float32 normalised and label (h, w) uint8, h x w the crop."""
        rng = np.random.default_rng(seed)
        image, label = self._crop(sample.image, sample.label, rng)
        if rng.random() < self.config.flip:
            image, label = image[:, ::-1], label[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if self.colour is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                pixels = self.colour(pixels)
        return (pixels.float() - self.mean) / self.std, torch.from_numpy(np.ascontiguousarray(label))

    def _crop(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.config.crop
        scale = draw_scale(self.config, rng)
        # Window in source pixels; where it is larger than the image, the rest is padding.
        wanted_h, wanted_w = height / scale, width / scale
        h, w = min(image.shape[0], round(wanted_h)), min(image.shape[1], round(wanted_w))
        (top, bottom), (left, right) = (0, image.shape[0] - h), (0, image.shape[1] - w)
        if self.config.class_balanced and rng.random() < self.config.class_balanced:
            y, x = _class_balanced_pixel(label, rng)
            (top, bottom), (left, right) = _around(y, h, bottom), _around(x, w, right)
        top, left = int(rng.integers(top, bottom + 1)), int(rng.integers(left, right + 1))
        image, label = image[top : top + h, left : left + w], label[top : top + h, left : left + w]
        size = (min(width, round(w * scale)), min(height, round(h * scale)))
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, size, interpolation=interpolation)
        # Plain INTER_NEAREST takes the pixel at the corner and moves the label half a pixel against the image.
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT)
        if size != (width, height):
            border = (0, height - size[1], 0, width - size[0], cv2.BORDER_CONSTANT)
            image = cv2.copyMakeBorder(image, *border, value=(124, 116, 104))
            label = cv2.copyMakeBorder(label, *border, value=UNLABELLED)
        return image, label


def draw_scale(config: AugmentConfig, rng: np.random.Generator) -> float:
    """Size of an augmented image, relative to its source."""
    low, high = config.scale
    if config.scale_steps:
        return float(rng.choice(np.linspace(low, high, config.scale_steps)))
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _photometric_distortion(swap_channels: bool) -> v2.Transform:
    """SSD's: brightness, contrast, saturation and hue, each in half of the images, contrast first or last."""
    if swap_channels:
        return v2.RandomPhotometricDistort()
    brightness, contrast, saturation, hue = (  # the same ranges; hue is a fraction of the circle
        v2.RandomApply([jitter])
        for jitter in (
            v2.ColorJitter(brightness=(0.875, 1.125)),
            v2.ColorJitter(contrast=(0.5, 1.5)),
            v2.ColorJitter(saturation=(0.5, 1.5)),
            v2.ColorJitter(hue=0.05),
        )
    )
    orders = (brightness, contrast, saturation, hue), (brightness, saturation, hue, contrast)
    return v2.RandomChoice([v2.Compose(order) for order in orders])


def _class_balanced_pixel(label: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """(y, x) of a pixel drawn evenly from those of a class that is drawn evenly from the labelled ones in the frame."""
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[:UNLABELLED])
    if not len(present):
        return int(rng.integers(label.shape[0])), int(rng.integers(label.shape[1]))
    places = np.flatnonzero(label.ravel() == rng.choice(present))
    y, x = divmod(int(rng.choice(places)), label.shape[1])
    return y, x


def _around(at: int, length: int, last: int) -> tuple[int, int]:
    """First and last start, between 0 and `last`, of a window of `length` that holds `at`."""
    return max(0, at - length + 1), min(last, at)


class SampleStream(Dataset):
    """The n-th training sample, for any n, from weighted sources whose classes are joined by name.

    Sample n depends on (seed, n) alone: any number of workers and any resume give the same samples. Within a source
    every frame comes once before any comes twice.

    Raises:
        UserError: a source cannot be opened or has no class in common with `space`.
    """

    def __init__(
        self, sources: Sequence[SourceConfig], space: LabelSpace, augment: Augmentation, *, seed: int, cache: bool
    ) -> None:
        self.datasets = [open_dataset(s.data, s.split) for s in sources]
        self.sources = [f"{s.data} {s.split}" for s in sources]
        self.tables = [space.index_of_id[join(d.space, space)] for d in self.datasets]
        self.augment = augment
        self.seed = seed
        self.pattern, self.places = _interleave([s.weight for s in sources])
        self.cache = cache
        self.cached: list[list[Sample]] | None = None

    def fill_cache(self) -> None:
        """Decode all frames where `cache` was asked for; worker processes that start later share them.

        Raises:
            UserError: a file is missing or wrong.
        """
        if self.cache:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self.cached = [list(pool.map(d.__getitem__, range(len(d)))) for d in self.datasets]

    def locate(self, n: int) -> tuple[int, int]:
        """(source, frame) of sample n."""
        period = len(self.pattern)
        source = self.pattern[n % period]
        drawn = (n // period) * self.pattern.count(source) + self.places[n % period]
        count = len(self.datasets[source])
        order = np.random.default_rng([self.seed, source, drawn // count]).permutation(count)
        return source, int(order[drawn % count])

    def __getitem__(self, n: int) -> tuple[Tensor, Tensor]:
        source, frame = self.locate(n)
        sample = self.cached[source][frame] if self.cached is not None else self.datasets[source][frame]
        joined = Sample(sample.image, self.tables[source][sample.label], sample.name)
        return self.augment(joined, int(np.random.default_rng([self.seed, n]).integers(2**62)))

    def name(self, n: int) -> str:
        """What messages call sample n; names of frames are unique in one source alone."""
        source, frame = self.locate(n)
        name = self.datasets[source].names[frame]
        return name if len(self.datasets) == 1 else f"{name} of {self.sources[source]}"


class StepSampler(Sampler[int]):
    """Sample numbers of one process, from a step to the last: rank r of w takes every w-th sample."""

    def __init__(self, first_step: int, steps: int, batch: int, rank: int, world: int) -> None:
        self.range = range(first_step * batch + rank, steps * batch, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.range)

    def __len__(self) -> int:
        return len(self.range)


def _interleave(weights: Sequence[float], period: int = 100) -> tuple[list[int], list[int]]:
    """A repeating order of sources that keeps to the weights, and for each place how often its source came before."""
    total = sum(weights)
    given = [0] * len(weights)
    pattern, places = [], []
    for i in range(1 if len(weights) == 1 else period):
        source = max(range(len(weights)), key=lambda s: weights[s] / total * (i + 1) - given[s])
        pattern.append(source)
        places.append(given[source])
        given[source] += 1
    return pattern, places
