"""The sky: a gradient, clouds on a plane high above, and the glare around the sun."""

from __future__ import annotations

import cv2
import numpy as np

from mtaclip_core.data.synthetic.camera import Camera
from mtaclip_core.data.synthetic.canvas import Canvas
from mtaclip_core.data.synthetic.light import Light
from mtaclip_core.data.synthetic.noise import fractal

SKY = 23
_STEP = 4


class Sky:
    """The sky of one drive."""

    def __init__(self, rng: np.random.Generator, light: Light) -> None:
        self._light = light
        field = fractal(rng, (512, 512), 3.0)
        cover = np.quantile(field, 1 - min(light.cloud, 0.98))
        self._cover = np.clip((field - cover) / 0.9 + 0.25 * light.cloud, 0, 1).astype(np.float32)
        self._shade = fractal(rng, (512, 512), 2.2)
        white = np.array([246, 247, 248]) if light.weather in ("sunny", "bright") else light.horizon * 1.06
        self._cloud = np.clip(white, 0, 255).astype(np.float32)
        self._drift = rng.uniform(-0.01, 0.01, 2)

    def paint(self, canvas: Canvas, camera: Camera, time: float) -> None:
        """Cover the whole canvas with sky."""
        height, width = camera.size
        sun_at = self._light.sun.astype(np.float32)
        u = (np.arange(width // _STEP, dtype=np.float32) * _STEP - camera.centre[0]) / camera.focal
        v = -(np.arange(height // _STEP + 1, dtype=np.float32) * _STEP - camera.centre[1]) / camera.focal
        r = camera.rotation.astype(np.float32)
        x, y, z = (r[0, i] * u[None, :] + (r[1, i] * v[:, None] + r[2, i]) for i in range(3))
        norm = np.sqrt(x * x + y * y + z * z)
        up = np.maximum(y / norm, np.float32(0.0))
        blend = np.clip(up * 2.2, 0, 1)[..., None] ** 0.7
        horizon, zenith = self._light.horizon.astype(np.float32), self._light.zenith.astype(np.float32)
        sky = horizon + (zenith - horizon) * blend
        reach = 34.0 / np.maximum(up + 0.06, 0.08)
        mx = np.mod(x / norm * reach + 512 * self._drift[0] * time, 512).astype(np.float32)
        mz = np.mod(z / norm * reach + 512 * self._drift[1] * time, 512).astype(np.float32)
        cover = cv2.remap(self._cover, mx, mz, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        shade = cv2.remap(self._shade, mx, mz, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        cover = (cover * np.clip(up * 6, 0.15, 1))[..., None]
        strength = 14.0 if self._light.weather in ("sunny", "bright") else 20.0
        sky = sky * (1 - cover) + (self._cloud + strength * shade[..., None] * (self._cloud / 255)) * cover
        sun = np.clip((x * sun_at[0] + y * sun_at[1] + z * sun_at[2]) / norm, 0, 1)
        glare = float(self._light.direct.mean()) * 190
        sky = np.clip(sky + glare * (sun**24)[..., None], 0, 255).astype(np.uint8)
        canvas.image[:] = cv2.resize(sky, (width, height), interpolation=cv2.INTER_LINEAR)
        canvas.ids[:] = SKY
