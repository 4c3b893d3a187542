"""People, cyclists and motorcyclists, built from rounded limbs in 3-D."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtaclip_core.data.synthetic.camera import NEAR, Camera
from mtaclip_core.data.synthetic.canvas import Canvas, fixed
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.road import Pose

PERSON, RIDER, MOTORCYCLE, BICYCLE = 24, 25, 32, 33
_ARC = np.linspace(-np.pi / 2, np.pi / 2, 5)
_SKIN = [(222, 178, 150), (198, 150, 120), (150, 106, 80), (96, 68, 54), (232, 190, 164)]
_CLOTH = [(28, 30, 36), (52, 56, 66), (40, 52, 84), (90, 40, 44), (120, 120, 122), (196, 194, 188), (76, 84, 58),
          (150, 120, 90), (182, 44, 40), (60, 96, 140), (214, 214, 40), (110, 74, 52), (80, 80, 90)]  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How one person is built and dressed (RGB colours, height in metres)."""

    height: float
    girth: float
    skin: np.ndarray
    hair: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    shoes: np.ndarray
    bag: np.ndarray | None
    skirt: bool

    @staticmethod
    def random(rng: np.random.Generator) -> Look:
        def cloth() -> np.ndarray:
            return np.array(_CLOTH[rng.integers(len(_CLOTH))]) * rng.uniform(0.75, 1.25)

        child = rng.random() < 0.1
        return Look(
            height=float(rng.uniform(1.1, 1.4) if child else rng.normal(1.72, 0.08)),
            girth=float(rng.uniform(0.9, 1.25)),
            skin=np.array(_SKIN[rng.integers(len(_SKIN))]),
            hair=np.array([(40, 30, 24), (90, 64, 40), (150, 120, 76), (24, 22, 22), (140, 138, 134)][rng.integers(5)]),
            top=cloth(),
            bottom=cloth() * 0.85,
            shoes=np.array([34, 32, 32]) * rng.uniform(0.7, 3.0),
            bag=cloth() if rng.random() < 0.35 else None,
            skirt=bool(rng.random() < 0.15),
        )


@dataclass(frozen=True)
class Limb:
    """A tapered rounded stick between two local points (right, up, forward) with radii in metres."""

    a: tuple[float, float, float]
    b: tuple[float, float, float]
    ra: float
    rb: float
    colour: np.ndarray


def draw_limbs(
    canvas: Canvas, camera: Camera, light: Light, pose: Pose, limbs: list[Limb], ident: int, sunlit: float = 1.0
) -> None:
    """Draw far limbs first, each with a lit and a shaded flank."""
    ends = np.array([limb.a for limb in limbs] + [limb.b for limb in limbs])
    points = camera.to_camera(pose.world(ends))
    if (points[:, 2] < NEAR + 0.4).any():
        return
    n = len(limbs)
    px, scale = camera.pixels(points), camera.focal / points[:, 2]
    if not camera.sees(np.concatenate([px - 0.5 * scale[:, None], px + 0.5 * scale[:, None]])):
        return
    radii = np.maximum(np.array([limb.ra for limb in limbs] + [limb.rb for limb in limbs]) * scale, 0.6)
    distance = float(np.linalg.norm(points.mean(0)))
    side = float(camera.rotation[0] @ light.sun)
    upright, direct = light.gain(np.array([0.0, 0.3, 0.0])), light.direct * (0.7 * sunlit)
    albedo = np.array([limb.colour for limb in limbs])
    lit = light.seen(albedo * (upright + direct * (0.44 + 0.2 * abs(side))), distance).tolist()
    dim = light.seen(albedo * (upright * 0.8 + direct * 0.15), distance).tolist()
    a, b, ra, rb = px[:n], px[n:], radii[:n], radii[n:]
    outlines = fixed(_capsules(a, b, ra, rb))
    shift = np.array([-0.45 * np.sign(side or 1.0), 0.0])
    flanks = fixed(_capsules(a + shift * ra[:, None], b + shift * rb[:, None], ra * 0.52, rb * 0.52))
    thick = ra + rb > 5
    for i in np.argsort(-(points[:n, 2] + points[n:, 2]), kind="stable"):
        canvas.fill(outlines[i], lit[i], ident)
        if thick[i]:
            canvas.fill(flanks[i], dim[i], ident)


def _capsules(a: np.ndarray, b: np.ndarray, ra: np.ndarray, rb: np.ndarray) -> np.ndarray:
    """(n, 2) ends and (n,) radii in pixels -> (n, 10, 2) outlines."""
    d = b - a
    angle = np.arctan2(d[:, 1], d[:, 0])[:, None] + _ARC
    head = np.stack([np.cos(angle), np.sin(angle)], 2)
    return np.concatenate([b[:, None] + rb[:, None, None] * head, a[:, None] - ra[:, None, None] * head], 1)


