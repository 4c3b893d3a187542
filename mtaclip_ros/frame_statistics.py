"""Counts and times of one camera's frames: written by the receiving and the working thread, read by diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

STAGES = ("decode", "segment", "publish", "node", "own", "latency")
"""Stage times; `node` is from receiving to the end of publishing, `own` the same without `segment` (what a frame waits
in its mailbox is in both), `latency` from the header's stamp to that end."""

_WINDOW = 300
_RATE_SECONDS = 5.0


@dataclass(frozen=True)
class Percentiles:
    """Seconds."""

    p50: float
    p99: float


@dataclass(frozen=True)
class Snapshot:
    """Totals since the node was configured; percentiles over the last 300 frames; rates over the last 5 s.

    Attributes:
        received: messages taken from the topic = limited + dropped + labelled + bad + failed + publish_errors
            + those in work.
        limited: left out to keep `max_rate`.
        dropped: replaced in the mailbox by a newer frame.
        bad: messages without a usable picture, by reason.
        failed: frames that the model failed on.
        publish_errors: labelled frames that the middleware refused.
        lost: images published and never received, as far as the middleware tells.
        silence: seconds since the last message, or since listening began.
        stamps: messages whose stamp was `back` before the one of the message before, `repeated`, or `missing` (zero).
        stamp_rate: images a second by their stamps.
        garbled_ids: messages whose frame_id is not UTF-8.
    """

    received: int
    limited: int
    dropped: int
    labelled: int
    failed: int
    bad: dict[str, int]
    publish_errors: int
    input_rate: float
    output_rate: float
    silence: float
    stages: dict[str, Percentiles]
    lost: int = 0
    stamps: dict[str, int] = field(default_factory=dict)
    stamp_rate: float = 0.0
    garbled_ids: int = 0

    @property
    def bad_total(self) -> int:
        return sum(self.bad.values())


class FrameStatistics:
    """Thread-safe; every method costs microseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self._stages: dict[str, deque[float]] = {stage: deque(maxlen=_WINDOW) for stage in STAGES}
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._stamps: Counter[str] = Counter()
        self._stamp_times: deque[float] = deque(maxlen=_WINDOW)
        self._labels: deque[float] = deque(maxlen=1000)
        self._heard = time.monotonic()

    def listening(self) -> None:
        """Listening begins now: silence is counted from here."""
        with self._lock:
            self._heard = time.monotonic()

    def received(self) -> None:
        with self._lock:
            self._counts["received"] += 1
            self._heard = time.monotonic()
            self._arrivals.append(self._heard)

    def stamp(self, seconds: float) -> str:
        """Note the stamp of a message; returns what is wrong with it, a key of `Snapshot.stamps`, or nothing."""
        with self._lock:
            last = self._stamp_times[-1] if self._stamp_times else -1.0
            wrong = "missing" if seconds == 0 else "back" if seconds < last else "repeated" if seconds == last else ""
            if wrong:
                self._stamps[wrong] += 1
            if wrong == "back":
                self._stamp_times.clear()
            if wrong in ("", "back"):
                self._stamp_times.append(seconds)
            return wrong

    def count(self, what: str, number: int = 1) -> None:
        """Add to `limited`, `dropped`, `failed`, `publish_errors`, `lost` or `garbled_ids`."""
        with self._lock:
            self._counts[what] += number

    def bad(self, reason: str) -> None:
        with self._lock:
            self._bad[reason] += 1

    def labelled(self, seconds: dict[str, float]) -> None:
        """A frame was labelled and published; `seconds` has the times of some or all `STAGES`."""
        with self._lock:
            self._counts["labelled"] += 1
            self._labels.append(time.monotonic())
            for stage, value in seconds.items():
                self._stages[stage].append(value)

    def silence(self) -> float:
        """Seconds since the last message, or since listening began."""
        with self._lock:
            return time.monotonic() - self._heard

    def snapshot(self) -> Snapshot:
        with self._lock:
            now = time.monotonic()
            counts = self._counts
            return Snapshot(
                received=counts["received"],
                limited=counts["limited"],
                dropped=counts["dropped"],
                labelled=counts["labelled"],
                failed=counts["failed"],
                bad=dict(self._bad),
                publish_errors=counts["publish_errors"],
                input_rate=_rate(self._arrivals, now),
                output_rate=_rate(self._labels, now),
                silence=now - self._heard,
                stages={stage: _percentiles(times) for stage, times in self._stages.items() if times},
                lost=counts["lost"],
                stamps=dict(self._stamps),
                stamp_rate=_rate(self._stamp_times, self._stamp_times[-1]) if self._stamp_times else 0.0,
                garbled_ids=counts["garbled_ids"],
            )


class RateLimit:
    """Lets through as many events a second as asked, in step with them rather than with the clock.

    Frames that come with jitter around the wanted period are not halved: the next one is due a period after the last
    was due, not after it came.
    """

    def __init__(self) -> None:
        self._due = 0.0

    def ready(self, rate: float) -> bool:
        """True when the event may pass; always with a rate of 0."""
        now = time.monotonic()
        if rate <= 0:
            return True
        if now < self._due:
            return False
        period = 1.0 / rate
        self._due = self._due + period if now - self._due < period else now + period
        return True


def _rate(times: Iterable[float], now: float) -> float:
    recent = [t for t in times if t > now - _RATE_SECONDS]
    if len(recent) < 2:
        return 0.0
    return (len(recent) - 1) / (recent[-1] - recent[0])


def _percentiles(times: Iterable[float]) -> Percentiles:
    p50, p99 = np.percentile(np.fromiter(times, float), (50, 99))
    return Percentiles(float(p50), float(p99))
