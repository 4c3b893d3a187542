"""Image towers of CLIP as dense backbones: the modified ResNet and the vision transformer of open_clip."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from mtaclip_core.cli import UserError
from mtaclip_core.modeling.clip_model import build_clip
from mtaclip_core.modeling.image_backbone import ImageBackbone, Triple

VIT_STRIDE = 16
VIT_TAPS = (3, 5, 7, 11)
"""Blocks of ViT-B/16, counted from 0, whose outputs become the maps at strides 4, 8, 16, 32."""


class ClipResNetBackbone(ImageBackbone):
    """CLIP's modified ResNet: its stem with the average pool (stride 4), then layer1 to layer4; no attention pool."""

    def __init__(
        self, tower: ModifiedResNet, mean: Triple = OPENAI_DATASET_MEAN, std: Triple = OPENAI_DATASET_STD
    ) -> None:
        """`tower`: changed here: it loses its attention pool, which dense features do not use."""
        stages = [tower.layer1, tower.layer2, tower.layer3, tower.layer4]
        a, b, c, d = (int(stage[-1].conv3.out_channels) for stage in stages)
        super().__init__((a, b, c, d), mean, std)
        tower.attnpool = None
        self.tower = tower

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """See `ImageBackbone.forward`."""
        x = self.tower.stem(images)
        maps = []
        for stage in (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4):
            x = stage(x)
            maps.append(x)
        return maps


class ClipViTBackbone(ImageBackbone):
    """CLIP's ViT-B/16: patch tokens after four blocks, brought to strides 4, 8, 16, 32.

    The class token takes part in the attention and leaves with the last block; its embedding is added once. The
    position embedding is interpolated from the grid of pretraining to that of the image.
    """

    def __init__(
        self,
        tower: VisionTransformer,
        taps: Sequence[int] = VIT_TAPS,
        mean: Triple = OPENAI_DATASET_MEAN,
        std: Triple = OPENAI_DATASET_STD,
    ) -> None:
        """`tower`: patch size 16; `taps`: four block numbers, rising. UserError for another patch size or depth."""
        width = int(tower.class_embedding.shape[0])
        if tuple(tower.patch_size) != (VIT_STRIDE, VIT_STRIDE):
            raise UserError(f"a CLIP ViT backbone needs patches of {VIT_STRIDE} pixels, not {tower.patch_size[0]}")
        if len(taps) != 4 or taps[-1] >= len(tower.transformer.resblocks):
            raise UserError(f"a CLIP ViT with {len(tower.transformer.resblocks)} blocks has no taps at {tuple(taps)}")
        super().__init__((width, width, width, width), mean, std)
        self.taps = tuple(taps)
        self.patch_embedding = tower.conv1
        self.class_embedding = tower.class_embedding
        self.position_embedding = tower.positional_embedding
        self.norm = tower.ln_pre
        self.blocks = tower.transformer.resblocks[: taps[-1] + 1]
        self.pyramid = nn.ModuleList(
            [
                nn.Sequential(
                    nn.GroupNorm(1, width),
                    nn.ConvTranspose2d(width, width, 2, stride=2),
                    nn.GroupNorm(1, width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, stride=2),
                ),
                nn.Sequential(nn.GroupNorm(1, width), nn.ConvTranspose2d(width, width, 2, stride=2)),
                nn.GroupNorm(1, width),
                nn.Sequential(nn.GroupNorm(1, width), nn.MaxPool2d(2)),
            ]
        )

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """See `ImageBackbone.forward`."""
        patches = self.patch_embedding(images)  # (B, width, H/16, W/16)
        grid = (patches.shape[2], patches.shape[3])
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
        x = self.norm(torch.cat([first, tokens], 1) + self.positions(grid).to(tokens.dtype))
        tapped = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                tapped[i] = x[:, 1:].transpose(1, 2).unflatten(2, grid)
        return [step(tapped[tap]) for step, tap in zip(self.pyramid, self.taps, strict=True)]

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """(1 + h*w, width): the position embedding of the class token, then of an h x w grid of patches."""
        trained = math.isqrt(self.position_embedding.shape[0] - 1)
        if grid == (trained, trained):
            return self.position_embedding
        square = self.position_embedding[1:].T.unflatten(1, (trained, trained))[None]
        resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([self.position_embedding[:1], resized[0].flatten(1).T])


def build_clip_backbone(name: str, pretrained: str | None, load: bool = True) -> ClipResNetBackbone | ClipViTBackbone:
    """The image tower of open_clip's model `name`; arguments and errors as `build_clip`."""
    clip = build_clip(name, pretrained, load)
    tower = clip.model.visual
    if isinstance(tower, ModifiedResNet):
        return ClipResNetBackbone(tower, clip.mean, clip.std)
    return ClipViTBackbone(tower, mean=clip.mean, std=clip.std)
