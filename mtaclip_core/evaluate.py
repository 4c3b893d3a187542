"""Command line: mIoU of a bundle or a checkpoint on a labelled split; for Cityscapes all that its own script scores."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from mtaclip_core.cli import Parser, UserError, positive, run
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.data.dataset import SegmentationDataset, open_dataset
from mtaclip_core.data.image_files import some
from mtaclip_core.files import prepare_file, write_text
from mtaclip_core.labels import CATEGORIES
from mtaclip_core.metrics.confusion import mean
from mtaclip_core.metrics.evaluation import Comparison, EvaluationResult, FrameCounts, Writer, fold
from mtaclip_core.metrics.prediction_folder import FileIds, PredictionFolder, prediction_writer
from mtaclip_core.metrics.processes import count_in_processes, count_in_threads
from mtaclip_core.runtime.averaging import add_averaging_arguments, asks_for_averaging, averaging_of
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS, Segmenter, load_segmenter

EPILOG = """example:
  python -m mtaclip_core.evaluate --model street-tiny --data camvid:data/camvid --split val --json runs/val.json

  python -m mtaclip_core.evaluate --predictions results/ --data cityscapes:/data/cityscapes --split val

A checkpoint is a .safetensors file or a run folder; it is evaluated in PyTorch at the network size of its config.
Of CamVid, --split train=0001TP is one drive and train-0001TP all others. Predictions are 8-bit PNG files of ids, one
per frame, named NAME.png or NAME_ANYTHING.png: Cityscapes label ids as its server wants them, else the data's own."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.evaluate", description=__doc__, epilog=EPILOG)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="BUNDLE|CHECKPOINT", help="folder or name of a bundle, or a checkpoint")
    source.add_argument(
        "--predictions", type=Path, metavar="DIR", help="score the PNG files that another program wrote"
    )
    parser.add_argument(
        "--data", required=True, metavar="KIND:PATH", help="data set, such as cityscapes:/data/cityscapes"
    )
    parser.add_argument("--split", required=True, metavar="NAME", help="folder of the split, such as val")
    parser.add_argument("--backend", default="auto", choices=BACKENDS, help="of a bundle (default: %(default)s)")
    parser.add_argument("--precision", default="f32", choices=PRECISIONS, help="arithmetic (default: %(default)s)")
    parser.add_argument(
        "--prediction-ids", default="label", choices=get_args(FileIds), help="in Cityscapes PNGs (default: %(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="how many share the work (default: 1; with --predictions a thread per core in one process)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write DIR/index.html: bars, confusion matrix, worst and best images"
    )
    parser.add_argument(
        "--write-predictions",
        type=Path,
        metavar="DIR",
        help="write the labels as PNG files, as --predictions reads them",
    )
    parser.add_argument("--boundary", action="store_true", help="Boundary IoU too, which takes its time")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    add_averaging_arguments(parser)
    args = parser.parse_args(argv)

    for out in (args.json, args.report and args.report / "index.html"):
        if out:
            prepare_file(out)
    if args.report:
        _require_report_packages()
    dataset = open_dataset(args.data, args.split)
    lost = dataset.labels_without_image()
    if lost:
        print(f"warning: not scored, for want of the image: {some([str(path) for path in lost])}", file=sys.stderr)
    if args.predictions:
        if asks_for_averaging(args):
            raise UserError("--mode, --window, --stride, --scales and --flip are for --model; predictions are done")
        labels: Segmenter | PredictionFolder = PredictionFolder(args.predictions, dataset, args.prediction_ids)
    else:
        labels = _open_model(args)
    try:
        result = _evaluate(labels, dataset, args)
        summary = {
            **result.to_dict(),
            **_describe(labels, args),
            "data": args.data,
            "split": args.split,
            "command": shlex.join(["python", "-m", "mtaclip_core.evaluate", *argv]),
        }
        if args.json:
            write_text(args.json, json.dumps(summary, indent=1) + "\n")
        print(table(result))
        if isinstance(dataset, Cityscapes) and result.cityscapes and "classInstScores" not in result.cityscapes:
            print(f"no iIoU: no instanceIds file for {some(dataset.without_instances())}", file=sys.stderr)
        if args.report:
            from mtaclip_core.metrics.evaluation_report import write_evaluation_report

            print(f"report: {write_evaluation_report(args.report, result, labels, dataset, summary)}")
    finally:
        if isinstance(labels, Segmenter):
            labels.close()
    return 0


