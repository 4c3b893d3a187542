"""The report of a drive, built while its frames pass: overlay.mp4, contact_sheet.png, frames.csv, report.html."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtaclip_core.files import prepare_file, write_bytes, write_text
from mtaclip_core.metrics.report import (
    Headline,
    Picture,
    Section,
    class_bars,
    class_table,
    confusion_heatmap,
    figure_uri,
    image_uri,
    percent,
    write_report,
)
from mtaclip_ros.drive_score import DriveScore, FrameRecord, Scored
from mtaclip_ros.report_pictures import FlickerMap, describe, flicker_bars, row, sheet, timeline, video_frame
from mtaclip_ros.report_video import Video

VIDEO, SHEET, PAGE, FRAMES = "overlay.mp4", "contact_sheet.png", "report.html", "frames.csv"
_SHEET_ROWS = 6
_WORST_ROWS = 4
_CELL = 360
_FLICKER = (
    "Share of the pixels whose label changed from one frame to the next although their true class did not: what the "
    "labels change beyond the scene. A label that is steadily wrong does not count here."
)


class DriveReport:
    """Takes the frames of a drive one by one, keeps few of them, and writes the files at the end.

    Args:
        folder: made where it is missing.
        score: what counts the frames; read again by `finish`.
        expected: frames that will come, to spread the contact sheet over the drive.
        rate: of the drive, frames per second.
        video: write overlay.mp4.

    Raises:
        UserError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, score: DriveScore, *, expected: int, rate: float, video: bool = True) -> None:
        prepare_file(folder / PAGE)
        self._folder, self._score = folder, score
        self._video = Video(folder / VIDEO, rate, score.space) if video else None
        self._due = sorted({round((i + 0.5) * expected / _SHEET_ROWS) for i in range(_SHEET_ROWS)})
        self._sheet: list[np.ndarray] = []
        self._heat = FlickerMap()
        self._worst: dict[int, tuple[float, np.ndarray, FrameRecord]] = {}

    def close(self) -> None:
        """To be called in the end, finished or not: leaves no partial video."""
        if self._video:
            self._video.discard()

    def add(self, image: np.ndarray, scored: Scored) -> None:
        """A labelled frame; `image` is (H, W, 3) uint8 RGB."""
        record, space = scored.record, self._score.space
        if self._video:
            self._video.add(video_frame(image, scored.prediction, record, space))
        if self._due and record.index >= self._due[0]:
            self._due = [i for i in self._due if i > record.index]
            self._sheet.append(row(image, scored, space, _CELL))
        elif not self._sheet:
            self._fallback = (image, scored)  # a drive so short or so full of drops that no due frame comes
        self._heat.add(image, self._score.flicker.restless)
        if record.miou is not None:
            self._keep_worst(image, scored, record.miou)

    def add_missing(self, image: np.ndarray | None, record: FrameRecord) -> None:
        """A frame without a label; `image` None where its message held no picture."""
        if self._video and image is not None:
            self._video.add(video_frame(image, None, record, self._score.space))

    def finish(self, result: Mapping[str, Any], title: str) -> list[Path]:
        """Write all files.

        Args:
            result: the JSON of the run.

        Returns:
            The paths written: the page, the table of frames, the contact sheet, the video.
        """
        written = [self._folder / PAGE, self._folder / FRAMES]
        frames, space = self._score.frames, self._score.space
        _write_frames(self._folder / FRAMES, frames)
        if not self._sheet and self._score.count("labelled"):
            self._sheet.append(row(*self._fallback, space, _CELL))
        contact = sheet(self._sheet, space) if self._sheet else None
        if contact is not None:
            _write_png(self._folder / SHEET, contact)
            written.append(self._folder / SHEET)
        if self._video:
            self._video.finish()
            if (self._folder / VIDEO).is_file():
                written.append(self._folder / VIDEO)
        write_report(
            self._folder / PAGE,
            title,
            f"{result['model']['name']} · {result['backend']} {result['precision']} · "
            f"{result['frames_in']} frames, from {frames[0].seconds:.1f} to {frames[-1].seconds:.1f} s of the bag",
            headline(result),
            [*incomplete_section(result), *self._sections(contact)],
            {"command": result["command"], "model hash": result["model"]["hash"]},
        )
        return written

    def _sections(self, contact: np.ndarray | None) -> list[Section]:
        score, with_truth = self._score, self._score.scored > 0
        marks = "Marks at the foot are frames without a label." if score.count("labelled") < len(score.frames) else ""
        about = f"Every frame at its time in the bag, a gap where one has no label. {marks}".strip()
        sections = []
        if contact is not None:
            text = "Frames spread evenly over the drive."
            text += f" The whole drive is in {VIDEO} beside this page." if self._video else ""
            sections.append(Section("Contact sheet", text, pictures=(Picture(image_uri(contact), ""),), wide=True))
        figure = Picture(figure_uri(timeline(score.frames, with_truth)), about)
        sections.append(Section("Timeline", pictures=(figure,), wide=True))
        if with_truth:
            charts = (class_bars(score.confusion.iou(), score.space), confusion_heatmap(score.confusion))
            sections.append(Section("Classes", table=class_table(score.confusion), pictures=charts))
            by_class = score.flicker.by_class()
            if score.flicker.share is not None:
                chart = Picture(figure_uri(flicker_bars(by_class, score.space)), "")
                where = Picture(figure_uri(self._heat.figure()), "Where labels flicker, over the last such frame.")
                sections.append(Section("Label flicker", _FLICKER, pictures=(chart, where)))
        if self._worst:
            worst = sorted(self._worst.values(), key=lambda kept: kept[0])
            rows = tuple(Picture(image_uri(r), describe(record)) for _, r, record in worst)
            text = "Lowest mIoU, at most one of any second."
            sections.append(Section("Worst frames", text, pictures=rows, wide=True))
        return sections

    def _keep_worst(self, image: np.ndarray, scored: Scored, miou: float) -> None:
        second = int(scored.record.seconds)
        if second in self._worst:
            if miou >= self._worst[second][0]:
                return
        elif len(self._worst) >= _WORST_ROWS:
            best = max(self._worst, key=lambda s: self._worst[s][0])
            if miou >= self._worst[best][0]:
                return
            del self._worst[best]
        self._worst[second] = (miou, row(image, scored, self._score.space, _CELL), scored.record)


