"""What went wrong in a training without ending it: counted, and written down with the names of the samples."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mtaclip_core.files import write_text

SHOWN = 5
"""So many lines of each kind are shown; the file has them all."""

TEXTS = {
    "no_label": "no labelled pixel in the crop",
    "not_a_number": "the loss or its gradient is not a finite number; the step was left out",
    "degenerate_cost": "matching costs were not numbers; they counted as the worst",
}


class Problems:
    """The run folder's `problems.jsonl` (one file per process), one line a problem: step, kind, samples.

    Attributes:
        counts: how often each kind came up, of `TEXTS`.
    """

    def __init__(self, folder: Path, rank: int = 0, step: int = 0) -> None:
        """`step`: where the training starts; lines of an earlier start from there on are dropped, they come again."""
        self.path = folder / ("problems.jsonl" if rank == 0 else f"problems.{rank}.jsonl")
        self.counts: Counter[str] = Counter()
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the end of a file whose writer was killed
            if row["step"] < step:
                kept.append(line + "\n")
                self.counts[row["kind"]] += 1
        write_text(self.path, "".join(kept))

    def add(self, kind: str, step: int, samples: Sequence[str]) -> None:
        """Write down one problem; `kind` is one of `TEXTS`."""
        self.counts[kind] += 1
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, "kind": kind, "samples": list(samples)}) + "\n")
        if self.counts[kind] <= SHOWN:
            last = f" (more of these only in {self.path.name})" if self.counts[kind] == SHOWN else ""
            tqdm.write(f"warning: step {step + 1}: {', '.join(samples)}: {TEXTS[kind]}{last}", file=sys.stderr)
