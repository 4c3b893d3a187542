"""The schema of `bundle.yaml`: what a bundle says about itself, with bounds on everything that is allocated from it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mtaclip_core.cli import UserError
from mtaclip_core.labels import MAX_CLASSES

FORMAT = 1
MAX_FILE_BYTES = 2 * 1024**3 - 1
"""The most that one protobuf file (so one ONNX without external data) can hold."""
MAX_SIDE = 8192
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Side = Annotated[int, Field(ge=8, le=MAX_SIDE)]
Byte = Annotated[int, Field(ge=0, le=255)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassRow(_Strict):
    """One class of the bundle: label value, name, display colour (RGB)."""

    id: Annotated[int, Field(ge=0, le=MAX_CLASSES)]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    colour: tuple[Byte, Byte, Byte]


class Text(_Strict):
    """Where the text embeddings came from (only `clip` may claim anything about language); `none`: there are none."""

    source: Literal["clip", "learned", "random_orthogonal", "none"]


class GraphOptions(_Strict):
    """Which of several forms the deployed graph has.

    The default values are what bundles have that name none.

    Attributes:
        text_tokens: `kept`: the class texts travel through the decoder beside the mask queries, as in training;
            `dropped`: the queries alone, which is faster and another function; measure what it costs.
        deformable: form of the deformable attention, where the model has one: GridSample, or gathers in plain index
            arithmetic. Equal results.
        resize: what is resized to full size: the C `classes` maps, contracted before, or the Q `masks`, as Mask2Former
            does it, which is dearer and almost the same.
    """

    text_tokens: Literal["kept", "dropped"] = "kept"
    deformable: Literal["grid_sample", "gather"] = "grid_sample"
    resize: Literal["classes", "masks"] = "classes"


class Training(_Strict):
    """What was trained: the whole training config and the git revision that trained it."""

    config: dict[str, JsonValue]
    revision: str


class Measured(_Strict):
    """A number and the command that gives it again."""

    what: Annotated[str, Field(min_length=1)]
    value: float | int | str
    command: Annotated[str, Field(min_length=1)]


class FileEntry(_Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Manifest(_Strict):
    """The content of `bundle.yaml`."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    space: Annotated[str, Field(min_length=1, max_length=100)]
    classes: Annotated[list[ClassRow], Field(min_length=1, max_length=MAX_CLASSES)]
    network_size: tuple[Side, Side]
    confidence_floor: Byte = 0
    text: Text
    graph: GraphOptions = GraphOptions()
    precision: Literal["f32", "fp16"] = "f32"
    training: Training
    measured: list[Measured] = []
    files: Annotated[dict[str, FileEntry], Field(max_length=256)]


def parse_manifest(raw: bytes, origin: str) -> Manifest:
    """Check the bytes of a `bundle.yaml`; `origin` is what errors call it.

    Raises:
        UserError: not YAML, of another format version, or not as `Manifest` says.
    """
    try:
        text = raw.decode("utf-8")
        # Aliases let a short file stand for gigabytes; a manifest has no use for them.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise UserError(f"{origin} uses YAML aliases, which a bundle never has; export it again")
        content = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{origin} is not readable YAML ({_short(error)}); export it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{origin} is not a table of settings; export it again")
    if content.get("format") != FORMAT:
        raise UserError(
            f"{origin} has format {content.get('format')!r}; this version reads format {FORMAT}: "
            f"update mtaclip_ros or export the bundle again"
        )
    try:
        return Manifest.model_validate(content)
    except (ValidationError, RecursionError) as error:
        what = _short(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise UserError(f"{origin} is not valid ({what[:200]}); export it again") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
