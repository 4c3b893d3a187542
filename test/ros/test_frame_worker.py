"""The mailbox: the newest frame is worked on, what is dropped is counted, a failing frame costs only itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mtaclip_ros.frame_statistics import RateLimit
from mtaclip_ros.frame_worker import FrameWorker


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


class Gate:
    """Work that stands still until it is let go, and notes what it was given."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.errors: list[tuple[int, str]] = []
        self.open = threading.Event()

    def work(self, item: int) -> None:
        self.seen.append(item)
        assert self.open.wait(10)
        if item < 0:
            raise ValueError(f"cannot do {item}")

    def on_error(self, item: int, error: Exception) -> None:
        self.errors.append((item, str(error)))


def started(gate: Gate) -> FrameWorker[int]:
    worker = FrameWorker(gate.work, gate.on_error)
    worker.start()
    return worker


def test_under_overload_only_the_newest_frame_waits() -> None:
    gate = Gate()
    worker = started(gate)
    assert not worker.submit(0)
    wait_until(lambda: gate.seen == [0])
    assert [worker.submit(i) for i in range(1, 10)] == [False] + [True] * 8
    gate.open.set()
    wait_until(lambda: worker.counts.processed == 2)
    worker.stop()
    assert gate.seen == [0, 9]
    assert (worker.counts.received, worker.counts.dropped, worker.counts.failed) == (10, 8, 0)


def test_a_frame_that_raises_is_counted_and_reported_and_the_next_is_served() -> None:
    gate = Gate()
    gate.open.set()
    worker = started(gate)
    for number, item in enumerate((-1, 2, -3, 4), start=1):
        worker.submit(item)
        wait_until(lambda n=number: worker.counts.processed + worker.counts.failed == n)  # type: ignore[misc]
    worker.stop()
    assert gate.seen == [-1, 2, -3, 4]
    assert gate.errors == [(-1, "cannot do -1"), (-3, "cannot do -3")]
    assert (worker.counts.processed, worker.counts.failed, worker.counts.dropped) == (2, 2, 0)


def test_stop_finishes_the_frame_in_work_and_drops_the_waiting_one() -> None:
    gate = Gate()
    worker = started(gate)
    worker.submit(1)
    wait_until(lambda: gate.seen == [1])
    worker.submit(2)
    threading.Timer(0.1, gate.open.set).start()
    worker.stop()
    assert gate.seen == [1]
    assert worker.counts.processed == 1
    assert worker.counts.dropped == 1


def test_no_stale_frame_after_a_restart() -> None:
    gate = Gate()
    gate.open.set()
    worker = started(gate)
    worker.stop()
    assert worker.submit(1), "a stopped worker drops"
    worker.start()
    worker.submit(2)
    wait_until(lambda: worker.counts.processed == 1)
    worker.stop()
    worker.stop()
    assert gate.seen == [2]


def test_the_frame_is_let_go_of_when_it_is_done() -> None:
    class Big:
        pass

    gone = threading.Event()

    class Noted(Big):
        def __del__(self) -> None:
            gone.set()

    worker: FrameWorker[Big] = FrameWorker(lambda item: None, lambda item, error: None)
    worker.start()
    worker.submit(Noted())
    assert gone.wait(10)
    worker.stop()


def test_rate_limit_keeps_the_rate_of_a_jittery_camera() -> None:
    limit = RateLimit()
    start = time.monotonic()
    passed = 0
    while time.monotonic() - start < 1.0:
        passed += limit.ready(20.0)
        time.sleep(0.007)
    assert 17 <= passed <= 21
    assert all(limit.ready(0.0) for _ in range(5))
