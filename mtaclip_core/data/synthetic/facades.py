"""Pictures of house fronts and gables, as textures."""

from __future__ import annotations

import numpy as np

from mtaclip_core.data.synthetic.canvas import Texture
from mtaclip_core.data.synthetic.surfaces import DENSITY, colour_of, material


def _window(rng: np.random.Generator, h: int, w: int, frame: np.ndarray, panes: tuple[int, int]) -> np.ndarray:
    top, bottom = rng.uniform(45, 130), rng.uniform(22, 70)
    column = np.linspace(top, bottom, h)[:, None, None] * np.array([0.9, 0.98, 1.06])
    out = np.repeat(column, w, 1)
    slant = (np.arange(w)[None, :] + 0.6 * np.arange(h)[:, None]) / max(w, 1)
    out += 26 * ((slant % 0.9) < 0.3)[..., None]
    if rng.random() < 0.4:
        side = max(1, int(w * rng.uniform(0.12, 0.3)))
        cloth = rng.uniform(120, 200) * np.array([1.0, 0.98, 0.93])
        out[:, :side] = 0.4 * out[:, :side] + 0.6 * cloth
        out[:, -side:] = 0.4 * out[:, -side:] + 0.6 * cloth
    elif rng.random() < 0.25:
        out[: int(h * rng.uniform(0.2, 0.7))] = rng.uniform(130, 210)
    bar = max(1, round(0.06 * DENSITY))
    for i in range(panes[0] + 1):
        y = min(round(i * h / panes[0]), h - bar)
        out[y : y + bar] = frame
    for i in range(panes[1] + 1):
        x = min(round(i * w / panes[1]), w - bar)
        out[:, x : x + bar] = frame
    return np.clip(out, 0, 255)


def _paste(image: np.ndarray, patch: np.ndarray, y: int, x: int) -> None:
    y0, x0 = max(y, 0), max(x, 0)
    y1, x1 = min(y + patch.shape[0], image.shape[0]), min(x + patch.shape[1], image.shape[1])
    if y1 > y0 and x1 > x0:
        image[y0:y1, x0:x1] = patch[y0 - y : y1 - y, x0 - x : x1 - x]


