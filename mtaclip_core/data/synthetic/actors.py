"""Things with an instance id: vehicles, people, cycles. Each is posed for one moment."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mtaclip_core.data.synthetic import people
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.mesh import Mesh
from mtaclip_core.data.synthetic.people import BICYCLE, MOTORCYCLE, PERSON, RIDER, Look, draw_limbs
from mtaclip_core.data.synthetic.road import Pose
from mtaclip_core.data.synthetic.stage import Placed, Stage


@dataclass(frozen=True)
class Model:
    """A vehicle's shape: mesh, label id and size (width, height, length) in metres."""

    mesh: Mesh
    label_id: int
    size: np.ndarray


@dataclass(frozen=True)
class Vehicle:
    """A car, truck or bus."""

    model: Model
    pose: Pose

    def draw(self, stage: Stage) -> None:
        ident = stage.canvas.instance(self.model.label_id)
        sunlit = stage.sunlit(self.pose.x, self.pose.z)
        self.model.mesh.draw(stage.canvas, stage.camera, stage.light, self.pose, ident, sunlit)

    def shadow(self, light: Light) -> list[np.ndarray]:
        return [_cast(self.pose, self.model.size * [1.0, 0.85, 0.96], light)]

    def contact(self) -> np.ndarray:
        return _rectangle(self.pose, self.model.size[0] * 1.06, self.model.size[2] * 1.02)


@dataclass(frozen=True)
class Walker:
    """A pedestrian; `stride` 0 when standing."""

    look: Look
    pose: Pose
    phase: float
    stride: float = 1.0

    def draw(self, stage: Stage) -> None:
        limbs = people.walker(self.look, self.phase, self.stride)
        ident = stage.canvas.instance(PERSON)
        sunlit = stage.sunlit(self.pose.x, self.pose.z)
        draw_limbs(stage.canvas, stage.camera, stage.light, self.pose, limbs, ident, sunlit)

    def shadow(self, light: Light) -> list[np.ndarray]:
        return [_cast(self.pose, np.array([0.4, self.look.height, 0.25]), light)]

    def contact(self) -> np.ndarray:
        return _rectangle(self.pose, 0.5, 0.45)


@dataclass(frozen=True)
class Cycle:
    """A bicycle or motorcycle, with or without its rider.

    Attributes:
        motor: a motorcycle.
        rider: who sits on it, or None where it is parked.
        helmet: RGB, None for none (on a motorcycle there always is one).
    """

    motor: bool
    colour: np.ndarray
    pose: Pose
    rider: Look | None = None
    helmet: np.ndarray | None = None
    phase: float = 0.0

    def draw(self, stage: Stage) -> None:
        canvas, camera, light = stage.canvas, stage.camera, stage.light
        ident = canvas.instance(MOTORCYCLE if self.motor else BICYCLE)
        (people.motorcycle if self.motor else people.bicycle)(canvas, camera, light, self.pose, self.colour, ident)
        if self.rider is None:
            return
        if self.motor:
            limbs = people.motorcyclist(self.rider, self.helmet if self.helmet is not None else np.array([40, 40, 44]))
        else:
            limbs = people.cyclist(self.rider, self.phase, self.helmet)
        sunlit = stage.sunlit(self.pose.x, self.pose.z)
        draw_limbs(canvas, camera, light, self.pose, limbs, canvas.instance(RIDER), sunlit)

    def shadow(self, light: Light) -> list[np.ndarray]:
        return [_cast(self.pose, np.array([0.35, 1.6 if self.rider else 1.0, 1.5]), light)]

    def contact(self) -> np.ndarray:
        return _rectangle(self.pose, 0.35, 1.7)


Actor = Vehicle | Walker | Cycle


def place(actor: Actor, s: float, d: float, light: Light) -> Placed:
    """Put an actor into the painter's order."""
    length = actor.model.size[2] / 2 if isinstance(actor, Vehicle) else 0.3
    return Placed(actor, s + length, abs(d), tuple(actor.shadow(light)), (actor.contact(),))


def _rectangle(pose: Pose, width: float, length: float) -> np.ndarray:
    w, n = width / 2, length / 2
    return pose.world(np.array([[-w, 0, -n], [w, 0, -n], [w, 0, n], [-w, 0, n]]))[:, [0, 2]]


def _cast(pose: Pose, size: np.ndarray, light: Light) -> np.ndarray:
    """(k, 2) world: the shadow of a box of (width, height, length)."""
    base = _rectangle(pose, size[0], size[2])
    hull = cv2.convexHull(np.concatenate([base, base + light.shadow_offset * size[1]]).astype(np.float32))
    return hull[:, 0].astype(float)
