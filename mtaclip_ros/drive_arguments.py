"""Arguments that `replay`, `evaluate_live` and `play` share."""

from __future__ import annotations

import argparse
import math

from mtaclip_core.cli import Parser, UserError
from mtaclip_ros.bag_reader import IMAGE_TOPIC, Window


def positive(text: str) -> float:
    """For argparse's `type=`: a number above 0 that is not infinite."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}': expected a number above 0")
    return number


def add_topic_arguments(parser: Parser) -> None:
    """`--bag`, `--image-topic`, `--label-topic` and `--camera`, the same for `replay` and `evaluate_live`."""
    about = "rosbag2 folder, or one .mcap or .db3 file; a broken one is read as far as it goes; several make one result"
    parser.add_argument("--bag", required=True, nargs="+", action="extend", help=about)
    parser.add_argument(
        "--image-topic",
        nargs="+",
        action="extend",
        metavar="T",
        help=f"images, one topic for each camera (default {IMAGE_TOPIC})",
    )
    parser.add_argument(
        "--label-topic",
        nargs="+",
        action="extend",
        metavar="T",
        help="ground truth, one topic for each camera (default: label_gt beside the images where the bag has it)",
    )
    parser.add_argument(
        "--camera",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="names of several cameras as the node has them (default: of /front/image_raw it is front)",
    )


def add_result_arguments(parser: Parser) -> None:
    """`--json`, `--report`, `--no-video` and `--min-miou`."""
    parser.add_argument("--json", metavar="OUT", help="write the numbers here")
    parser.add_argument("--report", metavar="DIR", help="write report.html, contact_sheet.png and overlay.mp4 here")
    parser.add_argument("--no-video", action="store_true", help="leave overlay.mp4 out of the report")
    parser.add_argument(
        "--min-miou", type=float, metavar="X", help="exit with status 1 where the mIoU (0-1) is below, for CI"
    )


def add_part_arguments(parser: Parser) -> None:
    """`--from` and `--to`."""
    parser.add_argument(
        "--from", dest="start", type=float, default=0.0, metavar="S", help="begin S seconds after the bag's start"
    )
    parser.add_argument(
        "--to", dest="stop", type=float, default=float("inf"), metavar="S", help="end before S seconds after its start"
    )


def window_of(start: float, stop: float, every: int = 1) -> Window:
    """The window of those arguments.

    Raises:
        UserError: nothing can lie in it.
    """
    if not 0 <= start < stop:
        raise UserError(f"--from {start:g} --to {stop:g}: expected seconds from 0 on, and --from before --to")
    if every < 1:
        raise UserError(f"--every {every}: expected 1 or more")
    return Window(start, stop, every)


def check_min_miou(limit: float | None, truth: bool) -> None:
    """Before the work starts. Raises UserError: not within 0-1, or there is no ground truth to measure it by."""
    if limit is not None and not 0 <= limit <= 1:
        raise UserError(f"--min-miou {limit:g}: expected a number from 0 to 1, such as 0.65")
    if limit is not None and not truth:
        raise UserError("--min-miou needs ground truth: the bag has none; name its topic with --label-topic")
