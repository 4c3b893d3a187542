"""Judge the running node on bags: play them over DDS at their recorded rate, compare its labels with the truth.

A bag is played by a process of its own, so that camera and collector do not disturb each other. Latency is measured
from the moment an image leaves the player to the moment its label is here, by stamp.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.files import prepare_file
from mtaclip_ros.bag_reader import Bag, Window, pair_by_stamp
from mtaclip_ros.drive_arguments import (
    add_part_arguments,
    add_result_arguments,
    add_topic_arguments,
    positive,
    window_of,
)
from mtaclip_ros.drive_cameras import Camera, cameras_of
from mtaclip_ros.drive_result import Drive, check_bags, combined, conclude, scores_of, warn_incomplete
from mtaclip_ros.drive_score import DriveScore, command_line
from mtaclip_ros.image_codec import BadImage, decode
from mtaclip_ros.label_collector import LabelCollector
from mtaclip_ros.processes import child, exit_on_sigterm
from mtaclip_ros.rclpy_start import init_rclpy, split_ros_args
from mtaclip_ros.replay import rgb
from mtaclip_ros.report import DriveReport
from mtaclip_ros.report_index import Reports

Departures = Mapping[int, Sequence[int]]
"""When the images of a camera left the player, ns of the monotonic clock, by stamp: several where they share one."""

_SHARED = "stamp of several images"
_LISTEN_SECONDS = 10.0  # a node subscribes when it sees the player, or within 2 s (image_reliability: auto)
_PLAYER_SECONDS = 10.0  # the player's patience is longer than ours: we can say more
_STATUS_SECONDS = 3.0  # diagnostics come every second
_LAST_LABELS = 3.0  # how long after the last label one more may come


def wait_for_node(collector: LabelCollector, seconds: float) -> None:
    """Wait until the node has its model and publishes labels of every camera.

    Raises:
        UserError: it is not there; says what to start.
    """
    if not collector.spin_until(collector.has_node, seconds):
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        raise UserError(
            f"no node publishes {collector.missing()} on ROS_DOMAIN_ID {domain} (waited {seconds:g} s): start one "
            f"with `python -m mtaclip_ros.segment_node --ros-args --params-file config/segment.yaml`, or name "
            f"yours with --namespace, its cameras with --camera"
        )


def play_to(
    collector: LabelCollector, bag: Bag, player_arguments: Sequence[str], seconds: float
) -> dict[Camera, Departures]:
    """Play the images (and camera_info) in a child process and collect until no more labels come.

    Args:
        player_arguments: of `play`, beside the bag and its topics.
        seconds: in which the node must have subscribed to the player.

    Returns:
        The departures of each camera.

    Raises:
        UserError: the node does not listen to the images, the player failed, or not a single label came.
    """
    images = [camera.image_topic for camera in collector.cameras]
    infos = [f"{topic.removesuffix('/compressed').rpartition('/')[0]}/camera_info" for topic in images]
    topics = [*images, *(info for info in dict.fromkeys(infos) if info in bag.topics)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "sent"
        command = [sys.executable, "-m", "mtaclip_ros.play", "--bag", str(bag.path), *player_arguments]
        command += ["--wait-for", str(seconds + _PLAYER_SECONDS), "--log", str(log), "--topics", *topics]
        with child(command) as player:
            _wait_until_heard(collector, player, seconds)
            collector.spin_until(lambda: player.poll() is not None, float("inf"))
        if player.returncode != 0:
            raise UserError(f"playing '{bag.path}' failed with exit status {player.returncode}; its message is above")
        sent = {camera: _departures(log, camera.image_topic) for camera in collector.cameras}
    _collect_rest(collector, sent)
    for camera, stamps in sent.items():
        if stamps and not any(stamp in collector.labels[camera] for stamp in stamps):
            raise UserError(
                f"the node gave no label for any of the {len(stamps)} images on {camera.image_topic}: look at its log "
                f"and at /diagnostics"
            )
    return sent


def _wait_until_heard(collector: LabelCollector, player: subprocess.Popen, seconds: float) -> None:
    """The player waits for subscribers too; what it cannot say is what the node listens to instead."""

    def unheard() -> list[Camera]:
        return [camera for camera in collector.cameras if not collector.listens_to(camera.image_topic)]

    if not collector.spin_until(lambda: player.poll() is not None or not unheard(), seconds):
        camera = unheard()[0]
        instead = collector.image_topic(camera)
        there = f"; it listens to {instead}" if instead else ""
        remap = f"-p camera.{camera.name}.image:=" if camera.name else "-r image:="
        raise UserError(
            f"the node does not listen to the bag's images on {camera.image_topic}{there}: start it with "
            f"`{remap}{camera.image_topic}`, or choose another --image-topic"
        )


def _departures(log: Path, topic: str) -> Departures:
    departures: dict[int, list[int]] = {}
    for name, stamp, left in (line.split() for line in log.read_text(encoding="utf-8").splitlines()):
        if name == topic:
            departures.setdefault(int(stamp), []).append(int(left))
    return departures


def _collect_rest(collector: LabelCollector, sent: Mapping[Camera, Departures]) -> None:
    while not all(stamp in collector.labels[camera] for camera, stamps in sent.items() for stamp in stamps):
        before = collector.count()
        if not collector.spin_until(lambda n=before: collector.count() > n, _LAST_LABELS):  # type: ignore[misc]
            return


def score_labels(
    bag: Bag,
    camera: Camera,
    collector: LabelCollector,
    sent: Departures,
    score: DriveScore,
    *,
    window: Window,
    report: DriveReport | None,
) -> float | None:
    """Compare what was collected of a camera with the bag's ground truth, frame by frame in the bag's order.

    Args:
        sent: of this camera. Images that share a stamp are bad: nobody can say which of them a label belongs to.
        score: counts the frames.
        report: takes them too; finished by the caller.

    Returns:
        Labels per second while they came, None for less than two.
    """
    truth_topic, found = camera.truth(bag), collector.labels[camera]
    truths = iter(()) if truth_topic is None else bag.labels(truth_topic, window)
    pairs = pair_by_stamp(bag.images(camera.image_topic, window), truths)
    expected = bag.expected(camera.image_topic, window)
    for image, truth_message in tqdm(
        pairs, desc=f"scoring {camera.name}".strip(), total=expected, unit="frame", file=sys.stderr
    ):
        picture, left, label = None, sent.get(image.stamp, ()), found.get(image.stamp)
        try:
            picture = rgb(decode(image.message))
        except BadImage as error:
            record = score.add_bad(image.seconds, error.reason)
        else:
            if len(left) == 1 and label and label.received > left[0]:
                truth = None if truth_message is None else bag.label(truth_message, str(truth_topic))
                latency = (label.received - left[0]) * 1e-6
                scored = score.add(image.seconds, collector.label(camera, image.stamp), truth, latency)
                if report:
                    report.add(picture, scored)
                continue
            shared = len(left) > 1
            record = score.add_bad(image.seconds, _SHARED) if shared else score.add_dropped(image.seconds)
        if report:
            report.add_missing(picture, record)
    arrived = sorted(kept.received for stamp, kept in found.items() if stamp in sent)
    return (len(arrived) - 1) * 1e9 / (arrived[-1] - arrived[0]) if len(arrived) > 1 else None


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="mtaclip_ros.evaluate_live",
        description="Play a bag to the running node, collect its labels, and compare them with the bag's ground truth.",
        epilog="example:\n  python -m mtaclip_ros.segment_node --ros-args --params-file config/segment.yaml &\n"
        "  python -m mtaclip_ros.evaluate_live --bag runs/camvid_val --json runs/live.json --report runs/live",
    )
    add_topic_arguments(parser)
    parser.add_argument("--namespace", default="/mtaclip", help="the node's full name (default /mtaclip)")
    parser.add_argument("--rate", type=positive, default=1.0, help="factor on the recorded speed (default 1)")
    parser.add_argument("--wait-for", type=float, default=15.0, metavar="SECONDS", help="for the node (default 15)")
    parser.add_argument("--clock", action="store_true", help="publish /clock, for a node with use_sim_time")
    add_part_arguments(parser)
    add_result_arguments(parser)
    ours, ros_args = split_ros_args(argv)
    args = parser.parse_args(ours)
    window = window_of(args.start, args.stop)
    cameras = cameras_of(args.image_topic, args.label_topic, args.camera)
    if args.json:
        prepare_file(Path(args.json))
    started, command = time.monotonic(), command_line("mtaclip_ros.evaluate_live", argv)
    told: set[str] = set()
    exit_on_sigterm()
    with ExitStack() as stack:
        bags = [stack.enter_context(Bag(path)) for path in args.bag]
        check_bags(bags, cameras, args.min_miou, told)
        rclpy = init_rclpy(ros_args)
        takes = []
        try:
            player = ["--rate", str(args.rate), "--from", str(args.start), "--to", str(args.stop)]
            for bag in bags:
                collector = LabelCollector(rclpy, "/" + args.namespace.strip("/"), cameras)
                stack.callback(collector.close)
                print(f"waiting for the node {args.namespace} ...", file=sys.stderr)
                wait_for_node(collector, args.wait_for)
                scores = scores_of(collector.space, bags, cameras)
                sent = play_to(collector, bag, player + ["--clock"] * args.clock, min(args.wait_for, _LISTEN_SECONDS))
                collector.spin_until(collector.has_status, _STATUS_SECONDS)
                collector.stop()  # the next bag may have the same stamps
                takes.append((bag, collector, sent))
        finally:
            rclpy.try_shutdown()
        reports = Reports(args.report, bags, cameras, window, video=not args.no_video)
        drives = []
        for (bag, collector, sent), camera in itertools.product(takes, cameras):
            score = scores[bag, camera]
            with reports.open(bag, camera, score) as report:
                fps = score_labels(bag, camera, collector, sent[camera], score, window=window, report=report)
                warn_incomplete(bag, told)
                drives.append(Drive(str(bag.path), camera, camera.truth(bag), bag.broken, score, fps))
                if report:
                    title = f"Live evaluation on {bag.path.name} {camera.name}".strip()
                    report.finish(combined(drives[-1:], collector.run, command=command, seconds=0), title)
    outcome = combined(drives, collector.run, command=command, seconds=time.monotonic() - started)
    reports.write_index(drives, outcome, "Live evaluation")
    return conclude(outcome, args.json, args.report, args.min_miou)


if __name__ == "__main__":
    run(main)
