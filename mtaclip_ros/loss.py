"""How many images of a camera are published and never delivered: the middleware loses most large ones in silence."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_ON_THE_WAY = 0.5  # seconds that an image may come later than its camera_info
_LONGEST_RATE = 1000  # events of a kind that are kept


@dataclass(frozen=True)
class Loss:
    """Images of the last seconds.

    Attributes:
        lost: published and not delivered.
        published: delivered and lost.
        source: how it is known: `sequence numbers`, `the middleware` or `camera_info`.
    """

    lost: int
    published: int
    source: str

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.lost / self.published if self.published else 0.0

    def describe(self, seconds: float) -> str:
        """For the log; `seconds` is the time that it was found in."""
        what = f"{self.lost} of {self.published} images of the last {seconds:g} s were lost on the way"
        return f"{what}, known by {self.source}"


class LossWatch:
    """Finds lost images from what arrives, in the surest way that there is.

    - Best effort: the middleware's event `message_lost`. What it replaced in its own queue, because this process was
      busy, is not among them.
    - Reliable: the event is silent about images that the sender dropped from its history, so gaps in each publisher's
      sequence numbers. Fast DDS and Zenoh number messages; rclpy tells the numbers from Jazzy on.
    - Without numbers: the event, or camera_info where that tells of more: these small messages arrive when images do
      not, so stamps without an image are lost images.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.restart(reliable=False)

    def restart(self, reliable: bool) -> None:
        """Forget everything: the subscription, now reliable or not, or the set of publishers changed."""
        self._reliable = reliable
        self._last: dict[bytes, int] = {}
        self._numbered = False
        self._arrivals: deque[tuple[float, int, int]] = deque(maxlen=_LONGEST_RATE)  # time, stamp, lost before it
        self._events: deque[tuple[float, int]] = deque(maxlen=_LONGEST_RATE)
        self._infos: deque[tuple[float, int]] = deque(maxlen=_LONGEST_RATE)
        self._since = self._clock()

    def image(self, stamp: int, publisher: bytes, sequence: int | None) -> int:
        """An image arrived: its stamp in ns, its publisher's id, its number there if known.

        Returns:
            images that were lost before it and that no event tells of.
        """
        gap = 0
        if sequence is not None:
            self._numbered = True
            before = self._last.get(publisher)
            if self._reliable and before is not None and sequence > before:
                gap = sequence - before - 1
            self._last[publisher] = sequence
        self._arrivals.append((self._clock(), stamp, gap))
        return gap

    def event(self, count: int) -> int:
        """The middleware lost `count` images. Returns those that no gap in the numbers will tell of."""
        self._events.append((self._clock(), count))
        return 0 if self._reliable and self._numbered else count

    def info(self, stamp: int) -> None:
        """A camera_info arrived, with its stamp in ns."""
        self._infos.append((self._clock(), stamp))

    def estimate(self, seconds: float) -> Loss | None:
        """The loss of the last seconds, or None before that time has passed or while no image arrives."""
        now = self._clock()
        arrived = [a for a in self._arrivals if a[0] >= now - seconds]
        if now - self._since < seconds or not arrived:
            return None
        gaps, told = sum(gap for _, _, gap in arrived), self.events(seconds)
        if self._numbered and self._reliable:
            return Loss(gaps, len(arrived) + gaps, "sequence numbers")
        estimates = [Loss(told, len(arrived) + told, "the middleware")]
        if self._numbered:
            return estimates[0]
        infos = [stamp for t, stamp in self._infos if now - seconds <= t <= now - _ON_THE_WAY]
        missing = _missing(infos, (stamp for _, stamp, _ in self._arrivals))
        if missing < len(infos):  # stamps that fit no image at all are of another clock
            estimates.append(Loss(missing, len(infos), "camera_info"))
        return max(estimates, key=lambda loss: loss.share)

    def events(self, seconds: float) -> int:
        """Images that the middleware reported as lost in the last seconds."""
        since = self._clock() - seconds
        return sum(count for t, count in self._events if t >= since)

    def infos(self, seconds: float) -> int:
        """camera_info messages of the last seconds."""
        since = self._clock() - seconds
        return sum(t >= since for t, _ in self._infos)


def _missing(wanted: Iterable[int], found: Iterable[int]) -> int:
    present = set(found)
    return sum(stamp not in present for stamp in wanted)