def walker(look: Look, phase: float, stride: float = 1.0) -> list[Limb]:
    """A pedestrian looking along +z; `phase` in radians of the step cycle, `stride` 0 when standing."""
    h, g = look.height, look.girth
    hip, shoulder = 0.52 * h, 0.81 * h
    swing = 0.42 * stride * np.sin(phase)
    limbs = []
    for sign in (-1, 1):
        s = sign * swing
        x = sign * 0.075 * g
        lift = max(0.0, 0.1 * stride * np.sin(phase + (0 if sign > 0 else np.pi) + 1.0))
        knee = (x, 0.28 * h + 0.3 * lift, 0.5 * s * 0.55 * h + 0.04)
        foot = (x, 0.05 + lift, s * 0.5 * h)
        toe = (x, 0.03 + lift, s * 0.5 * h + 0.15)
        limbs.append(Limb((x, hip, 0), knee, 0.085 * g, 0.06 * g, look.bottom))
        limbs.append(Limb(knee, foot, 0.058 * g, 0.042 * g, look.bottom))
        limbs.append(Limb(foot, toe, 0.045, 0.035, look.shoes))
        arm = (sign * 0.22 * g, shoulder - 0.02, 0)
        elbow = (sign * 0.25 * g, 0.62 * h, -s * 0.22)
        hand = (sign * 0.24 * g, 0.48 * h, -s * 0.4 + 0.08)
        limbs.append(Limb(arm, elbow, 0.055 * g, 0.045 * g, look.top * 0.93))
        limbs.append(Limb(elbow, hand, 0.043 * g, 0.036, look.top * 0.93))
        limbs.append(Limb(hand, (hand[0], hand[1] - 0.06, hand[2]), 0.038, 0.03, look.skin))
        limbs.append(
            Limb((sign * 0.1 * g, hip + 0.04, 0), (sign * 0.13 * g, shoulder - 0.04, 0), 0.105 * g, 0.11 * g, look.top)
        )
    if look.skirt:
        limbs.append(Limb((0, hip + 0.05, 0), (0, 0.3 * h, 0), 0.13 * g, 0.19 * g, look.bottom))
    if look.bag is not None:
        limbs.append(Limb((0.1, shoulder - 0.08, -0.17), (0.02, hip + 0.12, -0.18), 0.1, 0.12, look.bag))
    return limbs + _head(look, (0.0, 0.93 * h, 0.02), None)


def _head(look: Look, at: tuple[float, float, float], helmet: np.ndarray | None) -> list[Limb]:
    x, y, z = at
    cover = look.hair if helmet is None else helmet
    return [
        Limb((x, y - 0.17, z - 0.02), (x, y - 0.08, z), 0.05, 0.05, look.skin * 0.85),
        Limb((x, y - 0.03, z + 0.02), (x, y + 0.02, z + 0.02), 0.08, 0.095, look.skin),
        Limb((x, y + 0.05, z - 0.03), (x, y + 0.01, z - 0.055), 0.1, 0.09, cover),
        Limb((x, y + 0.08, z), (x, y + 0.08, z + 0.03), 0.075, 0.06, cover),
    ]


def cyclist(look: Look, phase: float, helmet: np.ndarray | None) -> list[Limb]:
    """The rider of a bicycle that stands at the same pose."""
    limbs = []
    for sign in (-1, 1):
        a = phase + (np.pi if sign > 0 else 0)
        pedal = (sign * 0.12, 0.28 + 0.17 * np.sin(a), 0.05 + 0.17 * np.cos(a))
        knee = (sign * 0.13, 0.6 + 0.13 * np.sin(a) + 0.05, 0.26 + 0.06 * np.cos(a))
        limbs.append(Limb((sign * 0.1, 0.96, -0.16), knee, 0.095, 0.07, look.bottom))
        limbs.append(Limb(knee, pedal, 0.065, 0.045, look.bottom))
        limbs.append(Limb(pedal, (pedal[0], pedal[1] - 0.02, pedal[2] + 0.14), 0.045, 0.04, look.shoes))
        limbs.append(Limb((sign * 0.2, 1.42, 0.12), (sign * 0.25, 1.2, 0.28), 0.06, 0.05, look.top * 0.93))
        limbs.append(Limb((sign * 0.25, 1.2, 0.28), (sign * 0.22, 1.05, 0.48), 0.046, 0.038, look.top * 0.93))
        limbs.append(Limb((sign * 0.1, 0.98, -0.16), (sign * 0.12, 1.42, 0.1), 0.11, 0.115, look.top))
    return limbs + _head(look, (0.0, 1.64, 0.2), helmet)


