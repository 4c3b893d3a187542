"""Our network and Hugging Face's Mask2Former, side by side in one run."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtaclip_core.bundle import load_bundle
from mtaclip_core.cli import UserError
from mtaclip_core.comparison.floor import PRODUCT_GMAC, matrix_product, multiply_adds
from mtaclip_core.comparison.hugging_face import HuggingFace, copy_backbone
from mtaclip_core.comparison.random_bundle import classes_of, full_config, random_model, write_random_bundle
from mtaclip_core.comparison.rounds import interleaved, percentiles, ratio
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.deploy import parity
from mtaclip_core.deploy.int8_command import write_int8
from mtaclip_core.deploy.openvino_int8 import quantise_unchecked
from mtaclip_core.deploy.reference import load_reference
from mtaclip_core.runtime.openvino_backend import shared_core
from mtaclip_core.runtime.segmenter import load_segmenter

PRECISIONS = ("f32", "bf16")
CALIBRATION_FRAMES = 8
CALIBRATION_SEED = 5
RESNET50 = {"backbone": {"kind": "timm", "name": "resnet50"}}

Call = Callable[[], object]


def compare_hf(
    size: tuple[int, int],
    *,
    classes: int,
    keep_tokens: bool,
    deformable: str,
    rounds: int,
    threads: int | None,
    shapes: tuple[Mapping[str, Any], Mapping[str, Any]] = (RESNET50, {}),
) -> dict[str, Any]:
    """Time both on one image: theirs from a float tensor to labels, ours from a uint8 frame to labels and confidence.

    Ours also in int8, where NNCF is installed.

    Args:
        size: (height, width) of the image and of both networks.
        keep_tokens: class texts in our decoder beside the mask queries, as in MTA-CLIP; Mask2Former has none.
        deformable: form of our deformable attention.
        rounds: each thing runs once a round.
        shapes: of ours (`TrainConfig.model`) and theirs, where they are not the published ones.

    Returns:
        Part of the benchmark's result: `stages`, `ratio_*`, `gate`, `best_precision`, `floor`, `fps`.
    """
    if any(side % 32 for side in size):
        raise UserError(f"--size {size[0]}x{size[1]}: both sides must be multiples of 32 to compare networks")
    if threads is not None:
        torch.set_num_threads(threads)
    frame = StreetDrive(size, seed=1).frame(10).image
    theirs = HuggingFace(classes, shapes[1])
    config = full_config(size, shapes[0])
    ours = random_model(config, classes_of(classes))
    copy_backbone(theirs, ours)
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
    image = (image - torch.tensor(ours.mean).view(3, 1, 1)) / torch.tensor(ours.std).view(3, 1, 1)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        theirs.export(folder / "hf.onnx", image)
        bundle = write_random_bundle(ours, config, folder / "ours", keep_tokens=keep_tokens, deformable=deformable)
        gate: dict[str, Any] = {}
        calls: dict[str, Call] = {"hf_eager_f32": lambda: _eager(theirs, image)}
        for precision in PRECISIONS:
            calls[f"hf_openvino_{precision}"] = _graph(folder / "hf.onnx", precision, threads, image.numpy())
            calls[f"ours_openvino_{precision}"], gate[precision] = _ours(bundle, precision, threads, frame)
            calls[f"matrix_product_{precision}"] = matrix_product(precision, threads)
        if importlib.util.find_spec("nncf") is not None:
            quantised = _quantised(bundle, size)
            calls["ours_openvino_int8"], gate["int8"] = _ours(quantised, "int8", threads, frame)
        ours.fold_text(keep_tokens=keep_tokens)
        gmac = multiply_adds(ours, size)
        taken = interleaved(calls, rounds)

    stages = {name: values for name, values in taken.items() if not name.startswith("matrix_product")}
    passed = [precision for precision, found in gate.items() if found["passed"]]
    best = min(passed or ["f32"], key=lambda p: np.median(taken[f"ours_openvino_{p}"]))
    result: dict[str, Any] = {
        "compare": "hf",
        "classes": classes,
        "text_tokens": "kept" if keep_tokens else "dropped",
        "deformable": deformable,
        "rounds": rounds,
        "stages": {name: percentiles(values) for name, values in stages.items()},
        "ratio_hf_eager_f32": ratio(taken["hf_eager_f32"], taken["ours_openvino_f32"]),
        "ratio_hf_openvino_f32": ratio(taken["hf_openvino_f32"], taken["ours_openvino_f32"]),
        "ratio_hf_openvino_bf16": ratio(taken["hf_openvino_bf16"], taken["ours_openvino_bf16"]),
        "ratio_hf_eager_best": ratio(taken["hf_eager_f32"], taken[f"ours_openvino_{best}"]),
        "best_precision": best,
        "gate": gate,
        "fps": round(1 / float(np.median(taken[f"ours_openvino_{best}"])), 2),
        "floor": {"gmac": round(gmac, 3)},
    }
    for precision in PRECISIONS:
        rate = PRODUCT_GMAC / min(taken[f"matrix_product_{precision}"])
        result["floor"][precision] = {"gmac_per_s": round(rate, 1), "ms": round(gmac / rate * 1e3, 1)}
    return result


def _quantised(bundle: Path, size: tuple[int, int]) -> Path:
    """The bundle with an int8 graph of its own, of which NNCF takes the value ranges from streets that it generates."""
    drive = StreetDrive(size, seed=CALIBRATION_SEED)
    loaded = load_bundle(bundle)
    graph = quantise_unchecked(loaded, [drive.frame(40 * i).image for i in range(CALIBRATION_FRAMES)])
    return write_int8(bundle.with_name("ours-int8"), loaded, graph)


def _eager(model: HuggingFace, image: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model(image).numpy()


def _graph(path: Path, precision: str, threads: int | None, image: np.ndarray) -> Call:
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = shared_core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: next(iter(request.infer([image]).values())).copy()


def _ours(bundle: Path, precision: str, threads: int | None, frame: np.ndarray) -> tuple[Call, dict[str, Any]]:
    """A call of our segmenter, and how it meets the bundle's reference answers."""
    loaded = load_bundle(bundle)
    segmenter = load_segmenter(bundle, "openvino", precision=precision, threads=threads, verify=False)
    reference = load_reference(loaded)
    answers, maps = zip(*(segmenter.segment_with_maps(image) for image in reference.images), strict=True)
    found = parity.compare(reference, answers, maps)
    gate = {
        "passed": found.meets(parity.LIMITS[segmenter.precision]),
        "label_agreement": round(found.label_agreement, 4),
        "confidence_difference": round(found.confidence_difference, 3),
        "class_maps_difference": round(found.class_maps_difference or 0.0, 4),
    }
    return lambda: segmenter.segment([frame]), gate