def _evaluate(
    labels: Segmenter | PredictionFolder, dataset: SegmentationDataset, args: argparse.Namespace
) -> EvaluationResult:
    comparison = Comparison(labels, dataset, boundary=args.boundary)
    indices = range(len(dataset))[: args.limit]
    frames: Iterable[FrameCounts]
    processes = args.processes or 1
    if processes == 1 and args.predictions:
        counter = _counter(comparison, args)
        frames = map(counter, indices) if args.processes else count_in_threads(counter, indices, os.cpu_count() or 1)
    elif processes == 1:
        frames = comparison.counts(indices, _writer(comparison, args.write_predictions))
    else:
        _writer(comparison, args.write_predictions)  # what is wrong is told before the processes start
        job = partial(_open_counter, args)
        frames = count_in_processes(job, indices, min(processes, len(indices)))
    return fold(comparison.space, frames, len(indices), progress=True)


def _open_counter(args: argparse.Namespace) -> Callable[[int], FrameCounts]:
    """What one of several processes counts with; the model was checked by the first one."""
    dataset = open_dataset(args.data, args.split)
    if args.predictions:
        labels: Segmenter | PredictionFolder = PredictionFolder(args.predictions, dataset, args.prediction_ids)
    else:
        labels = _open_model(args, threads=1, verify=False)
    return _counter(Comparison(labels, dataset, boundary=args.boundary), args)


def _counter(comparison: Comparison, args: argparse.Namespace) -> Callable[[int], FrameCounts]:
    return partial(comparison.count, write=_writer(comparison, args.write_predictions))


def _writer(comparison: Comparison, folder: Path | None) -> Writer | None:
    return None if folder is None else prediction_writer(folder, comparison.dataset, comparison.model_space)


def _describe(labels: Segmenter | PredictionFolder, args: argparse.Namespace) -> dict[str, Any]:
    if isinstance(labels, Segmenter):
        model = {"name": labels.name, "hash": labels.model_hash}
        views = averaging_of(args, labels.network_size).to_dict()
        return {"model": model, "backend": labels.backend, "precision": labels.precision, "views": views}
    return {"model": {"name": args.predictions.name, "hash": None}, "backend": None, "precision": None}


def _open_model(args: argparse.Namespace, *, threads: int | None = None, verify: bool = True) -> Segmenter:
    if not asks_for_averaging(args):
        return open_model(args.model, args.backend, args.precision, threads=threads, verify=verify)
    if not _is_checkpoint(args.model) and args.backend != "torch":
        raise UserError(
            "--mode slide, --scales and --flip average class maps, and a bundle gives labels alone: "
            "give a checkpoint, or --backend torch for a bundle with its weights"
        )
    if args.precision != "f32":
        raise UserError(f"--mode slide, --scales and --flip run in f32, not in {args.precision}")
    segmenter = open_model(args.model, args.backend, threads=threads, verify=verify)
    from mtaclip_core.training.averaged_segmenter import AveragedSegmenter

    return AveragedSegmenter(segmenter, averaging_of(args, segmenter.network_size))  # type: ignore[arg-type]


def _is_checkpoint(model: str) -> bool:
    path = Path(model).expanduser()
    return path.suffix == ".safetensors" or (path / "checkpoints").is_dir()


def open_model(
    model: str, backend: str = "auto", precision: str = "f32", *, threads: int | None = None, verify: bool = True
) -> Segmenter:
    """Load a bundle through `load_segmenter`, whose arguments these are, or a checkpoint in PyTorch.

    Raises:
        UserError: nothing there, unreadable, or a setting that it cannot run with.
    """
    path = Path(model).expanduser()
    if not _is_checkpoint(model):
        return load_segmenter(model, backend, precision=precision, threads=threads, verify=verify)
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
    accuracy = _percent(result.confusion.pixel_accuracy())
    lines += ["", f"mIoU {_percent(result.miou)} over {present} classes, {len(result.images)} images"]
    lines += [f"pixel accuracy {accuracy}"]
    if result.boundary is not None:
        lines += ["", *_block("boundary", result.boundary.iou(), {})]
        lines += ["", f"boundary mIoU {_percent(mean(result.boundary.iou()))}"]
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


def _require_report_packages() -> None:
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--report needs {' and '.join(missing)}: pip install 'mtaclip_ros[onboard]'")


if __name__ == "__main__":
    run(main)
