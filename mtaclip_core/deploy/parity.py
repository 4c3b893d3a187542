"""The reference gate: stored images with the answers of the trained model, which every backend must give again.

There is no torch on a vehicle to compare with, so the answers travel in the bundle. A backend that misses them (a wrong
build, a broken driver, a graph that some compiler mangled) is refused before it labels a single frame.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from mtaclip_core.bundle import Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.runtime.segmenter import Segmentation, Segmenter

IMAGES = 4
CLASS_MAPS = "reference/class_maps.npz"
_KINDS = ("image", "label", "confidence")
_MAX_PIXELS = 4096 * 4096
_MAX_MAP_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Reference:
    """Images and the answers of the trained model in float32.

    Attributes:
        images: (N, H, W, 3) uint8 RGB.
        label, confidence: (N, H, W) uint8.
        class_maps: (N, C, h, w) float16, before they are resized to H x W.
    """

    images: np.ndarray
    label: np.ndarray
    confidence: np.ndarray
    class_maps: np.ndarray


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
    "f16": Limits(label_agreement=0.99, confidence_difference=2.0, class_maps_difference=0.02),
    "bf16": Limits(label_agreement=0.97, confidence_difference=6.0, class_maps_difference=0.1),
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


def reference_files(reference: Reference) -> dict[str, bytes]:
    """The files of `reference/` by their path inside a bundle: PNGs that a person can look at, and the class maps."""
    files = {}
    for i in range(len(reference.images)):
        files[f"reference/{i}_image.png"] = _png(cv2.cvtColor(reference.images[i], cv2.COLOR_RGB2BGR))
        files[f"reference/{i}_label.png"] = _png(reference.label[i])
        files[f"reference/{i}_confidence.png"] = _png(reference.confidence[i])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, class_maps=reference.class_maps)
    files[CLASS_MAPS] = buffer.getvalue()
    return files


def load_reference(bundle: Bundle) -> Reference:
    """Read `reference/` of a bundle.

    Raises:
        UserError: the bundle has none, or it is not readable.
    """
    needed = [CLASS_MAPS, *(f"reference/{i}_{kind}.png" for i in range(IMAGES) for kind in _KINDS)]
    missing = [name for name in needed if name not in bundle.metadata["files"]]
    if missing:
        raise UserError(
            f"bundle '{bundle.path}' has no {missing[0]}, which its answers are held against; export it again"
        )
    images = [
        cv2.cvtColor(_read_png(bundle.path / f"reference/{i}_image.png", 3), cv2.COLOR_BGR2RGB) for i in range(IMAGES)
    ]
    label, confidence = (
        [_read_png(bundle.path / f"reference/{i}_{kind}.png", 1) for i in range(IMAGES)] for kind in _KINDS[1:]
    )
    if len({array.shape[:2] for array in (*images, *label, *confidence)}) != 1:
        raise UserError(f"the reference images and labels of bundle '{bundle.path}' differ in size; export it again")
    return Reference(np.stack(images), np.stack(label), np.stack(confidence), _read_maps(bundle.path / CLASS_MAPS))


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
    found = np.stack([source.class_maps(image) for image in reference.images])
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


def _png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _read_png(path: Path, channels: int) -> np.ndarray:
    raw = path.read_bytes()
    width, height = struct.unpack(">II", raw[16:24]) if raw[:8] == b"\x89PNG\r\n\x1a\n" and len(raw) > 24 else (0, 0)
    if not 0 < width * height <= _MAX_PIXELS:
        raise UserError(f"'{path}' is not a PNG of at most {_MAX_PIXELS} pixels; export the bundle again")
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise UserError(f"'{path}' is not a readable PNG; export the bundle again")
    return image


def _read_maps(path: Path) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MAX_MAP_BYTES:
                raise UserError(f"'{path}' unpacks to more than {_MAX_MAP_BYTES >> 20} MiB; export the bundle again")
        with np.load(path, allow_pickle=False) as archive:
            return archive["class_maps"]
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        raise UserError(f"'{path}' does not hold class maps ({error}); export the bundle again") from error
