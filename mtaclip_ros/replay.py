"""Evaluate a model on bags, offline: a bag is read in code, every frame goes through the node's own pipeline.

No DDS, no rclpy, no clock: the labels depend on the bag and the model only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.files import prepare_file
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS, load_segmenter
from mtaclip_ros.bag_reader import Bag, Window, pair_by_stamp
from mtaclip_ros.camera_region import Region
from mtaclip_ros.drive_arguments import (
    add_part_arguments,
    add_result_arguments,
    add_topic_arguments,
    window_of,
)
from mtaclip_ros.drive_cameras import Camera, cameras_of
from mtaclip_ros.drive_result import Drive, check_bags, combined, conclude, scores_of, warn_incomplete
from mtaclip_ros.drive_score import DriveScore, Run, command_line
from mtaclip_ros.image_codec import BadImage, Frame
from mtaclip_ros.label_writer import LabelWriter, open_labels
from mtaclip_ros.pipeline import Pipeline
from mtaclip_ros.processes import exit_on_sigterm
from mtaclip_ros.report import DriveReport
from mtaclip_ros.report_index import Reports, drive_names


def rgb(frame: Frame) -> np.ndarray:
    """The picture of a decoded frame as (H, W, 3) uint8 RGB."""
    return frame.pixels if frame.channel_order == "rgb" else cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB)


def replay(
    bag: Bag,
    camera: Camera,
    pipeline: Pipeline,
    score: DriveScore,
    *,
    window: Window,
    report: DriveReport | None = None,
    labels: LabelWriter | None = None,
) -> float | None:
    """Segment the images of one camera of a bag, and compare with its ground truth where it has any.

    Args:
        score: counts the frames; latency is decode + segment.
        report: takes them too; finished by the caller.
        labels: gets every label that was made.

    Returns:
        Frames per second of decode + segment, None without a labelled frame.

    Raises:
        UserError: an image and its ground truth differ in size, or the window holds no image.
    """
    truth_topic = camera.truth(bag)
    truths = iter(()) if truth_topic is None else bag.labels(truth_topic, window)
    busy = 0.0
    pairs = pair_by_stamp(bag.images(camera.image_topic, window), truths)
    title = f"replay {bag.path.name} {camera.name}".strip()
    expected = bag.expected(camera.image_topic, window)
    for image, truth_message in tqdm(pairs, desc=title, total=expected, unit="frame", file=sys.stderr):
        truth = None if truth_message is None else bag.label(truth_message, str(truth_topic))
        try:
            result = pipeline.process(image.message)
        except BadImage as error:
            record = score.add_bad(image.seconds, error.reason)
            if report:
                report.add_missing(None, record)
            continue
        seconds = result.decode_seconds + result.segment_seconds
        busy += seconds
        if labels:
            labels.add(camera, image.recorded, image.message.header, result.segmentation)
        scored = score.add(image.seconds, result.segmentation.label, truth, 1000 * seconds)
        if report:
            report.add(rgb(result.frame), scored)
    if not score.frames:
        raise UserError(
            f"bag '{bag.path}' has no image on {camera.image_topic} in this window: it is {bag.length:.1f} s"
        )
    return score.count("labelled") / busy if busy else None


def label_files(out: str | None, bags: Sequence[Bag]) -> list[Path | None]:
    """Where the labels of each bag go: `out` itself for one bag, else a file for each in the folder `out`.

    Raises:
        UserError: several bags and the name of one file, a file exists already, or it lies within a bag.
    """
    if out is None:
        return [None] * len(bags)
    if len(bags) > 1 and out.endswith(".mcap"):
        raise UserError(f"--write-labels {out}: several bags need a folder, which gets one .mcap file for each")
    names = drive_names([(bag.path, "") for bag in bags])
    files = [Path(out)] if len(bags) == 1 else [Path(out) / f"{name}.mcap" for name in names]
    for file in files:
        if file.exists():
            raise UserError(f"'{file}' exists already: name new labels with --write-labels, or remove it first")
        around = [bag.path for bag in bags if bag.path.resolve() in file.resolve().parents]
        if around:
            raise UserError(f"--write-labels {out} lies within the bag '{around[0]}': name a place beside it")
    return list(files)


def _pixels(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parser() -> Parser:
    parser = Parser(
        prog="mtaclip_ros.replay",
        description="Evaluate a model on bags offline: deterministic, through the node's own pipeline, without DDS.",
        epilog="examples:\n  python -m mtaclip_ros.replay --bag runs/camvid_val --model street-tiny "
        "--json runs/replay.json --report runs/replay\n"
        "  python -m mtaclip_ros.replay --bag drive --model street-tiny --from 60 --to 90 --every 5 --min-miou 0.6\n"
        "  python -m mtaclip_ros.replay --bag drive --model street-tiny --write-labels drive_labels.mcap --confidence",
    )
    add_topic_arguments(parser)
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder of a bundle, or its name in models/")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the model (default auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32", help="arithmetic to ask for (default f32)")
    parser.add_argument("--confidence-floor", type=int, default=0, metavar="N", help="label 255 below it (0-255)")
    parser.add_argument("--roi", type=_pixels, default=[], metavar="X,Y,W,H", help="segment only this part")
    parser.add_argument("--mask", default="", metavar="PNG", help="black where nothing is to be labelled")
    add_part_arguments(parser)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one of N images (default 1: all)")
    parser.add_argument(
        "--write-labels",
        metavar="OUT",
        help="write the labels: one file for OUT.mcap, else a rosbag2 folder; a folder of files for several bags",
    )
    parser.add_argument("--confidence", action="store_true", help="write the confidence with the labels")
    add_result_arguments(parser)
    return parser


def main(argv: list[str]) -> int | None:
    args = _parser().parse_args(argv)
    exit_on_sigterm()
    window = window_of(args.start, args.stop, args.every)
    cameras = cameras_of(args.image_topic, args.label_topic, args.camera)
    if not 0 <= args.confidence_floor <= 255:
        raise UserError(f"--confidence-floor {args.confidence_floor}: expected 0 to 255")
    if args.confidence and args.write_labels is None:
        raise UserError("--confidence goes with --write-labels: there is no file to write it to")
    region = Region.load(args.roi, args.mask)
    if args.json:
        prepare_file(Path(args.json))
    started, command = time.monotonic(), command_line("mtaclip_ros.replay", argv)
    told: set[str] = set()
    with ExitStack() as stack:
        bags = [stack.enter_context(Bag(path)) for path in args.bag]
        check_bags(bags, cameras, args.min_miou, told)
        files = label_files(args.write_labels, bags)
        segmenter = stack.enter_context(load_segmenter(args.model, args.backend, precision=args.precision))
        model = Run(segmenter.name, segmenter.model_hash, segmenter.backend, segmenter.precision)
        pipeline = Pipeline(segmenter, args.confidence_floor, region)
        scores = scores_of(segmenter.space, bags, cameras)
        reports = Reports(args.report, bags, cameras, window, video=not args.no_video)
        drives = []
        for bag, file in zip(bags, files, strict=True):
            with open_labels(file, segmenter.space, args.confidence) if file else nullcontext() as labels:
                for camera in cameras:
                    score = scores[bag, camera]
                    with reports.open(bag, camera, score) as report:
                        fps = replay(bag, camera, pipeline, score, window=window, report=report, labels=labels)
                        warn_incomplete(bag, told)
                        drives.append(Drive(str(bag.path), camera, camera.truth(bag), bag.broken, score, fps))
                        if report:
                            title = f"Replay of {bag.path.name} {camera.name}".strip()
                            report.finish(combined(drives[-1:], model, command=command, seconds=0), title)
        outcome = combined(drives, model, command=command, seconds=time.monotonic() - started)
    reports.write_index(drives, outcome, "Replay")
    for file in files:
        if file:
            print(f"labels  {file}")
    return conclude(outcome, args.json, args.report, args.min_miou)


if __name__ == "__main__":
    run(main)
