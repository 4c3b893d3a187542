"""How an image is shown to a model in evaluation: whole or in windows, at several sizes, mirrored."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from mtaclip_core.cli import UserError, size

STEP = 32
"""Sides of what a model sees are multiples of this."""


@dataclass(frozen=True)
class Averaging:
    """Class maps of all views of a frame are resized to its size (bilinear) and averaged with equal weight.

    Attributes:
        window: (height, width) of the windows that the frame, at a scale, is cut into; None: the whole frame stretched
            to the network size times the scale, rounded to multiples of 32.
        stride: (down, right) from one window to the next; the last ones are moved back to end at the frame's edge.
            Where windows overlap, their class maps are averaged; a frame smaller than a window is filled up at the
            bottom and right with the mean colour.
        scales: of the network size, or with windows of the frame.
        flip: each view mirrored left to right too.
    """

    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def trivial(self) -> bool:
        """Whether this is what a bundle does by itself."""
        return self == Averaging()

    def to_dict(self) -> dict[str, object]:
        """For the JSON of an evaluation."""
        windows = {} if self.window is None else {"window": self.window, "stride": self.stride}
        return {"mode": "slide" if windows else "whole", **windows, "scales": self.scales, "flip": self.flip}


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows along one side begin: every pixel is in one, none reaches past `length` (at least `window`)."""
    count = -(-max(length - window, 0) // stride) + 1
    return [min(i * stride, max(length - window, 0)) for i in range(count)]


def add_averaging_arguments(parser: argparse.ArgumentParser) -> None:
    """`--mode`, `--window`, `--stride`, `--scales`, `--flip`."""
    group = parser.add_argument_group("class maps averaged over several views (a checkpoint, or --backend torch)")
    group.add_argument(
        "--mode", default="whole", choices=("whole", "slide"), help="the whole image, or windows (default: %(default)s)"
    )
    group.add_argument("--window", type=size, metavar="HxW", help="of --mode slide (default: the network size)")
    group.add_argument("--stride", type=size, metavar="HxW", help="of --mode slide (default: two thirds of the window)")
    group.add_argument(
        "--scales", type=_scales, default=(1.0,), metavar="A,B,...", help="sizes of the image, such as 0.75,1.0,1.25"
    )
    group.add_argument("--flip", action="store_true", help="mirrored too")


def averaging_of(args: argparse.Namespace, network_size: tuple[int, int]) -> Averaging:
    """What the arguments ask for.

    Raises:
        UserError: windows without `--mode slide`, a window that no model can see, or a stride that leaves gaps.
    """
    if args.mode == "whole":
        if args.window or args.stride:
            raise UserError("--window and --stride are of --mode slide")
        return Averaging(scales=args.scales, flip=args.flip)
    window = args.window or network_size
    if any(side % STEP for side in window):
        raise UserError(f"--window {window[0]}x{window[1]}: both sides must be multiples of {STEP}")
    stride = args.stride or tuple(max(1, side * 2 // 3) for side in window)
    if any(s > w for s, w in zip(stride, window, strict=True)):
        raise UserError(f"--stride {stride[0]}x{stride[1]} is larger than the window and would leave gaps")
    return Averaging(window, stride, args.scales, args.flip)


def asks_for_averaging(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for more than a bundle does by itself."""
    return bool(args.mode != "whole" or args.window or args.stride or args.scales != (1.0,) or args.flip)


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= s <= 10 for s in scales):
        raise argparse.ArgumentTypeError(
            f"'{text}' are not scales; write numbers from 0.1 to 10, such as 0.75,1.0,1.25"
        )
    return scales
