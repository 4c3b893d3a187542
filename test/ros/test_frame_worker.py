"""The mailbox: the newest frame of each camera is worked on, cameras take turns, a failing frame costs only itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mtaclip_ros.frame_statistics import FrameStatistics, RateLimit
from mtaclip_ros.frame_worker import FrameWorker


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


class Gate:
    """Work that stands still until it is let go, and notes what it was given."""

    def __init__(self, most: int = 1) -> None:
        self.seen: list[list[int]] = []
        self.done: list[list[int]] = []
        self.errors: list[tuple[list[int], str]] = []
        self.dropped: list[int] = []
        self.open = threading.Event()
        self.worker: FrameWorker[int] = FrameWorker(self.work, self.failed, self.dropped.append, most)
        self.worker.start()

    def work(self, items: list[int]) -> None:
        self.seen.append(items)
        assert self.open.wait(30)
        if items[0] < 0:
            raise ValueError(f"cannot do {items[0]}")
        self.done.append(items)

    def failed(self, items: list[int], error: Exception) -> None:
        self.errors.append((items, str(error)))

    def busy_with(self, item: int, camera: str = "") -> None:
        self.worker.submit(item, camera)
        wait_until(lambda: self.seen == [[item]])


def test_under_overload_only_the_newest_frame_waits() -> None:
    gate = Gate()
    gate.busy_with(0)
    for i in range(1, 10):
        gate.worker.submit(i)
    assert gate.dropped == list(range(1, 9))
    gate.open.set()
    wait_until(lambda: gate.done == [[0], [9]])
    gate.worker.stop()
    assert len(gate.dropped) == 8


def test_frames_of_several_cameras_that_wait_together_are_one_batch() -> None:
    gate = Gate(most=3)
    gate.busy_with(0, "a")
    for item, camera in ((1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "d")):
        gate.worker.submit(item, camera)
    gate.open.set()
    wait_until(lambda: len(gate.done) == 3)
    gate.worker.stop()
    assert gate.done == [[0], [3, 2, 4], [5]]
    assert gate.dropped == [1]


def test_a_fast_camera_does_not_starve_a_slow_one() -> None:
    gate = Gate()
    gate.busy_with(0, "fast")
    gate.worker.submit(1, "fast")
    gate.worker.submit(-1000, "slow")
    for item in range(2, 60):
        gate.worker.submit(item, "fast")
    gate.open.set()
    wait_until(lambda: len(gate.errors) == 1)
    gate.worker.stop()
    assert gate.seen[:3] == [[0], [59], [-1000]], "the fast camera has its turn once, then the slow one"


def test_a_camera_that_was_served_goes_to_the_end_of_the_line() -> None:
    gate = Gate()
    gate.busy_with(0, "a")
    gate.worker.submit(1, "b")
    gate.worker.submit(2, "a")
    gate.worker.submit(3, "c")
    gate.worker.submit(4, "b")
    gate.open.set()
    wait_until(lambda: len(gate.done) == 4)
    gate.worker.stop()
    assert gate.done == [[0], [4], [2], [3]]


def test_a_frame_that_raises_is_reported_and_the_next_is_served() -> None:
    gate = Gate()
    gate.open.set()
    for number, item in enumerate((-1, 2, -3, 4), start=1):
        gate.worker.submit(item)
        wait_until(lambda n=number: len(gate.done) + len(gate.errors) == n)  # type: ignore[misc]
    gate.worker.stop()
    assert gate.done == [[2], [4]]
    assert gate.errors == [([-1], "cannot do -1"), ([-3], "cannot do -3")]
    assert not gate.dropped


def test_stop_finishes_the_frame_in_work_and_drops_those_that_wait() -> None:
    gate = Gate()
    gate.busy_with(1, "a")
    gate.worker.submit(2, "a")
    gate.worker.submit(3, "b")
    threading.Timer(0.1, gate.open.set).start()
    gate.worker.stop()
    assert gate.done == [[1]]
    assert gate.dropped == [2, 3]


def test_no_stale_frame_after_a_restart() -> None:
    gate = Gate()
    gate.open.set()
    gate.worker.stop()
    gate.worker.submit(1)
    assert gate.dropped == [1], "a stopped worker drops"
    gate.worker.start()
    gate.worker.submit(2)
    wait_until(lambda: gate.done == [[2]])
    gate.worker.stop()
    gate.worker.stop()
    assert gate.seen == [[2]]


def test_the_frame_is_let_go_of_when_it_is_done() -> None:
    class Big:
        pass

    gone = threading.Event()

    class Noted(Big):
        def __del__(self) -> None:
            gone.set()

    worker: FrameWorker[Big] = FrameWorker(lambda items: None, lambda items, error: None, lambda item: None)
    worker.start()
    worker.submit(Noted())
    assert gone.wait(30)
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


def test_stamps_that_go_back_repeat_or_miss_are_counted() -> None:
    statistics = FrameStatistics()
    found = [statistics.stamp(seconds) for seconds in (10.0, 10.1, 10.1, 0.0, 10.2, 3.0, 3.1)]
    assert found == ["", "", "repeated", "missing", "", "back", ""]
    snapshot = statistics.snapshot()
    assert snapshot.stamps == {"repeated": 1, "missing": 1, "back": 1}
    assert abs(snapshot.stamp_rate - 10) < 1e-6, "counted from where the stamps went back to"
