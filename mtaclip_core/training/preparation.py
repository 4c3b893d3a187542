"""What is done to a model before it is trained: parts without a gradient, memory order, recomputation, compilation."""

from __future__ import annotations

from functools import partial

import torch
from timm.models import FeatureListNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from mtaclip_core.config import TrainConfig
from mtaclip_core.modeling.clip_backbone import ClipResNetBackbone, ClipViTBackbone
from mtaclip_core.modeling.mta_clip import MTAClip


def freeze_unused(model: MTAClip, config: TrainConfig) -> None:
    """Take what no loss reaches out of the training: DDP would wait for its gradients, and decay would shrink it."""
    decoder = model.decoder
    if config.loss.contrastive_weight == 0 and decoder.classifier == "linear" and decoder.contexts:
        decoder.with_similarity = False
        decoder.gamma.requires_grad_(False)
        for module in (decoder.expand_text, decoder.expand_text_norm, decoder.expand_mask):
            module.requires_grad_(False)


def prepare_execution(model: MTAClip, config: TrainConfig) -> None:
    """Set how the model is computed; names and values of its parameters stay.

    Call it after the averaged copy was made, which keeps the plain forms.
    """
    if config.channels_last:
        model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.checkpointing:
        for module in recomputed_modules(model):
            # An attribute of this object before the method of its class: no wrapper, which would rename parameters.
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
    if config.compile is not None:
        model.compile(backend=config.compile)


def recomputed_modules(model: MTAClip) -> list[nn.Module]:
    """Layers of the decoders and stages of the backbone whose activations can be computed again.

    A stage with batch norm in training is left out: computing it twice would count its statistics twice.
    """
    found: list[nn.Module] = [*model.decoder.layers]
    layers = getattr(model.pixel_decoder, "layers", None)
    found += layers if isinstance(layers, nn.ModuleList) else []
    return found + [stage for stage in _stages(model.backbone) if not _counts_statistics(stage)]


def _stages(backbone: nn.Module) -> list[nn.Module]:
    if isinstance(backbone, ClipResNetBackbone):
        tower = backbone.tower
        return [tower.layer1, tower.layer2, tower.layer3, tower.layer4]
    if isinstance(backbone, ClipViTBackbone):
        return list(backbone.blocks)
    model = getattr(backbone, "model", None)
    if not isinstance(model, FeatureListNet):  # timm reads the maps of other models inside their stages
        return []
    return [child for child in model.values() if sum(1 for _ in child.parameters()) > 4]


def _counts_statistics(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in module.modules())
