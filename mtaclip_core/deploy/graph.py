"""The deployed graph, uint8 image to uint8 label and confidence: the one definition of pre- and post-processing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtaclip_core.bundle_manifest import GraphOptions
from mtaclip_core.labels import UNLABELLED, LabelSpace
from mtaclip_core.modeling.deformable_attention import set_sampling

MAPS_PER_BLOCK = 20
"""Class maps beyond this many are resized and compared in blocks of rows, so that no more numbers stand in memory."""


class ClassMapModel(Protocol):
    """What the graph needs of a model; `modeling.mta_clip.MTAClip` has it."""

    space: LabelSpace
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def class_maps(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) float32 normalised -> (B, C, h/4, w/4) float32, >= 0."""
        ...


class DeployedSegmenter(nn.Module):
    """A model between images and labels of any size.

    Frames are stretched to the constant network size (bilinear, no antialias, no letterbox) and normalised; the class
    maps are resized back (bilinear) and the best class of every pixel is taken. Pixel centres count as half-integers in
    both resizes (align_corners False, ONNX `half_pixel`).
    """

    scale: Tensor
    shift: Tensor
    ids: Tensor

    def __init__(
        self,
        model: ClassMapModel,
        network_size: tuple[int, int],
        confidence_floor: int = 0,
        options: GraphOptions | None = None,
    ) -> None:
        """
        Args:
            model: gives class maps; an `nn.Module` in evaluation mode. Its deformable attention samples in the form
                that the options name from now on.
            network_size: (height, width) of what the model sees.
            confidence_floor: label 255 where the confidence (0-255) is below it; 0: nowhere.
            options: which of several equal or nearly equal graphs; the default ones without.
        """
        super().__init__()
        assert isinstance(model, nn.Module)
        self.model = model
        self.options = options or GraphOptions()
        set_sampling(model, self.options.deformable)
        self._class_maps: Callable[..., Tensor] = model.class_maps
        self.network_size = network_size
        self.confidence_floor = confidence_floor
        ids = model.space.ids
        self._ids_are_indices = ids == list(range(len(ids)))
        mean, std = torch.tensor(model.mean), torch.tensor(model.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.int32), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) uint8 RGB -> label (B, H, W) uint8, confidence (B, H, W) uint8."""
        return self.decide(self.class_maps(image), image.shape[1], image.shape[2])

    def class_maps(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> class maps (B, C, h, w) float32 at a quarter of the network size.

        With `options.resize` "masks" they have the whole network size.
        """
        return self.network(self.normalised(image))

    def normalised(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> (B, 3, h, w) float32 of the network's size, normalised."""
        # Engines take uint8 as input and output alone, so that the cast comes first here and last in `decide`.
        planes = image.float().permute(0, 3, 1, 2)
        resized = F.interpolate(planes, size=self.network_size, mode="bilinear", align_corners=False)
        return resized * self.scale + self.shift

    def network(self, images: Tensor) -> Tensor:
        """What the model itself does: normalised images -> class maps."""
        if self.options.resize == "masks":
            return self._class_maps(images, self.network_size)
        return self._class_maps(images)

    def decide(self, maps: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Class maps (B, C, h, w) -> label and confidence (B, height, width) uint8."""
        # The sum of the resized maps is the resized sum: one more map instead of one more pass over all of them.
        stacked = torch.cat([maps, maps.sum(dim=1, keepdim=True)], dim=1)
        columns = bilinear_matrix(maps.shape[3], width, maps.device).T
        blocks = -(-maps.shape[1] // MAPS_PER_BLOCK)
        if blocks == 1:
            label, confidence = self._best(bilinear_matrix(maps.shape[2], height, maps.device) @ (stacked @ columns))
        else:
            count = (height + blocks - 1) // blocks
            found = []
            for block in range(blocks):
                window, rows = bilinear_rows(maps.shape[2], height, block * count, count, maps.device)
                found.append(self._best(rows @ (stacked.index_select(2, window) @ columns)))
            label, confidence = (torch.cat(parts, dim=1)[:, :height] for parts in zip(*found, strict=True))
        return label.to(torch.uint8), confidence.to(torch.uint8)

    def _best(self, full: Tensor) -> tuple[Tensor, Tensor]:
        """C resized class maps and their sum, (B, C + 1, H, W) -> label (B, H, W) int32, confidence float32, 0-255."""
        classes = full.shape[1] - 1
        best, index = full[:, :classes].topk(1, dim=1)
        total = full[:, classes:].clamp_min(torch.finfo(torch.float32).tiny)
        confidence = torch.round(best / total * 255).clamp_max(255).squeeze(1)
        index = index.squeeze(1)
        label = index.to(torch.int32) if self._ids_are_indices else self.ids[index]
        if self.confidence_floor > 0:
            label = torch.where(confidence < self.confidence_floor, torch.full_like(label, UNLABELLED), label)
        return label, confidence


def bilinear_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) float32: its product with a signal is what bilinear `F.interpolate` makes of it.

    Two products with such matrices resize all class maps several times faster than `Resize` does on a CPU (4x at
    720x1280 in OpenVINO), and every inference engine has a good matrix product.
    """
    # In integers, in units of half a target pixel: an engine that computes in bf16 would misplace pixels beyond 256.
    unit = 2 * target
    at = (2 * torch.arange(target, dtype=torch.int32, device=device) + 1) * source - target
    at = at.clamp_min(0).clamp_max(unit * (source - 1))
    pixel = torch.arange(source, dtype=torch.int32, device=device) * unit
    overlap = unit - (at[:, None] - pixel[None, :]).abs()
    return overlap.clamp_min(0).float() / unit


def bilinear_rows(source: int, target: int, first: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows `first` to `first + count` of `bilinear_matrix`, on the few columns of it that are not zero there.

    Rows beyond the last one repeat it.

    Returns:
        The columns, (L,) int32, which are positions in the source; the rows, (count, L) float32.
    """
    unit = 2 * target
    row = (torch.arange(count, dtype=torch.int32, device=device) + first).clamp_max(target - 1)
    at = ((2 * row + 1) * source - target).clamp_min(0).clamp_max(unit * (source - 1))
    pixel = at[:1] // unit + torch.arange((count * source) // target + 3, dtype=torch.int32, device=device)
    overlap = unit - (at[:, None] - pixel[None, :] * unit).abs()
    # A column past the end has no overlap with any row: what it repeats does not count.
    return pixel.clamp_max(source - 1), overlap.clamp_min(0).float() / unit
