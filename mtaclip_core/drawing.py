"""Pictures for people: colour maps, overlays, captions, contact sheets. Not for machines: colours lose the ids."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mtaclip_core.labels import LabelSpace


def colourise(label: np.ndarray, space: LabelSpace) -> np.ndarray:
    """(H, W) uint8 ids -> (H, W, 3) uint8 RGB in the classes' colours; black where unlabelled."""
    # several times faster than indexing, and without the GIL
    return cv2.LUT(cv2.cvtColor(label, cv2.COLOR_GRAY2RGB), space.palette[None])


def overlay(image: np.ndarray, label: np.ndarray, space: LabelSpace, alpha: float = 0.5) -> np.ndarray:
    """Blend the colours of `label` over `image`.

    Args:
        image: (H, W, 3) uint8 RGB.
        label: (H, W) uint8 ids.
        alpha: weight of the colours, 0 (image only) to 1 (colours only).

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return cv2.addWeighted(image, 1.0 - alpha, colourise(label, space), alpha, 0.0)


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """A copy of an RGB image with one line of text on a dark bar at its top."""
    out = np.ascontiguousarray(image).copy()
    scale = max(0.35, min(0.6, out.shape[1] / 900))
    (_, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    out[: height + base + 6] = out[: height + base + 6] // 4
    cv2.putText(out, text, (4, height + 3), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return out


def grid(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Images of one size, in reading order, on a white sheet."""
    h, w = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + (i // columns) * (h + gap), gap + (i % columns) * (w + gap)
        sheet[y : y + h, x : x + w] = image
    return sheet
