"""The two rasters of a frame, colour and Cityscapes instance ids, always drawn by the same call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mtaclip_core.data.synthetic.camera import Camera
from mtaclip_core.data.synthetic.light import Light

_SHIFT = 3
_LIMIT = 30_000.0
HOLE = 128
"""Alpha of a texel that shows what is behind it but belongs to the object (between fence bars, inside a crown)."""


@dataclass(frozen=True)
class Texture:
    """An image pyramid; level i is 2**i times smaller.

    Attributes:
        levels: (h, w, 3) or (h, w, 4) uint8 RGB(A); alpha 255 opaque, `HOLE`, 0 outside.
    """

    levels: tuple[np.ndarray, ...]

    @staticmethod
    def of(image: np.ndarray) -> Texture:
        levels = [image]
        while min(levels[-1].shape[:2]) > 8 and len(levels) < 6:
            levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        return Texture(tuple(levels))


def fixed(px: np.ndarray) -> np.ndarray:
    """Float pixels of any shape -> int32 with the sub-pixel bits that OpenCV's drawing functions take."""
    return (np.minimum(np.maximum(px, -_LIMIT), _LIMIT) * (1 << _SHIFT)).astype(np.int32)


class Canvas:
    """Painter's canvas: later calls cover earlier ones.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        ids: (h, w) uint16: label id, or label id * 1000 + n for the n-th object of an instance class.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = np.zeros((*size, 3), np.uint8)
        self.ids = np.zeros(size, np.uint16)
        self._count: Counter[int] = Counter()

    def instance(self, label_id: int) -> int:
        """The instance id of the next object of this class in this frame."""
        n = self._count[label_id]
        self._count[label_id] += 1
        return label_id * 1000 + n

    def fill(self, px: np.ndarray, colour: Sequence[float] | np.ndarray, ident: int, convex: bool = True) -> None:
        """Fill a (k, 2) polygon, pixels as float or as `fixed` made them, with an RGB colour and an id."""
        points = px if px.dtype == np.int32 else fixed(px)
        rgb = (float(colour[0]), float(colour[1]), float(colour[2]))
        if convex:
            cv2.fillConvexPoly(self.image, points, rgb, cv2.LINE_8, _SHIFT)
            cv2.fillConvexPoly(self.ids, points, ident, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(self.image, [points], rgb, cv2.LINE_8, _SHIFT)
            cv2.fillPoly(self.ids, [points], ident, cv2.LINE_8, _SHIFT)

    def stroke(self, px: np.ndarray, colour: Sequence[float] | np.ndarray, ident: int, width: float) -> None:
        """Draw the closed outline of a (k, 2) polygon, `width` pixels wide."""
        points, thick = [fixed(px)], max(1, round(width))
        rgb = (float(colour[0]), float(colour[1]), float(colour[2]))
        cv2.polylines(self.image, points, True, rgb, thick, cv2.LINE_8, _SHIFT)
        cv2.polylines(self.ids, points, True, ident, thick, cv2.LINE_8, _SHIFT)

    def veil(self, px: np.ndarray, colour: np.ndarray, ident: int, alpha: float) -> None:
        """Like `fill`, but the colour covers only `alpha` of what is behind (spokes, wire)."""
        box = self._box(px)
        if box is None:
            return
        y0, y1, x0, x1 = box
        mask = self._mask(px, box)
        part = self.image[y0:y1, x0:x1]
        mixed = cv2.addWeighted(part, 1 - alpha, np.full_like(part, np.clip(colour, 0, 255).astype(np.uint8)), alpha, 0)
        cv2.copyTo(mixed, mask, part)
        self.ids[y0:y1, x0:x1][mask > 0] = ident

    def plane(
        self,
        camera: Camera,
        light: Light,
        texture: Texture,
        origin: np.ndarray,
        along: np.ndarray,
        extent: tuple[float, float],
        ident: int,
        gain: np.ndarray,
        down: np.ndarray | None = None,
        outline: np.ndarray | None = None,
    ) -> None:
        """Draw a textured rectangle of the world.

        Args:
            origin: (3,) its upper left corner; `along` (3,) unit vector to the right; `down` (3,) unit vector.
            extent: (width, height) in metres.
            gain: (3,) what the light does to the texture's colours.
            outline: (k, 2) polygon in (right, down) metres that is kept of the rectangle.
        """
        down = np.array([0.0, -1.0, 0.0]) if down is None else down
        w, h = extent
        shape = np.array([[0, 0], [w, 0], [w, h], [0, h]]) if outline is None else outline
        px = camera.polygon(origin + shape[:, :1] * along + shape[:, 1:] * down)
        if px is None:
            return
        box = self._box(px)
        if box is None:
            return
        y0, y1, x0, x1 = box
        middle = camera.to_camera((origin + along * w / 2 + down * h / 2)[None])[0]
        distance = float(np.linalg.norm(middle))
        texels = texture.levels[0].shape[0] / h * max(middle[2], 2.0) / camera.focal
        level = int(np.clip(np.log2(max(texels, 1.0)), 0, len(texture.levels) - 1))
        source = texture.levels[level]
        matrix = camera.homography(origin, along, down) @ np.diag([w / source.shape[1], h / source.shape[0], 1.0])
        matrix = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]]) @ matrix
        if abs(np.linalg.det(matrix)) < 1e-9:
            return
        warped = cv2.warpPerspective(source, matrix, (x1 - x0, y1 - y0), borderMode=cv2.BORDER_REPLICATE)
        mask = self._mask(px, box)
        if warped.shape[2] == 4:
            alpha = warped[:, :, 3]
            own = cv2.bitwise_and(mask, cv2.inRange(alpha, 65, 255))
            mask = cv2.bitwise_and(mask, cv2.inRange(alpha, 192, 255))
            warped = warped[:, :, :3]
        else:
            own = mask
        veil = light.veil(distance)
        transform = np.concatenate([np.diag(gain * (1 - veil)), (light.haze * veil)[:, None]], 1)
        cv2.copyTo(cv2.transform(warped, transform), mask, self.image[y0:y1, x0:x1])
        cv2.copyTo(np.full(own.shape, ident, np.uint16), own, self.ids[y0:y1, x0:x1])

    def _box(self, px: np.ndarray) -> tuple[int, int, int, int] | None:
        height, width = self.ids.shape
        low, high = np.floor(px.min(0)), np.ceil(px.max(0)) + 1
        x0, y0 = int(max(low[0], 0)), int(max(low[1], 0))
        x1, y1 = int(min(high[0], width)), int(min(high[1], height))
        return (y0, y1, x0, x1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None

    @staticmethod
    def _mask(px: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        y0, y1, x0, x1 = box
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [fixed(px - (x0, y0))], 255, cv2.LINE_8, _SHIFT)
        return mask
