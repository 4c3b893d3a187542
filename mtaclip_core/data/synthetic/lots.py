"""The lots beyond the sidewalk: houses, gardens, parks and what fences them in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtaclip_core.data.synthetic import sheets, structures
from mtaclip_core.data.synthetic.block import Draft
from mtaclip_core.data.synthetic.ground import Material
from mtaclip_core.data.synthetic.stage import Prop

_NARROWEST = 4.5


@dataclass(frozen=True)
class District:
    """What a quarter is built of.

    Attributes:
        width: (least, most) metres of a lot.
        built, flush, pitched: chance of a house, of one without front garden, of a pitched roof.
        setback: most metres of a front garden.
        floors: most floors.
        styles: weights of `house`, `shop`, `office`.
    """

    width: tuple[float, float]
    built: float
    flush: float
    setback: float
    floors: int
    pitched: float
    styles: tuple[float, float, float]


_DISTRICTS = {
    "centre": District((7, 17), 0.93, 1.0, 0.5, 6, 0.5, (0.3, 0.5, 0.2)),
    "residential": District((6, 13), 0.88, 0.5, 4.5, 4, 0.9, (0.88, 0.12, 0.0)),
    "suburb": District((9, 18), 0.55, 0.0, 9.0, 3, 0.9, (0.75, 0.0, 0.25)),
    "park": District((9, 18), 0.14, 0.0, 5.0, 3, 0.9, (0.9, 0.1, 0.0)),
}


def fill_lots(draft: Draft, sign: int, s: float, end: float) -> None:
    """Line one side (sign +1 right, -1 left) with lots from s to `end`."""
    district = _DISTRICTS[draft.street.profile.district]
    while end - s > _NARROWEST:
        width = min(float(draft.rng.uniform(*district.width)), end - s)
        if end - s - width < _NARROWEST:
            width = end - s
        if draft.rng.random() < district.built:
            _house(draft, district, sign, s, s + width)
        else:
            _open(draft, district, sign, s, s + width)
        s += width


def _house(draft: Draft, district: District, sign: int, s0: float, s1: float) -> None:
    rng, front = draft.rng, draft.street.profile.front(sign)
    flush = rng.random() < district.flush
    setback = float(rng.uniform(0, 0.5) if flush else rng.uniform(2.5, district.setback))
    gap = 0.0 if flush else float(rng.uniform(0.3, 1.8))
    style = str(rng.choice(["house", "shop", "office"], p=district.styles))
    floors = int(rng.integers(2, district.floors + 1)) + (int(rng.integers(0, 3)) if style == "office" else 0)
    pitched = bool(style != "office" and rng.random() < district.pitched)
    edge = front + sign * setback
    a, b = draft.span(sign, s0 + gap, s1 - gap, edge)
    draft.add(structures.house(rng, a, b, float(rng.uniform(8, 13)), floors, style, pitched), s1 - gap, edge)
    if flush:
        return
    draft.lay(Material.GRASS if rng.random() < 0.65 else Material.COURT, s0, s1, front, edge + sign * 12)
    _boundary(draft, sign, s0, s1, 0.75)
    if setback > 3 and rng.random() < 0.6:
        draft.tree(float(rng.uniform(s0 + 1, s1 - 1)), front + sign * float(rng.uniform(1.4, setback - 1)), 0.7)


def _open(draft: Draft, district: District, sign: int, s0: float, s1: float) -> None:
    """Grass and trees, sometimes with a house far back."""
    rng, front = draft.rng, draft.street.profile.front(sign)
    draft.lay(Material.GRASS if rng.random() < 0.8 else Material.EARTH, s0, s1, front, front + sign * 40)
    _boundary(draft, sign, s0, s1, 0.7)
    for row in range(3):
        for s in np.arange(s0 + 1.5, s1, rng.uniform(3.5, 7)):
            if rng.random() < 0.75:
                d = front + sign * (2.5 + 6.0 * row + float(rng.uniform(-1, 3)))
                draft.tree(float(s + rng.uniform(-1, 1)), d, 1.0 + 0.12 * row)
    if rng.random() < 0.6 * district.built:
        back = front + sign * 26
        a, b = draft.span(sign, s0, s1, back)
        draft.add(structures.house(rng, a, b, 10.0, int(rng.integers(2, 5)), "house", True), s1, back)


def _boundary(draft: Draft, sign: int, s0: float, s1: float, chance: float) -> None:
    """A wall, fence or hedge along the sidewalk, in pieces short enough for the painter's order."""
    rng, d = draft.rng, draft.street.profile.front(sign) + sign * 0.15
    if rng.random() > chance:
        return
    kind = str(rng.choice(["wall", "fence", "hedge"], p=[0.42, 0.36, 0.22]))
    height = float(rng.uniform(0.8, 2.2))
    pieces = max(1, round((s1 - s0) / 6.0))
    step = (s1 - s0) / pieces
    texture = (sheets.fence if kind == "fence" else sheets.wall)(rng, step, height)
    for i in range(pieces):
        a, b = draft.span(sign, s0 + i * step, s0 + (i + 1) * step, d)
        prop: Prop
        if kind == "hedge":
            prop = structures.hedge(rng, a, b, height, draft.street.wardrobe.leaf)
        else:
            prop = structures.panel(texture, structures.WALL if kind == "wall" else structures.FENCE, a, b, height)
        draft.add(prop, s0 + (i + 1) * step, d)
