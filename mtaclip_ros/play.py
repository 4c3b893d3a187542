"""Publish a bag with rclpy at its recorded rate: `ros2 bag play` where there is no full ROS installation.

Messages go out as the bag holds them, byte for byte (rclpy publishes serialised messages directly), so stamps are the
recorded ones and nothing is converted on the way.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rosbags.interfaces import Qos
from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_ros.bag_reader import COMPRESSED_IMAGE, IMAGE, Bag, Record, Topic, header_stamp_ns
from mtaclip_ros.processes import exit_on_sigterm
from mtaclip_ros.rclpy_start import init_rclpy, split_ros_args

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from rclpy.qos import QoSProfile

_SETTLED = 0.8  # seconds for which the set of subscribers must not change before the first message
_LONGEST_SLEEP = 0.2  # seconds, so that signals are seen soon


class Clock:
    """An absolute schedule, so no drift: a message of bag time `t` is due `(t - first) / rate` s after the start."""

    def __init__(self, first: int, rate: float) -> None:
        self._first, self._rate = first, rate
        self._start = time.monotonic()

    def wait(self, recorded: int) -> None:
        """Sleep until the bag time `recorded` (ns) is due; return at once when it is past."""
        due = self._start + (recorded - self._first) * 1e-9 / self._rate
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, _LONGEST_SLEEP))


def message_class(msgtype: str) -> type[Any] | None:
    """The Python class of `package/msg/Name`, or None where its package is not installed."""
    package, _, name = msgtype.rpartition("/")
    try:
        return getattr(importlib.import_module(package.replace("/", ".")), name)
    except (ImportError, AttributeError):
        return None


def qos_profile(recorded: Sequence[Qos]) -> QoSProfile:
    """The publisher's profile for a topic, as its publishers offered it when it was recorded.

    Where several publishers differ, the weakest promise of each is taken; where nothing was recorded, reliable,
    volatile, depth 10, as `ros2 bag play` does.
    """
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

    profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10)
    profile.reliability, profile.durability = ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE
    if recorded:
        profile.depth = max(1, *(q.depth for q in recorded))
        if any(q.history.name == "KEEP_ALL" for q in recorded):
            profile.history = HistoryPolicy.KEEP_ALL
        if any(q.reliability.name == "BEST_EFFORT" for q in recorded):
            profile.reliability = ReliabilityPolicy.BEST_EFFORT
        if all(q.durability.name == "TRANSIENT_LOCAL" for q in recorded):
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return profile


def _publishers(node: Node, topics: Sequence[Topic]) -> dict[str, Publisher]:
    publishers = {}
    for topic in topics:
        cls = message_class(topic.msgtype)
        if cls is None:
            print(f"skipping {topic.name}: {topic.msgtype} is not installed", file=sys.stderr)
            continue
        publishers[topic.name] = node.create_publisher(cls, topic.name, qos_profile(topic.qos))
    return publishers


def wait_for_subscribers(node: Node, topics: Sequence[str], count: int, seconds: float) -> None:
    """Wait until one of the topics has `count` subscribers and the set of all of them has stopped changing.

    A node may change its subscription when it sees a new publisher (`image_reliability: auto` does), and what is
    published in that moment is lost; hence the second condition.

    Raises:
        UserError: they did not come within `seconds`; names the topics.
    """
    deadline = time.monotonic() + seconds
    seen: frozenset[bytes] = frozenset()
    since = time.monotonic()
    while True:
        found = {t: [bytes(i.endpoint_gid) for i in node.get_subscriptions_info_by_topic(t)] for t in topics}
        now = frozenset(gid for gids in found.values() for gid in gids)
        if now != seen:
            seen, since = now, time.monotonic()
        enough = any(len(gids) >= count for gids in found.values())
        if enough and time.monotonic() - since >= _SETTLED:
            return
        if not enough and time.monotonic() > deadline:
            raise UserError(
                f"too few subscribers on {' and '.join(topics)} within {seconds:g} s: start the node that listens to "
                f"it with the same ROS_DOMAIN_ID, or remap its image topic"
            )
        time.sleep(0.05)


class Player:
    """Publishes the messages of a bag; everything it needs is made in the constructor, so that discovery can start.

    Args:
        node: publishes.
        bag: open.
        topics: names to publish, None for all.
        rate: factor on the recorded speed.
        log: where to note when each image left, as lines of `topic header_stamp_ns monotonic_ns`.
    """

    def __init__(self, node: Node, bag: Bag, topics: Sequence[str] | None, rate: float, log: TextIO | None) -> None:
        unknown = [t for t in topics or () if t not in bag.topics]
        if unknown:
            raise UserError(f"bag '{bag.path}' has no topic '{unknown[0]}'; it has: {', '.join(bag.topics)}")
        chosen = [t for name, t in bag.topics.items() if topics is None or name in topics]
        self._publishers = _publishers(node, chosen)
        if not self._publishers:
            raise UserError(f"bag '{bag.path}': no message type of its topics is installed here")
        self._bag, self._rate, self._log = bag, rate, log
        self.topics = list(self._publishers)
        self.image_topics = [t.name for t in chosen if t.msgtype in (IMAGE, COMPRESSED_IMAGE)]
        self.refused = 0

    def play_once(self) -> int:
        """Publish all messages once, at their times; returns how many left."""
        from rclpy._rclpy_pybind11 import RCLError

        total = sum(self._bag.topics[n].count for n in self.topics)
        published = 0
        clock: Clock | None = None
        with tqdm(total=total, desc=f"playing {self._bag.path.name}", unit="msg", file=sys.stderr) as bar:
            for record in self._bag.records(self.topics):
                clock = clock or Clock(record.recorded, self._rate)
                clock.wait(record.recorded)
                left = time.monotonic_ns()
                try:
                    self._publishers[record.topic].publish(record.data)
                except RCLError:  # an overloaded reliable publisher may refuse a message: it is lost, the rest is not
                    self.refused += 1
                else:
                    published += 1
                    self._note(record, left)
                bar.update()
        return published

    def flush(self, seconds: float = 2.0) -> None:
        """Wait until reliable subscribers have everything, so that the last messages are not lost on exit."""
        from rclpy.duration import Duration

        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=seconds))

    def _note(self, record: Record, left: int) -> None:
        if self._log and record.topic in self.image_topics:
            self._log.write(f"{record.topic} {header_stamp_ns(record.data)} {left}\n")


def play(
    bag_path: str | Path,
    *,
    rate: float = 1.0,
    loop: bool = False,
    topics: Sequence[str] | None = None,
    wait_for: float = 0.0,
    subscribers: int = 1,
    log_path: str | Path | None = None,
    ros_args: Sequence[str] = (),
) -> int:
    """Play a bag from start to end, or for ever with `loop`; returns the number of messages published.

    Args:
        rate: factor on the recorded speed.
        topics: only these, None for all.
        wait_for: seconds to wait for `subscribers` on one of the image topics, 0 starts at once.
        log_path: text file of when each image left.
        ros_args: from `--ros-args` on, for remapping.
    """
    published = 0
    with Bag(bag_path) as bag:
        rclpy = init_rclpy(ros_args)
        log = open(log_path, "w", encoding="utf-8", buffering=1) if log_path else None  # noqa: SIM115 - closed below
        try:
            node = rclpy.create_node("mtaclip_play", start_parameter_services=False)
            player = Player(node, bag, topics, rate, log)
            if wait_for > 0:
                wait_for_subscribers(node, player.image_topics or player.topics, subscribers, wait_for)
            while True:
                published += player.play_once()
                if not loop:
                    break
            player.flush()
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
    parser.add_argument("--bag", required=True, help="rosbag2 folder (mcap or sqlite3)")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the recorded speed (default 1)")
    parser.add_argument("--loop", action="store_true", help="start again at the end, until Ctrl-C (stamps repeat)")
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
    if args.rate <= 0:
        raise UserError(f"--rate {args.rate:g}: expected a factor above 0")
    exit_on_sigterm()
    published = play(
        args.bag,
        rate=args.rate,
        loop=args.loop,
        topics=args.topics,
        wait_for=args.wait_for,
        subscribers=args.subscribers,
        log_path=args.log,
        ros_args=ros_args,
    )
    print(f"{args.bag}: published {published} messages")
    return None


if __name__ == "__main__":
    run(main)
