"""Trees: a trunk and a crown that always faces the camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mtaclip_core.data.synthetic.canvas import HOLE, Texture
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.stage import Stage

VEGETATION = 21
_N = 320


def leaf_colour(rng: np.random.Generator, season: str) -> np.ndarray:
    """Mean RGB of foliage."""
    palette = [(74, 104, 44), (58, 90, 42), (90, 116, 54), (100, 120, 66)]
    if season == "autumn":
        palette = [(138, 112, 62), (122, 92, 54), (104, 106, 58), (140, 122, 72)]
    elif season == "winter":
        palette = [(58, 78, 46), (48, 66, 44)]
    return np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.8, 1.15) + rng.normal(0, 4, 3)


def crown(rng: np.random.Generator, shape: str, leaf: np.ndarray) -> Texture:
    """A crown with its trunk, (320, 320): `round`, `tall`, `conifer`, `bush` or `bare`."""
    return _bare(rng) if shape == "bare" else _leafy(rng, shape, leaf)


def _leafy(rng: np.random.Generator, shape: str, leaf: np.ndarray) -> Texture:
    n = _N
    image = np.zeros((n, n, 4), np.uint8)
    image[:, :, :3] = np.clip(leaf * 0.5, 0, 255)
    if shape != "bush":
        _trunk(rng, image, n, 0.62)
    count = {"round": 11, "tall": 9, "conifer": 16, "bush": 9}[shape]
    blobs = []
    for i in range(count):
        if shape == "conifer":
            down = 0.06 + 0.84 * i / count
            blobs.append((0.5 + rng.normal(0, 0.01), down, 0.04 + 0.3 * down, 0.08))
        elif shape == "tall":
            blobs.append((0.5 + rng.normal(0, 0.04), 0.12 + 0.7 * i / count, rng.uniform(0.13, 0.2), 0.14))
        elif shape == "bush":
            blobs.append((rng.uniform(0.2, 0.8), rng.uniform(0.45, 0.85), rng.uniform(0.14, 0.24), 0.2))
        else:
            turn, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.26)
            blobs.append((0.5 + out * np.cos(turn), 0.36 + 0.9 * out * np.sin(turn), rng.uniform(0.13, 0.22), 0.17))
    spots = []
    for bx, by, rx, ry in blobs:
        k = 190
        a, r = rng.uniform(0, 2 * np.pi, k), np.sqrt(rng.uniform(0, 1.1, k))
        x, y = bx + rx * r * np.cos(a), by + ry * r * np.sin(a)
        light = 0.72 - 0.75 * (y - by) / max(ry, 0.1) * 0.5 - 0.22 * (y - 0.4) + rng.normal(0, 0.15, k)
        spots.append(np.stack([x, y, light, rng.uniform(1.4, 4.6, k)], 1))
    every = np.concatenate(spots)
    every = every[np.argsort(every[:, 2] + rng.normal(0, 0.12, len(every)))]
    colours = np.clip(leaf * (0.5 + 0.95 * np.maximum(every[:, 2:3], 0)), 0, 255).tolist()
    for (px, py, _, radius), colour in zip((every * [n, n, 1, 1]).tolist(), colours, strict=True):
        cv2.circle(image, (int(px), int(py)), int(radius), (*colour, 255.0), -1)
    return Texture.of(_closed(image, 9))


def _trunk(rng: np.random.Generator, image: np.ndarray, n: int, reach: float) -> None:
    bark = np.array([84, 72, 60]) * rng.uniform(0.7, 1.2)
    half, top = rng.uniform(0.018, 0.034) * n, (1 - reach) * n
    points = np.array([[n / 2 - half, n], [n / 2 + half, n], [n / 2 + half * 0.5, top], [n / 2 - half * 0.5, top]])
    cv2.fillPoly(image, [points.astype(np.int32)], (*bark, 255.0))
    points[[1, 2], 0] -= half
    cv2.fillPoly(image, [points.astype(np.int32)], (*(bark * 0.7), 255.0))


def _bare(rng: np.random.Generator) -> Texture:
    n = _N
    image = np.zeros((n, n, 4), np.uint8)
    bark = np.array([70, 60, 52]) * rng.uniform(0.6, 1.3)
    image[:, :, :3] = np.clip(bark, 0, 255)
    _trunk(rng, image, n, 0.45)
    twigs = [(n / 2, 0.7 * n, -np.pi / 2 + rng.normal(0, 0.5), rng.uniform(0.11, 0.15) * n, 5.0) for _ in range(6)]
    while twigs:
        x, y, angle, length, width = twigs.pop()
        x1, y1 = x + length * np.cos(angle), y + length * np.sin(angle)
        cv2.line(
            image, (int(x), int(y)), (int(x1), int(y1)), (*(bark * rng.uniform(0.7, 1.2)), 255.0), max(1, int(width))
        )
        if length > 0.03 * n:
            for _ in range(3):
                turn = angle + rng.normal(0, 0.5)
                turn += 0.12 * np.sign(np.cos(turn)) * (np.sin(turn) > 0)
                twigs.append((x1, y1, turn, length * rng.uniform(0.6, 0.82), width * 0.6))
    return Texture.of(_closed(image, 15))


def _closed(image: np.ndarray, size: int) -> np.ndarray:
    """Give the gaps inside the crown the alpha `HOLE`, as annotators label them."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    solid = (image[:, :, 3] == 255).astype(np.uint8)
    closed = cv2.morphologyEx(
        cv2.copyMakeBorder(solid, size, size, size, size, cv2.BORDER_CONSTANT), cv2.MORPH_CLOSE, kernel
    )
    closed = closed[size:-size, size:-size]
    image[(closed > 0) & (solid == 0), 3] = HOLE
    return image


@dataclass(frozen=True)
class Tree:
    """A tree at world (x, z); its crown texture spans `width` x `height` metres, trunk included."""

    x: float
    z: float
    width: float
    height: float
    texture: Texture
    tone: float

    def draw(self, stage: Stage) -> None:
        canvas, camera, light = stage.canvas, stage.camera, stage.light
        right = camera.rotation[0] * np.array([1.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        origin = np.array([self.x, self.height, self.z]) - right * self.width / 2
        to_camera = camera.position - np.array([self.x, camera.position[1], self.z])
        normal = to_camera / max(float(np.linalg.norm(to_camera)), 1e-6) * 0.75 + np.array([0.0, 0.5, 0.0])
        gain = light.gain(normal) * self.tone
        canvas.plane(camera, light, self.texture, origin, right, (self.width, self.height), VEGETATION, gain)

    def shadow(self, light: Light) -> list[np.ndarray]:
        """World polygons (k, 2) of the shadow: the crown's ellipse and the trunk."""
        offset = light.shadow_offset
        angle = np.arange(14) * 2 * np.pi / 14
        radius = 0.36 * self.width * (1 + 0.14 * np.cos(3 * angle + self.x) + 0.1 * np.cos(5 * angle + self.z))
        base = np.array([self.x, self.z])
        circle = np.stack([np.cos(angle), np.sin(angle)], 1)
        direction = offset / max(float(np.linalg.norm(offset)), 1e-6)
        stretch = 1 + np.outer(circle @ direction, direction) * 0.3 * np.linalg.norm(offset)
        across = np.array([-direction[1], direction[0]]) * 0.15
        tip = base + offset * self.height * 0.6
        return [
            tip + circle * stretch * radius[:, None],
            np.array([base - across, base + across, tip + across, tip - across]),
        ]
