"""The reports of several drives, and the page above them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mtaclip_core.metrics.report import (
    Section,
    Table,
    class_bars,
    class_table,
    confusion_heatmap,
    percent,
    write_report,
)
from mtaclip_ros.bag_reader import Bag, Window
from mtaclip_ros.drive_cameras import Camera
from mtaclip_ros.drive_result import Drive, total_of
from mtaclip_ros.drive_score import DriveScore, percentiles
from mtaclip_ros.report import PAGE, DriveReport, headline, incomplete_section


def drive_names(drives: Sequence[tuple[Path, str]]) -> list[str]:
    """A name for the files of each (bag, camera), all different: `drive_front`, a second one `drive_front_2`."""
    names: list[str] = []
    for bag, camera in drives:
        path = Path(os.path.abspath(bag))  # `.` has a name too
        name = "_".join(filter(None, (path.stem if path.is_file() else path.name, camera)))
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        names.append(next(n for n in itertools.chain([name], numbered) if n not in names))
    return names


class Reports:
    """The reports of all drives: in `folder` itself for one drive, else in folders below it.

    Args:
        folder: None for no reports.
        bags, cameras: every camera in every bag makes a drive, cameras of one bag after one another.
        window: of each bag that is looked at.
        video: write overlay.mp4.
    """

    def __init__(
        self, folder: str | None, bags: Sequence[Bag], cameras: Sequence[Camera], window: Window, *, video: bool
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        pairs = [(bag, camera) for bag in bags for camera in cameras]
        names = drive_names([(bag.path, camera.name) for bag, camera in pairs])
        self._names = dict(zip([(id(b), c) for b, c in pairs], names if len(pairs) > 1 else [""], strict=True))
        self._window, self._video = window, video

    @contextmanager
    def open(self, bag: Bag, camera: Camera, score: DriveScore) -> Iterator[DriveReport | None]:
        """The report of one drive, to be finished in the block; None where none is wanted."""
        if self._folder is None:
            yield None
            return
        report = DriveReport(
            self._folder / self._names[id(bag), camera],
            score,
            expected=bag.expected(camera.image_topic, self._window),
            rate=max(1.0, bag.rate(camera.image_topic) / self._window.every),
            video=self._video,
        )
        try:
            yield report
        finally:
            report.close()

    def write_index(self, drives: Sequence[Drive], result: Mapping[str, Any], title: str) -> None:
        """Write the page with the numbers of all drives, and of each, where there are several.

        Args:
            drives: in the order of the constructor.
            result: the JSON of the run.
        """
        if self._folder is None or len(drives) < 2:
            return
        rows = tuple(_row(drive, name) for drive, name in zip(drives, self._names.values(), strict=True))
        columns = ("drive", "mIoU, %", "flicker, %", "frames", "dropped", "bad", "p50, ms", "p99, ms")
        text = "The numbers above are those of all frames together. Each drive has a page of its own."
        links = tuple(quote(f"{name}/{PAGE}") for name in self._names.values())
        write_report(
            self._folder / PAGE,
            f"{title} of {len(drives)} drives",
            f"{result['model']['name']} · {result['backend']} {result['precision']} · {result['frames_in']} frames",
            headline(result),
            [
                *incomplete_section(result),
                Section("Drives", text, table=Table(columns, rows, links)),
                *_classes(drives, list(self._names.values())),
            ],
            {"command": result["command"], "model hash": result["model"]["hash"]},
        )


def _classes(drives: Sequence[Drive], names: Sequence[str]) -> list[Section]:
    """What the classes score in all drives and in each; nothing without ground truth."""
    total = total_of(drives)
    if not total.scored:
        return []
    known = [(name, drive.score) for name, drive in zip(names, drives, strict=True) if drive.score.scored]
    table = class_table(total.confusion, {name: score.confusion.iou() for name, score in known})
    charts = (class_bars(total.confusion.iou(), total.space), confusion_heatmap(total.confusion))
    return [Section("Classes", "Of all drives together, then the IoU in each of them, in per cent.", table, charts)]


def _row(drive: Drive, name: str) -> tuple[str, ...]:
    score, flicker = drive.score, drive.score.flicker.share
    latency = percentiles([f.latency_ms for f in score.frames if f.latency_ms is not None])
    return (
        name,
        percent(score.confusion.miou()),
        "–" if flicker is None else f"{100 * flicker:.2f}",
        str(len(score.frames)),
        str(score.count("dropped")),
        str(score.count("bad")),
        *("–" if (value := latency[p]) is None else f"{value:.1f}" for p in ("p50", "p99")),
    )
