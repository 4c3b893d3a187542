"""Messages of a bag, published at their times: schedule, QoS as it was recorded, /clock."""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO

from rosbags.interfaces import Qos
from tqdm import tqdm

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_reader import CAMERA_TYPES, HEADER_BYTES, Bag, Window, header_stamp_ns
from mtaclip_ros.bag_source import SEVERAL_TYPES, Record, Topic

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from rclpy.qos import QoSProfile

_CLOCK = "/clock"
_TYPE = re.compile(r"\w+/(msg|srv|action)/[A-Z]\w*")
_DEEPEST = 10_000  # messages that a publisher is made to keep
_SETTLED = 0.8  # seconds for which the set of subscribers must not change before the first message
_LAST_TIME = 2**31 * 10**9 - 1  # ns; of builtin_interfaces/msg/Time
_TICK = 0.01  # seconds between times on /clock
_LONGEST_SLEEP = 0.2  # seconds, so that signals are seen soon


class Schedule:
    """An absolute schedule, so no drift: a message of bag time `t` is due `(t - first) / rate` s after the start.

    Args:
        first: bag time of the first message, ns.
        rate: factor on the recorded speed.
        tick: gets the bag time (ns), when the schedule begins, 100 times a second while it waits, and when a message
            is due; None where nobody wants to know.
    """

    def __init__(self, first: int, rate: float, tick: Callable[[int], None] | None = None) -> None:
        self._first, self._rate, self._tick = first, rate, tick
        self._start = time.monotonic()

    def wait(self, recorded: int) -> None:
        """Sleep until the bag time `recorded` (ns) is due; return at once when it is past."""
        due = self._start + (recorded - self._first) * 1e-9 / self._rate
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, _LONGEST_SLEEP if self._tick is None else _TICK))
            if self._tick:
                self._tick(min(recorded, self._first + round((time.monotonic() - self._start) * self._rate * 1e9)))
        if self._tick:
            self._tick(recorded)


def message_class(msgtype: str) -> type[Any] | None:
    """The Python class of `package/msg/Name`, or None where its package is not installed, or this is no such name."""
    if not _TYPE.fullmatch(msgtype):
        return None
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
        profile.depth = min(max(1, *(q.depth for q in recorded)), _DEEPEST)
        if any(q.history.name == "KEEP_ALL" for q in recorded):
            profile.history = HistoryPolicy.KEEP_ALL
        if any(q.reliability.name == "BEST_EFFORT" for q in recorded):
            profile.reliability = ReliabilityPolicy.BEST_EFFORT
        if all(q.durability.name == "TRANSIENT_LOCAL" for q in recorded):
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return profile


def _publishers(node: Node, topics: Sequence[Topic]) -> dict[str, Publisher]:
    from rclpy.exceptions import NameValidationException

    publishers = {}
    for topic in topics:
        cls = message_class(topic.msgtype)
        if cls is None:
            what = topic.msgtype if topic.msgtype == SEVERAL_TYPES else f"{topic.msgtype}, which is not installed"
            print(f"skipping {topic.name}: it is of {what}", file=sys.stderr)
            continue
        try:
            publishers[topic.name] = node.create_publisher(cls, topic.name, qos_profile(topic.qos))
        except NameValidationException as error:
            print(f"skipping {topic.name}: {' '.join(str(error).split())}", file=sys.stderr)
    return publishers


def _clock_publisher(node: Node) -> Callable[[int], None]:
    """A function that publishes a time in ns on /clock."""
    from builtin_interfaces.msg import Time
    from rosgraph_msgs.msg import Clock

    publisher = node.create_publisher(Clock, _CLOCK, 10)

    def tell(now: int) -> None:
        now = min(max(now, 0), _LAST_TIME)
        publisher.publish(Clock(clock=Time(sec=now // 10**9, nanosec=now % 10**9)))

    return tell


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
        window: the part of the bag to publish.
        log: where to note when each image left, as lines of `topic header_stamp_ns monotonic_ns`.
        clock: publish the bag's time on /clock, in place of what the bag may have there.
    """

    def __init__(
        self,
        node: Node,
        bag: Bag,
        topics: Sequence[str] | None,
        *,
        rate: float,
        window: Window,
        log: TextIO | None,
        clock: bool,
    ) -> None:
        unknown = [t for t in topics or () if t not in bag.topics]
        if unknown:
            raise UserError(f"bag '{bag.path}' has no topic '{unknown[0]}'; it has: {', '.join(bag.topics)}")
        chosen = [
            t for name, t in bag.topics.items() if (topics is None or name in topics) and not (clock and name == _CLOCK)
        ]
        self._publishers = _publishers(node, chosen)
        if not self._publishers:
            raise UserError(f"bag '{bag.path}': no message type of its topics is installed here")
        self._bag, self._rate, self._window, self._log = bag, rate, window, log
        self._tick = _clock_publisher(node) if clock else None
        self.topics = list(self._publishers)
        self.image_topics = [t.name for t in chosen if t.msgtype in CAMERA_TYPES]
        self._begin = bag.start + round(window.start * 1e9)
        self.refused = 0

    def play_once(self) -> int:
        """Publish all messages of the window once, at their times; returns how many left.

        Latched messages (the classes of a label topic) from before the window go out first, so that it can be read.

        Raises:
            UserError: there is no message in the window.
        """
        from rclpy._rclpy_pybind11 import RCLError

        total = sum(self._bag.expected(n, self._window) for n in self.topics)
        published = 0
        schedule: Schedule | None = None
        with tqdm(total=total, desc=f"playing {self._bag.path.name}", unit="msg", file=sys.stderr) as bar:
            for record in chain(self._latched_before(), self._bag.records(self.topics, self._window)):
                if record.recorded >= self._begin:
                    schedule = schedule or Schedule(record.recorded, self._rate, self._tick)
                    schedule.wait(record.recorded)
                left = time.monotonic_ns()
                try:
                    self._publishers[record.topic].publish(record.data)
                except RCLError:  # an overloaded reliable publisher may refuse a message: it is lost, the rest is not
                    self.refused += 1
                else:
                    published += 1
                    self._note(record, left)
                bar.update()
        if schedule is None:
            raise UserError(f"bag '{self._bag.path}' has no message in this window: it is {self._bag.length:.1f} s")
        return published

    def flush(self, seconds: float = 2.0) -> None:
        """Wait until reliable subscribers have everything, so that the last messages are not lost on exit."""
        from rclpy.duration import Duration

        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=seconds))

    def _latched_before(self) -> Iterator[Record]:
        if self._window.start <= 0:
            return
        latched = [
            name
            for name in self.topics
            if any(q.durability.name == "TRANSIENT_LOCAL" for q in self._bag.topics[name].qos)
        ]
        last: dict[str, Record] = {}
        if latched:
            for record in self._bag.records(latched, Window(0.0, self._window.start)):
                last[record.topic] = record
        yield from last.values()

    def _note(self, record: Record, left: int) -> None:
        if self._log and record.topic in self.image_topics and len(record.data) >= HEADER_BYTES:
            self._log.write(f"{record.topic} {header_stamp_ns(record.data)} {left}\n")
