"""What a Hugging Face Mask2Former checkpoint says about itself: `config.json` and `preprocessor_config.json`.

They come from elsewhere, so that every number is bounded before anything is built from it.
"""

from __future__ import annotations

import colorsys
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtaclip_core.cli import UserError
from mtaclip_core.config import ModelConfig, Triple
from mtaclip_core.labels import CITYSCAPES, MAX_CLASSES, LabelClass, LabelSpace

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
MAX_JSON_BYTES = 4 * 1024**2
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
STAGES = ["stage1", "stage2", "stage3", "stage4"]

Model = TypeVar("Model", bound=BaseModel)
Width = Annotated[int, Field(ge=4, le=8192)]
Count = Annotated[int, Field(ge=1, le=128)]
Four = Annotated[list[int], Field(min_length=4, max_length=4)]
Depths = Annotated[list[Count], Field(min_length=4, max_length=4)]


class _Given(BaseModel):
    """Defaults are those of the `transformers` package, which leaves them out of files; further keys are its own."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class SwinConfig(_Given):
    model_type: Literal["swin", "maskformer-swin"]
    patch_size: Literal[4] = 4
    num_channels: Literal[3] = 3
    embed_dim: Width = 96
    depths: Depths = [2, 2, 6, 2]
    num_heads: Depths = [3, 6, 12, 24]
    window_size: Annotated[int, Field(ge=1, le=64)] = 7
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] = 4.0
    qkv_bias: bool = True
    hidden_act: Literal["gelu"] = "gelu"
    use_absolute_embeddings: Literal[False] = False
    layer_norm_eps: Annotated[float, Field(ge=1e-5, le=1e-5)] = 1e-5
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    out_features: list[str] = STAGES

    def backbone(self) -> dict[str, Any]:
        """Values of our `BackboneConfig`."""
        size = {96: "tiny_patch4_window7_224", 128: "base_patch4_window12_384", 192: "large_patch4_window12_384"}
        names = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias", "drop_path_rate")
        return {
            "name": f"swin_{size.get(self.embed_dim, size[96])}",
            "options": {**{name: getattr(self, name) for name in names}, "always_partition": True},
            "map_norms": True,
            "pad_first": True,
        }


class ResNetConfig(_Given):
    model_type: Literal["resnet"]
    num_channels: Literal[3] = 3
    embedding_size: Literal[64] = 64
    hidden_sizes: Annotated[list[Width], Field(min_length=4, max_length=4)] = [256, 512, 1024, 2048]
    depths: Depths = [3, 4, 6, 3]
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    hidden_act: Literal["relu"] = "relu"
    downsample_in_first_stage: Literal[False] = False
    downsample_in_bottleneck: bool = False
    out_features: list[str] = STAGES

    def backbone(self) -> dict[str, Any]:
        """Values of our `BackboneConfig`."""
        deep = self.layer_type == "bottleneck"
        channels = [size // 4 if deep else size for size in self.hidden_sizes]
        return {
            "name": "resnet50" if deep else "resnet18",
            "options": {"layers": self.depths, "channels": channels},
            "stride_in_first": deep and self.downsample_in_bottleneck,
        }


class Mask2FormerConfig(_Given):
    model_type: Literal["mask2former"]
    backbone_config: Annotated[SwinConfig | ResNetConfig, Field(discriminator="model_type")]
    feature_size: Width = 256
    mask_feature_size: Width = 256
    hidden_dim: Width = 256
    encoder_feedforward_dim: Width = 1024
    encoder_layers: Count = 6
    decoder_layers: Annotated[int, Field(ge=2, le=128)] = 10
    num_attention_heads: Count = 8
    dim_feedforward: Width = 2048
    num_queries: Annotated[int, Field(ge=1, le=4096)] = 100
    activation_function: Literal["relu"] = "relu"
    pre_norm: Literal[False] = False
    enforce_input_projection: Literal[False] = False
    common_stride: Literal[4] = 4
    feature_strides: Four = [4, 8, 16, 32]
    id2label: Annotated[dict[int, Annotated[str, Field(min_length=1, max_length=100)]], Field(max_length=MAX_CLASSES)]


class Preprocessor(_Given):
    do_resize: bool = True
    size: dict[str, Annotated[int, Field(ge=8, le=8192)] | None] | int | None = None
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(gt=0)] = 1 / 255
    do_normalize: bool = True
    image_mean: Triple = IMAGENET_MEAN
    image_std: Triple = IMAGENET_STD


@dataclass(frozen=True)
class Described:
    """A checkpoint in our terms.

    Attributes:
        model: our configuration of the same function.
        space: its classes.
        network_size: (height, width) that it wants its images resized to; None where it leaves that to the image.
    """

    model: ModelConfig
    space: LabelSpace
    network_size: tuple[int, int] | None


def describe(folder: Path) -> Described:
    """Read what a checkpoint's folder says about it.

    Raises:
        UserError: no such files, or a model that is not a Mask2Former of a shape that we can build.
    """
    given = _checked(Mask2FormerConfig, _with_backbone(_read(folder / CONFIG)), folder / CONFIG)
    widths = {given.feature_size, given.mask_feature_size, given.hidden_dim}
    if len(widths) > 1 or given.feature_strides != [4, 8, 16, 32] or given.backbone_config.out_features != STAGES:
        raise UserError(
            f"'{folder / CONFIG}': expected one width for feature_size, mask_feature_size and hidden_dim, "
            f"feature_strides [4, 8, 16, 32] and out_features {STAGES}"
        )
    preprocessor = Preprocessor()
    if (folder / PREPROCESSOR).exists():
        preprocessor = _checked(Preprocessor, _read(folder / PREPROCESSOR), folder / PREPROCESSOR)
    mean, std = _statistics(preprocessor)
    values: dict[str, Any] = {
        "backbone": {"kind": "timm", **given.backbone_config.backbone(), "mean": mean, "std": std},
        "pixel_decoder": {
            "kind": "deformable",
            "layers": given.encoder_layers,
            "heads": given.num_attention_heads,
            "feedforward": given.encoder_feedforward_dim,
        },
        "text": {"source": "none"},
        "decoder": {
            "queries": given.num_queries,
            "width": given.hidden_dim,
            "layers": given.decoder_layers - 1,  # the prediction before the first layer counts as one there
            "heads": given.num_attention_heads,
            "feedforward": given.dim_feedforward,
        },
    }
    return Described(
        _checked(ModelConfig, values, folder / CONFIG),
        label_space(folder.resolve().name, given.id2label),
        _network_size(preprocessor),
    )


def label_space(name: str, id2label: dict[int, str]) -> LabelSpace:
    """The classes in the order of the logits; those of Cityscapes with its colours, and its ids where all are.

    Raises:
        UserError: the ids are not 0, 1, 2, ...
    """
    if sorted(id2label) != list(range(len(id2label))) or not id2label:
        raise UserError(f"id2label of '{name}' has the ids {sorted(id2label)[:5]}...; expected 0, 1, 2 and so on")
    known = {c.name: c for c in CITYSCAPES.classes}
    names = [" ".join(id2label[i].lower().replace("_", " ").replace("-", " ").split()) for i in range(len(id2label))]
    if len(set(names)) == len(names) and all(n in known for n in names):
        return LabelSpace(CITYSCAPES.name, tuple(known[n] for n in names))
    classes = []
    for i, n in enumerate(names):
        own = id2label[i] if names.count(n) == 1 else f"{id2label[i]} {i}"
        classes.append(LabelClass(i, own, known[n].colour if n in known else _colour(i)))
    return LabelSpace(name[:100], tuple(classes))


def _colour(index: int) -> tuple[int, int, int]:
    """Hues a golden section apart: neighbours differ, and no two of a few hundred are equal."""
    hue, value = (0.11 + index * 0.618034) % 1.0, 0.6 + 0.4 * ((index * 7) % 5) / 4
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, value))
    return red, green, blue


def _statistics(given: Preprocessor) -> tuple[Triple, Triple]:
    """Mean and std such that (rgb / 255 - mean) / std is what the preprocessor makes of a uint8 image."""
    factor = 255 * given.rescale_factor if given.do_rescale else 255.0
    mean, std = (given.image_mean, given.image_std) if given.do_normalize else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if min(std) <= 0:
        raise UserError(f"{PREPROCESSOR}: image_std {std} must be above 0")
    scaled_mean, scaled_std = ([value / factor for value in values] for values in (mean, std))
    return (scaled_mean[0], scaled_mean[1], scaled_mean[2]), (scaled_std[0], scaled_std[1], scaled_std[2])


def _network_size(given: Preprocessor) -> tuple[int, int] | None:
    """Height and width where they are fixed, up to a multiple of 32."""
    size = given.size if isinstance(given.size, dict) else {}
    height, width = size.get("height"), size.get("width")
    if not given.do_resize or height is None or width is None:
        return None
    return -(-height // 32) * 32, -(-width // 32) * 32


def _with_backbone(values: dict[str, Any]) -> dict[str, Any]:
    """The package's own default backbone where the file names none."""
    if values.get("backbone_config") is None:
        if values.get("backbone"):
            raise UserError(
                f"{CONFIG} takes its backbone '{values['backbone']}' from elsewhere; expected one with backbone_config"
            )
        return {**values, "backbone_config": {"model_type": "swin", "depths": [2, 2, 18, 2]}}
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"'{path}' is larger than {MAX_JSON_BYTES} bytes: no configuration")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"'{path}': {error.strerror}; expected the folder of a Hugging Face Mask2Former ({CONFIG}, *.safetensors)"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is not a JSON object")
    return values


def _checked(kind: type[Model], values: dict[str, Any], path: Path) -> Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]
        raise UserError(f"'{path}': {where}: {what} (got {str(first['input'])[:80]!r})") from None
