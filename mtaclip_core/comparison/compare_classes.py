"""What more classes cost: 19 with their text tokens in the decoder against many without."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mtaclip_core.cli import UserError
from mtaclip_core.comparison.random_bundle import classes_of, full_config, random_model, write_random_bundle
from mtaclip_core.comparison.rounds import interleaved, percentiles, ratio
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.runtime.segmenter import Segmenter, load_segmenter

FEW = 19


def compare_classes(
    size: tuple[int, int],
    *,
    classes: int,
    deformable: str,
    rounds: int,
    threads: int | None,
    precision: str = "f32",
    model: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Time MTA-CLIP with 19 classes and text tokens, and with `classes` classes and text tokens dropped.

    Args:
        size: (height, width) of the frame and the network.
        model: what differs from the published shape, as in `TrainConfig.model`.

    Returns:
        Part of the benchmark's result: `stages`, `ratio_classes` (the many over the few), `fps` of the many.
    """
    if any(side % 32 for side in size):
        raise UserError(f"--size {size[0]}x{size[1]}: both sides must be multiples of 32 to compare networks")
    frame = StreetDrive(size, seed=1).frame(10).image
    config = full_config(size, model)
    few, many = f"{FEW}_classes_kept", f"{classes}_classes_dropped"
    segmenters: dict[str, Segmenter] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, count, keep in ((few, FEW, True), (many, classes, False)):
            folder = write_random_bundle(
                random_model(config, classes_of(count)),
                config,
                Path(temporary) / name,
                keep_tokens=keep,
                deformable=deformable,
            )
            segmenters[name] = load_segmenter(folder, "openvino", precision=precision, threads=threads, verify=False)
        calls = {name: lambda s=segmenter: s.segment([frame]) for name, segmenter in segmenters.items()}
        taken = interleaved(calls, rounds)
    return {
        "compare": "classes",
        "classes": classes,
        "precision": segmenters[many].precision,
        "deformable": deformable,
        "rounds": rounds,
        "stages": {name: percentiles(values) for name, values in taken.items()},
        "ratio_classes": ratio(taken[many], taken[few]),
        "fps": round(1e3 / percentiles(taken[many])["p50"], 2),
    }
