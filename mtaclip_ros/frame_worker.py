"""One worker thread behind a mailbox of one slot: a new frame replaces the one that waits, so none gets stale."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class WorkerCounts:
    """received = dropped + processed + failed + (1 while a frame waits or is worked on, 2 with both)."""

    received: int = 0
    dropped: int = 0
    processed: int = 0
    failed: int = 0


class FrameWorker(Generic[Item]):
    """Runs `work` on the newest item in a thread of its own.

    Inference releases the GIL, so the thread that receives stays free to take (and drop) frames while `work` runs.

    Args:
        work: called in the worker thread with one item at a time.
        on_error: called in the worker thread with the item and what `work` raised; the thread then takes the next item.
    """

    def __init__(self, work: Callable[[Item], None], on_error: Callable[[Item, Exception], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._wake = threading.Condition()
        self._slot: list[Item] = []
        self._running = False
        self._thread: threading.Thread | None = None
        self._counts = WorkerCounts()

    @property
    def counts(self) -> WorkerCounts:
        with self._wake:
            return self._counts

    def start(self) -> None:
        """Start the thread; does nothing while it runs."""
        if self._thread is None:
            self._running = True
            self._thread = threading.Thread(target=self._run, name="frame_worker", daemon=True)
            self._thread.start()

    def submit(self, item: Item) -> bool:
        """Put an item into the slot, in place of the one that waits there.

        Returns:
            True when an item was dropped: the older one, or this one because the worker is stopped.
        """
        with self._wake:
            dropped = not self._running or bool(self._slot)
            if self._running:
                self._slot[:] = [item]
            self._add(received=1, dropped=int(dropped))
            self._wake.notify()
        return dropped

    def stop(self) -> None:
        """Finish the item in work, drop the one that waits, end the thread."""
        with self._wake:
            self._running = False
            self._add(dropped=len(self._slot))
            self._slot.clear()
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._slot) or not self._running)
                if not self._running:
                    return
                item = self._slot.pop()
            try:
                self._work(item)
            except Exception as error:  # whatever a backend raises costs one frame, not the node
                with self._wake:
                    self._add(failed=1)
                self._on_error(item, error)
            else:
                with self._wake:
                    self._add(processed=1)
            del item  # the frame's memory is not held while waiting

    def _add(self, **more: int) -> None:
        counts = self._counts
        self._counts = replace(counts, **{name: getattr(counts, name) + n for name, n in more.items()})
