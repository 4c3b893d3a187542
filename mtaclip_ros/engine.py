"""The model of a running node: loaded once for all cameras, freed and loaded again when it breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, load_segmenter
from mtaclip_ros.parameters import Parameters

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a further try
_GOOD_AGAIN = 60.0  # a model that ran for so long is not blamed for what came before


def load_wanted(wanted: Parameters) -> Segmenter:
    """The model that the parameters ask for. Raises UserError as `load_segmenter` does."""
    return load_segmenter(
        wanted.model_path,
        wanted.model_backend,
        precision=wanted.model_precision,
        threads=wanted.model_threads or None,
        verify=wanted.model_verify,
    )


def describe_model(model: Segmenter) -> str:
    """What runs, in one line."""
    engine_key = getattr(model, "engine_key", "")
    return (
        f"{model.name} ({model.model_hash[:12]}), {len(model.space)} classes, {model.network_size[0]}x"
        f"{model.network_size[1]}, {model.backend} {model.precision}" + (f", engine {engine_key}" if engine_key else "")
    )


class EngineDown(Exception):  # noqa: N818 - no fault of the caller's
    """The model is being rebuilt, or was closed."""


@dataclass(frozen=True)
class EngineState:
    """What diagnostics tell.

    Attributes:
        segmenter: the loaded model, None while there is none.
        error: why there is none, or what broke it last, in one line; empty when nothing ever did.
        retry_in: seconds until the next try; 0 while a try runs or none is needed.
        failures: how often the model failed, or could not be loaded again.
        rebuilds: how often it was loaded again.
    """

    segmenter: Segmenter | None
    error: str
    retry_in: float
    failures: int
    rebuilds: int


class Engine:
    """A `Segmenter` that survives its own faults.

    Whatever `segment` raises (a backend's exception, no memory, a CUDA error that sticks to its context) costs the
    frames of that call. One bad frame cannot be told from a broken backend in general, so the model is always freed
    and loaded again, in a thread of its own: at once after the first failure, then after 1, 2, 4 ... 60 s, until it
    has run for a minute. `segment` raises `EngineDown` meanwhile.

    Args:
        load: loads the model; may take minutes and raise anything.
        log: told in one line what broke, and when the model is back; called in the thread that found out.
        first_pause: seconds before the second try.
    """

    def __init__(
        self,
        load: Callable[[], Segmenter],
        log: Callable[[str], None],
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._load = load
        self._log = log
        self._first_pause = first_pause
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._segmenter: Segmenter | None = None
        self._rebuilder: threading.Thread | None = None
        self._error = ""
        self._failures = self._rebuilds = self._in_a_row = 0
        self._back_at = self._retry_at = 0.0

    def open(self) -> Segmenter:
        """Load the model. Raises what `load` raises; may then be called again."""
        self._closing.clear()
        self._segmenter = self._load()
        return self._segmenter

    @property
    def ready(self) -> bool:
        """Whether `segment` can be called."""
        return self._segmenter is not None

    @property
    def state(self) -> EngineState:
        with self._lock:
            waits = max(0.0, self._retry_at - time.monotonic()) if self._segmenter is None else 0.0
            return EngineState(self._segmenter, self._error, waits, self._failures, self._rebuilds)

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        """As `Segmenter.segment`; one thread at a time.

        Raises:
            EngineDown: there is no model now.
            Exception: what the backend raised; the rebuilding has begun.
        """
        segmenter = self._segmenter
        if segmenter is None:
            raise EngineDown(self._error or "no model is loaded")
        try:
            return segmenter.segment(frames, channel_order)
        except Exception as error:
            self._broke(error, segmenter)
            raise

    def close(self) -> None:
        """Free the model; waits for a load that is under way. No `segment` may run or follow."""
        self._closing.set()
        if self._rebuilder is not None:
            self._rebuilder.join()
            self._rebuilder = None
        if self._segmenter is not None:
            self._free(self._segmenter)
            self._segmenter = None

    def _broke(self, error: Exception, segmenter: Segmenter) -> None:
        if time.monotonic() - self._back_at > _GOOD_AGAIN:
            self._in_a_row = 0
        pause = self._note(error)
        when = f"in {pause:g} s" if pause else "now"
        self._log(f"the model failed ({self._error}); it is freed and loaded again {when}")
        self._segmenter = None
        # in a list that is emptied: a thread keeps its arguments, and with them the broken model, until it ends
        self._rebuilder = threading.Thread(target=self._rebuild, args=([segmenter], pause), name="rebuild", daemon=True)
        self._rebuilder.start()

    def _rebuild(self, broken: list[Segmenter], pause: float) -> None:
        self._free(broken.pop())
        while not self._closing.wait(pause):
            try:
                fresh = self._load()
            except Exception as error:  # the next try may find the memory or the device again
                pause = self._note(error)
                self._log(f"the model could not be loaded again ({self._error}); next try in {pause:g} s")
                continue
            with self._lock:
                self._rebuilds += 1
                self._back_at = time.monotonic()
                self._segmenter = fresh
            self._log("the model is loaded again")
            return

    def _free(self, segmenter: Segmenter) -> None:
        try:
            segmenter.close()
        except Exception as error:  # a broken backend may not even close; a new one is still worth a try
            self._log(f"the model could not be closed ({_one_line(error)})")

    def _note(self, error: Exception) -> float:
        """Count a failure; returns the seconds to wait before the next try."""
        with self._lock:
            self._failures += 1
            doubled = self._first_pause * 2.0 ** min(self._in_a_row - 1, 30)
            pause = min(LONGEST_PAUSE, doubled) if self._in_a_row else 0.0
            self._in_a_row += 1
            self._error = _one_line(error)
            self._retry_at = time.monotonic() + pause
            return pause


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
