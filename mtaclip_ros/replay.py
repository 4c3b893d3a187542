"""Evaluate a model on a bag, offline: the bag is read in code, every frame goes through the node's own pipeline.

No DDS, no rclpy, no clock: the labels depend on the bag and the model only.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mtaclip_core.cli import Parser, run
from mtaclip_core.files import prepare_file, write_text
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS, Segmenter, load_segmenter
from mtaclip_ros.bag_reader import IMAGE, IMAGE_TOPIC, LABEL_TOPIC, Bag, label_array, pair_by_stamp
from mtaclip_ros.drive_score import DriveScore, Run, command_line, table
from mtaclip_ros.image_codec import BadImage, Frame
from mtaclip_ros.pipeline import Pipeline
from mtaclip_ros.report import DriveReport


def label_topic_of(bag: Bag, asked: str | None) -> str | None:
    """The topic with ground truth: the one asked for, else `/camera/label_gt` where the bag has it, else None.

    Raises:
        UserError: the topic asked for is not in the bag, or holds no images.
    """
    if asked is None:
        return LABEL_TOPIC if LABEL_TOPIC in bag.topics and bag.topics[LABEL_TOPIC].count else None
    return bag.require(asked, IMAGE).name


def rgb(frame: Frame) -> np.ndarray:
    """The picture of a decoded frame as (H, W, 3) uint8 RGB."""
    return frame.pixels if frame.channel_order == "rgb" else cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB)


def replay(
    bag: Bag,
    segmenter: Segmenter,
    *,
    image_topic: str = IMAGE_TOPIC,
    label_topic: str | None = None,
    report_folder: Path | None = None,
    command: str = "",
    video: bool = True,
) -> dict[str, Any]:
    """Segment every image of a bag and compare with its ground truth where it has any.

    Args:
        bag: open; its labels are those of `label_topic`, see `label_topic_of`.
        report_folder: where to write the report, None for none.
        command: noted in the result.

    Returns:
        The JSON of CONTRACTS.md as plain values; `latency_ms` is decode + segment, `fps` frames per second of both.
    """
    started = time.monotonic()
    images = bag.require(image_topic, IMAGE)
    truth_topic = label_topic_of(bag, label_topic)
    space = None if truth_topic is None else bag.classes(truth_topic)
    score = DriveScore(segmenter.space, space)
    pipeline = Pipeline(segmenter)
    labels = iter(()) if truth_topic is None else bag.images(truth_topic)
    busy = 0.0
    report = None
    if report_folder is not None:
        report = DriveReport(report_folder, score, expected=images.count, rate=bag.rate(image_topic), video=video)
    try:
        pairs = pair_by_stamp(bag.images(image_topic), labels)
        for image, truth_message in tqdm(pairs, desc="replay", total=images.count, unit="frame", file=sys.stderr):
            truth = None if truth_message is None else label_array(truth_message, str(truth_topic))
            try:
                result = pipeline.process(image.message)
            except BadImage as error:
                record = score.add_bad(image.stamp, error.reason)
                if report:
                    report.add_missing(None, record)
                continue
            seconds = result.decode_seconds + result.segment_seconds
            busy += seconds
            scored = score.add(image.stamp, result.segmentation.label, truth, 1000 * seconds)
            if report:
                report.add(rgb(result.frame), scored)
        model = Run(segmenter.name, segmenter.model_hash, segmenter.backend, segmenter.precision)
        labelled = score.count("labelled")
        outcome = score.result(
            model, command=command, seconds=time.monotonic() - started, fps=labelled / busy if busy else None
        )
        if report:
            report.finish(outcome, f"Replay of {bag.path.name}")
    finally:
        if report:
            report.close()
    return outcome


def add_topic_arguments(parser: Parser) -> None:
    """`--bag`, `--image-topic` and `--label-topic`, the same for `replay` and `evaluate_live`."""
    parser.add_argument("--bag", required=True, help="rosbag2 folder (mcap or sqlite3)")
    parser.add_argument("--image-topic", default=IMAGE_TOPIC, metavar="T", help=f"default {IMAGE_TOPIC}")
    parser.add_argument(
        "--label-topic", metavar="T", help=f"ground truth (default {LABEL_TOPIC} where the bag has it, else none)"
    )


def add_result_arguments(parser: Parser) -> None:
    """`--json`, `--report` and `--no-video`."""
    parser.add_argument("--json", metavar="OUT", help="write the numbers here")
    parser.add_argument("--report", metavar="DIR", help="write report.html, contact_sheet.png and overlay.mp4 here")
    parser.add_argument("--no-video", action="store_true", help="leave overlay.mp4 out of the report")


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="mtaclip_ros.replay",
        description="Evaluate a model on a bag offline: deterministic, through the node's own pipeline, without DDS.",
        epilog="example:\n  python -m mtaclip_ros.replay --bag runs/camvid_val --model street-tiny "
        "--json runs/replay.json --report runs/replay",
    )
    add_topic_arguments(parser)
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder of a bundle, or its name in models/")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the model (default auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32", help="arithmetic to ask for (default f32)")
    add_result_arguments(parser)
    args = parser.parse_args(argv)
    if args.json:
        prepare_file(Path(args.json))
    with Bag(args.bag) as bag:
        bag.require(args.image_topic, IMAGE)  # before the model is loaded
        with load_segmenter(args.model, args.backend, precision=args.precision) as segmenter:
            outcome = replay(
                bag,
                segmenter,
                image_topic=args.image_topic,
                label_topic=args.label_topic,
                report_folder=None if args.report is None else Path(args.report),
                command=command_line("mtaclip_ros.replay", argv),
                video=not args.no_video,
            )
    if args.json:
        write_text(Path(args.json), json.dumps(outcome, indent=2) + "\n")
    print(table(outcome))
    if args.report:
        print(f"report  {Path(args.report) / 'report.html'}")
    return None


if __name__ == "__main__":
    run(main)
