"""Command line: build the TensorRT engines of a bundle for this machine, before the vehicle needs them."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from mtaclip_core.bundle import load_bundle
from mtaclip_core.cli import Parser, UserError, positive
from mtaclip_core.data.dataset import open_dataset
from mtaclip_core.runtime.engine_settings import EngineSettings, Shape, parse_shape
from mtaclip_core.runtime.segmenter import load_tensorrt

EPILOG = """example:
  python -m mtaclip_core.export engine street-tiny --precision fp16 --shape 1x1024x2048 4x720x1280

Run it on the vehicle, or on a machine with the same GPU, driver and TensorRT, and copy the cache folder. An engine
takes batches of up to B frames of every size up to HxW and is fastest at BxHxW. It is held against the bundle's
reference and refused where it does not give the stored answers."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.export engine", description=__doc__, epilog=EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or name of a bundle")
    parser.add_argument("--precision", choices=("f32", "fp16", "int8"), default="fp16", help="default: %(default)s")
    parser.add_argument(
        "--shape", type=_shape, nargs="+", metavar="BxHxW", help="default: those in the cache, or else 1x1080x1920"
    )
    parser.add_argument("--data", metavar="KIND:PATH", help="for int8: images that the value ranges are taken from")
    parser.add_argument("--split", default="train", help="of --data (default: %(default)s)")
    parser.add_argument("--frames", type=positive, default=64, help="images of --data (default: %(default)s)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="default: $MTACLIP_ENGINE_CACHE")
    parser.add_argument("--device", type=int, metavar="ID", help="CUDA device (default: $MTACLIP_CUDA_DEVICE or 0)")
    parser.add_argument("--workspace", type=positive, metavar="MIB", help="most scratch memory of a layer")
    parser.add_argument("--again", action="store_true", help="build even what is in the cache")
    args = parser.parse_args(argv)
    if args.precision == "int8" and not args.data:
        parser.error("--precision int8 needs --data")

    settings = EngineSettings.from_environment()
    given = {
        "cache": args.cache,
        "shapes": tuple(args.shape) if args.shape else None,
        "device": args.device,
        "workspace_mb": args.workspace,
    }
    settings = dataclasses.replace(settings, build="auto", **{k: v for k, v in given.items() if v is not None})
    bundle = load_bundle(args.bundle)
    calibration = _frames(args.data, args.split, args.frames) if args.data else None
    segmenter = load_tensorrt(bundle, args.precision, settings, calibration=calibration, again=args.again)
    with segmenter:
        for path, gate in segmenter.engine_gates.items():
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {segmenter.precision}, {gate}")
    return 0


def _frames(data: str, split: str, count: int) -> list[np.ndarray]:
    dataset = open_dataset(data, split)
    positions = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    return [dataset[int(i)].image for i in positions]


def _shape(text: str) -> Shape:
    try:
        return parse_shape(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
