"""Multi-scale deformable attention (Zhu et al., 2021, arXiv 2010.04159) in plain PyTorch, without a compiled op."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtaclip_core.modeling.sparse_sampling import SparseSampling

Sampling = Literal["grid_sample", "gather"]
"""Two equal forms of the bilinear sampling: PyTorch's own operator, or four gathers in plain index arithmetic. On a CPU
the first one is computed as a sparse product, where PyTorch itself runs."""

Size = tuple[int, int]


def deformable_attention(
    value: torch.Tensor,
    sizes: Sequence[Size],
    locations: torch.Tensor,
    weights: torch.Tensor,
    sampling: Sampling = "grid_sample",
) -> torch.Tensor:
    """Sum over levels and points of `weight * value at location`, with M heads of d channels each.

    Locations and indices are computed in float32 and int32 whatever the dtype of `value`. Bilinear, pixel centres
    at (i + 0.5) / size, zeros outside.

    Args:
        value: (B, S, M, d), the levels one after the other, row by row; S = sum of h*w.
        sizes: (h, w) of each of the L levels.
        locations: (B, N, M, L, P, 2) as (x, y), 0-1 inside a level.
        weights: (B, N, M, L, P).
        sampling: which of the two equal forms.

    Returns:
        (B, N, M*d) in the dtype of `value`.
    """
    if value.shape[1] != sum(h * w for h, w in sizes):
        raise ValueError(f"value has {value.shape[1]} positions, but the levels {list(sizes)} have another number")
    traced = torch.compiler.is_compiling()
    if sampling == "grid_sample" and value.device.type == "cpu" and not traced:
        out = SparseSampling.apply(value.float(), sizes, locations.float(), weights.float())
    elif sampling == "grid_sample" and traced and not torch.compiler.is_dynamo_compiling():  # exported, not compiled
        out = _head_by_head(value, sizes, locations.float(), weights.float())
    elif sampling == "grid_sample":
        out = _by_grid_sample(value, sizes, locations.float(), weights.float())
    elif sampling == "gather":
        out = _by_gather(value, sizes, locations.float(), weights.float())
    else:
        raise ValueError(f"sampling '{sampling}' is not one of grid_sample, gather")
    return out.to(value.dtype)


def _by_grid_sample(
    value: torch.Tensor, sizes: Sequence[Size], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    # Heads join the batch: grid_sample has one grid per item. Points before queries: the sum over points then runs
    # over long rows, which a CPU does five times faster.
    grids = (2.0 * locations - 1.0).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)  # (B*M, L, P, N, 2)
    shares = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)  # (B*M, L, P, N)
    levels = value.float().permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in sizes], 2)  # (B*M, d, h*w)
    out = None
    for level, (height, width) in enumerate(sizes):
        image = levels[level].unflatten(2, (height, width))
        samples = F.grid_sample(image, grids[:, level], mode="bilinear", padding_mode="zeros", align_corners=False)
        part = (samples * shares[:, None, level]).sum(2)  # (B*M, d, N)
        out = part if out is None else out + part
    assert out is not None
    return out.reshape(batch, heads * channels, queries).transpose(1, 2)


def _head_by_head(
    value: torch.Tensor, sizes: Sequence[Size], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """`_by_grid_sample` in pieces that stay in the cache of a CPU core, without a sum over an axis.

    The form of exported graphs: OpenVINO takes 6 % less time for a ResNet-50 model at 512x1024, in bfloat16 20 %, and
    2.5 s more to compile it.
    """
    heads, _, points = weights.shape[2:]
    grids = (2.0 * locations - 1.0).permute(2, 3, 4, 0, 1, 5).flatten(0, 2).unsqueeze(2)  # (M*L*P, B, 1, N, 2)
    shares = weights.permute(2, 3, 4, 0, 1).flatten(0, 2)[:, :, None, None]  # (M*L*P, B, 1, 1, N)
    levels = value.float().permute(2, 0, 3, 1).split([h * w for h, w in sizes], 3)  # (M, B, d, h*w)
    found = []
    number = itertools.count()
    for head in range(heads):
        out = None
        for level, size in zip(levels, sizes, strict=True):
            image = level[head].unflatten(2, size)
            for i in itertools.islice(number, points):
                samples = F.grid_sample(image, grids[i], "bilinear", "zeros", align_corners=False)  # (B, d, 1, N)
                out = samples * shares[i] if out is None else out + samples * shares[i]
        assert out is not None
        found.append(out)
    return torch.cat(found, 1).squeeze(2).transpose(1, 2)


def _by_gather(
    value: torch.Tensor, sizes: Sequence[Size], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    batch, positions, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    # One row for each (image, position, head): its d channels and those of the next position, so that one gather
    # brings two neighbours.
    rows = torch.cat([value, value.roll(-1, 1)], -1).flatten(0, 2)
    # The row of position 0 of this image and head; position p lies p * M rows further.
    first = torch.arange(batch, dtype=torch.int32, device=value.device)[:, None] * (positions * heads)
    first = (first + torch.arange(heads, dtype=torch.int32, device=value.device))[:, None, :, None]  # (B, 1, M, 1)
    out = None
    start = 0
    for level, (height, width) in enumerate(sizes):
        # Clamped to one pixel outside, where every contribution is zero already, so that no index can overflow.
        x = (locations[:, :, :, level, :, 0] * width - 0.5).clamp(-1.0, float(width))
        y = (locations[:, :, :, level, :, 1] * height - 0.5).clamp(-1.0, float(height))
        # Of the 2 x 2 pixels that are read, all inside, each counts as far as the point is within one pixel of it.
        left, top = x.floor().clamp(0.0, max(width - 2.0, 0.0)), y.floor().clamp(0.0, max(height - 2.0, 0.0))
        near = [(1.0 - (x - left).abs()).clamp_min(0.0), (1.0 - (x - left - 1.0).abs()).clamp_min(0.0)]
        if width == 1:
            near[1] = torch.zeros_like(near[1])  # the next position belongs to another row
        across = torch.stack(near, -1) * weights[:, :, :, level, :, None]  # (B, N, M, P, 2)
        corner = first + (top.int() * width + left.int() + start) * heads
        for down in range(min(2, height)):
            share = across * (1.0 - (y - top - down).abs()).clamp_min(0.0)[..., None]
            samples = rows.index_select(0, (corner + down * width * heads).flatten())  # (B*N*M*P, 2*d)
            samples = samples.reshape(-1, 2 * points, channels)
            part = share.reshape(-1, 1, 2 * points) @ samples.float()  # (B*N*M, 1, d)
            out = part if out is None else out + part
        start += height * width
    assert out is not None
    return out.reshape(batch, queries, heads * channels)


class DeformableAttention(nn.Module):
    """Every query looks at P points around its reference, in each of L levels, with each of M heads.

    Initialised as in Deformable DETR: head m looks in the direction 2 pi m / M, point p at p + 1 pixels, all with
    the same weight. `sampling` may be changed at any time.
    """

    def __init__(
        self, width: int = 256, heads: int = 8, levels: int = 3, points: int = 4, sampling: Sampling = "grid_sample"
    ) -> None:
        """`width`: D, a multiple of `heads`."""
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.levels = levels
        self.points = points
        self.sampling: Sampling = sampling
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        angle = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # on the unit square, not the circle
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        offsets = direction[:, None, None, :] * steps[None, None, :, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: torch.Tensor, value: torch.Tensor, reference: torch.Tensor, sizes: Sequence[Size]
    ) -> torch.Tensor:
        """(B, N, D) queries attend to (B, S, D) values -> (B, N, D).

        Args:
            query: position embedding included.
            value: the L levels one after the other, row by row.
            reference: (N, 2) float32 as (x, y), 0-1 over the image.
            sizes: (h, w) of each level.
        """
        batch, queries, _ = query.shape
        shape = (batch, queries, self.heads, self.levels, self.points)
        values = self.value_projection(value).reshape(batch, value.shape[1], self.heads, -1)
        # Offsets are in pixels of the level that they point into.
        offsets = self.sampling_offsets(query).float().reshape(*shape, 2)
        pixels = torch.tensor([[w, h] for h, w in sizes], dtype=torch.float32, device=query.device)
        locations = reference[:, None, None, None, :] + offsets / pixels[:, None, :]
        weights = self.attention_weights(query).float().reshape(*shape[:3], -1).softmax(-1).reshape(shape)
        return self.output_projection(deformable_attention(values, sizes, locations, weights, self.sampling))


def set_sampling(model: nn.Module, sampling: Sampling) -> None:
    """Let every `DeformableAttention` inside `model` sample in this form, for a runtime that runs it better."""
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.sampling = sampling


def reference_points(sizes: Sequence[Size], device: torch.device | str) -> torch.Tensor:
    """(S, 2) float32: the centre (x, y), 0-1 over the image, of every pixel of every level, in the order of values."""
    levels = []
    for height, width in sizes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        levels.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).flatten(0, 1))
    return torch.cat(levels)
