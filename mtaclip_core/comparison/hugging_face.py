"""Hugging Face's Mask2Former as it is, from an image tensor to labels, in PyTorch and as a graph for OpenVINO."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtaclip_core.cli import UserError
from mtaclip_core.comparison.random_bundle import SEED
from mtaclip_core.deploy.onnx_export import quiet
from mtaclip_core.modeling.hf_weights import translate
from mtaclip_core.modeling.mta_clip import MTAClip

STAGES = ["stage1", "stage2", "stage3", "stage4"]


class HuggingFace(nn.Module):
    """Mask2Former with labels of the image's size.

    The way from masks to labels is the one of our deployed graph, so that the networks are what is compared: classes
    are contracted at stride 4, their maps resized, the best taken. The package's own post-processing would squeeze
    masks to 384x384; Mask2Former's, which resizes all masks, takes longer.
    """

    def __init__(self, classes: int, shape: Mapping[str, Any] | None = None) -> None:
        """ResNet-50, 100 queries and everything else as published; `shape`: arguments of its config that differ.

        Raises:
            UserError: the package is not installed.
        """
        super().__init__()
        self.model = build_mask2former(classes, shape).eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float32 normalised -> (B, H, W) int64."""
        found = self.model(pixel_values=images)
        probability = found.class_queries_logits.softmax(-1)[..., :-1]
        maps = torch.einsum("bqc,bqhw->bchw", probability, found.masks_queries_logits.sigmoid())
        return F.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False).argmax(1)

    def export(self, path: Path, images: Tensor) -> None:
        """Write the graph for images of this size as ONNX."""
        with torch.no_grad(), quiet():
            torch.onnx.export(self, (images,), str(path), dynamo=True, external_data=False, verbose=False)


def build_mask2former(classes: int, shape: Mapping[str, Any] | None = None, *, timm: str | None = None) -> Any:
    """Their `Mask2FormerForUniversalSegmentation` with random weights, as published.

    Args:
        shape: arguments of its config that differ; `backbone`: of the config of their ResNet-50.
        timm: a model of timm as backbone in place of theirs.

    Raises:
        UserError: the package is not installed.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise UserError(
            "--compare hf needs transformers, which is not installed: pip install 'mtaclip_ros[bench]'"
        ) from error
    transformers.logging.set_verbosity_error()
    torch.manual_seed(SEED)
    values = dict(shape or {})
    options = values.pop("backbone", {})
    if timm is None:
        backbone = transformers.ResNetConfig(out_features=STAGES, **options)
    else:
        backbone = transformers.TimmBackboneConfig(backbone=timm, out_indices=[1, 2, 3, 4])
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=classes, **values)
    return transformers.Mask2FormerForUniversalSegmentation(config)


def copy_backbone(theirs: HuggingFace, ours: MTAClip) -> None:
    """Give our model the weights of their backbone, which is of the same shape."""
    prefix = "backbone."
    found = translate({k: t for k, t in theirs.model.state_dict().items() if ".pixel_level_module.encoder." in k})
    ours.backbone.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in found.items()})
