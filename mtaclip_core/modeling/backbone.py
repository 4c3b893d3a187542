"""The choice of image backbone, and the names that its users need."""

from __future__ import annotations

from mtaclip_core.modeling.clip_backbone import build_clip_backbone
from mtaclip_core.modeling.image_backbone import STRIDES, ImageBackbone
from mtaclip_core.modeling.timm_backbone import TimmShape, build_timm_backbone

__all__ = ["STRIDES", "ImageBackbone", "TimmShape", "build_image_backbone"]


def build_image_backbone(
    kind: str, name: str, pretrained: str | None, load: bool = True, shape: TimmShape | None = None
) -> ImageBackbone:
    """An image backbone with four maps at strides 4, 8, 16, 32 (METHOD.md 1, row 1).

    Args:
        kind: "clip" (an image tower of open_clip) or "timm".
        name: `RN50`, `RN101`, `ViT-B-16`; or any timm model with a feature pyramid, such as `resnet18`.
        pretrained: None for random weights; for clip an open_clip tag or a local file; for timm "true" or a tag or
            a local safetensors file.
        load: False leaves the weights of `pretrained` out, but takes its activation and image statistics.
        shape: of a timm model that is not built as its name says.

    Raises:
        UserError: an unknown name, weights that cannot be had or do not fit.
    """
    if kind == "clip":
        return build_clip_backbone(name, pretrained, load)
    if kind == "timm":
        return build_timm_backbone(name, pretrained, load, shape)
    raise ValueError(f"backbone kind '{kind}' is not one of clip, timm")
