"""Command line: the official Cityscapes script over lists of files, timed in a process that holds nothing else."""

from __future__ import annotations

import copy
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mtaclip_core.cli import Parser, UserError, run

EPILOG = """example:
  python -m mtaclip_core.comparison.official_script files.json

The file holds {"predictions": [PATH, ...], "truths": [PATH of a labelIds file, ...]}."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.comparison.official_script", description=__doc__, epilog=EPILOG)
    parser.add_argument("files", type=Path, metavar="FILES.json", help="what to score")
    parser.add_argument("--decode", action="store_true", help="read the files as the script does, and no more")
    args = parser.parse_args(argv)
    lists = json.loads(args.files.read_text())
    work = _decode if args.decode else scores
    wall, cpu = time.perf_counter(), time.process_time()
    result = work(lists["predictions"], lists["truths"])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "scores": result}))
    return 0


def load() -> ModuleType:
    """The script as installed: its scores are computed in NumPy unless its C extension was built.

    Raises:
        UserError: cityscapesscripts is not installed.
    """
    if not hasattr(np, "in1d"):
        np.in1d = np.isin  # type: ignore[attr-defined]  # the script's name for it, gone in NumPy 2.4
    try:
        return importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    except ImportError as error:
        raise UserError(f"the official script is not installed: pip install cityscapesscripts ({error})") from error


def scores(predictions: Sequence[str], truths: Sequence[str]) -> dict[str, Any]:
    """What the script would write as JSON: class, category and instance scores, NaN where there are none."""
    script = load()
    arguments = copy.copy(script.args)
    arguments.quiet, arguments.JSONOutput, arguments.evalInstLevelScore = True, False, True
    return script.evaluateImgLists(list(predictions), list(truths), arguments)


def _decode(predictions: Sequence[str], truths: Sequence[str]) -> None:
    image = importlib.import_module("PIL.Image")
    for prediction, truth in zip(predictions, truths, strict=True):
        paths = (prediction, truth, truth.replace("labelIds", "instanceIds"))
        arrays = [np.array(image.open(path)) for path in paths]  # all three are there at once, as in the script
        del arrays


if __name__ == "__main__":
    run(main)
