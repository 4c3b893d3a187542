"""Label spaces (Cityscapes 34 ids, 19 train ids, 7 categories; CamVid 11) and the maps between them by class name.

The Cityscapes tables follow the label definition of the public `cityscapesscripts` package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mtaclip_core.cli import UserError

UNLABELLED = 255
"""Label value of a pixel that has no class; never an id of a class."""

MAX_CLASSES = 254


def _key(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True)
class LabelClass:
    """One class: the value its pixels have in a label image, its name, its display colour (RGB, 0-255)."""

    id: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of classes that one label image draws its values from; `UNLABELLED` is always allowed too."""

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        names = [_key(c.name) for c in self.classes]
        if not 0 < len(ids) <= MAX_CLASSES:
            raise UserError(f"label space '{self.name}' has {len(ids)} classes; expected 1 to {MAX_CLASSES}")
        if len(set(ids)) != len(ids) or len(set(names)) != len(names):
            raise UserError(f"label space '{self.name}' names a class or an id twice")
        if any(not 0 <= i < UNLABELLED for i in ids):
            raise UserError(f"label space '{self.name}' has an id outside 0..{UNLABELLED - 1}")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def ids(self) -> list[int]:
        return [c.id for c in self.classes]

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.classes]

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 RGB: the colour of every label value, black where there is no class."""
        table = np.zeros((256, 3), np.uint8)
        for c in self.classes:
            table[c.id] = c.colour
        return table

    @cached_property
    def index_of_id(self) -> np.ndarray:
        """(256,) uint8: position in `classes` of every label value, `UNLABELLED` where there is no class."""
        table = np.full(256, UNLABELLED, np.uint8)
        table[self.ids] = np.arange(len(self))
        return table

    def to_json(self) -> str:
        """`[{"id": 0, "name": "road", "colour": [128, 64, 128]}, ...]`"""
        return json.dumps(self.to_list())

    def to_list(self) -> list[dict[str, object]]:
        return [{"id": c.id, "name": c.name, "colour": list(c.colour)} for c in self.classes]

    @staticmethod
    def from_list(name: str, rows: Iterable[dict]) -> LabelSpace:
        """The inverse of `to_list`.

        Raises:
            UserError: a row lacks id, name or colour, or one of them is of the wrong kind.
        """
        classes = []
        for row in rows:
            try:
                red, green, blue = (int(v) for v in row["colour"])
                classes.append(LabelClass(int(row["id"]), str(row["name"]), (red, green, blue)))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"class entry {row!r} of '{name}' needs id, name and colour [r, g, b]") from error
        return LabelSpace(name, tuple(classes))


def numbered_space(name: str, names: Sequence[str]) -> LabelSpace:
    """Classes with the ids 0, 1, ... and distinct colours, for spaces that have none of their own."""
    return LabelSpace(name, tuple(LabelClass(i, n, distinct_colour(i + 1)) for i, n in enumerate(names)))


def distinct_colour(number: int) -> tuple[int, int, int]:
    """A colour of its own for every number in 0..255, 0 black: Pascal VOC's colour map.

    The bits of the number are dealt out to red, green and blue in turn, the lowest to the highest bits of the colours.
    """
    red, green, blue = (
        sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)
    )
    return red, green, blue


@dataclass(frozen=True)
class CityscapesLabel:
    """A row of the official table: `train_id` is 255 where the class is not evaluated."""

    id: int
    name: str
    train_id: int
    category: str
    has_instances: bool
    colour: tuple[int, int, int]


# fmt: off
CITYSCAPES_LABELS: tuple[CityscapesLabel, ...] = tuple(CityscapesLabel(*row) for row in (
    (0, "unlabeled", 255, "void", False, (0, 0, 0)),
    (1, "ego vehicle", 255, "void", False, (0, 0, 0)),
    (2, "rectification border", 255, "void", False, (0, 0, 0)),
    (3, "out of roi", 255, "void", False, (0, 0, 0)),
    (4, "static", 255, "void", False, (0, 0, 0)),
    (5, "dynamic", 255, "void", False, (111, 74, 0)),
    (6, "ground", 255, "void", False, (81, 0, 81)),
    (7, "road", 0, "flat", False, (128, 64, 128)),
    (8, "sidewalk", 1, "flat", False, (244, 35, 232)),
    (9, "parking", 255, "flat", False, (250, 170, 160)),
    (10, "rail track", 255, "flat", False, (230, 150, 140)),
    (11, "building", 2, "construction", False, (70, 70, 70)),
    (12, "wall", 3, "construction", False, (102, 102, 156)),
    (13, "fence", 4, "construction", False, (190, 153, 153)),
    (14, "guard rail", 255, "construction", False, (180, 165, 180)),
    (15, "bridge", 255, "construction", False, (150, 100, 100)),
    (16, "tunnel", 255, "construction", False, (150, 120, 90)),
    (17, "pole", 5, "object", False, (153, 153, 153)),
    (18, "polegroup", 255, "object", False, (153, 153, 153)),
    (19, "traffic light", 6, "object", False, (250, 170, 30)),
    (20, "traffic sign", 7, "object", False, (220, 220, 0)),
    (21, "vegetation", 8, "nature", False, (107, 142, 35)),
    (22, "terrain", 9, "nature", False, (152, 251, 152)),
    (23, "sky", 10, "sky", False, (70, 130, 180)),
    (24, "person", 11, "human", True, (220, 20, 60)),
    (25, "rider", 12, "human", True, (255, 0, 0)),
    (26, "car", 13, "vehicle", True, (0, 0, 142)),
    (27, "truck", 14, "vehicle", True, (0, 0, 70)),
    (28, "bus", 15, "vehicle", True, (0, 60, 100)),
    (29, "caravan", 255, "vehicle", True, (0, 0, 90)),
    (30, "trailer", 255, "vehicle", True, (0, 0, 110)),
    (31, "train", 16, "vehicle", True, (0, 80, 100)),
    (32, "motorcycle", 17, "vehicle", True, (0, 0, 230)),
    (33, "bicycle", 18, "vehicle", True, (119, 11, 32)),
))

CAMVID = LabelSpace("camvid", tuple(LabelClass(i, name, colour) for i, (name, colour) in enumerate((
    ("Sky", (128, 128, 128)), ("Building", (128, 0, 0)), ("Pole", (192, 192, 128)), ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)), ("Tree", (128, 128, 0)), ("SignSymbol", (192, 128, 128)), ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)), ("Pedestrian", (64, 64, 0)), ("Bicyclist", (0, 128, 192)),
))))
# fmt: on

CITYSCAPES = LabelSpace(
    "cityscapes",
    tuple(
        LabelClass(row.train_id, row.name, row.colour)
        for row in sorted(CITYSCAPES_LABELS, key=lambda r: r.train_id)
        if row.train_id != UNLABELLED
    ),
)
"""The 19 evaluated classes by train id."""

CITYSCAPES_IDS = LabelSpace("cityscapes_ids", tuple(LabelClass(r.id, r.name, r.colour) for r in CITYSCAPES_LABELS))
"""All 34 label ids, as the `*_labelIds.png` files hold them."""

CATEGORIES: dict[str, list[str]] = {
    category: [r.name for r in CITYSCAPES_LABELS if r.category == category and r.train_id != UNLABELLED]
    for category in ("flat", "construction", "object", "nature", "sky", "human", "vehicle")
}
"""The 7 evaluated Cityscapes categories and the train classes in each."""

LABEL_ID_TO_TRAIN_ID: np.ndarray = np.full(256, UNLABELLED, np.uint8)
"""(256,) uint8: Cityscapes label id -> train id, 255 where not evaluated."""
for _row in CITYSCAPES_LABELS:
    LABEL_ID_TO_TRAIN_ID[_row.id] = _row.train_id

_COVERS: dict[str, tuple[str, ...]] = {
    "sky": ("sky",),
    "building": ("building", "wall"),
    "pole": ("pole",),
    "road": ("road",),
    "pavement": ("sidewalk",),
    "tree": ("vegetation", "terrain"),
    "signsymbol": ("traffic sign", "traffic light"),
    "fence": ("fence",),
    "car": ("car", "truck", "bus", "train"),
    "pedestrian": ("person",),
    "bicyclist": ("rider", "bicycle", "motorcycle"),
}
"""CamVid class -> the Cityscapes classes that it covers (CamVid's 11-class rendering merges its 32 classes so)."""


def _related(a: str, b: str, space_a: LabelSpace, space_b: LabelSpace) -> bool:
    if space_a.name == CAMVID.name and space_b.name != CAMVID.name:
        return _key(b) in _COVERS.get(_key(a), ()) or _key(b) == _key(a)
    if space_b.name == CAMVID.name and space_a.name != CAMVID.name:
        return _related(b, a, space_b, space_a)
    return _key(a) == _key(b)


def join(source: LabelSpace, target: LabelSpace) -> np.ndarray:
    """Map from the ids of one space to the ids of another, joined by class name.

    Returns:
        (256,) uint8: target id of every source id; `UNLABELLED` where the source has no class or the target lacks it.

    Raises:
        UserError: a source class belongs to several target classes (one-to-many is never guessed), or the two spaces
            have no class in common.
    """
    table = np.full(256, UNLABELLED, np.uint8)
    for c in source.classes:
        found = [t for t in target.classes if _related(c.name, t.name, source, target)]
        if len(found) > 1:
            raise UserError(
                f"class '{c.name}' of {source.name} covers {', '.join(repr(t.name) for t in found)} of {target.name}: "
                f"a one-to-many map is not possible; join the other way round"
            )
        if found:
            table[c.id] = found[0].id
    if (table == UNLABELLED).all():
        raise UserError(
            f"{source.name} ({_short(source.names)}) and {target.name} ({_short(target.names)}) have no class in common"
        )
    return table


def common_space(model: LabelSpace, truth: LabelSpace) -> tuple[LabelSpace, np.ndarray, np.ndarray]:
    """The space in which predictions and ground truth can be compared: the coarser of the two.

    Returns:
        (space, map for the model's ids, map for the truth's ids), the maps (256,) uint8 as `join` makes them.

    Raises:
        UserError: neither space maps many-to-one into the other.
    """
    identity = join(model, model)
    try:
        return model, identity, join(truth, model)
    except UserError as first:
        try:
            return truth, join(model, truth), join(truth, truth)
        except UserError:
            raise first from None


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
