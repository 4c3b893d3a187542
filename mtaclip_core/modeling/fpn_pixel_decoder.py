"""A light pixel decoder for small models on CPUs: a feature pyramid with one smoothing step per stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from mtaclip_core.modeling.pixel_features import PixelFeatures

Norm = Literal["batch", "group"]
NORM_GROUPS = 8


class FPNPixelDecoder(nn.Module):
    """Top-down feature pyramid (Lin et al., 2017, arXiv 1612.03144) at width D, plus a pooled context at stride 32.

    Per stride: lateral 1x1, plus the coarser map upsampled, then 3x3 (separable by default). Batch norm, the
    default, folds into the convolutions at inference; take "group" where batches are too small for it.
    """

    def __init__(self, channels: Sequence[int], width: int = 96, separable: bool = True, norm: Norm = "batch") -> None:
        """`channels`: of the backbone's four maps, stride 4 first; `width`: D, a multiple of 8."""
        super().__init__()
        if width % NORM_GROUPS:
            raise ValueError(f"width {width} is not a multiple of {NORM_GROUPS}")
        self.width = width
        self.lateral = nn.ModuleList(_conv(c, width, 1, norm) for c in channels)
        self.smooth = nn.ModuleList(_smooth(width, separable, norm) for _ in channels)
        self.context = nn.Linear(width, width)
        self.mask_features = nn.Conv2d(width, width, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.mask_features.weight)

    def forward(self, features: Sequence[torch.Tensor]) -> PixelFeatures:
        """Four maps (B, channels[i], h_i, w_i), strides 4, 8, 16, 32, each twice the next -> `PixelFeatures`."""
        inputs = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        x = inputs[3] + self.context(inputs[3].mean((2, 3)))[:, :, None, None]
        outputs = [self.smooth[3](x)]
        for i in (2, 1, 0):
            x = inputs[i] + F.interpolate(outputs[-1], scale_factor=2.0, mode="nearest")
            outputs.append(self.smooth[i](x))
        stride32, stride16, stride8, stride4 = outputs
        return PixelFeatures(self.mask_features(stride4), (stride32, stride16, stride8))


def _conv(inputs: int, outputs: int, kernel: int, norm: Norm, groups: int = 1, relu: bool = False) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(NORM_GROUPS, outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _smooth(width: int, separable: bool, norm: Norm) -> nn.Sequential:
    if not separable:
        return _conv(width, width, 3, norm, relu=True)
    return nn.Sequential(_conv(width, width, 3, norm, groups=width), _conv(width, width, 1, norm, relu=True))
