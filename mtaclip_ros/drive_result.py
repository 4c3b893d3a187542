"""Several drives (bags, cameras) judged as one: the JSON of `replay` and `evaluate_live`, and the limits CI sets."""

from __future__ import annotations

import functools
import json
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtaclip_core.files import write_text
from mtaclip_ros.bag_reader import Bag
from mtaclip_ros.drive_cameras import Camera
from mtaclip_ros.drive_score import DriveScore, Run, table

_OF_THE_RUN = ("classes", "model", "backend", "precision", "command", "seconds")


@dataclass(frozen=True)
class Drive:
    """One camera of one bag, judged.

    Attributes:
        bag: its path.
        camera: whose images.
        label_topic: where its ground truth was, None without.
        incomplete: what is missing of the bag, None for a whole one.
        score: of all frames.
        fps: labels per second.
    """

    bag: str
    camera: Camera
    label_topic: str | None
    incomplete: str | None
    score: DriveScore
    fps: float | None


def combined(drives: Sequence[Drive], run: Run, *, command: str, seconds: float) -> dict[str, Any]:
    """The JSON of a run (CONTRACTS.md): the numbers over all frames, and under `drives` those of each drive.

    Raises:
        UserError: the drives' ground truths are of different classes.
    """
    total = functools.reduce(operator.add, (drive.score for drive in drives))
    rates = [drive.fps for drive in drives if drive.fps is not None]
    outcome = total.result(run, command=command, seconds=seconds, fps=sum(rates) / len(rates) if rates else None)
    outcome["incomplete"] = list(dict.fromkeys(drive.incomplete for drive in drives if drive.incomplete))
    outcome["drives"] = [_row(drive, run) for drive in drives]
    return outcome


def _row(drive: Drive, run: Run) -> dict[str, Any]:
    numbers = drive.score.result(run, command="", seconds=0, fps=drive.fps)
    where = {
        "bag": drive.bag,
        "camera": drive.camera.name,
        "image_topic": drive.camera.image_topic,
        "label_topic": drive.label_topic,
        "incomplete": drive.incomplete,
    }
    return where | {key: value for key, value in numbers.items() if key not in _OF_THE_RUN}


def warn_incomplete(bag: Bag, told: set[str]) -> None:
    """One line on stderr for a bag that was found broken, once each; `told` remembers."""
    if bag.broken and bag.broken not in told:
        print(f"warning: {bag.broken}", file=sys.stderr)
        told.add(bag.broken)


def conclude(outcome: dict[str, Any], json_path: str | None, report: str | None, min_miou: float | None) -> int | None:
    """Write the JSON, print the table, and give the exit status: 1 with one line where the mIoU is too low."""
    if json_path:
        write_text(Path(json_path), json.dumps(outcome, indent=2) + "\n")
    print(table(outcome))
    if report:
        print(f"report  {Path(report) / 'report.html'}")
    miou = outcome["miou"]
    if min_miou is not None and (miou is None or miou < min_miou):
        got = "no frame with ground truth was labelled" if miou is None else f"mIoU {miou:.4f}"
        print(f"failed: {got}, --min-miou asks for {min_miou:g}", file=sys.stderr)
        return 1
    return None
