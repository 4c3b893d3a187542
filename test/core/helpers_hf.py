"""Small Hugging Face Mask2Formers with random weights, whose answers differ from pixel to pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig, SwinConfig

STAGES = ["stage1", "stage2", "stage3", "stage4"]
PREPROCESSOR = {
    "image_mean": [0.4, 0.5, 0.45],
    "image_std": [0.2, 0.25, 0.225],
    "rescale_factor": 1 / 255,
    "size": {"height": 384, "width": 384},
    "size_divisor": 32,
}


def backbone(kind: str, shallow: bool) -> Any:
    if kind == "swin":
        depths = [1, 2, 1, 1] if shallow else [2, 2, 1, 2]
        return SwinConfig(embed_dim=16, depths=depths, num_heads=[1, 2, 2, 2], window_size=4, out_features=STAGES)
    deep = kind == "resnet_bottleneck"
    return ResNetConfig(
        hidden_sizes=[32, 64, 64, 96] if deep else [32, 32, 48, 64],
        depths=[1, 2, 1, 1],
        layer_type="bottleneck" if deep else "basic",
        downsample_in_bottleneck=deep,
        out_features=STAGES,
    )


def model(kind: str, names: list[str], shallow: bool = False) -> Mask2FormerForUniversalSegmentation:
    """In evaluation mode; `kind`: swin, resnet_basic or resnet_bottleneck; shallow: as few layers as can be."""
    torch.manual_seed(3)
    config = Mask2FormerConfig(
        backbone_config=backbone(kind, shallow),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        encoder_layers=1 if shallow else 2,
        decoder_layers=2 if shallow else 4,
        num_attention_heads=4,
        dim_feedforward=64,
        num_queries=12,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    built = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if "sampling_offsets" in name else 0.05))
        for module in built.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        built.model.transformer_module.queries_features.weight.mul_(10)
        built.class_predictor.weight.mul_(20)
        built.model.transformer_module.decoder.mask_predictor.mask_embedder.get_submodule("2.0").weight.mul_(20)
    return built


def save(built: Mask2FormerForUniversalSegmentation, folder: Path, preprocessor: dict | None = None) -> Path:
    built.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor or PREPROCESSOR))
    return folder
