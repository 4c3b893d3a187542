"""Pictures of roofs, walls, fences and hedges, as textures."""

from __future__ import annotations

import numpy as np

from mtaclip_core.data.synthetic.canvas import HOLE, Texture
from mtaclip_core.data.synthetic.surfaces import DENSITY, brick, colour_of, cut, grain, material, to_bytes


def tiles(rng: np.random.Generator, width: float, height: float) -> Texture:
    """A tiled or slated roof."""
    base = [(150, 78, 58), (112, 72, 60), (84, 86, 92), (66, 66, 70), (128, 100, 84)][rng.integers(5)]
    h, w = int(height * 16), int(width * 16)
    image = brick(rng, h, w, np.array(base) * rng.uniform(0.85, 1.1)).astype(np.float32)
    image[::4] *= 0.78
    return Texture.of(image.astype(np.uint8))


def wall(rng: np.random.Generator, width: float, height: float) -> Texture:
    """A free-standing wall with a coping."""
    kind = str(rng.choice(["brick", "plaster", "panel"], p=[0.65, 0.2, 0.15]))
    colour = colour_of(rng, kind) * 0.92
    image = material(rng, int(height * DENSITY), int(width * DENSITY), kind, colour)
    image[: int(0.12 * DENSITY)] = np.clip(colour * 1.18 + 12, 0, 255)
    if rng.random() < 0.4:
        step = int(3.0 * DENSITY)
        for x in range(0, image.shape[1], step):
            image[:, x : x + int(0.35 * DENSITY)] = np.clip(colour * 0.86, 0, 255)
    return Texture.of(image)


def fence(rng: np.random.Generator, width: float, height: float) -> Texture:
    """Railings, pickets, boards or wire; what is between the bars is `HOLE`."""
    d = DENSITY
    h, w = int(height * d), int(width * d)
    kind = rng.choice(["railing", "picket", "boards", "wire", "guard"])
    colours = {
        "railing": [(26, 28, 30), (150, 154, 158), (40, 74, 54), (190, 192, 192)],
        "picket": [(228, 226, 220), (150, 116, 82)],
        "boards": [(142, 104, 72), (112, 88, 66), (168, 136, 98)],
        "wire": [(120, 128, 124), (52, 92, 66)],
        "guard": [(168, 172, 174), (196, 198, 198)],
    }[str(kind)]
    colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.1)
    image = np.empty((h, w, 4), np.uint8)
    image[:, :, :3] = np.clip(colour + grain(rng, h, w, 6), 0, 255)
    image[:, :, 3] = HOLE
    bar = max(2, int(0.07 * d))
    if kind == "boards":
        image[:, :, 3] = 255
        image[:, :: int(0.18 * d), :3] = (image[:, :: int(0.18 * d), :3] * 0.6).astype(np.uint8)
    elif kind == "guard":
        for y in (0.08, 0.5):
            image[int(y * h) : int(y * h) + int(0.16 * d) + 1, :, 3] = 255
    elif kind == "wire":
        image[:: int(0.2 * d), :, 3] = 255
        image[:, :: int(0.2 * d), 3] = 255
    else:
        wide = bar if kind == "railing" else int(0.1 * d)
        for x in range(0, w, int(d * (0.2 if kind == "railing" else 0.17))):
            image[:, x : x + wide, 3] = 255
    for x in range(0, w, int(2.0 * d)):
        image[:, x : x + int(0.1 * d), 3] = 255
    if kind in ("railing", "picket", "wire"):
        for y in (int(0.06 * h), int(0.85 * h)):
            image[y : y + bar, :, 3] = 255
    return Texture.of(image)


def hedge(rng: np.random.Generator, width: float, height: float, leaf: np.ndarray) -> Texture:
    """A clipped hedge with a ragged top."""
    d = DENSITY
    h, w = int(height * d), int(width * d)
    tone = (1 + cut(rng, "leaves", h, w)) * np.linspace(1.12, 0.6, h, dtype=np.float32)[:, None, None]
    image = np.empty((h, w, 4), np.uint8)
    image[:, :, :3] = to_bytes(tone * leaf.astype(np.float32))
    ragged = 0.05 * h * (1.2 + 4 * cut(rng, "leaves", 1, w)[0, :, 0])
    image[:, :, 3] = np.where(np.arange(h)[:, None] >= ragged[None, :], 255, 0)
    return Texture.of(image)