def _block(image: np.ndarray, y: int, x: int, h: int, w: int, colour: np.ndarray) -> None:
    image[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = np.clip(colour, 0, 255)


def _lettering(rng: np.random.Generator, image: np.ndarray, y: int, x: int, h: int, w: int, ink: np.ndarray) -> None:
    """Strokes that look like words from afar."""
    cursor = x + int(0.1 * w)
    while cursor < x + 0.85 * w:
        glyph = int(h * rng.uniform(0.4, 0.8)) + 1
        if rng.random() < 0.85:
            _block(image, y, cursor, h, max(1, glyph // 3), ink)
            _block(image, y + int(rng.integers(0, max(1, h - 1))), cursor, max(1, h // 4), glyph, ink)
        cursor += glyph + max(1, h // 4)


def front(rng: np.random.Generator, width: float, floors: int, storey: float, style: str) -> Texture:
    """The front of a house.

    Args:
        width, storey: metres.
        style: `house`, `shop` (a shop on the ground floor) or `office` (bands of glass).
    """
    d = DENSITY
    h, w = int(floors * storey * d), int(width * d)
    kind = str(rng.choice(["brick", "plaster", "panel"], p=[0.45, 0.5, 0.05] if style != "office" else [0.2, 0.2, 0.6]))
    colour = colour_of(rng, kind)
    image = material(rng, h, w, kind, colour)
    frame = np.array([228, 228, 224]) if rng.random() < 0.65 else rng.uniform(40, 110) * np.array([1.0, 0.95, 0.9])
    trim = np.clip(colour * rng.choice([0.72, 1.22]) + 8, 0, 250)
    bays = max(1, round(width / rng.uniform(2.2, 3.6)))
    pitch = w / bays
    win_w = rng.uniform(0.78, 0.94) if style == "office" else rng.uniform(0.34, 0.56)
    win_h = storey * (rng.uniform(0.5, 0.8) if style == "office" else rng.uniform(0.46, 0.62))
    panes = (int(rng.integers(1, 3)), int(rng.integers(1, 4)))
    models = [_window(rng, int(win_h * d), max(3, int(win_w * pitch)), frame, panes) for _ in range(3)]
    sill = max(1, round(0.12 * d))
    first = 1 if style == "shop" else 0
    door = int(rng.integers(bays))
    for floor in range(first, floors):
        base = h - int(floor * storey * d)
        for bay in range(bays):
            x = int(bay * pitch + (1 - win_w) / 2 * pitch)
            if floor == 0 and bay == door and style == "house":
                tall, wide = int(2.2 * d), int(1.05 * d)
                x = int((bay + 0.5) * pitch - wide / 2)
                _block(image, base - tall - sill, x - sill, tall + sill, wide + 2 * sill, trim)
                _block(image, base - tall, x, tall, wide, rng.uniform(20, 150, 3))
                _block(image, base - tall, x + wide // 5, tall // 4, wide * 3 // 5, np.array([70, 78, 86]))
                continue
            model = models[rng.integers(3)] * rng.uniform(0.8, 1.2)
            y = base - int(0.9 * d) - model.shape[0] if style != "office" else base - int(0.6 * d) - model.shape[0]
            _paste(image, np.clip(model, 0, 255), y, x)
            _block(image, y + model.shape[0], x - sill, sill, model.shape[1] + 2 * sill, trim)
            if style != "office":
                _block(image, y - 2 * sill, x - sill // 2, 2 * sill, model.shape[1] + sill, trim)
                _block(image, y, x, sill, model.shape[1], frame * 0.45)
    if style == "shop":
        _shop(rng, image, h, w, storey)
    elif style == "office" and rng.random() < 0.5:
        for floor in range(1, floors + 1):
            _block(image, h - int(floor * storey * d), 0, 2 * sill, w, trim)
    _block(image, 0, 0, 3 * sill, w, trim)
    _block(image, 3 * sill, 0, sill, w, colour * 0.55)
    if rng.random() < 0.6:
        _block(image, 0, w - max(2, sill), h, max(2, sill), trim * 0.5)
    image[-int(0.5 * d) :] = (image[-int(0.5 * d) :] * 0.82).astype(np.uint8)
    return Texture.of(image)


def _shop(rng: np.random.Generator, image: np.ndarray, h: int, w: int, storey: float) -> None:
    d = DENSITY
    top = h - int(storey * d)
    stone = rng.uniform(30, 220, 3) * 0.5 + rng.uniform(20, 110)
    _block(image, top, 0, h - top, w, stone)
    units = max(1, round(w / d / rng.uniform(4.0, 7.0)))
    for unit in range(units):
        x0, x1 = int(unit * w / units + 0.25 * d), int((unit + 1) * w / units - 0.25 * d)
        pane = _window(rng, int((storey - 1.25) * d), x1 - x0, stone * 0.6, (1, int(rng.integers(2, 5))))
        if rng.random() < 0.45:
            pane = pane * 0.7 + rng.uniform(40, 110) * np.array([1.0, 0.9, 0.7])
        for _ in range(int(rng.integers(3, 9))):
            hh, ww = int(rng.uniform(0.3, 1.1) * d), int(rng.uniform(0.25, 0.9) * d)
            y, x = int(rng.integers(0, max(1, pane.shape[0] - hh))), int(rng.integers(0, max(1, pane.shape[1] - ww)))
            pane[y : y + hh, x : x + ww] = rng.uniform(30, 220, 3)
        _paste(image, np.clip(pane, 0, 255), h - pane.shape[0] - int(0.45 * d), x0)
        _block(image, h - int(2.3 * d), x0, int(2.3 * d), int(0.95 * d), rng.uniform(25, 120, 3))
        sign = rng.uniform(10, 235, 3)
        band = int(0.6 * d)
        _block(image, top + int(0.12 * d), x0, band, x1 - x0, sign)
        ink = np.array([240, 238, 230]) if sign.mean() < 130 else np.array([30, 30, 40])
        _lettering(rng, image, top + int(0.27 * d), x0, int(0.28 * d), x1 - x0, ink)
        if rng.random() < 0.3:
            stripe = rng.uniform(60, 230, 3)
            for i, x in enumerate(range(x0, x1, max(2, int(0.3 * d)))):
                _block(image, top + band, x, int(0.5 * d), int(0.3 * d), stripe if i % 2 else np.array([225, 222, 215]))


def gable(rng: np.random.Generator, width: float, height: float, colour: np.ndarray, kind: str) -> Texture:
    """A side wall with few windows."""
    h, w = int(height * DENSITY), int(width * DENSITY)
    image = material(rng, h, w, kind, colour)
    for _ in range(int(rng.integers(0, 4))):
        pane = _window(rng, int(1.3 * DENSITY), int(0.9 * DENSITY), np.array([220, 220, 215]), (2, 1))
        _paste(image, pane, int(rng.uniform(0.15, 0.8) * h), int(rng.uniform(0.1, 0.8) * w))
    return Texture.of(image)