def headline(result: Mapping[str, Any]) -> list[Headline]:
    """The cards of a run's JSON."""
    latency, bad = result["latency_ms"], sum(result["frames_bad"].values())
    present = sum(v is not None for v in result["per_class"].values())
    cards = []
    if result["miou"] is not None:
        cards.append(Headline("mIoU", percent(result["miou"]), f"% over {present} classes, {result['images']} frames"))
    flicker = result["flicker"]
    if flicker["share"] is not None:
        cards.append(Headline("label flicker", f"{100 * flicker['share']:.2f}", "% of steady pixels, frame to frame"))
    elif flicker["label_change"] is not None:
        cards.append(Headline("label change", percent(flicker["label_change"]), "% of pixels, frame to frame"))
    cards += [
        Headline("labelled", str(result["frames_labelled"]), f"of {result['frames_in']} frames"),
        Headline("dropped", str(result["frames_dropped"]), f"frames; {bad} bad"),
        Headline("latency p50", _milliseconds(latency["p50"]), "ms"),
        Headline("latency p99", _milliseconds(latency["p99"]), "ms"),
        Headline("rate", "–" if result["fps"] is None else f"{result['fps']:.1f}", "labels per second"),
    ]
    return cards


def incomplete_section(result: Mapping[str, Any]) -> list[Section]:
    """What is missing of the bags, where anything is."""
    lines = result["incomplete"]
    return [Section("Incomplete", "; ".join(lines) + ".")] if lines else []


def _write_frames(path: Path, frames: Sequence[FrameRecord]) -> None:
    """One line per frame with all that is known of it, for spreadsheets and for comparing two runs."""
    names = [f.name for f in fields(FrameRecord)]
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(names)
    for frame in frames:
        values = [getattr(frame, name) for name in names]
        rows.writerow([round(value, 6) if isinstance(value, float) else value for value in values])
    write_text(path, text.getvalue())


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _write_png(path: Path, image: np.ndarray) -> None:
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_bytes(path, data.tobytes())
