"""Command line: mIoU of a bundle or a checkpoint on a labelled split; for Cityscapes all that its own script scores."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.data.dataset import open_dataset
from mtaclip_core.files import prepare_file, write_text
from mtaclip_core.labels import CATEGORIES
from mtaclip_core.metrics.confusion import mean
from mtaclip_core.metrics.evaluation import EvaluationResult, evaluate_segmenter
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS, Segmenter, load_segmenter

EPILOG = """example:
  python -m mtaclip_core.evaluate --model street-tiny --data camvid:data/camvid --split val --json runs/val.json

A checkpoint is a .safetensors file or a run folder; it is evaluated in PyTorch at the network size of its config.
Of CamVid, --split train=0001TP is one drive and train-0001TP all others."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.evaluate", description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--model", required=True, metavar="BUNDLE|CHECKPOINT", help="folder or name of a bundle, or a checkpoint"
    )
    parser.add_argument(
        "--data", required=True, metavar="KIND:PATH", help="data set, such as cityscapes:/data/cityscapes"
    )
    parser.add_argument("--split", required=True, metavar="NAME", help="folder of the split, such as val")
    parser.add_argument("--backend", default="auto", choices=BACKENDS, help="of a bundle (default: %(default)s)")
    parser.add_argument("--precision", default="f32", choices=PRECISIONS, help="arithmetic (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write DIR/index.html: bars, confusion matrix, worst and best images"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N images")
    args = parser.parse_args(argv)

    for out in (args.json, args.report and args.report / "index.html"):
        if out:
            prepare_file(out)
    if args.report:
        _require_report_packages()
    dataset = open_dataset(args.data, args.split)
    with open_model(args.model, args.backend, args.precision) as segmenter:
        result = evaluate_segmenter(segmenter, dataset, limit=args.limit)
        summary = {
            **result.to_dict(),
            "model": {"name": segmenter.name, "hash": segmenter.model_hash},
            "backend": segmenter.backend,
            "precision": segmenter.precision,
            "data": args.data,
            "split": args.split,
            "command": shlex.join(["python", "-m", "mtaclip_core.evaluate", *argv]),
        }
        if args.json:
            write_text(args.json, json.dumps(summary, indent=1) + "\n")
        print(table(result))
        if args.report:
            from mtaclip_core.metrics.evaluation_report import write_evaluation_report

            print(f"report: {write_evaluation_report(args.report, result, segmenter, dataset, summary)}")
    return 0


def open_model(model: str, backend: str = "auto", precision: str = "f32") -> Segmenter:
    """Load a bundle through `load_segmenter`, or a checkpoint in PyTorch.

    Raises:
        UserError: nothing there, unreadable, or a setting that it cannot run with.
    """
    path = Path(model).expanduser()
    if path.suffix != ".safetensors" and not (path / "checkpoints").is_dir():
        return load_segmenter(model, backend, precision=precision)
    if not path.exists():  # said here, before PyTorch takes its seconds to import
        raise UserError(f"no checkpoint at '{model}'; expected a .safetensors file or a run folder with checkpoints/")
    if importlib.util.find_spec("torch") is None:
        raise UserError(f"'{model}' is a checkpoint and needs PyTorch: pip install 'mtaclip_ros[train]', or export it")
    if backend not in ("auto", "torch") or precision != "f32":
        raise UserError(f"'{model}' is a checkpoint: it runs in torch in f32; export it for {backend} in {precision}")
    from mtaclip_core.training.checkpoint_segmenter import CheckpointSegmenter

    return CheckpointSegmenter(path)


def table(result: EvaluationResult) -> str:
    """IoU by class in per cent, then the mean; for Cityscapes the categories and instance scores too."""
    official: Mapping[str, Any] = result.cityscapes or {}
    instances: Mapping[str, float | None] = official.get("classInstScores", {})
    lines = _block("class", result.confusion.iou(), instances)
    if official:
        scores = {name: official["categoryScores"][name] for name in CATEGORIES}
        lines += ["", *_block("category", scores, official.get("categoryInstScores", {}))]
    present = sum(s is not None for s in result.confusion.iou().values())
    lines += ["", f"mIoU {_percent(result.miou)} over {present} classes, {len(result.images)} images"]
    return "\n".join(lines)


def _block(title: str, scores: Mapping[str, float | None], instances: Mapping[str, float | None]) -> list[str]:
    head = f"{title:<16}{'IoU':>7}" + (f"{'iIoU':>8}" if instances else "")
    rows = {**scores, "mean": mean(dict(scores))}
    second = {**instances, "mean": mean(dict(instances))}
    lines = [head, "-" * len(head)]
    for name, score in rows.items():
        lines.append(f"{name:<16}{_percent(score):>7}" + (f"{_percent(second.get(name)):>8}" if instances else ""))
    return lines


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f}"


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def _require_report_packages() -> None:
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--report needs {' and '.join(missing)}: pip install 'mtaclip_ros[onboard]'")


if __name__ == "__main__":
    run(main)
