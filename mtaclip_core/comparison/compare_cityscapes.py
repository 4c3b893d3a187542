"""Scoring files of predictions: the official Cityscapes script against ours, on the same files."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.comparison import official_script
from mtaclip_core.comparison.rounds import interleaved, percentiles, ratio
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.data.synthetic.__main__ import main as generate
from mtaclip_core.labels import CITYSCAPES_LABELS
from mtaclip_core.metrics.cityscapes_score import CityscapesScore
from mtaclip_core.metrics.prediction_folder import PredictionFolder
from mtaclip_core.metrics.processes import keep_freed_memory

FRAMES = 500
"""As many as Cityscapes' own val split has; a multiple of `_DISTINCT`."""

_DISTINCT = 10
_PACKAGE_ROOT = Path(__file__).parents[2]


def compare_cityscapes(size: tuple[int, int], *, rounds: int, processes: int | None) -> dict[str, Any]:
    """Time both on generated frames with instances, class, category and instance scores all asked for.

    `theirs` and `ours` are whole programs, each started anew and timed from start to end. Counting is what is left of
    the script's own scoring without reading the PNG files, against our counting in one thread. On a machine
    that does other things too, processor time (`cpu`) compares where wall time does not.

    Args:
        size: (height, width) of the frames.
        processes: of ours; None for what `evaluate` does by itself, a thread per core.

    Returns:
        Part of the benchmark's result: `stages` and `cpu` in ms per frame, `ratio_cityscapesscripts` and
        `ratio_cityscapesscripts_decoded` of wall time, the same of processor time; the scores were found equal.

    Raises:
        UserError: cityscapesscripts is not installed, or the scores differ.
    """
    c_extension = bool(official_script.load().CSUPPORT)
    with tempfile.TemporaryDirectory() as temporary:
        lists, result = Path(temporary) / "lists.json", Path(temporary) / "result.json"
        truths, predictions = _files(Path(temporary), size)
        lists.write_text(json.dumps({"predictions": predictions, "truths": truths}))
        data = Cityscapes(Path(temporary) / "data", "val")
        folder = PredictionFolder(Path(temporary) / "predictions", data)
        command = ["evaluate", "--predictions", str(Path(temporary) / "predictions"), "--data"]
        command += [f"cityscapes:{data.root}", "--split", "val", "--json", str(result)]
        command += [] if processes is None else ["--processes", str(processes)]
        inside: dict[str, list[dict[str, Any]]] = {"theirs": [], "their_decoding": []}
        apart: list[np.ndarray] = []
        cpu: dict[str, list[float]] = {}

        def script(name: str, *options: str) -> None:
            inside[name].append(json.loads(_run(["comparison.official_script", str(lists), *options])))

        def ours_apart() -> None:
            """Decode and count frame by frame, as `evaluate` does, in this thread."""
            score, decoded, counted = CityscapesScore(), np.zeros(2), np.zeros(2)
            for i in range(FRAMES):
                start = _now()
                arrays = data.label_ids(i), folder[i], data.instances(i)
                middle = _now()
                score.update(*arrays)
                decoded += middle - start
                counted += _now() - middle
            apart.append(np.stack([decoded, counted]))

        def metered(name: str, call: Callable[[], object]) -> None:
            before = _processor_seconds()
            call()
            cpu.setdefault(name, []).append(_processor_seconds() - before)

        calls: dict[str, Callable[[], object]] = {
            "theirs": partial(script, "theirs"),
            "ours": partial(_run, command),
            "their_decoding": partial(script, "their_decoding", "--decode"),
            "ours_apart": ours_apart,
        }
        keep_freed_memory()
        # Without a warm-up: files just written are in memory, and every program starts anew.
        taken = interleaved({n: partial(metered, n, call) for n, call in calls.items()}, rounds, warm_up=0)
        _require_equal(inside["theirs"][-1]["scores"], json.loads(result.read_text())["cityscapes"])
    for clock, (times, unit) in enumerate(((taken, "seconds"), (cpu, "cpu_seconds"))):
        scoring, times["their_decoding"] = ([run[unit] for run in runs] for runs in inside.values())
        times["their_counting"] = [s - d for s, d in zip(scoring, times["their_decoding"], strict=True)]
        del times["ours_apart"]
        times["our_decoding"], times["our_counting"] = ([float(run[i, clock]) for run in apart] for i in range(2))
    return {
        "compare": "cityscapes",
        "frames": FRAMES,
        "distinct_frames": _DISTINCT,
        "size": f"{size[0]}x{size[1]}",
        "rounds": rounds,
        "c_extension": c_extension,
        "workers": f"{os.cpu_count()} threads" if processes is None else f"{processes} processes",
        "stages": {name: percentiles([s / FRAMES for s in values]) for name, values in taken.items()},
        "cpu": {name: percentiles([s / FRAMES for s in values])["p50"] for name, values in cpu.items()},
        "ratio_cityscapesscripts": ratio(taken["theirs"], taken["ours"]),
        "ratio_cityscapesscripts_cpu": ratio(cpu["theirs"], cpu["ours"]),
        "ratio_cityscapesscripts_decoded": ratio(taken["their_counting"], taken["our_counting"]),
        "ratio_cityscapesscripts_decoded_cpu": ratio(cpu["their_counting"], cpu["our_counting"]),
    }


def _processor_seconds() -> float:
    """What this process has used, and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _run(command: list[str]) -> str:
    """Run one of our modules in a process of its own and return what it prints."""
    path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", f"mtaclip_core.{command[0]}", *command[1:]],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise UserError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def _now() -> np.ndarray:
    """Seconds on the wall and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def _files(folder: Path, size: tuple[int, int]) -> tuple[list[str], list[str]]:
    """Truths and predictions of `FRAMES` frames, most of them links to others.

    Truths are as the generator writes them, predictions (blurred truth with some noise) as Pillow does, whose files are
    what Mask2Former's evaluation hands in. How fast a PNG is read depends on its writer's choice of row filters.
    """
    image = importlib.import_module("PIL.Image")
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
        image.fromarray(predicted).save(prediction)
        originals = [prediction, *data.files(index), *filter(None, [data.instances_path(index)])]
        for copy_number in range(1, FRAMES // _DISTINCT):
            twin = f"{name[:-6]}{9 * 10**5 + copy_number * 1000 + index:06d}"
            for original in originals:
                original.with_name(original.name.replace(name, twin)).symlink_to(original)
    truths = sorted(map(str, folder.rglob("*_labelIds.png")))
    stems = [Path(truth).name.removesuffix("_gtFine_labelIds.png") for truth in truths]
    return truths, [str(folder / "predictions" / f"{stem}_pred.png") for stem in stems]


def _require_equal(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for key in ("classScores", "classInstScores", "categoryScores", "categoryInstScores"):
        for name, score in theirs[key].items():
            mine = ours[key][name]
            if not (math.isnan(score) if mine is None else abs(mine - score) <= 1e-9):
                raise UserError(f"{key} of {name}: the script says {score}, this program {mine}; times compare nothing")
