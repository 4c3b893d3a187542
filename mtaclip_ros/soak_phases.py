"""What a soak run does to the node, phase by phase, and what it sees of it from outside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_ros.driven_node import IMAGE_TOPIC, DrivenNode, Footprint, Told
from mtaclip_ros.hostile_messages import Hostile, hostile_compressed, hostile_images
from mtaclip_ros.image_codec import BadImage, Scratch, decode, fill

if TYPE_CHECKING:
    from rclpy.publisher import Publisher

WINDOW = 50
"""Hostile messages between two good frames; the node's subscription holds all of them (`PARAMETERS`)."""
COMPRESSED_TOPIC = f"{IMAGE_TOPIC}/compressed"
PARAMETERS: Mapping[str, object] = {
    f"qos_overrides.{topic}.subscription.depth": 2 * WINDOW for topic in (IMAGE_TOPIC, COMPRESSED_TOPIC)
}
"""Of the node, so that every message that is sent is received and can be counted."""

_SAMPLES = 50  # of memory, in a phase
_WARM = 0.2  # share of a phase after which caches are full
_RESEND = 0.3  # seconds
_SERVED_SECONDS = 30.0


@dataclass(frozen=True)
class Phase:
    """What happened in one phase; counts are of the phase alone.

    Attributes:
        name: of the phase.
        good: good frames that were sent.
        hostile: hostile messages that were sent, by the reason they are to be refused with.
        told: the node's counts (`received`, `labelled`, `dropped`, `failed`, `limited`, `publish errors`), None where
            they start anew all the time.
        bad: the node's count of bad messages by reason.
        early, late: what the node held after a fifth of the phase and at its end; memory is a median over a fifth.
        messages: sent between early and late.
        log_lines: that the node wrote.
    """

    name: str
    good: int
    hostile: Mapping[str, int]
    told: Mapping[str, int] | None
    bad: Mapping[str, int]
    early: Footprint
    late: Footprint
    messages: int
    log_lines: int
    seconds: float

    @property
    def growth_mb(self) -> float:
        return self.late.rss_mb - self.early.rss_mb

    def complaints(self, max_growth_mb: float) -> list[str]:
        """What is wrong, each in a clause."""
        found = []
        if self.growth_mb > max_growth_mb:
            found.append(f"memory grew by {self.growth_mb:.1f} MiB in {self.messages} messages")
        for what in ("threads", "handles"):
            early, late = getattr(self.early, what), getattr(self.late, what)
            if late > early:
                found.append(f"{what} grew from {early} to {late}")
        if self.hostile and self.log_lines > 20 + self.seconds:
            found.append(f"the node wrote {self.log_lines} lines in {self.seconds:.0f} s")
        if self.told is not None:
            found += self._miscounts(self.told)
        return [f"{self.name}: {clause}" for clause in found]

    def _miscounts(self, told: Mapping[str, int]) -> list[str]:
        found = []
        hostile = sum(self.hostile.values())
        expected = {
            "received": self.good + hostile,
            "labelled": self.good,
            "dropped": hostile - sum(self.bad.values()),  # replaced by a newer message before they were looked at
            **dict.fromkeys(("failed", "limited", "publish errors"), 0),
        }
        for what, number in expected.items():
            if told[what] != number:
                found.append(f"{told[what]} {what}, expected {number}")
        for reason, number in self.bad.items():
            if number > self.hostile.get(reason, 0):
                found.append(f"{number} bad by {reason}, {self.hostile.get(reason, 0)} were sent")
        found += [f"none was refused for {reason}" for reason in self.hostile if not self.bad.get(reason)]
        return found