def bicycle(canvas: Canvas, camera: Camera, light: Light, pose: Pose, colour: np.ndarray, ident: int) -> None:
    """A bicycle; the discs of its wheels carry its id, as annotators label them."""
    rubber = np.array([28, 28, 30])
    angle = np.arange(18) * 2 * np.pi / 18
    for z in (-0.52, 0.52):
        ring = np.stack([np.zeros(18), 0.34 + 0.34 * np.sin(angle), z + 0.34 * np.cos(angle)], 1)
        points = camera.to_camera(pose.world(ring))
        if (points[:, 2] < NEAR + 0.4).any():
            return
        px = camera.pixels(points)
        if not camera.sees(px):
            return
        canvas.veil(px, light.seen(rubber * light.ambient, float(points[:, 2].mean())), ident, 0.35)
        distance = float(points[:, 2].mean())
        canvas.stroke(px, light.seen(rubber * light.ambient, distance), ident, 0.045 * camera.focal / distance)
    hub_r, hub_f, crank, seat, bar = (0, 0.34, -0.52), (0, 0.34, 0.52), (0, 0.3, 0.0), (0, 0.88, -0.2), (0, 0.98, 0.38)
    joint, neck = (0, 0.78, -0.17), (0, 0.84, 0.36)
    tubes = [(hub_r, crank), (crank, seat), (hub_r, joint), (crank, neck), (joint, neck), (bar, hub_f)]
    limbs = [Limb(a, b, 0.026, 0.026, colour) for a, b in tubes]
    limbs.append(Limb((-0.26, 1.02, 0.44), (0.26, 1.02, 0.44), 0.02, 0.02, rubber))
    limbs.append(Limb((0, 0.92, -0.3), (0, 0.94, -0.06), 0.07, 0.04, rubber))
    draw_limbs(canvas, camera, light, pose, limbs, ident)


def motorcyclist(look: Look, helmet: np.ndarray) -> list[Limb]:
    """The rider of a motorcycle that stands at the same pose."""
    limbs = []
    for sign in (-1, 1):
        limbs.append(Limb((sign * 0.12, 0.82, -0.2), (sign * 0.24, 0.72, 0.2), 0.11, 0.085, look.bottom))
        limbs.append(Limb((sign * 0.24, 0.72, 0.2), (sign * 0.22, 0.32, 0.0), 0.075, 0.06, look.bottom))
        limbs.append(Limb((sign * 0.22, 0.3, 0.0), (sign * 0.22, 0.28, 0.16), 0.06, 0.05, look.shoes))
        limbs.append(Limb((sign * 0.22, 1.32, 0.02), (sign * 0.32, 1.1, 0.24), 0.075, 0.06, look.top))
        limbs.append(Limb((sign * 0.32, 1.1, 0.24), (sign * 0.3, 1.0, 0.48), 0.055, 0.045, look.top))
        limbs.append(Limb((sign * 0.1, 0.88, -0.2), (sign * 0.13, 1.32, 0.0), 0.13, 0.13, look.top))
    limbs.append(Limb((0, 1.52, 0.1), (0, 1.6, 0.1), 0.14, 0.14, helmet))
    limbs.append(Limb((0, 1.54, 0.2), (0, 1.57, 0.2), 0.075, 0.07, np.array([30, 32, 36])))
    return limbs


def motorcycle(canvas: Canvas, camera: Camera, light: Light, pose: Pose, colour: np.ndarray, ident: int) -> None:
    """A motorcycle or scooter."""
    rubber, steel = np.array([24, 24, 26]), np.array([110, 112, 116])
    limbs = []
    angle = np.arange(10) * 2 * np.pi / 10
    for z in (-0.68, 0.68):
        rim = [(0.0, 0.31 + 0.22 * np.sin(a), z + 0.22 * np.cos(a)) for a in angle]
        limbs += [Limb(rim[i], rim[(i + 1) % 10], 0.09, 0.09, rubber) for i in range(10)]
        limbs.append(Limb((0, 0.31, z), (0, 0.31, z), 0.12, 0.12, steel))
    limbs += [
        Limb((0, 0.42, -0.28), (0, 0.42, 0.3), 0.19, 0.17, steel * 0.6),
        Limb((0, 0.78, -0.72), (0, 0.78, -0.02), 0.1, 0.14, rubber * 1.4),
        Limb((0, 0.82, 0.02), (0, 0.86, 0.36), 0.17, 0.14, colour),
        Limb((0, 0.66, -0.72), (0, 0.72, -0.5), 0.1, 0.12, colour),
        Limb((0, 0.96, 0.42), (0, 0.32, 0.68), 0.06, 0.05, steel),
        Limb((-0.32, 1.02, 0.44), (0.32, 1.02, 0.44), 0.03, 0.03, rubber),
        Limb((0, 0.88, 0.56), (0, 0.9, 0.56), 0.12, 0.1, np.array([210, 212, 208])),
        Limb((0, 0.72, -0.84), (0, 0.73, -0.84), 0.06, 0.05, np.array([170, 24, 20])),
    ]
    draw_limbs(canvas, camera, light, pose, limbs, ident)
