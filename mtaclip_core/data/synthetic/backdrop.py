"""What closes the view at the horizon: distant roofs and tree tops."""

from __future__ import annotations

import numpy as np

from mtaclip_core.data.synthetic.camera import Camera, clip_near
from mtaclip_core.data.synthetic.canvas import Canvas
from mtaclip_core.data.synthetic.light import Light

_BUILDING, _VEGETATION = 11, 21
_RADIUS = 260.0


class Backdrop:
    """A ring of silhouettes around the camera, at a fixed distance."""

    def __init__(self, rng: np.random.Generator, light: Light, green: float, leaf: np.ndarray) -> None:
        self._rows: list[tuple[np.ndarray, np.ndarray, int]] = []
        angle = -np.pi
        while angle < np.pi:
            width = rng.uniform(0.02, 0.07)
            trees = rng.random() < green
            height = rng.uniform(5, 13) if trees else rng.uniform(6, 20)
            n = 7 if trees else 2
            a = np.linspace(angle - 0.01, angle + width, n)
            top = (
                height * (0.7 + 0.3 * np.sin(np.linspace(0.2, np.pi - 0.2, n)) + rng.uniform(-0.06, 0.06, n))
                if trees
                else np.full(n, height)
            )
            x, z = _RADIUS * np.sin(a), _RADIUS * np.cos(a)
            outline = np.concatenate([np.stack([x, top, z], 1), np.stack([x, np.full(n, -2.0), z], 1)[::-1]])
            colour = leaf * rng.uniform(0.6, 0.9) if trees else rng.uniform(90, 170) * np.array([1.0, 0.97, 0.93])
            lit = light.seen(colour * light.gain(np.array([0.0, 0.5, 0.0])), _RADIUS * 0.6)
            self._rows.append((outline, lit, _VEGETATION if trees else _BUILDING))
            angle += width

    def paint(self, canvas: Canvas, camera: Camera) -> None:
        """Draw over the sky, before the ground."""
        for outline, colour, ident in self._rows:
            points = clip_near((outline + camera.position * [1, 0, 1] - camera.position) @ camera.rotation.T)
            if points is not None:
                px = camera.pixels(points)
                if camera.sees(px):
                    canvas.fill(px, colour, ident, convex=False)
