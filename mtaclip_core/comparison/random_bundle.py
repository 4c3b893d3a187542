"""Bundles with random weights: what a model of some shape costs, before anyone has trained it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtaclip_core import export
from mtaclip_core.config import TrainConfig, parse_config
from mtaclip_core.labels import CITYSCAPES, LabelSpace
from mtaclip_core.modeling.hf_config import label_space
from mtaclip_core.modeling.mask_text_decoder import DecoderLayer
from mtaclip_core.modeling.mta_clip import MTAClip, build_model
from mtaclip_core.training.checkpoint import save_checkpoint

SEED = 0


def classes_of(count: int) -> LabelSpace:
    """Cityscapes' 19, or as many classes without a meaning."""
    return CITYSCAPES if count == len(CITYSCAPES) else label_space("numbers", {i: f"class {i}" for i in range(count)})


def full_config(network_size: tuple[int, int], model: Mapping[str, Any] | None = None) -> TrainConfig:
    """MTA-CLIP of the release's size with random text vectors; `model`: what differs, as in `TrainConfig.model`."""
    values = {"text": {"source": "random_orthogonal"}, **(model or {})}
    return parse_config({"model": values, "network_size": list(network_size)}, "random model")


def random_model(config: TrainConfig, space: LabelSpace) -> MTAClip:
    """A model in evaluation mode whose labels differ from pixel to pixel, as a trained one's do.

    With the usual initial weights all classes are nearly alike everywhere, and the smallest rounding flips labels.
    """
    torch.manual_seed(SEED)
    model = build_model(config.model, space, SEED, load=False).eval()
    _enliven(model)
    return model


def _enliven(model: MTAClip) -> None:
    """Give every mask query a class of its own and masks that are clearly there or not.

    Attention with random weights makes all queries alike; so it may change them only a little.
    """
    with torch.no_grad():
        for layer in model.decoder.layers:
            assert isinstance(layer, DecoderLayer)
            for linear in (layer.cross_attention.out, layer.self_attention.out, layer.feedforward[-1]):
                assert isinstance(linear, torch.nn.Linear)
                linear.weight.mul_(0.1)
        head = model.decoder.class_head
        head.weight.mul_(20 / head.weight.std() * head.weight.shape[1] ** -0.5)
        last = model.decoder.mask_head[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.mul_(4)


def write_random_bundle(model: MTAClip, config: TrainConfig, out: Path, *, keep_tokens: bool, deformable: str) -> Path:
    """Export the model to `out` as the command `export` does; what that prints goes to stderr.

    Raises:
        UserError: a backend does not give the answers of the model.
    """
    checkpoint = out.with_name(f"{out.name}.safetensors")
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    meta = {
        "config": config.model_dump(mode="json"),
        "space": {"name": model.space.name, "classes": model.space.to_list()},
    }
    save_checkpoint(checkpoint, tensors, meta)
    options = ["--text-tokens", "kept" if keep_tokens else "dropped", "--deformable", deformable]
    with contextlib.redirect_stdout(sys.stderr):
        export.main([str(checkpoint), "--out", str(out), *options])
    checkpoint.unlink()
    return out
