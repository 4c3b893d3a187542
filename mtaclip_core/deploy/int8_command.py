"""`export int8`: a bundle that also holds its graph in int8 for OpenVINO, with what that costs in mIoU."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtaclip_core.bundle import (
    MANIFEST,
    OPENVINO_INT8,
    OPENVINO_INT8_WEIGHTS,
    Bundle,
    check_destination,
    load_bundle,
    write_bundle,
)
from mtaclip_core.cli import Parser, UserError, positive
from mtaclip_core.data.dataset import SegmentationDataset, open_dataset
from mtaclip_core.deploy.openvino_int8 import Quantised, Validation, quantise
from mtaclip_core.runtime.segmenter import load_segmenter

EPILOG = """example:
  python -m mtaclip_core.export int8 street-tiny --data camvid:data/camvid --split val --out models/street-tiny-int8

Then: python -m mtaclip_core.evaluate --model models/street-tiny-int8 --precision int8 --data camvid:data/camvid"""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.export int8", description=__doc__, epilog=EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or name of a bundle")
    parser.add_argument("--data", required=True, metavar="KIND:PATH", help="labelled images, such as camvid:PATH")
    parser.add_argument("--split", default="val", help="images that the mIoU is held on (default: %(default)s)")
    parser.add_argument(
        "--calibration-split",
        default="train",
        metavar="SPLIT",
        help="images that the value ranges are taken from; keep them apart from --split (default: %(default)s)",
    )
    parser.add_argument("--frames", type=positive, default=64, help="calibration images (default: %(default)s)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only N images of --split, evenly spread")
    parser.add_argument(
        "--max-drop",
        type=_share,
        default=0.01,
        metavar="0-1",
        help="mIoU that may be lost; layers go back to float until it is kept (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="models/NAME-int8", help="folder to write")
    args = parser.parse_args(argv)

    check_destination(args.out)
    bundle = load_bundle(args.bundle)
    if bundle.precision != "f32":
        raise UserError(f"the graph of bundle '{bundle.name}' is {bundle.precision} already; start from one in f32")
    truth = open_dataset(args.data, args.split)
    ranges = open_dataset(args.data, args.calibration_split)
    calibration = [ranges[i].image for i in _spread(ranges, args.frames)]
    validation = [(sample.image, sample.label) for sample in (truth[i] for i in _spread(truth, args.limit))]
    found = quantise(bundle, calibration, validation, Validation(bundle, truth), args.max_drop)
    if found.miou_f32 - found.miou_int8 > args.max_drop:
        raise UserError(
            f"int8 costs bundle '{bundle.name}' {found.miou_f32 - found.miou_int8:.4f} mIoU, more than --max-drop "
            f"{args.max_drop:g}, with every layer back in float that could be; allow more or stay with f32"
        )
    command = shlex.join(["python", "-m", "mtaclip_core.export", "int8", *argv])
    rows = _rows(found, args, validation[0][0].shape, command)
    graph = (found.xml, found.weights)
    out = write_int8(args.out, bundle, graph, card=_card(bundle, rows), rows=rows, accept=_check_gate)
    print(
        f"{out}: {found.quantised_layers} of {found.layers} products in int8, mIoU {found.miou_f32:.4f} in f32, "
        f"{found.miou_int8:.4f} in int8, a frame takes 1/{found.speed_ratio:.2f} of the time in f32"
    )
    return 0


def _rows(found: Quantised, args: argparse.Namespace, shape: Sequence[int], command: str) -> list[dict[str, Any]]:
    where = f"{args.data.partition(':')[0]} {args.split}"
    values = {
        f"mIoU on {where} before int8 (openvino, f32)": round(found.miou_f32, 4),
        f"mIoU on {where} (openvino, int8)": round(found.miou_int8, 4),
        f"time of a frame in f32 over int8 (openvino, {shape[0]}x{shape[1]}, one run)": round(found.speed_ratio, 2),
        "convolutions and matrix products in int8": f"{found.quantised_layers} of {found.layers}",
    }
    return [{"what": what, "value": value, "command": command} for what, value in values.items()]


def _card(bundle: Bundle, rows: Sequence[Mapping[str, Any]]) -> str:
    """The bundle's model card with a section on int8."""
    path = bundle.path / "README.md"
    card = path.read_text(encoding="utf-8").rstrip() if path.name in bundle.metadata["files"] else ""
    table = "\n".join(["| what | value |", "| --- | --- |", *(f"| {row['what']} | {row['value']} |" for row in rows)])
    section = (
        "## int8\n\n`openvino/int8.xml` is the graph quantised by NNCF for the CPU; it runs with backend openvino and "
        f"precision int8. Everything else runs `model.onnx` as before.\n\n{table}\n\nBy `{rows[0]['command']}`.\n"
    )
    return f"{card}\n\n{section}".lstrip()


def write_int8(
    out: Path,
    bundle: Bundle,
    graph: tuple[bytes, bytes],
    *,
    card: str | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    accept: Callable[[Path], object] | None = None,
) -> Path:
    """Write the bundle as it was, the int8 graph beside it.

    Args:
        graph: the two files of OpenVINO's format.
        card: of the new bundle, in place of the old one.
        rows: measured numbers that come to the bundle's.
        accept: as `write_bundle`.
    """
    meta = bundle.metadata
    files: dict[str, Path | bytes] = {name: bundle.path / name for name in meta["files"] if name != MANIFEST}
    if card is not None:
        files["README.md"] = card.encode()
    files[OPENVINO_INT8], files[OPENVINO_INT8_WEIGHTS] = graph
    return write_bundle(
        out,
        space=bundle.space,
        network_size=bundle.network_size,
        text_source=bundle.text_source,
        training_config=meta["training"]["config"],
        revision=meta["training"]["revision"],
        files=files,
        measured=[*meta["measured"], *rows],
        confidence_floor=meta["confidence_floor"],
        graph=bundle.graph,
        precision=bundle.precision,
        accept=accept,
    )


def _check_gate(folder: Path) -> None:
    """Refuse a bundle of which int8 fails the reference gate."""
    load_segmenter(folder, "openvino", precision="int8").close()


def _spread(dataset: SegmentationDataset, count: int | None) -> list[int]:
    """`count` positions over the whole data set, all of them where there are no more."""
    total = len(dataset)
    return np.unique(np.linspace(0, total - 1, min(count or total, total)).round().astype(int)).tolist()


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return value
