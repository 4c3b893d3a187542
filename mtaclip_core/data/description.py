"""The YAML file that describes a data set of one's own, checked; see docs/data.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mtaclip_core.cli import UserError
from mtaclip_core.data.image_files import NO_ID
from mtaclip_core.labels import UNLABELLED, LabelClass, LabelSpace, distinct_colour

Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]
Values = list[Byte] | list[Colour]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Class(_Strict):
    name: str
    id: Annotated[int, Field(ge=0, lt=UNLABELLED)] | None = None
    colour: Colour | None = None
    values: Byte | Values | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, row: object) -> object:
        return {"name": row} if isinstance(row, str) else row


class _File(_Strict):
    name: str | None = None
    root: Path = Path()
    images: str
    labels: str
    label_files: Literal["ids", "colours"] = "ids"
    classes: list[_Class] = Field(min_length=1)
    ignored: Values = []


@dataclass(frozen=True)
class Description:
    """A data set as its file describes it.

    Attributes:
        path: the file.
        space: its classes.
        root: the folder that the patterns start from.
        images, labels: patterns with `{name}`, and `{split}` where the splits are apart.
        id_of_value: (256,) int16, the id of every value of a label file, `NO_ID` for unknown ones; None where label
            files are coloured.
        id_of_colour: the id of every colour, red x 65536 + green x 256 + blue; empty where they hold ids.
    """

    path: Path
    space: LabelSpace
    root: Path
    images: str
    labels: str
    id_of_value: np.ndarray | None
    id_of_colour: dict[int, int]


def is_description(spec: str) -> bool:
    """Whether `FILE.yaml` or `FILE.yaml:ROOT` is meant."""
    return spec.partition(":")[0].endswith((".yaml", ".yml"))


def load_description(path: str | Path) -> Description:
    """Read a description.

    Raises:
        UserError: no such file, broken YAML, an unknown or missing key, or values that contradict each other.
    """
    path = Path(path).expanduser()
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a description of a data set") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML ({error})") from error
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise UserError(f"{path}: {where or 'the file'}: {first['msg']}; see docs/data.md") from None
    for key, pattern in (("images", file.images), ("labels", file.labels)):
        if pattern.count("{name}") != 1 or set("{}") & set(pattern.replace("{name}", "").replace("{split}", "")):
            raise UserError(
                f"{path}: {key}: '{pattern}' needs {{name}} once, and may have {{split}}; nothing else in {{}}"
            )
    rows = file.classes
    ids = [n if row.id is None else row.id for n, row in enumerate(rows)]
    classes = [LabelClass(i, row.name, row.colour or distinct_colour(i + 1)) for i, row in zip(ids, rows, strict=True)]
    space = LabelSpace(file.name or path.stem, tuple(classes))
    coloured = file.label_files == "colours"
    known: dict[int | Colour, int] = {}
    for value in file.ignored:
        _add(known, value, UNLABELLED, coloured, path)
    for row, c in zip(rows, classes, strict=True):
        given = row.values if row.values is not None else [c.colour] if coloured and row.colour else [c.id]
        for value in given if isinstance(given, list) else [given]:
            _add(known, value, c.id, coloured, path, c.name)
    table = np.full(256, NO_ID, np.int16)
    packed: dict[int, int] = {}
    for value, i in known.items():
        if isinstance(value, int):
            table[value] = i
        else:
            packed[value[0] << 16 | value[1] << 8 | value[2]] = i
    root = path.parent / file.root.expanduser()
    return Description(path, space, root, file.images, file.labels, None if coloured else table, packed)


def _add(
    known: dict[int | Colour, int], value: int | Colour, target: int, coloured: bool, path: Path, name: str = ""
) -> None:
    where = f"class '{name}'" if name else "ignored"
    if isinstance(value, int) == coloured:
        expected = "a colour [red, green, blue]" if coloured else "a value 0-255"
        raise UserError(f"{path}: {where}: {value} is not what label_files hold; expected {expected}")
    if known.get(value, target) != target:
        raise UserError(f"{path}: {where}: the value {value} has another meaning already; name it once")
    known[value] = target
