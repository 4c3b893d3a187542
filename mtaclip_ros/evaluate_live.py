"""Judge the running node on a bag: play it over DDS at its recorded rate, collect the labels, compare with the truth.

The bag is played by a process of its own, so that camera and collector do not disturb each other. Latency is measured
from the moment an image leaves the player to the moment its label is here, by stamp.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.files import prepare_file, write_text
from mtaclip_ros.bag_reader import IMAGE, Bag, label_array, pair_by_stamp
from mtaclip_ros.drive_score import DriveScore, command_line, table
from mtaclip_ros.image_codec import BadImage, decode
from mtaclip_ros.label_collector import LabelCollector
from mtaclip_ros.processes import child, exit_on_sigterm
from mtaclip_ros.rclpy_start import init_rclpy, split_ros_args
from mtaclip_ros.replay import add_result_arguments, add_topic_arguments, label_topic_of, rgb
from mtaclip_ros.report import DriveReport

_LISTEN_SECONDS = 10.0  # a node subscribes when it sees the player, or within 2 s (image_reliability: auto)
_PLAYER_SECONDS = 10.0  # the player's patience is longer than ours: we can say more
_STATUS_SECONDS = 3.0  # diagnostics come every second
_LAST_LABELS = 3.0  # how long after the last label one more may come


def wait_for_node(collector: LabelCollector, seconds: float) -> None:
    """Wait until the node has its model and publishes labels.

    Raises:
        UserError: it is not there; says what to start.
    """
    if not collector.spin_until(collector.has_node, seconds):
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        raise UserError(
            f"no node publishes {collector.label_topic} on ROS_DOMAIN_ID {domain} (waited {seconds:g} s): start one "
            f"with `python -m mtaclip_ros.segment_node --ros-args --params-file config/segment.yaml`, or name "
            f"yours with --namespace"
        )


def play_to(collector: LabelCollector, bag: Bag, image_topic: str, rate: float, seconds: float) -> dict[int, int]:
    """Play the images (and camera_info) in a child process and collect until no more labels come.

    Args:
        rate: factor on the recorded speed.
        seconds: in which the node must have subscribed to the player.

    Returns:
        When each image left, ns of the monotonic clock, by stamp.

    Raises:
        UserError: the node does not listen to the images, the player failed, or not a single label came.
    """
    info = image_topic.rpartition("/")[0] + "/camera_info"
    topics = [image_topic, *([info] if info in bag.topics else [])]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "sent"
        command = [sys.executable, "-m", "mtaclip_ros.play", "--bag", str(bag.path), "--rate", str(rate)]
        command += ["--wait-for", str(seconds + _PLAYER_SECONDS), "--log", str(log), "--topics", *topics]
        with child(command) as player:
            _wait_until_heard(collector, player, image_topic, seconds)
            collector.spin_until(lambda: player.poll() is not None, float("inf"))
        if player.returncode != 0:
            raise UserError(f"playing '{bag.path}' failed with exit status {player.returncode}; its message is above")
        sent = _departures(log, image_topic)
    _collect_rest(collector, sent)
    if not any(stamp in collector.labels for stamp in sent):
        raise UserError(
            f"the node gave no label for any of the {len(sent)} images on {image_topic}: look at its log and at "
            f"/diagnostics"
        )
    return sent


def _wait_until_heard(collector: LabelCollector, player: subprocess.Popen, image_topic: str, seconds: float) -> None:
    """The player waits for subscribers too; what it cannot say is what the node listens to instead."""
    if not collector.spin_until(lambda: player.poll() is not None or collector.listens_to(image_topic), seconds):
        there = f"; it listens to {collector.image_topic}" if collector.image_topic else ""
        raise UserError(
            f"the node does not listen to the bag's images on {image_topic}{there}: start it with "
            f"`-r image:={image_topic}`, or choose another --image-topic"
        )


def _departures(log: Path, topic: str) -> dict[int, int]:
    rows = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    return {int(stamp): int(left) for name, stamp, left in rows if name == topic}


def _collect_rest(collector: LabelCollector, sent: Mapping[int, int]) -> None:
    while not all(stamp in collector.labels for stamp in sent):
        before = len(collector.labels)
        if not collector.spin_until(lambda n=before: len(collector.labels) > n, _LAST_LABELS):  # type: ignore[misc]
            return


def score_labels(
    bag: Bag,
    collector: LabelCollector,
    sent: Mapping[int, int],
    *,
    image_topic: str,
    label_topic: str | None,
    report_folder: Path | None,
    command: str,
    started: float,
    video: bool,
) -> dict[str, Any]:
    """Compare what was collected with the bag's ground truth, frame by frame in the bag's order.

    Args:
        label_topic: ground truth, as `replay.label_topic_of` finds it.
        started: `time.monotonic()` of the start of the whole run.

    Returns:
        The JSON of CONTRACTS.md as plain values.
    """
    score = DriveScore(collector.space, None if label_topic is None else bag.classes(label_topic))
    labels = iter(()) if label_topic is None else bag.images(label_topic)
    count = bag.topics[image_topic].count
    report = None
    if report_folder is not None:
        report = DriveReport(report_folder, score, expected=count, rate=bag.rate(image_topic), video=video)
    arrived = sorted(kept.received for stamp, kept in collector.labels.items() if stamp in sent)
    fps = (len(arrived) - 1) * 1e9 / (arrived[-1] - arrived[0]) if len(arrived) > 1 else None
    try:
        pairs = pair_by_stamp(bag.images(image_topic), labels)
        for image, truth_message in tqdm(pairs, desc="scoring", total=count, unit="frame", file=sys.stderr):
            try:
                picture = rgb(decode(image.message))
            except BadImage as error:
                record = score.add_bad(image.stamp, error.reason)
                picture = None
            if picture is not None and image.stamp in sent and image.stamp in collector.labels:
                truth = None if truth_message is None else label_array(truth_message, str(label_topic))
                latency = (collector.labels[image.stamp].received - sent[image.stamp]) * 1e-6
                scored = score.add(image.stamp, collector.label(image.stamp), truth, latency)
                if report:
                    report.add(picture, scored)
                continue
            if picture is not None:
                record = score.add_dropped(image.stamp)
            if report:
                report.add_missing(picture, record)
        outcome = score.result(collector.run, command=command, seconds=time.monotonic() - started, fps=fps)
        if report:
            report.finish(outcome, f"Live evaluation on {bag.path.name}")
    finally:
        if report:
            report.close()
    return outcome


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="mtaclip_ros.evaluate_live",
        description="Play a bag to the running node, collect its labels, and compare them with the bag's ground truth.",
        epilog="example:\n  python -m mtaclip_ros.segment_node --ros-args --params-file config/segment.yaml &\n"
        "  python -m mtaclip_ros.evaluate_live --bag runs/camvid_val --json runs/live.json --report runs/live",
    )
    add_topic_arguments(parser)
    parser.add_argument("--namespace", default="/mtaclip", help="the node's full name (default /mtaclip)")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the recorded speed (default 1)")
    parser.add_argument("--wait-for", type=float, default=15.0, metavar="SECONDS", help="for the node (default 15)")
    add_result_arguments(parser)
    ours, ros_args = split_ros_args(argv)
    args = parser.parse_args(ours)
    if args.rate <= 0:
        raise UserError(f"--rate {args.rate:g}: expected a factor above 0")
    if args.json:
        prepare_file(Path(args.json))
    started = time.monotonic()
    exit_on_sigterm()
    with Bag(args.bag) as bag:
        bag.require(args.image_topic, IMAGE)
        label_topic = label_topic_of(bag, args.label_topic)
        rclpy = init_rclpy(ros_args)
        try:
            collector = LabelCollector(rclpy, "/" + args.namespace.strip("/"))
            print(f"waiting for the node {args.namespace} ...", file=sys.stderr)
            wait_for_node(collector, args.wait_for)
            sent = play_to(collector, bag, args.image_topic, args.rate, min(args.wait_for, _LISTEN_SECONDS))
            collector.spin_until(collector.has_status, _STATUS_SECONDS)
        finally:
            rclpy.try_shutdown()
        outcome = score_labels(
            bag,
            collector,
            sent,
            image_topic=args.image_topic,
            label_topic=label_topic,
            report_folder=None if args.report is None else Path(args.report),
            command=command_line("mtaclip_ros.evaluate_live", argv),
            started=started,
            video=not args.no_video,
        )
        collector.close()
    if args.json:
        write_text(Path(args.json), json.dumps(outcome, indent=2) + "\n")
    print(table(outcome))
    if args.report:
        print(f"report  {Path(args.report) / 'report.html'}")
    return None


if __name__ == "__main__":
    run(main)
