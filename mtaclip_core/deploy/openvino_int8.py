"""int8 for OpenVINO by NNCF, which puts layers back into float until the mIoU has dropped by no more than allowed."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from mtaclip_core.bundle import Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.data.dataset import SegmentationDataset
from mtaclip_core.labels import common_space
from mtaclip_core.metrics.confusion import Confusion
from mtaclip_core.runtime.openvino_backend import shared_core

TIMED_FRAMES = 30


@dataclass(frozen=True)
class Quantised:
    """An int8 graph and what it costs.

    Attributes:
        xml, weights: the two files of OpenVINO's format.
        miou_f32, miou_int8: on the validation images, 0-1.
        speed_ratio: time of a frame in f32 over the time in int8, medians of interleaved runs.
        quantised_layers: convolutions and matrix products that read int8, of `layers`.
    """

    xml: bytes
    weights: bytes
    miou_f32: float
    miou_int8: float
    speed_ratio: float
    quantised_layers: int
    layers: int


class Validation:
    """mIoU of a compiled graph on some samples of a data set, in the classes that both know."""

    def __init__(self, bundle: Bundle, dataset: SegmentationDataset) -> None:
        """
        Raises:
            UserError: the classes of bundle and data set cannot be joined.
        """
        self._space, self._of_model, self._of_truth = common_space(bundle.space, dataset.space)

    def __call__(self, compiled: Any, items: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, list[float]]:
        """mIoU over all (image, truth), and of each image, which is how NNCF ranks layers."""
        total, each = Confusion(self._space), []
        for image, truth in items:
            one = Confusion(self._space)
            one.update(self._of_truth[truth], self._of_model[compiled(image[None])["label"][0]])
            total += one
            each.append(one.miou() or 0.0)
        return total.miou() or 0.0, each


def quantise(
    bundle: Bundle,
    calibration: Sequence[np.ndarray],
    validation: Sequence[tuple[np.ndarray, np.ndarray]],
    measure: Validation,
    max_drop: float,
) -> Quantised:
    """Quantise a bundle's graph for the CPU, as far as its mIoU bears it.

    Args:
        calibration: frames (H, W, 3) uint8 RGB.
        validation: (image, label in the data set's ids).
        measure: gives the mIoU that may drop by `max_drop` (0-1).

    Raises:
        UserError: NNCF is not installed.
    """
    nncf = _nncf()
    model = shared_core().read_model(bundle.onnx_path)
    images = nncf.Dataset(list(calibration), lambda image: {"image": image[None]})
    truths = nncf.Dataset(list(validation), lambda pair: {"image": pair[0][None]})
    with contextlib.redirect_stdout(sys.stderr):  # its bars show progress
        result = nncf.quantize_with_accuracy_control(
            model,
            images,
            truths,
            measure,
            max_drop=max_drop,
            **_settings(nncf, calibration),
        )
    files = _saved(result)
    exact, int8 = _compiled(model), _compiled(result)
    ratio = _speed_ratio(exact, int8, [image for image, _ in validation[:TIMED_FRAMES]])
    products = [node for node in result.get_ops() if node.get_type_name() in _PRODUCTS]
    quantised = sum(node.input_value(0).get_node().get_type_name() == "FakeQuantize" for node in products)
    return Quantised(
        *files, measure(exact, validation)[0], measure(int8, validation)[0], ratio, quantised, len(products)
    )


def quantise_unchecked(bundle: Bundle, calibration: Sequence[np.ndarray]) -> tuple[bytes, bytes]:
    """Every layer that can be in int8, whatever it costs; the two files of OpenVINO's format.

    Args:
        calibration: frames (H, W, 3) uint8 RGB.

    Raises:
        UserError: NNCF is not installed.
    """
    nncf = _nncf()
    images = nncf.Dataset(list(calibration), lambda image: {"image": image[None]})
    with contextlib.redirect_stdout(sys.stderr):
        model = shared_core().read_model(bundle.onnx_path)
        return _saved(nncf.quantize(model, images, **_settings(nncf, calibration)))


def _nncf() -> Any:
    if importlib.util.find_spec("nncf") is None:
        raise UserError("int8 for OpenVINO needs NNCF, which is not installed: pip install 'mtaclip_ros[quantise]'")
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


def _settings(nncf: Any, calibration: Sequence[np.ndarray]) -> dict[str, Any]:
    return {
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": len(calibration),
    }


def _saved(model: ov.Model) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.xml"
        ov.save_model(model, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


_PRODUCTS = {"Convolution", "GroupConvolution", "MatMul"}


def _compiled(model: ov.Model) -> ov.CompiledModel:
    single = model.clone()
    single.reshape([1, -1, -1, 3])
    return shared_core().compile_model(
        single, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": ov.Type.f32}
    )


def _speed_ratio(first: ov.CompiledModel, second: ov.CompiledModel, images: Sequence[np.ndarray]) -> float:
    times: list[list[float]] = [[], []]
    for image in images:
        for which, compiled in enumerate((first, second)):
            start = time.perf_counter()
            compiled(image[None])
            times[which].append(time.perf_counter() - start)
    return float(np.median(times[0]) / np.median(times[1]))
