"""Check the files of a split before hours are spent on them: every image and label is there, fits and is known."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.data.dataset import SegmentationDataset, open_dataset
from mtaclip_core.data.image_files import MissingLabelsError, check_pair, header_size, read_rgb

EPILOG = """example:
  python -m mtaclip_core.data.check --data cityscapes:/data/cityscapes --split train

Labels are read whole, of images only the size in their first bytes; --decode reads the images too."""

SHOWN = 5
"""Problems that an error message names."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.data.check", description=__doc__, epilog=EPILOG)
    parser.add_argument("--data", required=True, metavar="KIND:PATH|FILE.yaml", help="data set")
    parser.add_argument("--split", required=True, metavar="NAME", help="folder of the split, such as train")
    parser.add_argument("--decode", action="store_true", help="read every image whole, which finds damaged ones")
    args = parser.parse_args(argv)
    try:
        dataset = open_dataset(args.data, args.split)
    except MissingLabelsError as error:
        for path in error.paths:
            print(f"{path}: missing, the label of an image")
        raise
    problems = check_dataset(dataset, decode=args.decode)
    for problem in problems:
        print(problem)
    if problems:
        plural = "s" * (len(problems) > 1)
        raise UserError(f"{args.data} {args.split}: {len(problems)} problem{plural} with {len(dataset)} frames")
    print(f"{args.data} {args.split}: {len(dataset)} frames, {len(dataset.space)} classes, nothing wrong")
    return 0


def check_dataset(dataset: SegmentationDataset, *, decode: bool = False, progress: bool = True) -> list[str]:
    """Look at the files of every frame; missing labels were found when the data set was opened.

    Args:
        decode: read images whole and not only their sizes.
        progress: show a bar on stderr.

    Returns:
        One line for each frame that cannot be used, in the order of the data set, then one for each missing image.
    """
    lost = [f"{path}: the image of this label is missing" for path in dataset.labels_without_image()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders run outside Python's lock
        found: Iterable[str | None] = pool.map(partial(_problem, dataset, decode), range(len(dataset)))
        bar = tqdm(found, total=len(dataset), desc="check files", unit="frame", file=sys.stderr, disable=not progress)
        return [problem for problem in bar if problem is not None] + lost


def require_sound(datasets: Iterable[SegmentationDataset], *, progress: bool = True) -> None:
    """Check several data sets.

    Raises:
        UserError: frames cannot be used or are not there; the first few are named.
    """
    problems = [p for dataset in datasets for p in check_dataset(dataset, progress=progress)]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError("; ".join(problems[:SHOWN]) + f"{more} (python -m mtaclip_core.data.check names all)")


def _problem(dataset: SegmentationDataset, decode: bool, index: int) -> str | None:
    image_path, label_path = dataset.files(index)
    try:
        size = None if decode else header_size(image_path)
        if size is None:
            height, width = read_rgb(image_path).shape[:2]
            size = height, width
        check_pair(image_path, size, label_path, dataset.label(index).shape)
    except UserError as error:
        return str(error)
    return None


if __name__ == "__main__":
    run(main)
