"""Command line: a checkpoint becomes a bundle, the folder that everything downstream takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from mtaclip_core.bundle import ONNX, WEIGHTS, check_destination, load_bundle, write_bundle
from mtaclip_core.bundle_manifest import GraphOptions
from mtaclip_core.cli import Parser, UserError, size
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.deploy import parity
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.deploy.model_card import Card, model_card, read_measured
from mtaclip_core.deploy.onnx_export import export_onnx, round_weights
from mtaclip_core.deploy.precision import typed_onnx
from mtaclip_core.deploy.reference import IMAGES, Reference, reference_files
from mtaclip_core.modeling.image_backbone import MULTIPLE
from mtaclip_core.runtime.segmenter import installed_backends, load_segmenter
from mtaclip_core.runtime.torch_backend import bundle_weights
from mtaclip_core.training.checkpoint import load_checkpoint, load_model

REFERENCE_SEED = 900_000
"""Seed of the first generated street in `reference/`; far from those that trainings and tests use."""

EPILOG = """example:
  python -m mtaclip_core.export runs/street-tiny --out models/street-tiny --license-file LICENSE.weights

CHECKPOINT is a .safetensors file of a training or its run folder (then its best one). To put measured numbers into the
model card, export, measure the bundle (evaluate --json, benchmark --json), and export again with --measured.

For int8 on the CPU: python -m mtaclip_core.export int8 --help
For a TensorRT engine: python -m mtaclip_core.export engine --help"""


def add_shared_options(parser: Parser) -> None:
    """What every command that makes a bundle of weights can be told."""
    parser.add_argument(
        "--weights",
        choices=("float16", "float32"),
        default="float16",
        help="how weights are stored (default: %(default)s)",
    )
    parser.add_argument(
        "--deformable",
        choices=("gather", "grid_sample"),
        default="gather",
        help="form of deformable attention, of equal result (default: %(default)s)",
    )
    parser.add_argument(
        "--resize",
        choices=("classes", "masks"),
        default="classes",
        help="what is resized to full size: class maps, or the masks as in Mask2Former (default: %(default)s)",
    )
    parser.add_argument("--license-file", type=Path, metavar="FILE", help="licence of the weights")


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.export", description=__doc__, epilog=EPILOG)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .safetensors checkpoint or a run folder")
    parser.add_argument("--out", required=True, type=Path, metavar="models/NAME", help="folder to write")
    parser.add_argument("--network-size", type=size, metavar="HxW", help="default: as in the training's config")
    parser.add_argument(
        "--confidence-floor", type=_byte, default=0, metavar="0-255", help="label 255 below this (default: never)"
    )
    add_shared_options(parser)
    parser.add_argument(
        "--text-tokens",
        choices=("kept", "dropped"),
        help="class texts in the decoder, or left out (faster, another function; default: as the training validated)",
    )
    parser.add_argument(
        "--precision",
        choices=("f32", "fp16"),
        default="f32",
        help="written into the graph, for strongly typed engines; int8: see `export int8` (default: %(default)s)",
    )
    parser.add_argument(
        "--measured", type=Path, nargs="+", default=[], metavar="JSON", help="numbers for the model card"
    )
    parser.add_argument("--notes", type=Path, metavar="FILE.md", help="a section of Markdown for the model card")
    args = parser.parse_args(argv)

    check_destination(args.out)
    measured = read_measured(args.measured)
    licence = _text(args.license_file) if args.license_file else None
    notes = _text(args.notes) if args.notes else ""
    model, config = load_model(args.checkpoint)
    _, meta = load_checkpoint(args.checkpoint)
    network_size = args.network_size or config.size
    if any(side % MULTIPLE for side in network_size):
        near = "x".join(str(max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)) for side in network_size)
        raise UserError(
            f"network size {network_size[0]}x{network_size[1]}: both sides must be multiples of {MULTIPLE}, "
            f"for example {near}"
        )
    if args.weights == "float16":
        round_weights(model)
    tokens = args.text_tokens or config.model.text_tokens
    options = GraphOptions(text_tokens=tokens, deformable=args.deformable, resize=args.resize)
    model.fold_text(keep_tokens=options.text_tokens == "kept")
    graph = DeployedSegmenter(model, network_size, args.confidence_floor, options).eval()
    weights = bundle_weights(model)
    settings: dict[str, Any] = config.model_dump(mode="json")
    revision = str(meta.get("versions", {}).get("git", "unknown"))
    card = Card(
        name=args.out.name,
        space=model.space,
        network_size=network_size,
        text_source=config.model.text.source,
        config=settings,
        revision=revision,
        steps=meta.get("step"),
        parameters=sum(t.numel() for t in weights.values()),
        measured=measured,
        notes=notes,
        origin=str(meta.get("origin", "")),
    )
    out = write_bundle(
        args.out,
        space=model.space,
        network_size=network_size,
        text_source=config.model.text.source,
        training_config=settings,
        revision=revision,
        measured=measured,
        confidence_floor=args.confidence_floor,
        graph=options,
        precision=args.precision,
        files={
            ONNX: typed_onnx(export_onnx(graph), args.precision),
            WEIGHTS: save(weights),
            "README.md": model_card(card).encode(),
            "LICENSE": (licence or _no_licence(settings)).encode(),
            **reference_files(make_reference(graph)),
        },
        accept=_check_backends,
    )
    megabytes = sum(entry["bytes"] for entry in load_bundle(out).metadata["files"].values()) / 1e6
    print(f"{out}: {megabytes:.1f} MB")
    return 0


def make_reference(graph: DeployedSegmenter) -> Reference:
    """Four generated streets with the answers of the model in float32.

    They are of another size than the network's, so that both resizes count.
    """
    height, width = (max(32, side // 2 + 4) for side in graph.network_size)
    images = np.stack([StreetDrive((height, width), REFERENCE_SEED + i).frame(10).image for i in range(IMAGES)])
    with torch.inference_mode():
        maps = graph.class_maps(torch.from_numpy(images))
        label, confidence = graph.decide(maps, height, width)
    return Reference(images, label.numpy(), confidence.numpy(), maps.numpy().astype(np.float16))


def _check_backends(folder: Path) -> None:
    """Every backend that is installed here must give the reference answers before the bundle takes its place."""
    bundle = load_bundle(folder)
    for name in installed_backends():
        with load_segmenter(folder, name, verify=False) as segmenter:
            print(f"{name} {segmenter.precision}: {parity.check(segmenter, bundle)}")


def _no_licence(config: dict[str, Any]) -> str:
    data = ", ".join(sorted({source["data"].partition(":")[0] for source in config["train"]})) or "unknown data"
    return (
        f"Whoever exported these weights named no licence for them. They were trained on: {data}. "
        f"The licence of that data may limit their use.\n"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read '{path}' as text ({error})") from error


def _byte(text: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to 255")
    return int(text)
