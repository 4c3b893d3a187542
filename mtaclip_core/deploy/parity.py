"""The reference gate: stored images with the answers of the trained model, which every backend must give again.

There is no torch on a vehicle to compare with, so the answers travel in the bundle. A backend that misses them (a wrong
build, a broken driver, a graph that some compiler mangled) is refused before it labels a single frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Parity:
    """How a backend's answers compare with the reference, over all its images.

    Attributes:
        label_agreement: share of pixels with the same label, 0-1.
        confidence_difference: mean absolute difference of the confidence, 0-255.
        confidence_worst: largest absolute difference, 0-255.
        class_maps_difference: mean absolute difference of the class maps over their mean, which shows a fault long
            before a label flips; None where the backend's graph does not show them.
    """

    label_agreement: float
    confidence_difference: float
    confidence_worst: int
    class_maps_difference: float | None = None

    def meets(self, limits: Limits) -> bool:
        """Whether nothing differs by more than these; a number that is none (NaN) does."""
        maps = self.class_maps_difference
        return (
            self.label_agreement >= limits.label_agreement
            and self.confidence_difference <= limits.confidence_difference
            and (maps is None or maps <= limits.class_maps_difference)
        )

    def __str__(self) -> str:
        maps = self.class_maps_difference
        return (
            f"labels agree on {self.label_agreement:.4%}, mean confidence difference {self.confidence_difference:.3f} "
            f"of 255" + ("" if maps is None else f", class maps differ by {maps:.4%}")
        )


def compare(expected: Reference, found: Sequence[Segmentation], maps: Sequence[np.ndarray] = ()) -> Parity:
    """Compare answers with the reference, image by image.

    Args:
        maps: class maps (C, h, w) of each image; without them only labels and confidences count.

    Raises:
        UserError: answers of another shape.
    """
    wrong = [a.shape for r in found for a in (r.label, r.confidence) if a.shape != expected.label.shape[1:]]
    if wrong:
        raise UserError(f"labels and confidences are {wrong[0]} for images of {expected.label.shape[1:]}")
    label = np.stack([result.label for result in found])
    difference = np.abs(np.stack([result.confidence for result in found]).astype(np.int16) - expected.confidence)
    return Parity(
        label_agreement=float((label == expected.label).mean()),
        confidence_difference=float(difference.mean()),
        confidence_worst=int(difference.max()),
        class_maps_difference=_class_maps_difference(expected, maps) if len(maps) else None,
    )


def _class_maps_difference(expected: Reference, maps: Sequence[np.ndarray]) -> float:
    wanted = expected.class_maps.astype(np.float32)
    grids = [on_grid(each, expected.map_step) for each in maps]
    if grids[0].shape != wanted.shape[1:]:
        raise UserError(f"class maps are {grids[0].shape}, the reference's {wanted.shape[1:]}")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.abs(np.stack(grids) - wanted).mean() / wanted.mean())


def check(segmenter: Segmenter, bundle: Bundle) -> Parity:
    """Run the reference images and refuse the backend where its answers are not the bundle's.

    Raises:
        UserError: answers of another shape, or outside the limits of the precision that runs; the text has the numbers.
    """
    reference = load_reference(bundle)
    # One by one, as frames come: a batch would have OpenVINO compile a graph that a node with one camera never uses.
    answers = [segmenter.segment_with_maps(image) for image in reference.images]
    about = f"backend {segmenter.backend} in {segmenter.precision} does not give the reference answers of bundle "
    about += f"'{bundle.name}' and is refused: "
    try:
        parity = compare(reference, [answer for answer, _ in answers], [m for _, m in answers if m is not None])
    except UserError as error:
        raise UserError(f"{about}{error}; export the bundle again") from error
    limits = LIMITS[segmenter.precision]
    if not parity.meets(limits):
        numbers = [
            f"label agreement {parity.label_agreement:.4%} (needs {limits.label_agreement:.1%})",
            f"mean confidence difference {parity.confidence_difference:.2f} of 255 (at most "
            f"{limits.confidence_difference})",
        ]
        if parity.class_maps_difference is not None:
            most = limits.class_maps_difference
            numbers.append(f"class maps differ by {parity.class_maps_difference:.3%} (at most {most:.1%})")
        raise UserError(f"{about}{', '.join(numbers)}; take another precision or backend, or export the bundle again")
    return parity
