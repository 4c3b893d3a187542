"""Cars, vans, trucks and buses as solids."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mtaclip_core.data.synthetic.mesh import Mesh, MeshBuilder

CAR, TRUCK, BUS = 26, 27, 28

_PAINT = [(190, 192, 196), (150, 154, 160), (28, 29, 32), (44, 48, 56), (226, 227, 228), (150, 26, 30), (34, 62, 120),
          (26, 66, 52), (106, 112, 120), (84, 30, 34), (186, 168, 136), (62, 96, 150), (206, 160, 40)]  # fmt: skip
_PAINT_WEIGHT = np.array([7, 5, 3, 3, 5, 3, 3, 1, 4, 1, 1, 2, 0.6])
_RUBBER, _GLASS = np.array([24, 24, 26]), np.array([46, 54, 62])


def _paint(rng: np.random.Generator) -> np.ndarray:
    colour = np.array(_PAINT[rng.choice(len(_PAINT), p=_PAINT_WEIGHT / _PAINT_WEIGHT.sum())])
    return colour * rng.uniform(0.95, 1.2) + rng.normal(8, 5, 3)


def _wheels(mesh: MeshBuilder, width: float, axles: list[float], radius: float, tyre: float = 0.2) -> None:
    for z in axles:
        for sign in (-1, 1):
            x = sign * width / 2
            inner = x - sign * tyre
            low, high = min(x, inner), max(x, inner)
            for face in (-1, 1):
                zz = z + face * radius * 0.85
                mesh.face([[low, 0, zz], [high, 0, zz], [high, radius, zz], [low, radius, zz]], (0, 0, face), _RUBBER)


def _discs(
    mesh: MeshBuilder, width: float, axles: list[float], radius: float, hub: np.ndarray, arch: np.ndarray
) -> None:
    for z in axles:
        for sign in (-1, 1):
            x = sign * (width / 2 + 0.005)
            mesh.disc((x, radius + 0.03, z), radius * 1.16, 0, sign, arch, fine=14, corners=14)
            mesh.disc((x, radius, z), radius, 0, sign, _RUBBER, corners=14)
            mesh.disc((x, radius, z), radius * 0.62, 0, sign, hub, fine=10)
            mesh.disc((x, radius, z), radius * 0.2, 0, sign, hub * 0.5, fine=40, corners=6)


def _prism(
    mesh: MeshBuilder, profile: np.ndarray, width: float, colour: np.ndarray, roof: float = 1.0, closed: bool = True
) -> None:
    """Extrude a convex (k, 2) profile of (z, y), counter-clockwise seen from the right side, across `width`;
    not `closed` leaves out the face between the last and the first point."""
    for i in range(len(profile) - (not closed)):
        a, b = profile[i], profile[(i + 1) % len(profile)]
        normal = np.array([0.0, -(b[0] - a[0]), b[1] - a[1]])
        if np.linalg.norm(normal) < 1e-9 or (a[1] < 0.5 and b[1] < 0.5 and abs(normal[1]) > abs(normal[2])):
            continue
        shade = roof if normal[1] > abs(normal[2]) else 1.0
        w = width / 2
        mesh.face([[-w, a[1], a[0]], [w, a[1], a[0]], [w, b[1], b[0]], [-w, b[1], b[0]]], normal, colour * shade)
    for sign in (-1, 1):
        side = np.array([[sign * width / 2, y, z] for z, y in profile])
        mesh.face(side, (sign, 0.12, 0), colour)


def _cabin(
    mesh: MeshBuilder, base: tuple[float, float], top: tuple[float, float], low: float, high: float,
    width: float, inset: float, colour: np.ndarray, glass: np.ndarray, pillars: list[float],
) -> None:  # fmt: skip
    """A greenhouse: a frustum from z `base` at height `low` to z `top` at `high`, with windows."""
    w0, w1 = width / 2, width / 2 - inset
    b0, b1 = base
    t0, t1 = top
    ends = (
        ([[-w0, low, b0], [w0, low, b0], [w1, high, t0], [-w1, high, t0]], (0.0, t0 - b0, low - high), 1.0),
        ([[-w0, low, b1], [w0, low, b1], [w1, high, t1], [-w1, high, t1]], (0.0, b1 - t1, high - low), 1.15),
    )
    for pane, normal, shine in ends:
        mesh.face(pane, normal, colour)
        mesh.face(_cell(np.array(pane), 0.1, 0.9, 0.12, 0.88), normal, glass * shine)
    for sign in (-1, 1):
        flank = np.array([[sign * w0, low, b0], [sign * w0, low, b1], [sign * w1, high, t1], [sign * w1, high, t0]])
        outwards = (sign * (high - low), inset, 0.0)
        mesh.face(flank, outwards, colour)
        for left, right in pairwise([0.03, *pillars, 0.97]):
            mesh.face(_cell(flank, left + 0.012, right - 0.012, 0.06, 0.84), outwards, glass)
    roof = [[-w1, high, t0], [w1, high, t0], [w1, high, t1], [-w1, high, t1]]
    mesh.face(roof, (0, 1, 0), colour * 1.12 + 6)


def _cell(points: np.ndarray, left: float, right: float, low: float, high: float) -> np.ndarray:
    """Part of a quad (bottom left, bottom right, top right, top left) in relative coordinates."""
    a, b, c, d = points

    def at(u: float, v: float) -> np.ndarray:
        return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)

    return np.array([at(left, low), at(right, low), at(right, high), at(left, high)])


def _rect(mesh: MeshBuilder, x: tuple[float, float], y: tuple[float, float], z: float, sign: int, colour: np.ndarray,
          glow: float = 0.0, fine: float = 0.0) -> None:  # fmt: skip
    mesh.face([[x[0], y[0], z], [x[1], y[0], z], [x[1], y[1], z], [x[0], y[1], z]], (0, 0, sign), colour, glow, fine)


def _band(mesh: MeshBuilder, x: float, y: tuple[float, float], z: tuple[float, float], colour: np.ndarray,
          fine: float = 0.0) -> None:  # fmt: skip
    for sign in (-1, 1):
        xx = sign * x
        mesh.face(
            [[xx, y[0], z[0]], [xx, y[0], z[1]], [xx, y[1], z[1]], [xx, y[1], z[0]]], (sign, 0, 0), colour, 0.0, fine
        )


def _lights(
    mesh: MeshBuilder, width: float, length: float, low: float, high: float, lamps: bool, british: bool
) -> None:
    w, back, front = width / 2, -length / 2 - 0.005, length / 2 + 0.005
    red, white = np.array([170, 20, 18]), np.array([226, 228, 226])
    for sign in (-1, 1):
        outer, inner = sign * w * 0.96, sign * w * 0.72
        x = (min(outer, inner), max(outer, inner))
        _rect(mesh, x, (low, high), back, -1, red * (1.3 if lamps else 1.0), 1.0 if lamps else 0.25, 8)
        _rect(mesh, x, (low - 0.06, high - 0.1), front, 1, white, 1.15 if lamps else 0.3, 8)
    plate = np.array([210, 180, 40]) if british else np.array([220, 220, 216])
    _rect(mesh, (-0.26, 0.26), (low - 0.2, low - 0.09), back, -1, plate, 0, 18)
    _rect(mesh, (-0.26, 0.26), (low - 0.3, low - 0.19), front, 1, np.array([224, 224, 220]), 0, 18)
    _rect(mesh, (-w * 0.5, w * 0.5), (low - 0.1, low + 0.06), front, 1, np.array([34, 34, 36]), 0, 14)


def car(rng: np.random.Generator, lamps: bool) -> tuple[Mesh, np.ndarray]:
    """A random car; also its size (width, height, length) in metres."""
    kind = rng.choice(["hatch", "sedan", "estate", "suv", "van"], p=[0.36, 0.24, 0.15, 0.15, 0.1])
    length, width, height, belt = {
        "hatch": (3.95, 1.68, 1.47, 0.92), "sedan": (4.55, 1.76, 1.43, 0.9), "estate": (4.6, 1.76, 1.47, 0.92),
        "suv": (4.5, 1.86, 1.72, 1.06), "van": (4.9, 1.9, 1.95, 1.1),
    }[str(kind)]  # fmt: skip
    length, width, height = (
        length * rng.uniform(0.94, 1.06),
        width * rng.uniform(0.97, 1.04),
        height * rng.uniform(0.97, 1.04),
    )
    half, colour, floor = length / 2, _paint(rng), 0.24
    hub = np.array([150, 152, 156]) * rng.uniform(0.6, 1.15)
    axles, radius = [-half + 0.19 * length, half - 0.19 * length], 0.32 if kind != "suv" else 0.36
    hood = belt - 0.14 if kind != "van" else belt - 0.06
    profile = np.array([
        (-half + 0.1, floor), (half - 0.1, floor), (half, floor + 0.18), (half - 0.02, hood - 0.12),
        (half - 0.16, hood), (half * 0.42, belt), (-half + 0.08, belt), (-half, belt - 0.16), (-half, floor + 0.16),
    ])  # fmt: skip
    mesh = MeshBuilder()
    _wheels(mesh, width - 0.06, axles, radius)
    _prism(mesh, profile, width, colour, 1.05)
    _band(mesh, width / 2 + 0.003, (floor, floor + 0.12), (-half + 0.1, half - 0.1), colour * 0.35 + 10, 6)
    _band(mesh, width / 2 + 0.003, (belt - 0.09, belt - 0.02), (-half + 0.1, half * 0.45), colour * 1.1 + 22, 14)
    _band(mesh, width / 2 + 0.003, (floor + 0.12, belt - 0.08), (-0.01, 0.01), colour * 0.5, 30)
    _rect(mesh, (-width / 2, width / 2), (floor, floor + 0.16), -half + 0.05, -1, np.array([30, 30, 32]), 0, 10)
    bumper = colour * 0.8 if rng.random() < 0.7 else np.array([44, 44, 46])
    _rect(mesh, (-width * 0.49, width * 0.49), (floor + 0.14, floor + 0.32), -half - 0.003, -1, bumper, 0, 10)
    _rect(mesh, (-width * 0.49, width * 0.49), (floor + 0.1, floor + 0.3), half + 0.003, 1, bumper, 0, 10)
    _discs(mesh, width, axles, radius, hub, colour * 0.3)
    _lights(mesh, width, length, belt - 0.26, belt - 0.06, lamps, bool(rng.random() < 0.5))
    glass = _GLASS * rng.uniform(0.8, 1.9) + rng.uniform(0, 25)
    rear, nose = {
        "hatch": (-half + 0.04, half * 0.42), "sedan": (-half * 0.66, half * 0.42),
        "estate": (-half + 0.06, half * 0.42), "suv": (-half + 0.05, half * 0.4), "van": (-half + 0.03, half * 0.62),
    }[str(kind)]  # fmt: skip
    back_top = rear + {"hatch": 0.42, "sedan": 0.62, "estate": 0.26, "suv": 0.25, "van": 0.08}[str(kind)]
    pillars = [0.34, 0.64] if kind in ("estate", "van", "suv") else [0.5] if kind == "hatch" else [0.52]
    _cabin(mesh, (rear, nose), (back_top, nose - 0.72), belt, height, width * 0.97, 0.17, colour, glass, pillars)
    for sign in (-1, 1):
        x = sign * (width / 2 + 0.08)
        mesh.box((x - 0.09, belt - 0.02, nose - 0.4), (x + 0.09, belt + 0.13, nose - 0.3), colour * 0.7)
    return mesh.build(), np.array([width, height, length])


def bus(rng: np.random.Generator, lamps: bool) -> tuple[Mesh, np.ndarray]:
    """A city bus, sometimes with two decks; also its size."""
    double = rng.random() < 0.35
    length, width = rng.uniform(10.0, 12.2), 2.5
    height = 4.3 if double else rng.uniform(2.9, 3.2)
    paints = [(176, 32, 34), (220, 222, 222), (40, 86, 150), (228, 178, 46), (60, 122, 74), (196, 208, 214)]
    colour = np.array(paints[rng.integers(len(paints))]) * rng.uniform(0.85, 1.05)
    second = np.array(paints[rng.integers(len(paints))]) * 0.9
    half, mesh = length / 2, MeshBuilder()
    _wheels(mesh, width - 0.1, [-half + 2.8, half - 2.6], 0.48, 0.3)
    mesh.box((-width / 2, 0.32, -half), (width / 2, height, half), colour)
    _band(mesh, width / 2 + 0.004, (0.32, 0.75), (-half, half), second, 4)
    glass = _GLASS * rng.uniform(0.8, 1.5)
    decks = [(1.25, 2.25), (2.75, 3.75)] if double else [(1.3, height - 0.5)]
    for low, high in decks:
        _band(mesh, width / 2 + 0.006, (low, high), (-half + 0.35, half - 0.3), glass)
        for z in np.arange(-half + 1.6, half - 0.8, 1.5):
            _band(mesh, width / 2 + 0.008, (low, high), (z, z + 0.09), colour * 0.5, 14)
        _rect(mesh, (-width * 0.42, width * 0.42), (low, high), -half - 0.004, -1, glass)
        _rect(mesh, (-width * 0.46, width * 0.46), (low - 0.15, high), half + 0.004, 1, glass * 1.1)
    for z in (half - 1.5, -0.9):
        _band(mesh, width / 2 + 0.01, (0.4, 2.3), (z, z + 1.2), glass * 0.8, 6)
    amber = np.array([250, 170, 40])
    for end, sign in ((half + 0.006, 1), (-half - 0.006, -1)):
        _rect(mesh, (-0.8, 0.8), (height - 0.45, height - 0.12), end, sign, np.array([20, 20, 22]))
        _rect(mesh, (-0.6, 0.5), (height - 0.36, height - 0.2), end, sign, amber, 0.9, 12)
    _discs(mesh, width, [-half + 2.8, half - 2.6], 0.48, np.array([140, 140, 144]), np.array([30, 30, 32]))
    _lights(mesh, width, length, 0.85, 1.1, lamps, False)
    return mesh.build(), np.array([width, height, length])


def truck(rng: np.random.Generator, lamps: bool) -> tuple[Mesh, np.ndarray]:
    """A box truck or a flat-bed; also its size."""
    length, width, height = rng.uniform(6.5, 9.5), 2.4, rng.uniform(2.9, 3.7)
    half, mesh = length / 2, MeshBuilder()
    colour, load = _paint(rng), np.array([222, 222, 218]) * rng.uniform(0.8, 1.05)
    if rng.random() < 0.4:
        load = rng.uniform(40, 210, 3)
    _wheels(mesh, width - 0.1, [-half + 1.3, half - 1.3], 0.46, 0.4)
    mesh.box((-width / 2 + 0.15, 0.5, -half), (width / 2 - 0.15, 1.0, half - 1.0), np.array([48, 48, 50]))
    _discs(mesh, width - 0.02, [-half + 1.3, half - 1.3], 0.46, np.array([130, 130, 132]), np.array([34, 34, 36]))
    cab = half - 1.9
    # The cab comes after the box and has no rear face, so that the box hides it from behind.
    top = min(height, rng.uniform(2.4, 2.9))
    profile = np.array([(cab, 0.55), (half, 0.55), (half, 1.5), (half - 0.25, top), (cab, top)])
    mesh.box((-width / 2, 0.95, -half), (width / 2, height, cab - 0.1), load)
    _rect(mesh, (-0.02, 0.02), (1.0, height - 0.05), -half - 0.004, -1, load * 0.5, 0, 12)
    if rng.random() < 0.6:
        _band(mesh, width / 2 + 0.004, (1.5, 2.3), (-half * 0.7, cab - 1.2), rng.uniform(20, 220, 3), 8)
    _prism(mesh, profile, width * 0.96, colour, closed=False)
    glass = _GLASS * rng.uniform(0.8, 1.4)
    _band(mesh, width * 0.48 + 0.005, (1.55, top - 0.25), (cab + 0.5, half - 0.35), glass)
    slant = [[-1.0, 1.55, half], [1.0, 1.55, half], [0.95, top - 0.15, half - 0.21], [-0.95, top - 0.15, half - 0.21]]
    mesh.face(np.add(slant, (0, 0, 0.012)), (0, 0.2, 1), glass * 1.1)
    _lights(mesh, width, length, 0.75, 0.95, lamps, False)
    return mesh.build(), np.array([width, height, length])
