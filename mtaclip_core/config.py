"""Typed, frozen configuration of a training: YAML files plus `key=value` overrides.

Defaults are the MTA-CLIP release's decoder and losses with Mask2Former's Cityscapes recipe (crop 512x1024, 90,000 steps
of 16, lr 1e-4); a file under `config/train/` names only what differs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from mtaclip_core.cli import UserError
from mtaclip_core.config_file import override, read_values

Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Triple = tuple[float, float, float]
Side = Annotated[int, Field(ge=32, multiple_of=32)]  # every backbone map is exactly twice the next one


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneConfig(Config):
    """Image backbone: CLIP towers of open_clip (`RN50`, `RN101`, `ViT-B-16`) or any timm features model."""

    kind: Literal["clip", "timm"] = "clip"
    name: str = "RN50"
    pretrained: str | None = None  # open_clip/timm tag or a local weights file; None: random weights
    # The rest is for timm models of unusual shape, such as weights of other projects have.
    options: dict[str, JsonValue] = {}  # arguments of the model in place of those that `name` stands for
    map_norms: bool = False  # a LayerNorm on each of the four maps, as Swin has in segmentation
    pad_first: bool = False  # Swin: maps are padded to whole windows before they are shifted; timm shifts first
    stride_in_first: bool = False  # ResNet: bottlenecks go down in their first convolution, as the oldest weights do
    mean: Triple | None = None  # image statistics, RGB in 0-1, in place of those that `pretrained` means
    std: Triple | None = None
    freeze_batch_norm: bool = False  # statistics and affine part stay as they are loaded


class PixelDecoderConfig(Config):
    """`deformable`: multi-scale deformable attention (METHOD row 2); `fpn`: a light one for CPUs."""

    kind: Literal["deformable", "fpn"] = "deformable"
    # Of `deformable` alone:
    layers: int = Field(6, ge=1)
    heads: int = Field(8, ge=1)
    feedforward: int = Field(1024, ge=8)
    # Of `fpn` alone; `group` where batch norm has too few samples a process, or a step must not depend on its parts.
    norm: Literal["batch", "group"] = "batch"


class TextConfig(Config):
    """Where the class embeddings T (Z, C', E) come from; `none`: no text at all, which is Mask2Former."""

    source: Literal["clip", "learned", "random_orthogonal", "none"] = "clip"
    contexts: int = Field(3, ge=1, description="Z")
    learn_contexts: bool = True  # of `clip`; False: the bare class names, without a learned token
    clip_name: str = "RN50"
    clip_pretrained: str | None = None
    width: int = Field(512, ge=8, description="E where no CLIP tower sets it")


class DecoderConfig(Config):
    queries: int = Field(100, ge=1, description="Q")
    width: int = Field(256, ge=8, multiple_of=8, description="D")
    layers: int = Field(9, ge=1)
    heads: int = Field(8, ge=1)
    feedforward: int = Field(2048, ge=8)


class ModelConfig(Config):
    backbone: BackboneConfig = BackboneConfig()
    pixel_decoder: PixelDecoderConfig = PixelDecoderConfig()
    text: TextConfig = TextConfig()
    decoder: DecoderConfig = DecoderConfig()
    # Share of the text tokens' own masks in the class maps at test time; 0 is MTA-CLIP (they are unused there).
    text_map_weight: float = Field(0.0, ge=0.0, le=1.0)
    # What classifies a mask: a linear head (MTA-CLIP), its similarity to the class texts, or the product of both.
    classifier: Literal["linear", "similarity", "product"] = "linear"
    text_tokens: Literal["kept", "dropped"] = "kept"  # in the decoder at validation; `kept` is MTA-CLIP

    @model_validator(mode="after")
    def _widths_fit(self) -> ModelConfig:
        width, heads = self.decoder.width, self.decoder.heads
        if width % heads:
            raise ValueError(f"decoder.width {width} is not a multiple of decoder.heads {heads}")
        if self.pixel_decoder.kind == "deformable":
            if width % 32:
                raise ValueError(
                    f"decoder.width {width} is not a multiple of 32, which the deformable pixel decoder needs"
                )
            if width % self.pixel_decoder.heads:
                raise ValueError(
                    f"decoder.width {width} is not a multiple of pixel_decoder.heads {self.pixel_decoder.heads}"
                )
        if self.text.source == "none" and self.text_map_weight > 0:
            raise ValueError(f"text_map_weight {self.text_map_weight:g} needs class texts, but text.source is none")
        if self.text.source == "none" and self.classifier != "linear":
            raise ValueError(f"classifier {self.classifier} needs class texts, but text.source is none")
        if self.text_tokens == "dropped" and (self.text_map_weight > 0 or self.classifier != "linear"):
            raise ValueError(
                "text_tokens dropped: text_map_weight and classifiers other than linear need the text tokens"
            )
        if self.text.source == "clip" and not self.text.learn_contexts and self.text.contexts != 1:
            raise ValueError(f"text.contexts {self.text.contexts} would be equal without learn_contexts; set it to 1")
        return self


class LossConfig(Config):
    """Weights and settings of the objective; METHOD `Objective and recipe`."""

    class_weight: Weight = 2.0
    mask_weight: Weight = 5.0
    dice_weight: Weight = 5.0
    contrastive_weight: Weight = 1.0
    no_object: Weight = 0.1
    points: int = Field(12544, ge=1)
    oversample: float = Field(3.0, ge=1.0)
    importance: float = Field(0.75, ge=0.0, le=1.0)
    negatives: Literal["mix", "separate", "all_positive"] = "mix"
    temperature: Positive | Literal["none", "learned"] = "none"
    ignore_aware: bool = False  # void pixels leave mask and dice losses instead of being negatives
    # What divides mask and dice losses: the matched masks, or, as in MTA-CLIP's release, the matched ones plus
    # `no_object` for each of the others.
    mask_normaliser: Literal["matched", "weighted"] = "matched"
    orthogonal_weight: float = Field(0.0, ge=0.0, description="of MVP-SEG's term against equal contexts")
    # Cross entropy of the text tokens' masks as a per-pixel classifier; 0 is MTA-CLIP (text masks get no loss there).
    pixel_text_weight: float = Field(0.0, ge=0.0)
    pixel_class_weights: dict[str, Weight] = {}  # by class name, 1 where not named


class SourceConfig(Config):
    """One training set; its classes are joined to the model's by name."""

    data: str
    split: str = "train"
    weight: float = Field(1.0, gt=0.0, description="share of the samples, relative to the other sources")


class AugmentConfig(Config):
    crop: tuple[Side, Side] = (512, 1024)
    scale: tuple[Positive, Positive] = (0.5, 2.0)  # of the source image
    scale_steps: int = Field(
        0, ge=0, description="so many sizes, spread evenly over `scale`; 0: any, drawn evenly in the logarithm"
    )
    flip: float = Field(0.5, ge=0.0, le=1.0)
    colour: bool = True  # SSD photometric distortion
    swap_channels: bool = True  # of `colour`: half of the images get another order of channels, as torchvision has it
    class_balanced: float = Field(
        0.0, ge=0.0, le=1.0, description="share of crops that contain a pixel of a class drawn evenly from the frame's"
    )


class OptimiserConfig(Config):
    lr: float = Field(1e-4, gt=0.0)
    weight_decay: Weight = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    backbone_factor: Weight = 0.1
    clip_norm: float = Field(0.01, ge=0.0, description="largest gradient norm; 0: no clipping")
    warmup: int = Field(1500, ge=0, description="steps")
    power: Weight = 0.9


class TrainConfig(Config):
    """One experiment."""

    classes: str = "cityscapes"  # or camvid, ade20k, or a .yaml file that describes a data set
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: tuple[SourceConfig, ...] = ()
    validation: SourceConfig | None = None
    augment: AugmentConfig = AugmentConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    steps: int = Field(90_000, ge=1)
    batch: int = Field(16, ge=1, description="samples per step over all processes")
    accumulate: int = Field(1, ge=1, description="parts that a process computes its share of a step in")
    checkpointing: bool = False  # compute activations again in the backward pass instead of keeping them
    channels_last: bool = False  # memory order of the backbone
    compile: Literal["inductor", "aot_eager", "eager"] | None = None  # backend of torch.compile
    precision: Literal["f32", "bf16", "fp16"] = "f32"
    ema: float = Field(0.0, ge=0.0, lt=1.0, description="decay of the averaged weights; 0: none")
    seed: int = Field(0, ge=0)
    workers: int = Field(2, ge=0)
    cache: bool = False  # keep decoded images in memory
    network_size: tuple[Side, Side] | None = None  # of evaluation and export; None: the crop
    evaluate_every: int = Field(5000, ge=1)
    checkpoint_every: int = Field(1000, ge=1)
    log_every: int = Field(50, ge=1)

    @model_validator(mode="after")
    def _texts_are_there(self) -> TrainConfig:
        if self.model.text.source == "none" and self.loss.pixel_text_weight > 0:
            weight = self.loss.pixel_text_weight
            raise ValueError(f"loss.pixel_text_weight {weight:g} needs class texts, but model.text.source is none")
        text, weight = self.model.text, self.loss.orthogonal_weight
        trained = text.source == "learned" or (text.source == "clip" and text.learn_contexts)
        if weight > 0 and not (trained and text.contexts > 1):
            raise ValueError(
                f"loss.orthogonal_weight {weight:g} needs two or more trained contexts, but model.text has "
                f"{text.contexts} of source {text.source}"
            )
        return self

    @property
    def size(self) -> tuple[int, int]:
        return self.network_size or self.augment.crop


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply `key=value` overrides (`optimiser.lr=2e-4`, `train.0.data=camvid:data/camvid`).

    A file may start from another with `base: other.yaml` (relative to itself).

    Raises:
        UserError: no such file, broken YAML, unknown key (names the nearest valid one), or a value of the wrong type.
    """
    values = read_values(Path(path))
    override(values, overrides)
    return parse_config(values, str(path))


def parse_config(values: Mapping[str, Any], origin: str) -> TrainConfig:
    """Check a mapping against `TrainConfig`; `origin` is named in errors.

    Raises:
        UserError: as `load_config`.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        if first["type"] == "extra_forbidden":
            valid = _valid_keys(first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), valid, 1, 0.0)
            raise UserError(f"{origin}: unknown key '{where}'; did you mean '{near[0]}'?") from None
        if first["type"] == "value_error":  # of a validator of ours, which names the values
            raise UserError(f"{origin}: {where}: {first['ctx']['error']}") from None
        raise UserError(f"{origin}: {where}: {first['msg']} (got {first['input']!r})") from None


def differences(first: TrainConfig, second: TrainConfig) -> list[str]:
    """Dotted keys whose values differ, in the order of the fields; a list of another length is one key."""
    return _differences(first.model_dump(mode="json"), second.model_dump(mode="json"), "")


def _differences(first: Any, second: Any, prefix: str) -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        pairs = [(key, first.get(key), second.get(key)) for key in dict.fromkeys((*first, *second))]
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(first, second, strict=True))]
    else:
        return [] if first == second else [prefix]
    return [key for name, a, b in pairs for key in _differences(a, b, f"{prefix}.{name}".lstrip("."))]


def _valid_keys(location: Sequence[Any]) -> list[str]:
    model: Any = TrainConfig
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields[part].annotation
        candidates = [field, *getattr(field, "__args__", ())]
        model = next(c for c in candidates if get_origin(c) is None and isinstance(c, type) and issubclass(c, Config))
    return list(model.model_fields)
