"""Timing of things that are to be compared: all of them in every round, so that noise meets each alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tqdm import tqdm


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run every call once a round, in an order that turns with the rounds.

    Returns:
        Seconds of every call in every round, without the warm-up.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with tqdm(total=(warm_up + rounds) * len(names), unit="call") as progress:
        for turn in range(-warm_up, rounds):
            for i in range(len(names)):
                name = names[(i + turn) % len(names)]
                progress.set_postfix_str(name)
                start = time.perf_counter()
                calls[name]()
                seconds = time.perf_counter() - start
                if turn >= 0:
                    taken[name].append(seconds)
                progress.update()
    return taken


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """{p50, p90, p99} in ms."""
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1e3, 2) for q in (50, 90, 99)}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of one over the median of the other."""
    return round(float(np.median(slow) / np.median(fast)), 3)
