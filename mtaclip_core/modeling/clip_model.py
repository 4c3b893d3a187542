"""CLIP models of open_clip, with weights from a tag or a local file, for the image and the text tower."""

from __future__ import annotations

import difflib
import pickle
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import open_clip
import safetensors
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from mtaclip_core.cli import UserError
from mtaclip_core.modeling.image_backbone import Triple
from mtaclip_core.modeling.weight_download import hub_access

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class ClipModel:
    """A whole CLIP model and the RGB statistics (0-1 scale) of the images that it was trained on."""

    model: open_clip.CLIP
    mean: Triple
    std: Triple


def build_clip(name: str, pretrained: str | None, load: bool = True) -> ClipModel:
    """The CLIP model `name` of open_clip: `RN50`, `RN101`, `ViT-B-16` or any other with open_clip's own two towers.

    Args:
        name: as open_clip writes it. OpenAI's weights were trained with QuickGELU: a tag knows that by itself; with
            a local file of theirs, take the `-quickgelu` name.
        pretrained: None (random weights), an open_clip tag such as `openai`, or a file: safetensors, or a PyTorch
            file, which is only ever read with `weights_only=True`.
        load: False leaves the weights out: the model that `pretrained` fits, to be filled from a checkpoint.

    Raises:
        UserError: unknown name or tag, a tag that cannot be downloaded, a file that is missing or does not fit.
    """
    config = open_clip.get_model_config(name)
    if config is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        raise UserError(f"open_clip has no model '{name}'; " + (f"did you mean {' or '.join(close)}?" if close else ""))
    if set(config) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"} or (
        "timm_model_name" in config["vision_cfg"] or "hf_model_name" in config["text_cfg"]
    ):
        raise UserError(f"open_clip's '{name}' has other towers than CLIP's own; take RN50, RN101 or ViT-B-16")
    mean, std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    path = None
    if pretrained is not None and pretrained in open_clip.list_pretrained_tags_by_model(name):
        tag = open_clip.get_pretrained_cfg(name, pretrained)
        config["quick_gelu"] = tag.get("quick_gelu", False)
        mean, std = tag.get("mean", mean), tag.get("std", std)
        path = _download(name, pretrained, tag) if load else None
    elif pretrained is not None and load:
        path = _local_file(name, pretrained)
    model = open_clip.CLIP(**config)
    if path is not None:
        _load(model, name, path)
    return ClipModel(model, _triple(mean), _triple(std))


def _download(name: str, tag: str, config: dict[str, object]) -> Path:
    try:
        with hub_access():
            return Path(open_clip.download_pretrained(config))
    except (OSError, urllib.error.URLError) as error:
        raise UserError(
            f"CLIP weights {name}/{tag} cannot be downloaded from here ({type(error).__name__}); fetch them where "
            "there is network (open_clip.download_pretrained) and give the file: model.backbone.pretrained=FILE "
            "model.text.clip_pretrained=FILE; or train with another text source: model.text.source=learned, "
            "random_orthogonal or none, and model.backbone.pretrained=null or a timm backbone"
        ) from error


def _local_file(name: str, pretrained: str) -> Path:
    path = Path(pretrained)
    if path.is_file():
        return path
    if path.suffix in WEIGHT_SUFFIXES:
        raise UserError(f"CLIP weights '{path}' do not exist; give an existing file or a tag of open_clip")
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    raise UserError(f"'{pretrained}' is neither a file nor a tag of open_clip's {name}; its tags: {tags}")


def _load(model: open_clip.CLIP, name: str, path: Path) -> None:
    try:
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except (pickle.UnpicklingError, safetensors.SafetensorError, EOFError) as error:
        raise UserError(
            f"CLIP weights '{path}' are not a plain file of tensors (safetensors, or PyTorch weights only): "
            f"{_first_line(error)}"
        ) from error
    except (RuntimeError, KeyError, AttributeError, StopIteration) as error:
        raise UserError(f"CLIP weights '{path}' do not fit open_clip's {name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:200] + " ..."


def _triple(values: tuple[float, ...]) -> Triple:
    red, green, blue = values
    return red, green, blue
