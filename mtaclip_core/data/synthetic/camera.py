"""Pinhole camera over a flat world: x right, y up, z forward, metres; pixels u right, v down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR = 0.4
"""Metres: nothing closer to the image plane is drawn."""


@dataclass(frozen=True)
class Camera:
    """A posed camera.

    Attributes:
        position: (3,) float64, metres in the world.
        rotation: (3, 3) float64, world to camera axes.
        focal: pixels.
        centre: (u, v) of the optical axis.
        size: (height, width) of its raster.
    """

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    centre: tuple[float, float]
    size: tuple[int, int]

    @staticmethod
    def posed(
        position: np.ndarray, yaw: float, pitch: float, roll: float, focal: float, size: tuple[int, int]
    ) -> Camera:
        """Yaw to the right, pitch upwards, roll clockwise, in radians."""
        cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
        turn = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        tilt = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return Camera(position, lean @ tilt @ turn, focal, (size[1] / 2, size[0] / 2), size)

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) world points -> (n, 3) camera points (right, up, forward)."""
        return (points - self.position) @ self.rotation.T

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """(n, 3) camera points with forward > 0 -> (n, 2) pixels."""
        scale = self.focal / points[:, 2]
        return np.stack([self.centre[0] + points[:, 0] * scale, self.centre[1] - points[:, 1] * scale], 1)

    def polygon(self, world: np.ndarray) -> np.ndarray | None:
        """(k, 3) world polygon -> (m, 2) pixels, cut at the near plane; None where it is out of the picture."""
        points = clip_near(self.to_camera(world))
        if points is None:
            return None
        px = self.pixels(points)
        return px if self.sees(px) else None

    def sees(self, px: np.ndarray) -> bool:
        """Whether the bounding box of (n, 2) pixels touches the raster."""
        low, high = px.min(0), px.max(0)
        return bool(high[0] >= 0 and high[1] >= 0 and low[0] <= self.size[1] and low[1] <= self.size[0])

    def homography(self, origin: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(3, 3) map from plane coordinates (a, b, 1), meaning the world point origin + a u + b v, to pixels."""
        axes = np.stack([self.rotation @ u, self.rotation @ v, self.rotation @ (origin - self.position)], 1)
        f, (cu, cv) = self.focal, self.centre
        return np.array([[f, 0, cu], [0, -f, cv], [0, 0, 1]]) @ axes

    def ground(self, step: int, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the viewing rays meet the plane y = 0, on every `step`-th pixel from row `top * step` down.

        Returns:
            (x, z, distance), each (height // step - top, width // step) float32; distance is +inf above the horizon.
        """
        height, width = self.size
        u = (np.arange(width // step, dtype=np.float32) * step + (step - 1) / 2 - self.centre[0]) / self.focal
        v = -(np.arange(top, height // step, dtype=np.float32) * step + (step - 1) / 2 - self.centre[1]) / self.focal
        r = self.rotation.astype(np.float32)
        ray = [r[0, i] * u[None, :] + (r[1, i] * v[:, None] + r[2, i]) for i in range(3)]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(ray[1] < -1e-4, -np.float32(self.position[1]) / ray[1], np.float32(np.inf))
        near = np.minimum(t, np.float32(1e5))
        x, z = (np.float32(self.position[i]) + near * ray[i] for i in (0, 2))
        return x, z, t


def clip_near(points: np.ndarray) -> np.ndarray | None:
    """Cut a (k, 3) camera polygon at the near plane; None if nothing is left."""
    ahead = points[:, 2] >= NEAR
    if ahead.all():
        return points
    if not ahead.any():
        return None
    kept = []
    for i in range(len(points)):
        a, b = points[i], points[(i + 1) % len(points)]
        if ahead[i]:
            kept.append(a)
        if ahead[i] != ahead[(i + 1) % len(points)]:
            kept.append(a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2])))
    return np.array(kept) if len(kept) >= 3 else None
