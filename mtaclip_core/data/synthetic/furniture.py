"""Lamp posts, traffic signs, traffic lights, bollards: thin things on the kerb."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.mesh import Mesh, MeshBuilder
from mtaclip_core.data.synthetic.people import Limb, draw_limbs
from mtaclip_core.data.synthetic.road import Pose
from mtaclip_core.data.synthetic.stage import Stage

STATIC, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 4, 17, 19, 20
_RED, _BLUE, _WHITE, _BLACK, _YELLOW = (
    np.array(c) for c in ((188, 28, 34), (28, 74, 158), (232, 232, 228), (26, 26, 28), (226, 184, 36))
)
_BACK = np.array([128, 130, 130])


@dataclass(frozen=True)
class Furniture:
    """Sticks (id pole) and plates (a mesh with one id per face) at one pose.

    Attributes:
        lamps: per phase of the traffic light (0 green, 1 amber, 2 red) the mesh with that lamp lit; empty if none.
        cycle: seconds of a full cycle, and its offset.
    """

    pose: Pose
    sticks: tuple[Limb, ...]
    plates: Mesh | None
    idents: np.ndarray | None
    reach: float
    lamps: tuple[Mesh, ...] = ()
    lamp_ident: int = TRAFFIC_LIGHT
    cycle: tuple[float, float] = (30.0, 0.0)

    def draw(self, stage: Stage) -> None:
        canvas, camera, light = stage.canvas, stage.camera, stage.light
        draw_limbs(canvas, camera, light, self.pose, list(self.sticks), POLE)
        if self.plates is not None:
            self.plates.draw(canvas, camera, light, self.pose, self.idents if self.idents is not None else TRAFFIC_SIGN)
        if self.lamps:
            at = ((stage.time + self.cycle[1]) % self.cycle[0]) / self.cycle[0]
            phase = 0 if at < 0.5 else 1 if at < 0.57 else 2
            self.lamps[phase].draw(canvas, camera, light, self.pose, self.lamp_ident)

    def shadow(self, light: Light) -> list[np.ndarray]:
        """World polygons (k, 2): the shadow of the pole."""
        base = np.array([self.pose.x, self.pose.z])
        tip = base + light.shadow_offset * self.reach
        across = np.array([tip[1] - base[1], base[0] - tip[0]])
        across *= 0.06 / max(float(np.linalg.norm(across)), 1e-6)
        return [np.array([base - across, base + across, tip + across, tip - across])]


def _pole_colour(rng: np.random.Generator) -> np.ndarray:
    return np.array(
        [(120, 124, 126), (92, 96, 98), (44, 48, 48), (150, 152, 150), (60, 74, 66)][rng.integers(5)]
    ) * rng.uniform(0.8, 1.1)


def lamp_post(rng: np.random.Generator, pose: Pose, over: float) -> Furniture:
    """A street lamp whose arm reaches `over` metres to its right (negative: left)."""
    height, colour = float(rng.uniform(5.5, 9.0)), _pole_colour(rng)
    r = float(rng.uniform(0.06, 0.1))
    sticks = [
        Limb((0, 0, 0), (0, 1.1, 0), r * 1.6, r * 1.5, colour),
        Limb((0, 1.0, 0), (0, height, 0), r, r * 0.7, colour),
    ]
    if rng.random() < 0.75:
        sticks.append(Limb((0, height, 0), (over, height + 0.35, 0), r * 0.6, r * 0.5, colour))
        sticks.append(
            Limb((over * 0.8, height + 0.3, 0), (over * 1.25, height + 0.4, 0), 0.12, 0.09, np.array([150, 152, 150]))
        )
    else:
        sticks.append(Limb((0, height, 0), (0, height + 0.45, 0), 0.2, 0.16, np.array([190, 188, 176])))
    return Furniture(pose, tuple(sticks), None, None, height)


def bollard(rng: np.random.Generator, pose: Pose) -> Furniture:
    """A bollard or a short post."""
    height = float(rng.uniform(0.8, 1.2))
    colour = [_BLACK * 1.4, _WHITE * 0.9, _pole_colour(rng), _RED * 0.8][rng.integers(4)]
    r = float(rng.uniform(0.05, 0.09))
    return Furniture(
        pose,
        (
            Limb((0, 0, 0), (0, height, 0), r, r, colour),
            Limb((0, height * 0.8, 0), (0, height * 0.88, 0), r * 1.1, r * 1.1, _WHITE),
        ),
        None,
        None,
        height,
    )


def _polygon(n: int, radius: float, turn: float, y: float, z: float) -> np.ndarray:
    a = turn + np.arange(n) * 2 * np.pi / n
    return np.stack([radius * np.cos(a), y + radius * np.sin(a), np.full(n, z)], 1)


def _plate(mesh: MeshBuilder, shape: np.ndarray, colour: np.ndarray, fine: float = 0.0) -> None:
    mesh.face(shape, (0, 0, -1), colour, 0.18, fine)


def sign(rng: np.random.Generator, pose: Pose, large: float = 1.0) -> Furniture:
    """One or two traffic signs on a post, facing along -z of the pose."""
    mesh, top = MeshBuilder(), float(rng.uniform(2.2, 3.0))
    count = 2 if rng.random() < 0.35 else 1
    y = top
    for _ in range(count):
        y -= _one_sign(rng, mesh, y, float(rng.uniform(0.32, 0.46)) * large)
    built = mesh.build()
    front = built.normals[:, 2] < 0
    idents = np.where(front, TRAFFIC_SIGN, STATIC)
    colour = _pole_colour(rng)
    stick = Limb((0, 0, 0.02), (0, top - 0.1, 0.02), 0.04 * large, 0.04 * large, colour)
    return Furniture(pose, (stick,), built, idents, top)


def _one_sign(rng: np.random.Generator, mesh: MeshBuilder, top: float, r: float) -> float:
    """Add a sign below `top`; returns its height in metres."""
    kind = rng.choice(["warning", "ban", "order", "yield", "board", "stop", "priority", "park"])
    y, z = top - r, -0.05
    if kind in ("warning", "yield"):
        turn = np.pi / 2 if kind == "warning" else -np.pi / 2
        outer, ink = _polygon(3, r * 1.2, turn, y, z), _polygon(3, r * 0.72, turn, y, z - 0.002)
        _plate(mesh, outer, _RED)
        _plate(mesh, ink, _WHITE, 6)
        if kind == "warning":
            _plate(mesh, _polygon(4, r * 0.25, np.pi / 4, y - 0.1 * r, z - 0.004), _BLACK, 25)
    elif kind == "ban":
        outer = _polygon(14, r, 0, y, z)
        _plate(mesh, outer, _RED)
        _plate(mesh, _polygon(14, r * 0.74, 0, y, z - 0.002), _WHITE, 6)
        for x in (-0.25 * r, 0.25 * r):
            _plate(mesh, _polygon(4, r * 0.3, np.pi / 4, y, z - 0.004) * [0.55, 1, 1] + [x, 0, 0], _BLACK, 25)
    elif kind in ("order", "park"):
        outer = _polygon(14, r, 0, y, z) if kind == "order" else _polygon(4, r * 1.25, np.pi / 4, y, z)
        _plate(mesh, outer, _BLUE)
        _plate(mesh, _polygon(4, r * 0.5, np.pi / 4, y, z - 0.002) * [0.45, 1, 1], _WHITE, 16)
        _plate(mesh, _polygon(3, r * 0.5, np.pi / 2, y + 0.3 * r, z - 0.003), _WHITE, 22)
    elif kind == "stop":
        outer = _polygon(8, r, np.pi / 8, y, z)
        _plate(mesh, outer, _RED)
        _plate(mesh, _polygon(4, r * 0.8, np.pi / 4, y, z - 0.002), _RED, 20)
        _plate(
            mesh,
            np.array(
                [
                    [-0.6 * r, y - 0.16 * r, z - 0.003],
                    [0.6 * r, y - 0.16 * r, z - 0.003],
                    [0.6 * r, y + 0.16 * r, z - 0.003],
                    [-0.6 * r, y + 0.16 * r, z - 0.003],
                ]
            ),
            _WHITE,
            16,
        )
    elif kind == "priority":
        outer = _polygon(4, r * 1.1, 0, y, z)
        _plate(mesh, outer, _WHITE)
        _plate(mesh, _polygon(4, r * 0.8, 0, y, z - 0.002), _YELLOW, 6)
    else:
        w, h = r * float(rng.uniform(1.0, 1.9)), r * float(rng.uniform(0.6, 1.1))
        y = top - h
        colour = [_BLUE, np.array([34, 110, 70]), _WHITE, _YELLOW][rng.integers(4)]
        ink = _BLACK if colour.mean() > 120 else _WHITE
        outer = np.array([[-w, y - h, z], [w, y - h, z], [w, y + h, z], [-w, y + h, z]])
        _plate(mesh, outer, colour)
        for row in np.arange(-0.6, 0.7, 0.45) * h:
            a, b = sorted(rng.uniform(-0.85, 0.85, 2) * w)
            line = np.array([[a, y + row, z], [b, y + row, z], [b, y + row + 0.2 * h, z], [a, y + row + 0.2 * h, z]])
            _plate(mesh, line - [0, 0, 0.003], ink, 16)
    mesh.face(np.add(outer, (0, 0, 0.06)), (0, 0, 1), _BACK)
    return float(outer[:, 1].max() - outer[:, 1].min()) + 0.06


def traffic_light(rng: np.random.Generator, pose: Pose, over: float) -> Furniture:
    """A signal head at 2.4 m and, if `over` is not 0, another one on an arm over the road; facing along -z."""
    colour = _pole_colour(rng)
    heads = [(0.0, 2.2)]
    sticks = [Limb((0, 0, 0.12), (0, 3.3, 0.12), 0.06, 0.055, colour)]
    if over:
        sticks = [
            Limb((0, 0, 0.12), (0, 5.6, 0.12), 0.09, 0.07, colour),
            Limb((0, 5.5, 0.12), (over, 5.6, 0.12), 0.06, 0.05, colour),
        ]
        heads.append((over, 4.7))
    meshes = tuple(_signal(heads, phase) for phase in range(3))
    return Furniture(
        pose,
        tuple(sticks),
        None,
        None,
        3.0,
        meshes,
        TRAFFIC_LIGHT,
        (float(rng.uniform(24, 50)), float(rng.uniform(0, 50))),
    )


def _signal(heads: list[tuple[float, float]], phase: int) -> Mesh:
    mesh = MeshBuilder()
    case = np.array([30, 32, 30])
    lit = ((60, 250, 140), (255, 180, 40), (255, 50, 40))
    for x, y in heads:
        mesh.box((x - 0.21, y, -0.1), (x + 0.21, y + 1.1, 0.1), case)
        for i in range(3):
            on, at = i == phase, y + 0.2 + 0.35 * i
            colour = np.array(lit[i]) * (1.0 if on else 0.22)
            mesh.disc((x, at, -0.11), 0.13, 2, -1, colour, 1.0 if on else 0.0, corners=10)
            visor = [[x - 0.14, at + 0.13, -0.105], [x + 0.14, at + 0.13, -0.105]]
            visor += [[x + 0.14, at + 0.16, -0.22], [x - 0.14, at + 0.16, -0.22]]
            mesh.face(visor, (0, 1, -0.2), case * 1.3, 0.0, 20)
    return mesh.build()
