"""Deformable attention on a CPU as the product with a sparse matrix, forwards and backwards.

A bilinear sample is a weighted sum of four values, so that all samples of one query and head are a row of a matrix with
4 L P entries. Products with such a matrix take a third of the time of `grid_sample`, which writes and keeps every
single sample; here nothing but the arguments is kept for the backward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_matrix
from torch import Tensor
from torch.nn import functional as F

with warnings.catch_warnings():  # PyTorch says once that its sparse matrices may still change
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


class SparseSampling(torch.autograd.Function):
    """`deformable_attention` on the CPU in float32."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
    ) -> Tensor:
        """(B, S, M, d), L sizes, (B, N, M, L, P, 2), (B, N, M, L, P) -> (B, N, M*d)."""
        ctx.save_for_backward(value, locations, weights)
        ctx.sizes = sizes
        taps = _Taps(value.shape, sizes, locations)
        entries = taps.shares().mul_(weights.reshape(taps.flat).unsqueeze(1)).flatten(1)
        out = F.embedding_bag(taps.rows(), value.flatten(0, 2), per_sample_weights=entries, mode="sum")
        return out.reshape(*weights.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        taps = _Taps(value.shape, ctx.sizes, locations)
        rows, flat = taps.rows(), weights.reshape(taps.flat)
        entries = taps.shares().mul_(flat.unsqueeze(1)).flatten(1)
        table = value.flatten(0, 2)
        given = gradients[0].reshape(len(rows), -1).contiguous()
        starts = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=torch.int32)
        shape = (len(rows), len(table))

        # The matrix's columns are the transposed one's rows, so that nothing has to be sorted.
        columns = (entries.numpy().ravel(), rows.numpy().ravel(), starts.numpy())
        of_value = torch.from_numpy(np.asarray(csc_matrix(columns, shape=shape[::-1]) @ given.numpy()))
        # The product of every entry's value with its row's gradient.
        pattern = torch.sparse_csr_tensor(starts, rows.flatten(), entries.flatten(), shape, check_invariants=False)
        worth = torch.sparse.sampled_addmm(pattern, given, table.T, beta=0.0).values().reshape(len(rows), 4, -1)
        of_weights, along = taps.slopes(worth)
        of_locations = (along * flat).permute(1, 2, 0).reshape(locations.shape)
        return of_value.reshape(value.shape), None, of_locations, of_weights.reshape(weights.shape)


class _Taps:
    """The four pixels around each of R x L*P locations, R = B*N*M; their order: top left, top right, bottom both."""

    def __init__(self, value_shape: torch.Size, sizes: Sequence[tuple[int, int]], locations: Tensor) -> None:
        batch, positions, heads, _ = value_shape
        queries, points = locations.shape[1], locations.shape[4]
        self.flat = (batch * queries * heads, len(sizes) * points)
        extent = torch.tensor(sizes, dtype=torch.float32).flip(1).repeat_interleave(points, 0)  # (L*P, 2): x, y
        starts = np.cumsum([0, *(h * w for h, w in sizes[:-1])])
        self.start = torch.tensor(starts, dtype=torch.int32).repeat_interleave(points)
        self.extent = extent.unbind(1)
        self.places = []
        for axis, size in enumerate(self.extent):
            # Two pixels outside there is no share and no slope, and no index can overflow.
            place = (locations[..., axis].reshape(self.flat) * size - 0.5).clamp_(min=-2.0)
            self.places.append(torch.minimum(place, size))
        self.corners = [place.floor() for place in self.places]
        # Row of position 0 of every image and head; position p lies p * M rows further.
        image = torch.arange(batch, dtype=torch.int32)[:, None, None] * (positions * heads)
        self.first = (image + torch.arange(heads, dtype=torch.int32)).expand(batch, queries, heads).reshape(-1, 1)
        self.heads = heads

    def rows(self) -> Tensor:
        """(R, 4*L*P) int32: the rows of the flattened values (B*S*M, d)."""
        (left, right), (top, bottom) = (
            # What is not a number has no pixel, but keeps its share, which is none either.
            [(corner + step).clamp_(min=0.0).minimum(size - 1.0).nan_to_num_(0.0).int() for step in (0.0, 1.0)]
            for corner, size in zip(self.corners, self.extent, strict=True)
        )
        width = self.extent[0].int()
        pixels = [line * width + column for line in (top, bottom) for column in (left, right)]
        return torch.stack([(pixel + self.start) * self.heads + self.first for pixel in pixels], 1).flatten(1)

    def shares(self) -> Tensor:
        """(R, 4, L*P): how much of each pixel a sample takes, 0 outside."""
        across, down = (near for near, _ in self._near())
        return torch.stack([y * x for y in down for x in across], 1)

    def slopes(self, worth: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 4, L*P) gradients of the entries -> of a weight (R, L*P), and of x and y at weight 1 (2, R, L*P)."""
        (across, has_x), (down, has_y) = self._near()
        top_left, top_right, bottom_left, bottom_right = worth.unbind(1)
        top = top_left * across[0] + top_right * across[1]
        bottom = bottom_left * across[0] + bottom_right * across[1]
        along_x = down[0] * (top_right * has_x[1] - top_left * has_x[0])
        along_x += down[1] * (bottom_right * has_x[1] - bottom_left * has_x[0])
        along_y = bottom * has_y[1] - top * has_y[0]
        width, height = self.extent
        return top * down[0] + bottom * down[1], torch.stack([along_x * width, along_y * height])

    def _near(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Per axis: the shares of the pixel before and behind, and 1 where there is such a pixel, else 0."""
        found = []
        for place, corner, size in zip(self.places, self.corners, self.extent, strict=True):
            beyond = place - corner
            before, behind = (((corner >= low) & (corner < size + low)).float() for low in (0, -1))
            found.append(([(1.0 - beyond) * before, beyond * behind], [before, behind]))
        return found
