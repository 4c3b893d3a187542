"""The reference gate: stored images with the answers of the trained model, which every backend must give again.

There is no torch on a vehicle to compare with, so the answers travel in the bundle. A backend that misses them (a wrong
build, a broken driver, a graph that some compiler mangled) is refused before it labels a single frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mtaclip_core.bundle import Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.deploy.reference import Reference, load_reference, on_grid
from mtaclip_core.runtime.segmenter import Segmentation, Segmenter


@dataclass(frozen=True)
class Limits:
    """What a backend may differ by.

    Attributes:
        label_agreement: least share of pixels with equal labels, 0-1.
        confidence_difference: largest mean absolute difference of the confidence, 0-255.
        class_maps_difference: largest mean absolute difference of the class maps over their mean.
    """

    label_agreement: float
    confidence_difference: float
    class_maps_difference: float


LIMITS = {
    "f32": Limits(label_agreement=0.999, confidence_difference=0.5, class_maps_difference=0.002),
    "fp16": Limits(label_agreement=0.99, confidence_difference=2.0, class_maps_difference=0.02),
    "bf16": Limits(label_agreement=0.97, confidence_difference=6.0, class_maps_difference=0.1),
    "int8": Limits(label_agreement=0.93, confidence_difference=12.0, class_maps_difference=0.2),
}
"""Per precision that runs. The reference is stored in float16, which alone costs up to 0.0005 of the class maps."""


@runtime_checkable
class ClassMapSource(Protocol):
    """A backend that can show its class maps too."""

    def class_maps(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (C, h, w) float32."""
        ...


@dataclass(frozen=True)
class Parity:
    """How a backend's answers compare with the reference, over all its images.

    Attributes:
        label_agreement: share of pixels with the same label, 0-1.
        confidence_difference: mean absolute difference of the confidence, 0-255.
        confidence_worst: largest absolute difference, 0-255.
    """

    label_agreement: float
    confidence_difference: float
    confidence_worst: int


def compare(expected: Reference, found: Sequence[Segmentation]) -> Parity:
    """Compare answers with the reference, image by image."""
    label = np.stack([result.label for result in found])
    difference = np.abs(np.stack([result.confidence for result in found]).astype(np.int16) - expected.confidence)
    return Parity(
        label_agreement=float((label == expected.label).mean()),
        confidence_difference=float(difference.mean()),
        confidence_worst=int(difference.max()),
    )


def check(segmenter: Segmenter, bundle: Bundle) -> Parity:
    """Run the reference images and refuse the backend where its labels and confidences are not the bundle's.

    Raises:
        UserError: agreement below the limits of the precision that runs; the text has the numbers.
    """
    reference = load_reference(bundle)
    # One by one, as frames come: a batch would have OpenVINO compile a graph that a node with one camera never uses.
    parity = compare(reference, [segmenter.segment([image])[0] for image in reference.images])
    limits = LIMITS[segmenter.precision]
    agrees = parity.label_agreement >= limits.label_agreement
    if not agrees or parity.confidence_difference > limits.confidence_difference:
        raise UserError(
            f"backend {segmenter.backend} in {segmenter.precision} does not give the reference answers of bundle "
            f"'{bundle.name}' and is refused: label agreement {parity.label_agreement:.4%} (needs "
            f"{limits.label_agreement:.1%}), mean confidence difference {parity.confidence_difference:.2f} of 255 "
            f"(at most {limits.confidence_difference}); take another precision or backend, or export the bundle again"
        )
    return parity


def check_class_maps(source: ClassMapSource, precision: str, bundle: Bundle) -> float:
    """Compare the class maps too, which show a difference long before a label flips.

    Slower than `check`: done when a bundle is made, not at every start.

    Returns:
        Mean absolute difference over the mean of the class maps.

    Raises:
        UserError: a difference above the limit of the precision, or maps of another shape.
    """
    reference = load_reference(bundle)
    expected = reference.class_maps.astype(np.float32)
    found = np.stack([on_grid(source.class_maps(image), reference.map_step) for image in reference.images])
    if found.shape != expected.shape:
        raise UserError(f"class maps of bundle '{bundle.name}' are {found.shape}, the reference's {expected.shape}")
    difference = float(np.abs(found - expected).mean() / expected.mean())
    limit = LIMITS[precision].class_maps_difference
    if not difference <= limit:
        raise UserError(
            f"the class maps of bundle '{bundle.name}' in {precision} differ from its reference by {difference:.3%} "
            f"of their mean (at most {limit:.1%})"
        )
    return difference
