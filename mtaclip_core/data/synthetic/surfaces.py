"""Surfaces of walls: what houses and fences are cut from."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from mtaclip_core.data.synthetic.noise import fractal

DENSITY = 26.0
"""Texels per metre."""
_TILE = 1152


@lru_cache(maxsize=4)
def _tile(kind: str) -> np.ndarray:
    """(1152, 1152) float32 pattern that all surfaces of a kind are cut from: drawing noise anew would take longer than
    everything else. `grain` and `leaves` around 0, `brick` around 1."""
    n, rng = _TILE, np.random.default_rng(5)
    if kind == "grain":
        coarse = cv2.resize(rng.normal(0, 1, (n // 24, n // 24)).astype(np.float32), (n, n))
        return rng.normal(0, 0.6, (n, n)).astype(np.float32) + coarse
    if kind == "leaves":
        return 0.2 * fractal(rng, (n, n), 0.8) + 0.14 * fractal(rng, (n, n), 2.2)
    tone = rng.normal(1.0, 0.09, (n // 2 + 1, n // 6 + 2)).astype(np.float32)
    y, x = np.arange(n)[:, None], np.arange(n)[None, :]
    shifted = x + 3 * ((y // 2) % 2)
    return tone[y // 2, shifted // 6] + 0.12 * (shifted % 6 == 0).astype(np.float32)


def cut(rng: np.random.Generator, kind: str, h: int, w: int, step: int = 1) -> np.ndarray:
    """An (h, w, 1) piece of a tile from a random place, a multiple of `step`."""
    y, x = (int(rng.integers(0, max(1, (_TILE - n) // step))) * step for n in (h, w))
    tile = _tile(kind)[y : y + h, x : x + w]
    if tile.shape != (h, w):
        tile = np.resize(tile, (h, w))
    return tile[..., None]


def grain(rng: np.random.Generator, h: int, w: int, strength: float) -> np.ndarray:
    return np.float32(strength) * cut(rng, "grain", h, w)


def _plain(rng: np.random.Generator, h: int, w: int, colour: np.ndarray, strength: float = 5.0) -> np.ndarray:
    return to_bytes(colour.astype(np.float32) + grain(rng, h, w, strength))


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(image, 0), 255).astype(np.uint8)


def brick(rng: np.random.Generator, h: int, w: int, colour: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 courses of bricks of one mean colour."""
    return to_bytes(cut(rng, "brick", h, w, 12) * colour.astype(np.float32) + grain(rng, h, w, 4.0))


def material(rng: np.random.Generator, h: int, w: int, kind: str, colour: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of `brick`, `plaster` or `panel`."""
    if kind == "brick":
        return brick(rng, h, w, colour)
    out = _plain(rng, h, w, colour)
    if kind == "panel":
        step = int(rng.uniform(1.2, 3.0) * DENSITY)
        for lines in (out[::step], out[:, ::step]):
            lines[:] = (lines * 0.8).astype(np.uint8)
    return out


def colour_of(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A plausible mean RGB colour of a wall material."""
    bricks = [(150, 88, 66), (166, 110, 80), (178, 148, 108), (124, 76, 62), (190, 168, 130), (104, 84, 74)]
    plasters = [(226, 220, 206), (236, 234, 228), (216, 196, 156), (204, 178, 148), (190, 196, 196), (222, 204, 186),
                (168, 150, 132), (214, 170, 140), (176, 186, 160), (140, 138, 134)]  # fmt: skip
    panels = [(176, 176, 172), (150, 154, 156), (120, 124, 128), (196, 190, 178), (98, 102, 108), (146, 130, 112)]
    choice = {"brick": bricks, "plaster": plasters, "panel": panels}[kind]
    return np.array(choice[rng.integers(len(choice))]) * rng.uniform(0.8, 1.12) + rng.normal(0, 5, 3)
