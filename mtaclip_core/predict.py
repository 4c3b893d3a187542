"""Command line: label pictures with a bundle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.data.image_files import read_rgb
from mtaclip_core.drawing import overlay
from mtaclip_core.files import prepare_file, write_bytes
from mtaclip_core.labels import LabelSpace
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS, load_segmenter

EPILOG = """example:
  python -m mtaclip_core.predict --model street-tiny street.png --out runs/predict

writes street_label.png (one channel, the ids of the bundle's classes, 255 unlabelled), street_confidence.png (0-255)
and street_overlay.png (for people)."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.predict", description=__doc__, epilog=EPILOG)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files of any size")
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder or name of a bundle")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--backend", default="auto", choices=BACKENDS, help="default: %(default)s")
    parser.add_argument("--precision", default="f32", choices=PRECISIONS, help="arithmetic (default: %(default)s)")
    args = parser.parse_args(argv)

    _check(args.images, args.out)
    with load_segmenter(args.model, args.backend, precision=args.precision) as segmenter:
        for path in tqdm(args.images, unit="image", disable=len(args.images) == 1):
            image = read_rgb(path)
            result = segmenter.segment([image])[0]
            picture = overlay(image, result.label, segmenter.space)
            _write(args.out / f"{path.stem}_label.png", result.label)
            _write(args.out / f"{path.stem}_confidence.png", result.confidence)
            _write(args.out / f"{path.stem}_overlay.png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            print(f"{args.out / path.stem}_overlay.png: {_summary(result.label, segmenter.space)}")
    return 0


def _check(images: Sequence[Path], out: Path) -> None:
    """Find what is wrong before the model is loaded and half of the work is done."""
    for path in images:
        if not path.is_file():
            raise UserError(f"no image '{path}'; expected a picture file")
    twice = [stem for stem, count in Counter(path.stem for path in images).items() if count > 1]
    if twice:
        raise UserError(
            f"two images are called '{twice[0]}' and would overwrite each other in '{out}'; label them apart"
        )
    prepare_file(out / f"{images[0].stem}_label.png")


def _summary(label: np.ndarray, space: LabelSpace) -> str:
    counts = np.bincount(label.ravel(), minlength=256)
    shares = sorted(((counts[c.id] / label.size, c.name) for c in space.classes), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in shares[:4] if share > 0) or "unlabelled"


def _write(path: Path, image: np.ndarray) -> None:
    write_bytes(path, cv2.imencode(".png", image)[1].tobytes())


if __name__ == "__main__":
    run(main)
