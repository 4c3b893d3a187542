"""One worker thread behind a mailbox of one slot per camera: a new frame replaces the one that waits there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FrameWorker(Generic[Item]):
    """Runs `work` on the newest items of all cameras, at most one of each, in a thread of its own.

    Inference releases the GIL, so the thread that receives stays free to take (and drop) frames while `work` runs.

    Cameras are served in the order in which they began to wait, and one that was served goes to the end of the line:
    whatever the rates, none waits for more than one turn of each of the others. Nothing else is kept, so nothing can
    grow.

    Args:
        work: called in the worker thread with one to `most` items, no two of one camera.
        failed: called in the worker thread with the items and what `work` raised; the thread then takes the next ones.
        dropped: called with every item that will not be worked on, in the thread that found out.
        most: cameras that are served at once, when as many wait.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], None],
        failed: Callable[[list[Item], Exception], None],
        dropped: Callable[[Item], None],
        most: int = 1,
    ) -> None:
        self._work = work
        self._failed = failed
        self._dropped = dropped
        self._most = most
        self._wake = threading.Condition()
        self._waiting: dict[str, Item] = {}  # in the order in which the cameras began to wait
        self._running = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; does nothing while it runs."""
        if self._thread is None:
            self._running = True
            self._thread = threading.Thread(target=self._run, name="frame_worker", daemon=True)
            self._thread.start()

    def submit(self, item: Item, camera: str = "") -> None:
        """Put an item into the camera's slot, in place of the one that waits there; dropped while stopped."""
        with self._wake:
            lost = [item]
            if self._running:
                lost = [self._waiting[camera]] if camera in self._waiting else []
                self._waiting[camera] = item  # one that replaces another keeps its place in the line
                self._wake.notify()
        for older in lost:
            self._dropped(older)

    def stop(self) -> None:
        """Finish the items in work, drop those that wait, end the thread."""
        with self._wake:
            self._running = False
            self._wake.notify()
        self.discard()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def discard(self) -> None:
        """Drop what waits."""
        with self._wake:
            lost = list(self._waiting.values())
            self._waiting.clear()
        for item in lost:
            self._dropped(item)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._waiting) or not self._running)
                if not self._running:
                    return
                items = [self._waiting.pop(camera) for camera in list(self._waiting)[: self._most]]
            try:
                self._work(items)
            except Exception as error:  # whatever it is costs these frames, not the node
                self._failed(items, error)
            del items  # the frames' memory is not held while waiting
