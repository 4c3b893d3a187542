"""Scoring files of predictions: the official Cityscapes script against ours, on the same files."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import math
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mtaclip_core import evaluate
from mtaclip_core.cli import UserError
from mtaclip_core.comparison.rounds import interleaved, percentiles, ratio
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.data.synthetic.__main__ import main as generate
from mtaclip_core.labels import CITYSCAPES_LABELS
from mtaclip_core.metrics.cityscapes_score import CityscapesScore
from mtaclip_core.metrics.evaluation import evaluate_segmenter
from mtaclip_core.metrics.prediction_folder import PredictionFolder

FRAMES = 96
_DISTINCT = 6


def compare_cityscapes(size: tuple[int, int], *, rounds: int, processes: int | None) -> dict[str, Any]:
    """Time both on generated frames with instances, class, category and instance scores all asked for.

    Theirs runs as installed, its scores computed in NumPy unless its C extension was built. "After decoding" is its
    time without reading the PNG files, against ours for the same arrays in one process.

    Args:
        size: (height, width) of the frames.
        processes: of ours, None for one per core.

    Returns:
        Part of the benchmark's result: `stages` in ms per frame, `ratio_cityscapesscripts`,
        `ratio_cityscapesscripts_decoded`, and that the scores are equal.

    Raises:
        UserError: cityscapesscripts is not installed, or the scores differ.
    """
    script = _script()
    with tempfile.TemporaryDirectory() as temporary:
        truths, instances, predictions = _files(Path(temporary), size)
        data = Cityscapes(Path(temporary) / "data", "val")
        folder = PredictionFolder(Path(temporary) / "predictions", data)
        arguments = copy.copy(script.args)
        arguments.quiet, arguments.JSONOutput, arguments.evalInstLevelScore = True, False, True
        scores: dict[str, Any] = {}
        arrays = [(data.label_ids(i), folder[i], data.instances(i)) for i in range(_DISTINCT)]

        def theirs() -> None:
            scores["theirs"] = script.evaluateImgLists(predictions, truths, arguments)

        def ours() -> None:
            count = processes or os.cpu_count() or 1
            command = ["--predictions", str(folder.paths[0].parent), "--data", f"cityscapes:{data.root}", "--split"]
            with contextlib.redirect_stdout(io.StringIO()):
                evaluate.main([*command, "val", "--processes", str(count)])

        def decoding() -> None:
            for path in (*truths, *instances, *predictions):
                np.array(Image.open(path))

        def counting() -> None:
            score = CityscapesScore()
            for i in range(len(truths)):
                score.update(*arrays[i % _DISTINCT])
            score.result()

        taken = interleaved(
            {"theirs": theirs, "ours": ours, "their_decoding": decoding, "our_counting": counting}, rounds
        )
        _require_equal(scores["theirs"], data, folder)
    decoded = [a - b for a, b in zip(taken["theirs"], taken["their_decoding"], strict=True)]
    per_frame = {name: [s / FRAMES for s in values] for name, values in taken.items()}
    return {
        "compare": "cityscapes",
        "frames": FRAMES,
        "size": f"{size[0]}x{size[1]}",
        "rounds": rounds,
        "c_extension": bool(script.CSUPPORT),
        "stages": {name: percentiles(values) for name, values in per_frame.items()},
        "ratio_cityscapesscripts": ratio(taken["theirs"], taken["ours"]),
        "ratio_cityscapesscripts_decoded": ratio(decoded, taken["our_counting"]),
    }


def _script() -> ModuleType:
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # type: ignore[attr-defined]  # the script's name for it, gone in NumPy 2.4
    try:
        return importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    except ImportError as error:
        raise UserError(
            f"--compare cityscapes needs the official script: pip install cityscapesscripts ({error})"
        ) from error


def _files(folder: Path, size: tuple[int, int]) -> tuple[list[str], list[str], list[str]]:
    """Truth, instances and predictions (blurred truth with some noise) of `FRAMES` frames, some of them links."""
    height, width = size
    with contextlib.redirect_stdout(io.StringIO()):
        generate(f"--out {folder / 'data'} --frames {_DISTINCT} --size {height}x{width} --seed 3 --split val".split())
    data = Cityscapes(folder / "data", "val")
    (folder / "predictions").mkdir()
    random, ids = np.random.default_rng(0), np.array([r.id for r in CITYSCAPES_LABELS], np.uint8)
    for index, name in enumerate(list(data.names)):
        coarse = cv2.resize(data.label_ids(index), (width // 4, height // 4), interpolation=cv2.INTER_NEAREST)
        coarse = cv2.medianBlur(coarse, 5)
        wrong = random.random((height // 32, width // 32)) < 0.1
        wrong = cv2.resize(wrong.astype(np.uint8), coarse.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        coarse[wrong] = random.choice(ids)
        predicted = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
        prediction = folder / "predictions" / f"{name}_pred.png"
        cv2.imwrite(str(prediction), predicted)
        originals = [prediction, *data.files(index), *filter(None, [data.instances_path(index)])]
        for copy_number in range(1, math.ceil(FRAMES / _DISTINCT)):
            twin = f"{name[:-6]}{9 * 10**5 + copy_number * 1000 + index:06d}"
            for original in originals:
                original.with_name(original.name.replace(name, twin)).symlink_to(original)
    truths = sorted(map(str, folder.rglob("*_labelIds.png")))
    found = [
        str(folder / "predictions" / f"{Path(t).name.removesuffix('_gtFine_labelIds.png')}_pred.png") for t in truths
    ]
    return truths, [t.replace("_labelIds", "_instanceIds") for t in truths], found


def _require_equal(theirs: dict[str, Any], data: Cityscapes, folder: PredictionFolder) -> None:
    ours = evaluate_segmenter(folder, data, progress=False).cityscapes or {}
    for key in ("classScores", "classInstScores", "categoryScores", "categoryInstScores"):
        for name, score in theirs[key].items():
            mine = ours[key][name]
            if not (math.isnan(score) if mine is None else abs(mine - score) <= 1e-9):
                raise UserError(f"{key} of {name}: the script says {score}, this program {mine}; times compare nothing")
