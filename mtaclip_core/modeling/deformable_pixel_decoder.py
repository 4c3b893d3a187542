"""The pixel decoder of Mask2Former: deformable attention over strides 8 to 32, then one pyramid step to stride 4.

Structure and order of operations are those of Mask2Former (arXiv 2112.01527), so that published weights fit. Names
there (Hugging Face `Mask2FormerPixelDecoder`) and here:

    input_projections.I               input_projections.I          I = 0, 1, 2 for strides 32, 16, 8
    level_embed                       level_embed
    encoder.layers.I.self_attn        layers.I.attention
        sampling_offsets, attention_weights    the same
        value_proj, output_proj                value_projection, output_projection
    encoder.layers.I.self_attn_layer_norm, fc1, fc2, final_layer_norm
                                      layers.I.attention_norm, feedforward.0, feedforward.2, feedforward_norm
    adapter_1, layer_1                lateral, smooth
    mask_projection                   mask_features
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mtaclip_core.modeling.deformable_attention import DeformableAttention, Sampling, Size, reference_points
from mtaclip_core.modeling.pixel_features import PixelFeatures
from mtaclip_core.modeling.position_embedding import sine_position_embedding

LEVELS = 3
NORM_GROUPS = 32


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels -> LN -> FFN -> LN; post-norm, no dropout."""

    def __init__(self, width: int, heads: int, points: int, feedforward: int, sampling: Sampling) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads, LEVELS, points, sampling)
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(inplace=True), nn.Linear(feedforward, width)
        )
        self.feedforward_norm = nn.LayerNorm(width)
        for module in self.feedforward:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(
        self, x: torch.Tensor, position: torch.Tensor, reference: torch.Tensor, sizes: Sequence[Size]
    ) -> torch.Tensor:
        """x: (B, S, D); position: (S, D); reference: (S, 2); sizes: (h, w) of the levels -> (B, S, D)."""
        x = self.attention_norm(x + self.attention(x + position, x, reference, sizes))
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Its wide inside is a sixth of what training keeps; computing it again takes one product in twenty.
            out = checkpoint(self.feedforward, x, use_reentrant=False, preserve_rng_state=False)
        else:
            out = self.feedforward(x)
        return self.feedforward_norm(x + out)


class MSDeformAttnPixelDecoder(nn.Module):
    """Multi-scale deformable attention pixel decoder (METHOD.md 1, row 2)."""

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        feedforward: int = 1024,
        sampling: Sampling = "grid_sample",
    ) -> None:
        """`channels`: of the backbone's four maps, stride 4 first; `width`: D, a multiple of 32 and of `heads`."""
        super().__init__()
        if width % NORM_GROUPS:
            raise ValueError(f"width {width} is not a multiple of {NORM_GROUPS}, the groups of its norms")
        self.width = width
        stride4, *deeper = channels
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(NORM_GROUPS, width)) for c in reversed(deeper)
        )
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, points, feedforward, sampling) for _ in range(layers))
        self.lateral = nn.Sequential(nn.Conv2d(stride4, width, 1, bias=False), nn.GroupNorm(NORM_GROUPS, width))
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(NORM_GROUPS, width), nn.ReLU(inplace=True)
        )
        self.mask_features = nn.Conv2d(width, width, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.input_projections.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: Sequence[torch.Tensor]) -> PixelFeatures:
        """Four maps (B, channels[i], h_i, w_i), strides 4, 8, 16, 32 -> `PixelFeatures`."""
        stride4, *deeper = features
        maps = [project(f) for project, f in zip(self.input_projections, reversed(deeper), strict=True)]
        sizes: list[Size] = [(m.shape[2], m.shape[3]) for m in maps]
        device, dtype = maps[0].device, maps[0].dtype
        position = torch.cat(
            [
                sine_position_embedding(size, self.width, device, dtype).flatten(1).T + embed
                for size, embed in zip(sizes, self.level_embed, strict=True)
            ]
        )
        reference = reference_points(sizes, device)
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)  # (B, S, D)
        for layer in self.layers:
            x = layer(x, position, reference, sizes)
        tokens = x.split([h * w for h, w in sizes], 1)
        stride32, stride16, stride8 = (t.transpose(1, 2).unflatten(2, s) for t, s in zip(tokens, sizes, strict=True))
        lateral = self.lateral(stride4)
        up = F.interpolate(stride8, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return PixelFeatures(self.mask_features(self.smooth(lateral + up)), (stride32, stride16, stride8))