class Soak:
    """Sends to a node and watches it.

    Args:
        driven: a node with `PARAMETERS`, active.
        size: height and width of the good frames.
        label: what every pixel of a good frame is labelled, None where the model decides.
        progress: told how many messages were sent, or transitions made, since it was told last.
    """

    def __init__(
        self, driven: DrivenNode, size: tuple[int, int], label: int | None, progress: Callable[[int], object]
    ) -> None:
        from sensor_msgs.msg import CompressedImage, Image

        self._driven = driven
        self._size = size
        self._expected = None if label is None else bytes([label]) * (size[0] * size[1])
        self._progress = progress
        self._picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        self._file = cv2.imencode(".png", self._picture)[1].tobytes()
        self._labels: list[Any] = []
        driven.node.create_subscription(Image, "/mtaclip/label", self._labels.append, 10)
        self._raw = driven.camera(Image, IMAGE_TOPIC, 2 * WINDOW)
        self._compressed = driven.camera(CompressedImage, COMPRESSED_TOPIC, 2 * WINDOW)
        self._scratch = Scratch()

    def frames(self, count: int) -> Phase:
        """One good frame after the other, each sent when the one before is labelled: none may be dropped."""

        def send() -> int:
            self._serve(self._raw)
            return 1

        return self._counted("frames", self._raw, count, send, Counter())

    def hostile(self, count: int, seed: int, compressed: bool) -> Phase:
        """`WINDOW` hostile messages as fast as they can be sent, then a good frame that must be labelled; and again.

        All are decoded in this process too, since the node looks at the newest alone.
        """
        kind, camera = ("compressed", self._compressed) if compressed else ("raw", self._raw)
        self._set_up({"image_transport": kind})
        messages = hostile_compressed(seed) if compressed else hostile_images(seed)
        sent: Counter[str] = Counter()

        def send() -> int:
            self._send_hostile(camera, messages, sent)
            self._serve(camera)
            return WINDOW

        return self._counted(f"hostile {kind}", camera, -(-count // WINDOW), send, sent)

    def transitions(self, count: int) -> Phase:
        """Deactivate, cleanup, configure, activate, and a frame that must be labelled; and again."""
        self._set_up({"image_transport": "raw"})
        self._first(self._raw)
        cycles = count // 4
        watch = _Watch(self._driven, cycles)
        for _ in range(cycles):
            self._set_up({})
            self._first(self._raw)
            watch.look()
            self._progress(4)
        return watch.phase("transitions", 4, cycles, Counter(), None)

    def _counted(self, name: str, camera: Publisher, rounds: int, send: Callable[[], int], sent: Counter[str]) -> Phase:
        self._first(camera)
        before = self._driven.settled()
        watch = _Watch(self._driven, rounds)
        each = 1
        for _ in range(rounds):
            each = send()
            watch.look()
            self._progress(each)
        return watch.phase(name, each, rounds, sent, (before, self._driven.settled()))

    def _set_up(self, parameters: Mapping[str, object]) -> None:
        """Through all transitions, with other parameters from then on; counts begin anew."""
        for transition in ("deactivate", "cleanup"):
            self._driven.transition(transition)
        for name, value in parameters.items():
            self._driven.set_parameter(name, value)
        for transition in ("configure", "activate"):
            self._driven.transition(transition)

    def _send_hostile(self, camera: Publisher, messages: Iterator[Hostile], sent: Counter[str]) -> None:
        for _ in range(WINDOW):
            hostile = next(messages)
            camera.publish(hostile.message)
            sent[hostile.reason] += 1
            try:
                decode(hostile.message, self._scratch)
            except BadImage as bad:
                if bad.reason == hostile.reason:
                    continue
            raise UserError(f"'{hostile.kind}' was not refused for its {hostile.reason}")

    def _first(self, camera: Publisher) -> None:
        """A frame after a new subscription: sent until both sides know each other."""
        self._driven.spin_until(lambda: camera.get_subscription_count() > 0, "the node's subscription")
        deadline = time.monotonic() + _SERVED_SECONDS
        message = self._message(camera)
        while True:
            self._labels.clear()
            camera.publish(message)
            resend = time.monotonic() + _RESEND
            while time.monotonic() < resend:
                self._driven.spin(_RESEND)
                if any(label.header == message.header for label in self._labels):
                    return
            if time.monotonic() > deadline:
                raise UserError(f"no frame was labelled; the node's last line: {self._driven.last_line()}")

    def _serve(self, camera: Publisher) -> None:
        """Send a good frame, once, and wait for its label."""
        message = self._message(camera)
        self._labels.clear()
        camera.publish(message)
        self._driven.spin_until(lambda: bool(self._labels), "the label of a good frame", _SERVED_SECONDS)
        label = self._labels[0]
        if label.header != message.header or (label.height, label.width) != self._size:
            raise UserError(f"a frame of {message.header} got a label of {label.header}, {label.height}x{label.width}")
        if self._expected is not None and bytes(label.data) != self._expected:
            raise UserError("a good frame got a wrong label")

    def _message(self, camera: Publisher) -> Any:
        from std_msgs.msg import Header

        header = Header(frame_id="soak", stamp=self._driven.node.get_clock().now().to_msg())
        if camera is self._raw:
            return fill(camera.msg_type(), self._picture, "rgb8", header)
        return camera.msg_type(header=header, format="png", data=self._file)


class _Watch:
    """Looks at what the node holds, `_SAMPLES` times over so many rounds."""

    def __init__(self, driven: DrivenNode, rounds: int) -> None:
        self._driven = driven
        self._rounds = rounds
        self._every = max(1, rounds // _SAMPLES)
        self._done = 0
        self._samples: list[tuple[int, Footprint]] = []
        self._lines = len(driven.log())
        self._start = time.monotonic()

    def look(self) -> None:
        """After each round."""
        self._done += 1
        if self._done % self._every == 0 or self._done == self._rounds:
            self._samples.append((self._done, self._driven.footprint()))

    def phase(
        self, name: str, each: int, rounds: int, hostile: Mapping[str, int], told: tuple[Told, Told] | None
    ) -> Phase:
        seconds = time.monotonic() - self._start
        warm = [sample for sample in self._samples if sample[0] >= _WARM * self._rounds]
        part = max(1, len(warm) // 4)
        early, late = warm[:part], warm[-part:]
        difference, bad = _difference(*told) if told else (None, {})
        return Phase(
            name=name,
            good=rounds,
            hostile=dict(hostile),
            told=difference,
            bad=bad,
            early=_typical(early),
            late=_typical(late),
            messages=each * (late[-1][0] - early[0][0]),
            log_lines=len(self._driven.log()) - self._lines,
            seconds=round(seconds, 1),
        )


def _typical(samples: list[tuple[int, Footprint]]) -> Footprint:
    """Median of the memory, last of the rest."""
    last = samples[-1][1]
    return Footprint(median(footprint.rss_mb for _, footprint in samples), last.threads, last.handles)


def _difference(before: Told, after: Told) -> tuple[dict[str, int], dict[str, int]]:
    counts = ("received", "labelled", "dropped", "failed", "limited", "publish errors")
    told = {what: after.count(what) - before.count(what) for what in counts}
    return told, {reason: number - before.bad.get(reason, 0) for reason, number in after.bad.items()}
