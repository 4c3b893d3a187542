"""`python -m mtaclip_core.data.synthetic`: write a generated data set."""

from __future__ import annotations

from pathlib import Path

from mtaclip_core.cli import Parser, run, size
from mtaclip_core.data.synthetic.writer import write


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="python -m mtaclip_core.data.synthetic",
        description="Generate street scenes with exact labels, in the layout of Cityscapes.",
        epilog="example:\n  python -m mtaclip_core.data.synthetic --out street --frames 400 --size 360x480 --seed 1",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder that receives leftImg8bit/ and gtFine/")
    parser.add_argument("--frames", type=int, required=True, help="number of images")
    parser.add_argument("--size", type=size, default=(360, 480), help="HEIGHTxWIDTH in pixels (default 360x480)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other streets (default 0)")
    parser.add_argument("--split", default="train", help="name of the split's folder (default train)")
    parser.add_argument("--drives", type=int, help="number of different streets (default: one per 8 frames)")
    args = parser.parse_args(argv)
    names = write(args.out, args.frames, args.size, args.seed, args.split, args.drives)
    print(f"{len(names)} frames of {args.size[0]}x{args.size[1]} in {args.out} (split {args.split}, seed {args.seed})")
    return 0


if __name__ == "__main__":
    run(main)
