"""Solids made of flat faces, shaded per face and drawn in the order in which the faces were added."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mtaclip_core.data.synthetic.camera import NEAR, Camera, clip_near
from mtaclip_core.data.synthetic.canvas import Canvas, fixed
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.road import Pose


@dataclass(frozen=True)
class Mesh:
    """Local geometry: x right, y up, z forward, metres, standing on y = 0.

    Attributes:
        vertices: (n, 3); `faces` index into it.
        normals, colours: (f, 3) unit vectors and RGB albedos.
        glow: (f,) 0 for what needs light, 1 for what shines by itself.
        fine: (f,) the face is left out where a metre spans fewer pixels than this.
        anchors: (f,) a vertex of every face.
    """

    vertices: np.ndarray
    faces: tuple[np.ndarray, ...]
    normals: np.ndarray
    colours: np.ndarray
    glow: np.ndarray
    fine: np.ndarray
    anchors: np.ndarray

    def draw(
        self, canvas: Canvas, camera: Camera, light: Light, pose: Pose, ident: int | np.ndarray, sunlit: float = 1.0
    ) -> None:
        """Draw at a pose. `ident` is one id, or (f,) one per face; `sunlit` 0 where the sun does not reach."""
        world = pose.world(self.vertices)
        points = camera.to_camera(world)
        if (points[:, 2] < NEAR).all():
            return
        normals = pose.turned(self.normals)
        anchors = world[self.anchors]
        facing = ((camera.position - anchors) * normals).sum(1) > 0
        distance = float(np.linalg.norm(points.mean(0)))
        scale = camera.focal / max(distance, 0.5)
        lit = self.colours * np.maximum(light.gain(normals, sunlit), self.glow[:, None])
        colours = light.seen(lit, distance).tolist()
        idents = np.broadcast_to(np.asarray(ident), len(self.faces)).tolist()
        whole = bool((points[:, 2] >= NEAR).all())
        if whole:
            px = camera.pixels(points)
            if not camera.sees(px):
                return
            points_px = fixed(px)
        for i in np.flatnonzero(facing & (self.fine < scale)):
            if whole:
                canvas.fill(points_px[self.faces[i]], colours[i], idents[i])
            else:
                cut = clip_near(points[self.faces[i]])
                if cut is not None:
                    canvas.fill(camera.pixels(cut), colours[i], idents[i])


class MeshBuilder:
    """Collects faces; the winding does not matter, the given outward normal does. Faces are convex."""

    def __init__(self) -> None:
        self._vertices: list[np.ndarray] = []
        self._faces: list[np.ndarray] = []
        self._rows: list[tuple[np.ndarray, np.ndarray, float, float]] = []
        self._count = 0

    def face(
        self, points: ArrayLike, normal: ArrayLike, colour: ArrayLike, glow: float = 0.0, fine: float = 0.0
    ) -> None:
        """Add a convex (k, 3) polygon."""
        points = np.asarray(points, float)
        normal = np.asarray(normal, float)
        self._vertices.append(points)
        self._faces.append(np.arange(self._count, self._count + len(points)))
        self._count += len(points)
        self._rows.append((normal / np.linalg.norm(normal), np.asarray(colour, float), glow, fine))

    def box(self, low: tuple[float, float, float], high: tuple[float, float, float], colour: ArrayLike) -> None:
        """An axis-aligned box without its bottom."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        self.face([[x0, y0, z0], [x0, y1, z0], [x0, y1, z1], [x0, y0, z1]], (-1, 0, 0), colour)
        self.face([[x1, y0, z0], [x1, y1, z0], [x1, y1, z1], [x1, y0, z1]], (1, 0, 0), colour)
        self.face([[x0, y0, z0], [x1, y0, z0], [x1, y1, z0], [x0, y1, z0]], (0, 0, -1), colour)
        self.face([[x0, y0, z1], [x1, y0, z1], [x1, y1, z1], [x0, y1, z1]], (0, 0, 1), colour)
        self.face([[x0, y1, z0], [x1, y1, z0], [x1, y1, z1], [x0, y1, z1]], (0, 1, 0), colour)

    def disc(
        self, centre: tuple[float, float, float], radius: float, axis: int, sign: int, colour: ArrayLike,
        glow: float = 0.0, fine: float = 0.0, corners: int = 12,
    ) -> None:  # fmt: skip
        """A disc across axis 0 (x) or 2 (z) that faces along `sign`."""
        angle = np.arange(corners) * 2 * np.pi / corners + np.pi / corners
        points = np.tile(np.asarray(centre, float), (corners, 1))
        points[:, 2 - axis] += radius * np.cos(angle)
        points[:, 1] += radius * np.sin(angle)
        normal = np.zeros(3)
        normal[axis] = sign
        self.face(points, normal, colour, glow, fine)

    def build(self) -> Mesh:
        normals, colours, glow, fine = zip(*self._rows, strict=True)
        return Mesh(
            np.concatenate(self._vertices),
            tuple(self._faces),
            np.array(normals),
            np.array(colours),
            np.array(glow),
            np.array(fine),
            np.array([f[0] for f in self._faces]),
        )
