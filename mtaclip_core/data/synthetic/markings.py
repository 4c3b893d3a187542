"""The bands and painted lines of the carriageway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtaclip_core.data.synthetic.ground import Material, Patch
from mtaclip_core.data.synthetic.road import Centreline, Profile

_FAR = 340.0


def band(line: Centreline, s: np.ndarray, d0: float, d1: float) -> np.ndarray:
    """(2n, 2) world outline of what lies between the offsets d0 and d1 along (n,) lengths s."""
    left, right = line.points(s, np.full(len(s), d0)), line.points(s, np.full(len(s), d1))
    return np.concatenate([left, right[::-1]])


def cell(line: Centreline, s0: float, s1: float, d0: float, d1: float) -> np.ndarray:
    """(2n, 2) world outline of a rectangle in road coordinates."""
    return band(line, np.linspace(s0, s1, max(2, int((s1 - s0) / 4) + 1)), d0, d1)


@dataclass(frozen=True)
class Style:
    """How the lines of one drive are painted.

    Attributes:
        centre: `dashed`, `solid`, `double` or `none`.
        edge: `white`, `yellow` (double, along the kerb) or `none`.
        dash: (length, period) of dashes in metres.
    """

    centre: str
    edge: str
    dash: tuple[float, float]
    width: float
    base: Material

    @staticmethod
    def random(rng: np.random.Generator, profile: Profile) -> Style:
        centre = str(rng.choice(["dashed", "solid", "double", "none"], p=[0.62, 0.14, 0.08, 0.16]))
        edge = str(rng.choice(["white", "yellow", "none"], p=[0.3, 0.3, 0.4]))
        length = float(rng.uniform(1.5, 4.5))
        base = Material.EARTH if profile.district == "centre" else Material.GRASS
        return Style(centre, edge, (length, length * float(rng.uniform(1.6, 3.2))), float(rng.uniform(0.1, 0.16)), base)


def bands(line: Centreline, profile: Profile, style: Style, s0: float) -> list[Patch]:
    """Base ground, sidewalks, verges, kerbs and carriageway from a little behind s0 to the horizon."""
    s = s0 + np.concatenate([np.arange(-4.0, 40, 4), np.arange(40, 120, 8), np.arange(120, _FAR, 20)])
    out = [Patch(band(line, s, -260, 260), style.base)]
    for sign in (-1, 1):
        side, kerb, front = profile.side(sign), profile.kerb(sign), profile.front(sign)
        out.append(Patch(band(line, s, kerb, front), Material.PAVING))
        if side.verge:
            out.append(Patch(band(line, s, kerb, kerb + sign * side.verge), Material.GRASS))
        out.append(Patch(band(line, s, kerb, kerb + sign * 0.16), Material.KERB))
    out.append(Patch(band(line, s, profile.kerb(-1), profile.kerb(1)), Material.ASPHALT))
    for sign in (-1, 1):
        out.append(Patch(band(line, s, profile.kerb(sign), profile.kerb(sign) - sign * 0.3), Material.GUTTER))
    for direction in (-1, 1):
        for lane in range(profile.lanes):
            middle = profile.lane_centre(direction, lane)
            for offset in (-0.75, 0.75):
                out.append(Patch(band(line, s[:18], middle + offset - 0.22, middle + offset + 0.22), Material.TRACK))
    return out


def lines(
    line: Centreline, profile: Profile, style: Style, s0: float, s1: float, clear: list[tuple[float, float]]
) -> list[Patch]:
    """Painted lines from s0 to s1, left out within the (start, end) stretches of `clear`."""
    out: list[Patch] = []
    half = style.width / 2

    def dashes(d: float, length: float, period: float, material: Material) -> None:
        for k in range(int(np.ceil(s0 / period)), int(np.ceil(s1 / period))):
            a, b = k * period, k * period + length
            if all(b <= start or a >= end for start, end in clear):
                out.append(Patch(cell(line, a, b, d - half, d + half), material))

    def solid(d: float, material: Material) -> None:
        dashes(d, 5.0, 5.0, material)

    if style.centre == "dashed":
        dashes(0.0, *style.dash, Material.MARKING)
    elif style.centre != "none":
        for d in (0.0,) if style.centre == "solid" else (-0.13, 0.13):
            solid(d, Material.MARKING)
    for lane in range(1, profile.lanes):
        for sign in (-1, 1):
            dashes(sign * lane * profile.lane, *style.dash, Material.MARKING)
    for sign in (-1, 1):
        kerb = profile.kerb(sign)
        if profile.side(sign).parking:
            if style.edge != "none":
                solid(kerb - sign * 2.15, Material.MARKING)
        elif style.edge == "white":
            solid(kerb - sign * 0.35, Material.MARKING)
        elif style.edge == "yellow":
            for offset in (0.25, 0.45):
                solid(kerb - sign * offset, Material.YELLOW)
    return out


def arrow(line: Centreline, s: float, d: float, forward: bool) -> list[Patch]:
    """A straight-ahead arrow 4 m long."""
    sign = 1 if forward else -1
    tail, neck = s - 2 * sign, s + 0.6 * sign
    shaft = cell(line, min(tail, neck), max(tail, neck), d - 0.08, d + 0.08)
    tip = line.points(s + sign * np.array([0.5, 0.5, 2.0]), np.array([d - 0.4, d + 0.4, d]))
    return [Patch(shaft, Material.MARKING), Patch(tip, Material.MARKING)]


def zebra(line: Centreline, profile: Profile, s: float) -> list[Patch]:
    """A crossing 3 m wide whose near side is at s."""
    left, right = profile.kerb(-1), profile.kerb(1)
    return [Patch(cell(line, s, s + 3, d, d + 0.55), Material.MARKING) for d in np.arange(left + 0.3, right - 0.5, 1.1)]
