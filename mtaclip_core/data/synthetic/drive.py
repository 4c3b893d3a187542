"""One drive through one generated street."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import Sample
from mtaclip_core.data.synthetic import markings, trees, vehicles
from mtaclip_core.data.synthetic.actors import Model
from mtaclip_core.data.synthetic.backdrop import Backdrop
from mtaclip_core.data.synthetic.block import Habits, Street, Wardrobe
from mtaclip_core.data.synthetic.camera import Camera
from mtaclip_core.data.synthetic.canvas import Canvas
from mtaclip_core.data.synthetic.ground import Ground
from mtaclip_core.data.synthetic.layout import Layout
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.road import Centreline, Profile
from mtaclip_core.data.synthetic.sensor import Sensor
from mtaclip_core.data.synthetic.sky import Sky
from mtaclip_core.data.synthetic.stage import Stage
from mtaclip_core.data.synthetic.traffic import Ego, Traffic
from mtaclip_core.labels import LABEL_ID_TO_TRAIN_ID

_SUPER = 2
_EGO_VEHICLE = 1
_SIGHT = 125.0


@dataclass(frozen=True)
class Frame:
    """A rendered frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        instance_ids: (H, W) uint16 as in `*_gtFine_instanceIds.png`: label id, or label id * 1000 + n.
    """

    image: np.ndarray
    instance_ids: np.ndarray

    @property
    def label_ids(self) -> np.ndarray:
        """(H, W) uint8: Cityscapes label ids (0-33)."""
        ids = self.instance_ids
        return np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)


def check(size: tuple[int, int], seed: int) -> None:
    """Raise a UserError for a size or seed that cannot be drawn."""
    if min(size) < 32 or max(size) > 4096:
        raise UserError(f"size {size[0]}x{size[1]}: expected height and width between 32 and 4096 pixels")
    if seed < 0:
        raise UserError(f"seed {seed}: expected 0 or more")


class StreetDrive:
    """A generated drive: everything in it is a function of (size, seed, fps, index), in any order of access.

    Args:
        size: (height, width) in pixels, at least 32 each.
        seed: >= 0; picks the street, the weather, the camera and the traffic.
        fps: frames per second of simulated time.

    Attributes:
        street, ego, traffic: what is drawn, in metres and seconds.

    Raises:
        UserError: a size, seed or rate that cannot be drawn.
    """

    def __init__(self, size: tuple[int, int], seed: int = 0, fps: float = 15.0) -> None:
        check(size, seed)
        if not fps > 0:
            raise UserError(f"fps {fps}: expected more than 0")
        self.size, self.seed, self.fps = (int(size[0]), int(size[1])), int(seed), float(fps)
        rng = self._stream(1)
        light, profile, line = Light.random(rng), Profile.random(rng), Centreline(rng)
        season = str(rng.choice(["summer", "autumn", "winter"], p=[0.5, 0.2, 0.3]))
        wardrobe = _wardrobe(self._stream(2), season, light.lamps)
        style, habits = markings.Style.random(rng, profile), Habits.random(self._stream(11))
        self.street = Street(line, profile, light, wardrobe, style, habits)
        self.ego = Ego(rng, profile)
        self.traffic = Traffic(self.seed, self.street, self.ego)
        self._layout = Layout(self.seed, self.street)
        self._ground = Ground(self._stream(3), light, season != "summer")
        self._sky = Sky(self._stream(4), light)
        green = {"centre": 0.3, "residential": 0.5, "suburb": 0.7, "park": 0.85}[profile.district]
        self._backdrop = Backdrop(self._stream(5), light, green, wardrobe.leaf)
        self._sensor = Sensor(self._stream(6), self.size, light.lamps)

    def _stream(self, *key: int) -> np.random.Generator:
        """Random numbers of their own for every part, so that a change to one leaves the others as they are."""
        return np.random.default_rng([self.seed, *key])

    def frame(self, index: int) -> Sample:
        """The frame at `index / fps` seconds, its label in Cityscapes train ids (255 where none applies)."""
        frame = self.render(index)
        return Sample(frame.image, LABEL_ID_TO_TRAIN_ID[frame.label_ids], f"drive{self.seed:06d}_{index:06d}")

    def render(self, index: int) -> Frame:
        """The same frame with its instance ids.

        Raises:
            UserError: a negative index.
        """
        if index < 0:
            raise UserError(f"frame {index}: expected 0 or more")
        time = index / self.fps
        s0 = self.ego.s(time)
        camera = self._camera(time, s0)
        canvas = Canvas(camera.size)
        self._sky.paint(canvas, camera, time)
        self._backdrop.paint(canvas, camera)
        blocks = self._layout.blocks(s0 - 25, s0 + _SIGHT)
        props = [p for b in blocks for p in b.props if s0 - 22 < p.s < s0 + _SIGHT]
        props += self.traffic.props(time, [b.zebra for b in blocks if b.zebra is not None])
        props.sort(key=lambda p: -p.order)
        ground = markings.bands(self.street.line, self.street.profile, self.street.style, s0)
        ground += [patch for b in blocks for patch in b.ground]
        ground += [patch for b in blocks for patch in b.paint]
        near = [p for p in props if p.s < s0 + 90]
        shadow = self._ground.paint(
            canvas, camera, ground, [x for p in near for x in p.shadows], [x for p in near for x in p.contacts]
        )
        stage = Stage(canvas, camera, self.street.light, time, shadow)
        for placed in props:
            placed.prop.draw(stage)
        self._draw_bonnet(canvas, camera)
        image = cv2.resize(canvas.image, self.size[::-1], interpolation=cv2.INTER_AREA)
        image = self._sensor.expose(image, self._stream(7, index))
        return Frame(image, np.ascontiguousarray(canvas.ids[::_SUPER, ::_SUPER]))

    def _camera(self, time: float, s0: float) -> Camera:
        pose = self.street.line.pose(s0, self.ego.d(time))
        height, width = self.size[0] * _SUPER, self.size[1] * _SUPER
        focal = self._sensor.focal * max(width, 1.2 * height)
        bump = 0.004 * float(np.sin(5.1 * time) + 0.6 * np.sin(8.3 * time + 1.0))
        pitch = float(np.arctan((self._sensor.horizon - 0.5) * height / focal)) + bump
        yaw = (
            pose.heading
            + 0.02 * float(np.sin(0.7 * time))
            + 0.4 * float(self.street.line.heading(s0 + 8) - pose.heading)
        )
        position = np.array([pose.x, self._sensor.height, pose.z])
        return Camera.posed(position, yaw, pitch, 0.004 * float(np.sin(2.3 * time)), focal, (height, width))

    def _draw_bonnet(self, canvas: Canvas, camera: Camera) -> None:
        if not self._sensor.bonnet:
            return
        h, w = camera.size
        x = np.linspace(-0.05, 1.05, 24)
        y = 1 - self._sensor.bonnet * (1 - (2 * np.abs(x - 0.5)) ** 3 * 0.8)
        outline = np.concatenate([np.stack([x * w, y * h], 1), [[1.05 * w, h + 9], [-0.05 * w, h + 9]]])
        paint = np.array([70, 74, 82]) * self.street.light.gain(np.array([0.0, 1.0, 0.0]))
        canvas.fill(outline, np.clip(paint, 0, 255), _EGO_VEHICLE, convex=False)
        shine = np.concatenate([np.stack([x * w, y * h], 1), np.stack([x * w, y * h + 0.012 * h], 1)[::-1]])
        canvas.fill(shine, np.clip(paint * 1.7, 0, 255), _EGO_VEHICLE, convex=False)


def _wardrobe(rng: np.random.Generator, season: str, lamps: bool) -> Wardrobe:
    shapes = {
        "summer": ["round", "round", "round", "tall", "conifer", "bush"],
        "autumn": ["round", "round", "bare", "tall", "conifer", "bush"],
        "winter": ["bare", "bare", "bare", "conifer", "bush", "round"],
    }[season]
    crowns = tuple((shape, trees.crown(rng, shape, trees.leaf_colour(rng, season))) for shape in shapes)
    cars = tuple(Model(mesh, vehicles.CAR, size) for mesh, size in (vehicles.car(rng, lamps) for _ in range(18)))
    trucks = [Model(mesh, vehicles.TRUCK, size) for mesh, size in (vehicles.truck(rng, lamps) for _ in range(3))]
    buses = [Model(mesh, vehicles.BUS, size) for mesh, size in (vehicles.bus(rng, lamps) for _ in range(3))]
    return Wardrobe(
        crowns, cars, (*trucks, *buses), trees.leaf_colour(rng, season) * (0.85 if season == "winter" else 1.0)
    )
