"""Counting the frames of a split in several processes or threads."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.metrics.evaluation import FrameCounts

Counter = Callable[[int], FrameCounts]

_LARGEST_KEPT = 31 << 20
"""Bytes; glibc never raises its threshold beyond 32 MiB."""

_open: Callable[[], Counter]
_counter: Counter | None = None


def count_in_threads(counter: Counter, indices: Iterable[int], threads: int) -> Iterator[FrameCounts]:
    """Count frames, in the order of `indices`, where the work is in decoders: those run outside Python's lock.

    Raises:
        UserError: `counter` raised it.
    """
    keep_freed_memory()
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(counter, indices)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def count_in_processes(
    open_counter: Callable[[], Counter], indices: Iterable[int], processes: int
) -> Iterator[FrameCounts]:
    """Count frames, in the order of `indices` whoever is ready first, so that sums come out the same to the last bit.

    Args:
        open_counter: makes what counts a frame, once in each process; must be picklable.
        processes: how many; all are new ones, so that no thread or lock of this one is inherited.

    Raises:
        UserError: a process raised it, or died.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (open_counter,)) as pool:
        try:
            yield from pool.map(_count, indices)
        except BrokenProcessPool as error:
            raise UserError(
                "a process of the evaluation was killed, perhaps for want of memory; use fewer: --processes"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(open_counter: Callable[[], Counter]) -> None:
    global _open
    _open = open_counter
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to handle


def _count(index: int) -> FrameCounts:
    global _counter
    if _counter is None:  # not in `_start`, whose errors would not reach the first process
        _counter = _open()
    return _counter(index)


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed images for the next ones; without it, a quarter of decoding is page faults.

    Freeing a large block raises the sizes from which memory is given back to the system, up to this one.
    """
    np.empty(_LARGEST_KEPT, np.uint8)
