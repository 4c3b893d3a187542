"""Any timm model with a feature pyramid as image backbone: MobileNet, ResNet, ConvNeXt, Swin and others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import Bottleneck
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn
from torch.nn import functional as F

from mtaclip_core.cli import UserError
from mtaclip_core.modeling.image_backbone import STRIDES, ImageBackbone, Triple
from mtaclip_core.modeling.weight_download import hub_access

DEFAULT_TAGS = ("true", "yes", "default")
"""Values of `pretrained` that mean timm's own default weights of a model."""


@dataclass(frozen=True)
class TimmShape:
    """How a timm model differs from what its name says.

    Attributes:
        options: arguments of the model, such as `embed_dim`, `depths`, `window_size`.
        map_norms: a LayerNorm over the channels of each map, as Swin has in detection and segmentation.
        pad_first: the maps of a Swin are padded to whole windows before they are shifted, as its authors do; timm
            shifts first, which is another function wherever a map is not a whole number of windows.
        stride_in_first: bottlenecks of a ResNet go down in their first, 1x1 convolution instead of the 3x3 one.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    map_norms: bool = False
    pad_first: bool = False
    stride_in_first: bool = False


class TimmBackbone(ImageBackbone):
    """The maps with reduction 4, 8, 16 and 32 of a timm `features_only` model, always channels-first."""

    def __init__(self, model: nn.Module, mean: Triple, std: Triple, shape: TimmShape | None = None) -> None:
        """`model`: what `timm.create_model(..., features_only=True)` returns. UserError when it lacks a stride."""
        info: Any = model.feature_info
        reductions: list[int] = info.reduction()
        missing = [stride for stride in STRIDES if stride not in reductions]
        if missing:
            raise UserError(
                f"this timm model has feature maps at strides {reductions}, but {missing} of {list(STRIDES)} are "
                "missing; take a model with a pyramid, such as resnet50, mobilenetv4_conv_small or swin_tiny_*"
            )
        # A stride that occurs twice: the deeper map.
        indices = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
        a, b, c, d = (int(info.channels()[i]) for i in indices)
        super().__init__((a, b, c, d), mean, std)
        shape = shape or TimmShape()
        if shape.pad_first:
            _pad_first(model)
        if shape.stride_in_first:
            _move_strides(model)
        self.model = model
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if shape.map_norms else None
        self._indices = indices
        self._channels_last = "NHWC" in str(getattr(model, "output_fmt", "NCHW"))

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """See `ImageBackbone.forward`."""
        every = self.model(images)
        maps = [every[i] for i in self._indices]
        if self.norms is not None:
            maps = maps if self._channels_last else [m.permute(0, 2, 3, 1) for m in maps]
            maps = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        elif not self._channels_last:
            return maps
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps]


def build_timm_backbone(
    name: str, pretrained: str | None, load: bool = True, shape: TimmShape | None = None
) -> TimmBackbone:
    """A timm model by `name` (with or without a tag, `resnet18.a1_in1k`).

    `pretrained`: None (random weights), "true" (timm's default weights), a timm tag, or a local `.safetensors`
    file of the whole model in timm's own names. `load=False` leaves the weights out, but normalises images as the
    tag does. UserError for an unknown name, unreachable or unfitting weights.
    """
    base = name.split(".")[0]
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise UserError(f"timm has no model '{name}'; {hint}")
    # Swin fixes the image size unless told otherwise; its windows adapt to any size.
    fixed_size = "swin_transformer" in timm.model_entrypoint(base).__module__
    options: dict[str, Any] = {"strict_img_size": False} if fixed_size else {}
    options |= dict(shape.options) if shape else {}
    if pretrained is None:
        model = _create(name, **options)
    elif Path(pretrained).suffix or Path(pretrained).exists():
        if load:
            _check_file(name, Path(pretrained), options)
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": pretrained}}
        model = _create(name, **options)
    else:
        if pretrained.lower() not in DEFAULT_TAGS:
            name = f"{base}.{pretrained}"
        try:
            with hub_access():
                model = _create(name, pretrained=load, **options)
        except OSError as error:
            raise UserError(
                f"the weights of timm's {name} cannot be downloaded from here ({type(error).__name__}); download their "
                "model.safetensors where there is network and give its path, or train without pretrained weights"
            ) from error
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return TimmBackbone(
        model,
        _triple(cfg.mean if cfg else IMAGENET_DEFAULT_MEAN),
        _triple(cfg.std if cfg else IMAGENET_DEFAULT_STD),
        shape,
    )


def _create(name: str, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, **options)
    except (RuntimeError, TypeError) as error:  # TypeError: an option that this model does not have
        raise UserError(f"timm cannot build '{name}' as a backbone: {error}") from error


class _PaddedBlock(SwinTransformerBlock):
    def _attn(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        below, right = -height % self.window_size[0], -width % self.window_size[1]
        return super()._attn(F.pad(x, (0, 0, 0, right, 0, below)))[:, :height, :width]


def _pad_first(model: nn.Module) -> None:
    blocks = [m for m in model.modules() if isinstance(m, SwinTransformerBlock)]
    if not blocks:
        raise UserError("pad_first needs a Swin, such as swin_tiny_patch4_window7_224")
    for block in blocks:
        block.__class__ = _PaddedBlock


def _move_strides(model: nn.Module) -> None:
    """Let the bottlenecks of a ResNet go down in their first convolution."""
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck)]
    if not blocks:
        raise UserError("stride_in_first needs a ResNet with bottlenecks, such as resnet50")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _check_file(name: str, path: Path, options: dict[str, Any]) -> None:
    """timm loads into `features_only` models without complaint about missing names; so compare them first."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(f"weights '{path}' of timm's {name}: expected an existing .safetensors file")
    try:
        weights = load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"weights '{path}' is not a safetensors file: {error}") from error
    expected = timm.create_model(name, num_classes=0, **options).state_dict()
    wrong = [k for k, v in expected.items() if k not in weights or weights[k].shape != v.shape]
    if wrong:
        raise UserError(
            f"weights '{path}' do not fit timm's {name}: {len(wrong)} of {len(expected)} tensors are missing or of "
            f"another shape, the first is '{wrong[0]}'"
        )


def _triple(values: tuple[float, ...]) -> Triple:
    red, green, blue = values
    return red, green, blue
