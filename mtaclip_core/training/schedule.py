"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from mtaclip_core.config import OptimiserConfig

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def build_optimiser(model: nn.Module, criterion: nn.Module, config: OptimiserConfig) -> AdamW:
    """AdamW with the backbone at its own rate, and no weight decay on norms, biases and embeddings (METHOD)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                plain = isinstance(module, _NORMS) or parameter.ndim < 2 or not name.endswith("weight")
                groups.setdefault((module_name.startswith("backbone"), plain), []).append(parameter)
    groups.setdefault((False, True), []).extend(p for p in criterion.parameters() if p.requires_grad)
    settings = [
        {
            "params": parameters,
            "lr": config.lr * (config.backbone_factor if backbone else 1.0),
            "weight_decay": 0.0 if plain else config.weight_decay,
        }
        for (backbone, plain), parameters in sorted(groups.items())
    ]
    return AdamW(settings, lr=config.lr, betas=config.betas)


def rate_factor(step: int, steps: int, config: OptimiserConfig) -> float:
    """Linear warm-up, then `(1 - step / steps) ** power`; multiplies every group's base rate."""
    decay = (1.0 - step / steps) ** config.power
    return decay * min(1.0, (step + 1) / config.warmup) if config.warmup else decay
