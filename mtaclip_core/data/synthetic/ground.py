"""Everything that lies flat: road, markings, kerbs, sidewalks, grass, and the shadows on them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from mtaclip_core.data.synthetic import noise
from mtaclip_core.data.synthetic.camera import NEAR, Camera, clip_near
from mtaclip_core.data.synthetic.canvas import Canvas, fixed
from mtaclip_core.data.synthetic.light import Light

ROAD, SIDEWALK, TERRAIN = 7, 8, 22
_STEP = 2


class Material(IntEnum):
    """What a ground polygon is made of."""

    NONE = 0
    ASPHALT = 1
    PATCH = 2
    MARKING = 3
    YELLOW = 4
    KERB = 5
    PAVING = 6
    GRASS = 7
    EARTH = 8
    IRON = 9
    TRACK = 10
    GUTTER = 11
    COURT = 12


_IDENT = [0, ROAD, ROAD, ROAD, ROAD, SIDEWALK, SIDEWALK, TERRAIN, TERRAIN, ROAD, ROAD, ROAD, SIDEWALK]
_CHANNEL = [0, 0, 0, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1]
_GRAIN = [0, 0.07, 0.08, 0.06, 0.06, 0.06, 0.08, 0.17, 0.14, 0.05, 0.07, 0.07, 0.1]


@dataclass(frozen=True)
class Patch:
    """A polygon on the ground: (k, 2) world (x, z)."""

    outline: np.ndarray
    material: Material


class Ground:
    """Materials and textures of one drive's ground."""

    def __init__(self, rng: np.random.Generator, light: Light, autumn: bool) -> None:
        self._light = light
        self._tiles = np.stack([noise.asphalt(rng), noise.paving(rng), noise.grass(rng)], -1)
        self._stains = np.ascontiguousarray(0.6 * np.clip(self._tiles[..., 2], -2, 2))
        grey = rng.uniform(84, 142)
        tint = np.array([1.0, 1.0, 1.0]) + rng.normal(0, 0.012, 3)
        slab = rng.uniform(94, 162) * (np.array([1.0, 0.98, 0.95]) + rng.normal(0, 0.025, 3))
        if rng.random() < 0.25:
            slab = np.array([168, 118, 98]) * rng.uniform(0.75, 1.05)
        lawn = np.array([122, 122, 66]) if autumn else np.array([92, 124, 54])
        yellow = np.array([214, 176, 62])
        wear = rng.uniform(0.75, 1.0)
        road = grey * tint
        self._colours = np.array(
            [
                (0, 0, 0),
                road,
                road * rng.uniform(0.72, 0.9),
                wear * np.array([236, 236, 230]) + (1 - wear) * road,
                wear * yellow + (1 - wear) * road,
                slab * 0.55 + 78,
                slab,
                lawn * rng.uniform(0.8, 1.2),
                np.array([126, 104, 80]) * rng.uniform(0.8, 1.15),
                (62, 60, 58),
                road * rng.uniform(0.9, 1.06),
                road * 0.8,
                slab * 0.86,
            ]
        )
        self._idents = np.array(_IDENT, np.uint16)
        self._channel, self._grain = np.array(_CHANNEL), np.array(_GRAIN, np.float32)

    def paint(
        self,
        canvas: Canvas,
        camera: Camera,
        patches: list[Patch],
        shadows: list[np.ndarray],
        contacts: list[np.ndarray],
    ) -> np.ndarray:
        """Draw patches (later ones on top), then shadows.

        Args:
            shadows: (k, 2) world polygons that the sun does not reach.
            contacts: (k, 2) world polygons right under an object, dark in any weather.

        Returns:
            (height // 2, width // 2) float32: share of shadow where the ground would be seen, 0-1.
        """
        height, width = camera.size
        material = np.zeros((height, width), np.uint8)
        for points, patch in zip(_project(camera, [p.outline for p in patches]), patches, strict=True):
            if points is not None:
                cv2.fillPoly(material, [fixed(points)], int(patch.material), cv2.LINE_8, 3)
        dark = np.zeros((height // _STEP, width // _STEP), np.uint8)
        if self._light.shadow_strength > 0.08:
            _darken(dark, camera, shadows)
        under = np.zeros_like(dark)
        _darken(under, camera, contacts)
        kernel = max(3, height // 180) | 1
        soft = cv2.blur(under, (kernel, kernel)).astype(np.float32) * (0.62 / 255)
        shadow = cv2.blur(dark, (kernel, kernel)).astype(np.float32) / 255

        top = int(np.argmax(material.any(1))) // _STEP
        x, z, distance = camera.ground(_STEP, top)
        material = material[top * _STEP :]
        gain = self._texture(x, z, distance, material[::_STEP, ::_STEP])
        gain *= (1 - self._light.shadow_strength * shadow[top:]) * (1 - soft[top:])
        veil = np.asarray(self._light.veil(np.minimum(distance, np.float32(1e5))))[..., None]

        lit = np.clip(self._colours * self._light.gain(np.array([0.0, 1.0, 0.0])), 0, 255).astype(np.uint8)
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(lit), 0] = lit
        extent = material.shape[::-1]
        factor = cv2.resize(np.clip(gain * (1 - veil[..., 0]) * 110, 0, 255).astype(np.uint8), extent)
        shaded = cv2.multiply(cv2.LUT(cv2.merge([material] * 3), table), cv2.merge([factor] * 3), scale=1 / 110)
        fog = cv2.resize((veil * self._light.haze.astype(np.float32)).astype(np.uint8), extent)
        cv2.copyTo(cv2.add(shaded, fog), material, canvas.image[top * _STEP :])
        cv2.copyTo(self._idents[material], material, canvas.ids[top * _STEP :])
        return shadow

    def _texture(self, x: np.ndarray, z: np.ndarray, distance: np.ndarray, material: np.ndarray) -> np.ndarray:
        near = np.minimum(distance, 1e4)
        fade = np.sqrt(np.minimum(20.0 / np.maximum(near, 1.0), 1))
        n = np.float32(self._tiles.shape[0])

        def sample(tile: np.ndarray, scale: float) -> np.ndarray:
            mx, mz = np.mod(x * np.float32(scale), n), np.mod(z * np.float32(scale), n)
            return cv2.remap(tile, mx, mz, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

        fine, coarse = sample(self._tiles, 64.0), sample(self._stains, 5.5)
        channel = self._channel[material]
        pick = np.where(channel == 2, fine[..., 2], np.where(channel == 1, fine[..., 1], fine[..., 0]))
        amplitude = self._grain[material]
        return 1 + amplitude * (pick * fade + coarse * np.sqrt(fade))


def _project(camera: Camera, outlines: list[np.ndarray]) -> list[np.ndarray | None]:
    """Ground polygons in pixels, all in one go; None where one is out of the picture."""
    if not outlines:
        return []
    flat = np.concatenate(outlines)
    points = camera.to_camera(np.insert(flat, 1, 0.0, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        px = camera.pixels(points)
    ends = np.cumsum([len(o) for o in outlines])
    starts = ends - [len(o) for o in outlines]
    near = np.minimum.reduceat(points[:, 2], starts)
    far = np.maximum.reduceat(points[:, 2], starts)
    low, high = np.minimum.reduceat(px, starts), np.maximum.reduceat(px, starts)
    out = (high[:, 0] < 0) | (high[:, 1] < 0) | (low[:, 0] > camera.size[1]) | (low[:, 1] > camera.size[0])
    found: list[np.ndarray | None] = []
    for a, b, n, f, o in zip(starts, ends, near, far, out, strict=True):
        if n >= NEAR:
            found.append(None if o else px[a:b])
        else:
            cut = clip_near(points[a:b]) if f >= NEAR else None
            found.append(None if cut is None else camera.pixels(cut))
    return found


def _darken(raster: np.ndarray, camera: Camera, outlines: list[np.ndarray]) -> None:
    for points in _project(camera, outlines):
        if points is not None:
            cv2.fillPoly(raster, [fixed(points / _STEP)], 255, cv2.LINE_8, 3)
