"""What stands beside the street and does not move: houses, walls, fences, hedges."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mtaclip_core.data.synthetic import facades, sheets, surfaces
from mtaclip_core.data.synthetic.canvas import Texture
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.stage import Stage

BUILDING, WALL, FENCE, VEGETATION = 11, 12, 13, 21
_UP = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class Face:
    """A textured polygon: `outline` (k, 2) metres right and down of `origin`, None for the whole `extent`."""

    texture: Texture
    origin: np.ndarray
    along: np.ndarray
    down: np.ndarray
    extent: tuple[float, float]
    normal: np.ndarray
    outline: np.ndarray | None = None


@dataclass(frozen=True)
class Structure:
    """Textured faces with one id, for example a house; faces that look away are not drawn.

    Attributes:
        footprint: (k, 2) world polygon; `height` metres: they make the shadow.
        two_sided: a single thin sheet such as a fence.
    """

    faces: tuple[Face, ...]
    ident: int
    footprint: np.ndarray
    height: float
    two_sided: bool = False

    def draw(self, stage: Stage) -> None:
        canvas, camera, light = stage.canvas, stage.camera, stage.light
        for face in self.faces:
            normal = face.normal
            if (camera.position - face.origin) @ normal <= 0:
                if not self.two_sided:
                    continue
                normal = -normal
            gain = light.gain(normal)
            canvas.plane(
                camera,
                light,
                face.texture,
                face.origin,
                face.along,
                face.extent,
                self.ident,
                gain,
                face.down,
                face.outline,
            )

    def shadow(self, light: Light) -> list[np.ndarray]:
        """World polygons (k, 2) that this keeps from the sun."""
        moved = self.footprint + light.shadow_offset * self.height
        hull = cv2.convexHull(np.concatenate([self.footprint, moved]).astype(np.float32))
        return [hull[:, 0].astype(float)]


def _corner(a: np.ndarray, height: float) -> np.ndarray:
    return np.array([a[0], height, a[1]])


def _flat(v: np.ndarray) -> np.ndarray:
    return np.array([v[0], 0.0, v[1]])


def house(
    rng: np.random.Generator, start: np.ndarray, end: np.ndarray, depth: float, floors: int, style: str, pitched: bool
) -> Structure:
    """A house whose front runs from `start` to `end` (world (x, z)) seen from the street with `start` on the left.

    Args:
        depth: metres from front to back.
        style: as `facades.front` takes it.
        pitched: a roof with its ridge along the street; else flat.
    """
    storey = float(rng.uniform(2.8, 3.5))
    height = storey * floors
    width = float(np.linalg.norm(end - start))
    along = (end - start) / width
    back = np.array([-along[1], along[0]])  # away from the street
    kind = str(rng.choice(["brick", "plaster"]))
    side_colour = surfaces.colour_of(rng, kind)
    front = Face(
        facades.front(rng, width, floors, storey, style),
        _corner(start, height),
        _flat(along),
        -_UP,
        (width, height),
        -_flat(back),
    )
    rise = float(rng.uniform(0.25, 0.42) * depth) if pitched else 0.0
    peak = np.array([[0, rise], [depth / 2, 0], [depth, rise], [depth, height + rise], [0, height + rise]])
    faces = []
    texture = facades.gable(rng, depth, height + rise, side_colour, kind)
    for corner, direction, normal in ((start + back * depth, -back, -along), (end, back, along)):
        faces.append(
            Face(
                texture,
                _corner(corner, height + rise),
                _flat(direction),
                -_UP,
                (depth, height + rise),
                _flat(normal),
                peak,
            )
        )
    faces.append(front)
    if pitched:
        slope = _flat(back) * depth / 2 + _UP * rise
        length = float(np.linalg.norm(slope))
        slope /= length
        normal = np.cross(_flat(along), slope)
        normal *= np.sign(normal[1])
        eaves = 0.35
        size = (width + 0.3, length + eaves)
        origin = _corner(start - along * 0.15, height) + slope * length
        faces.append(Face(sheets.tiles(rng, *size), origin, _flat(along), -slope, size, normal))
        if rng.random() < 0.7:
            faces.extend(
                _chimney(
                    rng, start + along * width * rng.uniform(0.1, 0.9) + back * depth * 0.42, along, back, height + rise
                )
            )
    footprint = np.array([start, end, end + back * depth, start + back * depth])
    return Structure(tuple(faces), BUILDING, footprint, height + rise)


def _chimney(
    rng: np.random.Generator, place: np.ndarray, along: np.ndarray, back: np.ndarray, top: float
) -> list[Face]:
    size = (0.9, 1.9)
    texture = Texture.of(surfaces.brick(rng, 48, 24, np.array([140, 86, 66])))
    a, b = place, place + along * 0.9
    head = top + 0.7
    return [
        Face(texture, _corner(a, head), _flat(along), -_UP, size, -_flat(back)),
        Face(texture, _corner(a + back * 0.9, head), -_flat(back), -_UP, size, -_flat(along)),
        Face(texture, _corner(b, head), _flat(back), -_UP, size, _flat(along)),
    ]


def panel(texture: Texture, ident: int, start: np.ndarray, end: np.ndarray, height: float) -> Structure:
    """A thin upright sheet from `start` to `end`, both (x, z): a fence or a wall seen from both sides."""
    width = float(np.linalg.norm(end - start))
    along = (end - start) / width
    normal = _flat(np.array([along[1], -along[0]]))
    face = Face(texture, _corner(start, height), _flat(along), -_UP, (width, height), normal)
    return Structure((face,), ident, np.array([start, end]), height, two_sided=True)


def hedge(
    rng: np.random.Generator, start: np.ndarray, end: np.ndarray, height: float, leaf: np.ndarray, depth: float = 0.9
) -> Structure:
    """A box of leaves, its front from `start` to `end` as in `house`."""
    width = float(np.linalg.norm(end - start))
    along = (end - start) / width
    back = np.array([-along[1], along[0]])
    sheet, cap = sheets.hedge(rng, width, height, leaf), sheets.hedge(rng, depth, height, leaf)
    top = sheets.hedge(rng, width, depth, leaf * 1.15)
    faces = (
        Face(top, _corner(start + back * depth, height * 0.95), _flat(along), -_flat(back), (width, depth), _UP),
        Face(cap, _corner(start + back * depth, height), -_flat(back), -_UP, (depth, height), -_flat(along)),
        Face(cap, _corner(end, height), _flat(back), -_UP, (depth, height), _flat(along)),
        Face(sheet, _corner(start, height), _flat(along), -_UP, (width, height), -_flat(back)),
    )
    footprint = np.array([start, end, end + back * depth, start + back * depth])
    return Structure(faces, VEGETATION, footprint, height)
