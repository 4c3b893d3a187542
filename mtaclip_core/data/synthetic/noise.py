"""Tileable noise: the grain of every surface."""

from __future__ import annotations

import numpy as np


def fractal(rng: np.random.Generator, size: tuple[int, int], exponent: float) -> np.ndarray:
    """Tileable noise with the power spectrum 1 / f**exponent.

    Args:
        exponent: 0 is white, 2 and above is cloud-like.

    Returns:
        `size` float32 with mean 0 and standard deviation 1.
    """
    fy, fx = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :]
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    shape = radius.shape
    spectrum = radius ** (-exponent / 2) * np.exp(2j * np.pi * rng.random(shape)) * np.abs(rng.normal(size=shape))
    out = np.fft.irfft2(spectrum, size)
    return (out / out.std()).astype(np.float32)


def asphalt(rng: np.random.Generator, n: int = 512) -> np.ndarray:
    """(n, n) float32 around 0: fine grain and some bright chippings."""
    grain = 0.6 * fractal(rng, (n, n), 0.6) + 0.5 * fractal(rng, (n, n), 1.8)
    return np.clip(grain, -2.5, 3.0)


def paving(rng: np.random.Generator, n: int = 512, cells: tuple[int, int] = (16, 10)) -> np.ndarray:
    """(n, n) float32 around 0: slabs of slightly different grey with dark joints."""
    rows, columns = cells
    slab = rng.normal(size=(rows, columns)).astype(np.float32)
    y, x = np.arange(n) * rows / n, np.arange(n) * columns / n
    iy = y.astype(int)
    shifted = x[None, :] + 0.5 * (iy[:, None] % 2)
    out = 0.7 * slab[iy[:, None], shifted.astype(int) % columns]
    joint = (y % 1 < 0.06)[:, None] | (shifted % 1 < 0.05)
    out[joint] -= 2.2
    return out + 0.4 * fractal(rng, (n, n), 1.0)


def grass(rng: np.random.Generator, n: int = 512) -> np.ndarray:
    """(n, n) float32 around 0: tufts and patches."""
    return 0.8 * fractal(rng, (n, n), 1.0) + 0.8 * fractal(rng, (n, n), 2.4)
