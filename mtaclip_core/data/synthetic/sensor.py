"""From the ideal picture to what a camera delivers."""

from __future__ import annotations

import cv2
import numpy as np


class Sensor:
    """Exposure, white balance, blur, vignetting and noise of one drive's camera."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], dark: bool) -> None:
        self.focal = float(rng.uniform(0.72, 1.08))
        self.height = float(rng.uniform(1.2, 1.7))
        self.horizon = float(rng.uniform(0.42, 0.54))
        self.bonnet = float(rng.uniform(0.02, 0.07)) if rng.random() < 0.3 else 0.0
        self._blur = float(rng.uniform(0.3, 0.75))
        self._noise = float(rng.uniform(1.5, 4.5) if dark else rng.uniform(0.8, 3.2))
        gain = float(rng.uniform(0.8, 1.2))
        gamma, contrast = float(rng.uniform(0.88, 1.15)), float(rng.uniform(-0.1, 0.35))
        balance = 1 + rng.normal(0, 0.022, 3)
        x = np.arange(256)[:, None] / 255 * gain * balance
        x = np.clip(x, 0, 1.3) ** gamma
        x = x + contrast * (np.clip(x, 0, 1) ** 2 * (3 - 2 * np.clip(x, 0, 1)) - np.clip(x, 0, 1))
        self._curve = np.clip(x * 255, 0, 255).astype(np.uint8)[:, None, :].transpose(1, 0, 2)
        self._saturation = float(rng.uniform(0.7, 1.15))
        h, w = size
        y, u = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
        fall = 1 - float(rng.uniform(0.0, 0.22)) * (y**2 + u**2) / 2
        self._fall = np.repeat((fall * 128).astype(np.uint8)[..., None], 3, 2)
        self._grain = rng.normal(0, self._noise, (h + 64, w + 64, 3)).astype(np.int16)

    def expose(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (H, W, 3) uint8 RGB."""
        image = cv2.GaussianBlur(image, (3, 3), self._blur)
        image = cv2.multiply(image, self._fall, scale=1 / 128)
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, self._saturation, grey, 1 - self._saturation, 0)
        image = cv2.LUT(image, self._curve)
        dy, dx = (int(v) for v in rng.integers(0, 64, 2))
        h, w = image.shape[:2]
        return cv2.add(image, self._grain[dy : dy + h, dx : dx + w], dtype=cv2.CV_8U)
