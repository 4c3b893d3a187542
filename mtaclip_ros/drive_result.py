"""Several drives (bags, cameras) judged as one: the JSON of `replay` and `evaluate_live`, and the limits CI sets."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtaclip_core.cli import UserError
from mtaclip_core.files import write_text
from mtaclip_core.labels import LabelSpace
from mtaclip_ros.bag_reader import Bag
from mtaclip_ros.drive_arguments import check_min_miou
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


def check_bags(bags: Sequence[Bag], cameras: Sequence[Camera], min_miou: float | None, told: set[str]) -> None:
    """Before the work starts: every camera in every bag, and ground truth where a mIoU is asked for; warn as below.

    Raises:
        UserError: something is not there.
    """
    for bag in bags:
        for camera in cameras:
            camera.check(bag)
        warn_incomplete(bag, told)
    check_min_miou(min_miou, any(camera.truth(bag) for bag in bags for camera in cameras))


def scores_of(
    model: LabelSpace, bags: Sequence[Bag], cameras: Sequence[Camera]
) -> dict[tuple[Bag, Camera], DriveScore]:
    """A new score for each camera of each bag.

    Raises:
        UserError: the classes of a ground truth are not there, cannot be joined with the model's, or differ from those
            of the others.
    """
    scores = {}
    for bag, camera in itertools.product(bags, cameras):
        truth = camera.truth(bag)
        scores[bag, camera] = DriveScore(model, None if truth is None else bag.classes(truth))
    spaces = {score.space: score.space.name for score in scores.values() if score.truth}
    if len(spaces) > 1:
        names = ", ".join(spaces.values())
        raise UserError(f"the ground truths hold different classes ({names}): judge such bags one at a time")
    return scores


def total_of(drives: Sequence[Drive]) -> DriveScore:
    """All frames of drives whose scores `scores_of` made."""
    return functools.reduce(operator.add, (drive.score for drive in drives))


def combined(drives: Sequence[Drive], run: Run, *, command: str, seconds: float) -> dict[str, Any]:
    """The JSON of a run (CONTRACTS.md): the numbers over all frames, and under `drives` those of each drive."""
    total = total_of(drives)
    rates = [drive.fps for drive in drives if drive.fps is not None]
    outcome = total.result(run, command=command, seconds=seconds, fps=sum(rates) / len(rates) if rates else None)
    # What is missing of a bag is known best when its last camera has been read.
    outcome["incomplete"] = list({drive.bag: drive.incomplete for drive in drives if drive.incomplete}.values())
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
