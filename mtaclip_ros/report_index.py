"""The reports of several drives, and the page above them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtaclip_core.metrics.report import Section, Table, percent, write_report
from mtaclip_ros.bag_reader import Bag, Window
from mtaclip_ros.drive_cameras import Camera
from mtaclip_ros.drive_result import Drive
from mtaclip_ros.drive_score import DriveScore, percentiles
from mtaclip_ros.report import PAGE, DriveReport, headline, incomplete_section


def drive_names(drives: Sequence[tuple[Path, str]]) -> list[str]:
    """A name for the files of each (bag, camera): `drive_front`; equal ones are numbered from the second on."""
    names = ["_".join(filter(None, (bag.stem if bag.is_file() else bag.name, camera))) for bag, camera in drives]
    seen: Counter[str] = Counter()
    folders = []
    for name in names:
        seen[name] += 1
        folders.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return folders


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
        columns = ("page", "mIoU", "flicker, %", "frames", "dropped", "bad", "p50, ms", "p99, ms")
        text = "Each drive has a page of its own, in the folder beside this one that the first column names."
        write_report(
            self._folder / PAGE,
            f"{title} of {len(drives)} drives",
            f"{result['model']['name']} · {result['backend']} {result['precision']} · {result['frames_in']} frames",
            headline(result),
            [*incomplete_section(result), Section("Drives", text, table=Table(columns, rows))],
            {"command": result["command"], "model hash": result["model"]["hash"]},
        )


def _row(drive: Drive, name: str) -> tuple[str, ...]:
    score, flicker = drive.score, drive.score.flicker.share
    latency = percentiles([f.latency_ms for f in score.frames if f.latency_ms is not None])
    return (
        f"{name}/{PAGE}",
        percent(score.confusion.miou()),
        "–" if flicker is None else f"{100 * flicker:.2f}",
        str(len(score.frames)),
        str(score.count("dropped")),
        str(score.count("bad")),
        *("–" if (value := latency[p]) is None else f"{value:.1f}" for p in ("p50", "p99")),
    )
