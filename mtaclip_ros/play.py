"""Publish a bag with rclpy at its recorded rate: `ros2 bag play` where there is no full ROS installation.

Messages go out as the bag holds them, byte for byte (rclpy publishes serialised messages directly), so stamps are the
recorded ones and nothing is converted on the way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mtaclip_core.cli import Parser, run
from mtaclip_core.files import prepare_file
from mtaclip_ros.bag_player import Player, wait_for_subscribers
from mtaclip_ros.bag_reader import WHOLE, Bag, Window
from mtaclip_ros.drive_arguments import add_part_arguments, positive, window_of
from mtaclip_ros.drive_result import warn_incomplete
from mtaclip_ros.processes import exit_on_sigterm
from mtaclip_ros.rclpy_start import init_rclpy, split_ros_args


def play(
    bag_path: str | Path,
    *,
    rate: float = 1.0,
    loop: bool = False,
    topics: Sequence[str] | None = None,
    wait_for: float = 0.0,
    subscribers: int = 1,
    log_path: str | Path | None = None,
    window: Window = WHOLE,
    clock: bool = False,
    ros_args: Sequence[str] = (),
) -> int:
    """Play a bag from start to end, or for ever with `loop`; returns the number of messages published.

    Args:
        rate: factor on the recorded speed.
        topics: only these, None for all.
        wait_for: seconds to wait for `subscribers` on one of the image topics, 0 starts at once.
        log_path: text file of when each image left.
        window: the part of the bag to play; `every` must be 1.
        clock: publish the bag's time on /clock, for nodes with use_sim_time. With `loop` it jumps back, as bags do.
        ros_args: from `--ros-args` on, for remapping.
    """
    published = 0
    with Bag(bag_path) as bag:
        told: set[str] = set()
        warn_incomplete(bag, told)
        rclpy = init_rclpy(ros_args)
        log: TextIO | None = None
        try:
            if log_path:
                prepare_file(Path(log_path))
                log = open(log_path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed below
            node = rclpy.create_node("mtaclip_play", start_parameter_services=False)
            player = Player(node, bag, topics, rate=rate, window=window, log=log, clock=clock)
            if wait_for > 0:
                wait_for_subscribers(node, player.image_topics or player.topics, subscribers, wait_for)
            while True:
                published += player.play_once()
                if not loop:
                    break
            player.flush()
            warn_incomplete(bag, told)
            if player.refused:
                print(f"{player.refused} messages were refused by the transport (overload)", file=sys.stderr)
        finally:
            if log:
                log.close()
            rclpy.try_shutdown()
    return published


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="mtaclip_ros.play",
        description="Publish a bag at its recorded rate and stamps. Append --ros-args -r /a:=/b to remap topics.",
        epilog="example:\n  python -m mtaclip_ros.play --bag runs/camvid_val --rate 0.5 --wait-for 10",
    )
    parser.add_argument(
        "--bag",
        required=True,
        help="rosbag2 folder, or one .mcap or .db3 file",
    )
    parser.add_argument("--rate", type=positive, default=1.0, help="factor on the recorded speed (default 1)")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C (stamps repeat)")
    parser.add_argument("--clock", action="store_true", help="publish the bag's time on /clock, for use_sim_time")
    add_part_arguments(parser)
    parser.add_argument("--topics", nargs="+", metavar="T", help="only these topics")
    parser.add_argument(
        "--wait-for",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait at most this long for subscribers on an image topic before the first message (default 0: do not)",
    )
    parser.add_argument("--subscribers", type=int, default=1, metavar="N", help="how many to wait for (default 1)")
    parser.add_argument("--log", metavar="FILE", help="write `topic header_stamp_ns monotonic_ns` for every image sent")
    ours, ros_args = split_ros_args(argv)
    args = parser.parse_args(ours)
    window = window_of(args.start, args.stop)
    exit_on_sigterm()
    published = play(
        args.bag,
        rate=args.rate,
        loop=args.loop,
        topics=args.topics,
        wait_for=args.wait_for,
        subscribers=args.subscribers,
        log_path=args.log,
        window=window,
        clock=args.clock,
        ros_args=ros_args,
    )
    print(f"{args.bag}: published {published} messages")
    return None


if __name__ == "__main__":
    run(main)
