"""What everything that draws itself is handed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtaclip_core.data.synthetic.camera import NEAR, Camera
from mtaclip_core.data.synthetic.canvas import Canvas
from mtaclip_core.data.synthetic.light import Light


@dataclass(frozen=True)
class Stage:
    """One frame in the making.

    Attributes:
        time: seconds since the start of the drive.
        shadow: (h, w) float32, share of shadow on the ground, at half the canvas's resolution.
    """

    canvas: Canvas
    camera: Camera
    light: Light
    time: float
    shadow: np.ndarray

    def sunlit(self, x: float, z: float) -> float:
        """Share of sun, 0-1, at a place on the ground."""
        point = self.camera.to_camera(np.array([[x, 0.0, z]]))
        if point[0, 2] < NEAR:
            return 1.0
        u, v = self.camera.pixels(point)[0] / 2
        h, w = self.shadow.shape
        return 1.0 - float(self.shadow[int(np.clip(v, 0, h - 1)), int(np.clip(u, 0, w - 1))])


class Prop(Protocol):
    """Anything that stands on the ground."""

    def draw(self, stage: Stage) -> None: ...

    def shadow(self, light: Light) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Placed:
    """A prop and where it comes in the painter's order.

    Attributes:
        s: metres along the road of its far end.
        d: metres off the centre line, unsigned.
        shadows, contacts: (k, 2) world polygons that it darkens: by the sun, and right under it.
    """

    prop: Prop
    s: float
    d: float
    shadows: tuple[np.ndarray, ...]
    contacts: tuple[np.ndarray, ...] = ()

    @property
    def order(self) -> float:
        """Larger comes first. Weighing `d` puts what lies further outside behind what stands before it even where the
        outer thing is long and begins nearer."""
        return self.s + 1.2 * self.d
