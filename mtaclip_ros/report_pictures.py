"""Pictures of a scored drive: video frames, rows of a contact sheet, the legend, the timeline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtaclip_core.drawing import caption, colourise, overlay
from mtaclip_core.labels import UNLABELLED, LabelSpace
from mtaclip_ros.drive_score import FrameRecord, Scored

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WRONG = (230, 40, 40)
_LINE = 18
_MAP_WIDTH = 480
_TOWER = 4  # heights of a width


def fit(image: np.ndarray, width: int, nearest: bool = False) -> np.ndarray:
    """The picture at another width, its shape kept; at less than that where it would be a tower."""
    width = max(1, min(width, round(_TOWER * width * image.shape[1] / image.shape[0])))
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = width < image.shape[1]
    linear = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST if nearest else linear)


def legend(space: LabelSpace, width: int) -> np.ndarray:
    """A strip of the given width with a swatch of every class's colour beside its name: (h, width, 3) uint8 RGB."""
    scale, places, x, y = 0.42, [], 6, 0
    for c in space.classes:
        step = 20 + cv2.getTextSize(c.name, _FONT, scale, 1)[0][0] + 12
        if x + step > width and x > 6:
            x, y = 6, y + _LINE
        places.append((c, x, y))
        x += step
    strip = np.full((y + _LINE + 6, width, 3), 24, np.uint8)
    for c, left, top in places:
        cv2.rectangle(strip, (left, top + 6), (left + 13, top + 18), c.colour, -1)
        cv2.rectangle(strip, (left, top + 6), (left + 13, top + 18), (200, 200, 200), 1)
        cv2.putText(strip, c.name, (left + 19, top + 16), _FONT, scale, (235, 235, 235), 1, cv2.LINE_AA)
    return strip


def errors(image: np.ndarray, scored: Scored) -> np.ndarray:
    """Where prediction and truth differ, in red over the greyed image; unlabelled ground truth is black."""
    assert scored.truth is not None
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 90
    wrong = scored.truth != scored.prediction
    grey[wrong] = grey[wrong] // 3 + (np.array(_WRONG, np.float32) * 2 / 3).astype(np.uint8)
    grey[scored.truth == UNLABELLED] = 0
    return grey


def describe(record: FrameRecord) -> str:
    """`frame 12   0.80 s   mIoU 71.3   43 ms`"""
    parts = [f"frame {record.index}", f"{record.seconds:.2f} s"]
    if record.outcome != "labelled":
        parts.append(record.outcome)
    if record.miou is not None:
        parts.append(f"mIoU {100 * record.miou:.1f}")
    if record.latency_ms is not None:
        parts.append(f"{record.latency_ms:.0f} ms")
    return "   ".join(parts)


def row(image: np.ndarray, scored: Scored, space: LabelSpace, width: int) -> np.ndarray:
    """image | ground truth | prediction | errors, each `width` pixels wide; image | prediction without ground truth."""
    prediction = fit(colourise(scored.prediction, space), width, nearest=True)
    cells = [caption(fit(image, width), describe(scored.record))]
    if scored.truth is not None:
        cells.append(caption(fit(colourise(scored.truth, space), width, nearest=True), "ground truth"))
    cells.append(caption(prediction, "prediction"))
    if scored.truth is not None:
        cells.append(caption(fit(errors(image, scored), width), "errors"))
    gap = np.full((cells[0].shape[0], 4, 3), 255, np.uint8)
    return np.hstack([part for cell in cells for part in (gap, cell)][1:])


def sheet(rows: Sequence[np.ndarray], space: LabelSpace) -> np.ndarray:
    """Rows one below the other on white, the legend at the end."""
    width = max(r.shape[1] for r in rows)
    parts: list[np.ndarray] = []
    for r in rows:
        parts.append(np.pad(r, ((0, 4), (0, width - r.shape[1]), (0, 0)), constant_values=255))
    return np.vstack([*parts, legend(space, width)])


def video_frame(image: np.ndarray, label: np.ndarray | None, record: FrameRecord, space: LabelSpace) -> np.ndarray:
    """The image under the label's colours with one line about the frame; the image alone where there is no label."""
    shown = image if label is None else overlay(image, label, space, 0.5)
    return caption(shown, describe(record))


def timeline(frames: Sequence[FrameRecord], with_truth: bool) -> Figure:
    """mIoU, flicker and latency of every frame over the time of the drive; dropped and bad frames as marks.

    Without ground truth the label change stands in the place of flicker, and there is no mIoU.
    """
    figure = Figure(figsize=(12, 7 if with_truth else 5))
    panels = figure.subplots(3 if with_truth else 2, 1, sharex=True, squeeze=False)[:, 0]
    if with_truth:
        _line(panels[0], frames, [f.miou for f in frames], "#2463b4")
        panels[0].set_ylabel("mIoU of the frame, %")
        panels[0].set_ylim(0, 102)
    restless = [f.flicker if with_truth else f.label_change for f in frames]
    _line(panels[-2], frames, restless, "#7048a8")
    panels[-2].set_ylim(bottom=0)
    panels[-2].set_ylabel("label flicker, %" if with_truth else "label change, %")
    latency = panels[-1]
    labelled = [f for f in frames if f.latency_ms is not None]
    latency.plot([f.seconds for f in labelled], [f.latency_ms for f in labelled], ".", color="#2b8a3e", ms=4)
    latency.set_ylim(bottom=0)
    latency.set_ylabel("latency, ms")
    latency.set_xlabel("seconds of the bag")
    for outcome, colour in (("dropped", "#e03131"), ("bad", "#f08c00")):
        at = [f.seconds for f in frames if f.outcome == outcome]
        if at:
            for panel in panels:
                low, high = panel.get_ylim()
                panel.vlines(at, low, low + 0.08 * (high - low), color=colour, lw=1.2, label=f"{outcome} ({len(at)})")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    if len(labelled) < len(frames):
        latency.legend(loc="upper right", fontsize=9, framealpha=0.9)
    figure.align_ylabels()
    return figure


def _line(panel: Axes, frames: Sequence[FrameRecord], shares: Sequence[float | None], colour: str) -> None:
    """Shares (0-1) in per cent; the line has a gap where a frame has none for want of a label, and only there.

    A frame that has a label and no number (ground truth that comes with one of ten frames) is passed over.
    """
    x: list[float] = []
    y: list[float] = []
    for frame, share in zip(frames, shares, strict=True):
        if share is not None or frame.outcome != "labelled":
            x.append(frame.seconds)
            y.append(math.nan if share is None else 100 * share)
    panel.plot(x, y, color=colour, lw=1.3, marker=".", ms=3)


def flicker_bars(per_class: Mapping[str, float | None], space: LabelSpace) -> Figure:
    """Horizontal bars of the flicker (0-1) of each true class in its colour; those that were never steady have none."""
    rows = [(c, share) for c in reversed(space.classes) if (share := per_class.get(c.name)) is not None]
    figure = Figure(figsize=(7, 0.9 + 0.3 * len(rows)))
    axes = figure.subplots()
    most = max((100 * share for _, share in rows), default=0.0) or 1.0
    for y, (c, share) in enumerate(rows):
        axes.barh(y, 100 * share, color=[v / 255 for v in c.colour], edgecolor="#333", linewidth=0.6)
        axes.text(100 * share + 0.01 * most, y, f"{100 * share:.2f}", va="center", fontsize=9)
    axes.set_title("Label flicker by true class", fontsize=11)
    axes.set_yticks(range(len(rows)), [c.name for c, _ in rows], fontsize=9)
    axes.set_xlim(0, 1.12 * most)
    axes.set_xlabel("% of the steady pixels")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


class FlickerMap:
    """Counts, for each place of the picture, the frames in which its label flickered; 480 pixels wide."""

    def __init__(self) -> None:
        self._sum: np.ndarray | None = None
        self._frames = 0

    def add(self, image: np.ndarray, restless: np.ndarray | None) -> None:
        """A frame: (H, W, 3) uint8 RGB, and (H, W) uint8 as `Flicker.restless`; one of another shape begins anew."""
        if restless is None:
            return
        share = fit(restless, _MAP_WIDTH).astype(np.float32) / 255
        if self._sum is None or self._sum.shape != share.shape:
            self._sum, self._frames = np.zeros_like(share), 0
        self._sum += share
        self._frames += 1
        self._image = fit(image, _MAP_WIDTH)

    def figure(self) -> Figure:
        """The share of frames as colour over the grey picture of the last one. Needs one frame at least."""
        assert self._sum is not None
        figure = Figure(figsize=(7, 5))
        axes = figure.subplots()
        axes.imshow(cv2.cvtColor(self._image, cv2.COLOR_RGB2GRAY), cmap="gray", vmin=0, vmax=255)
        heat = 100 * self._sum / self._frames
        top = max(1.0, float(np.percentile(heat, 99.5)))
        drawn = axes.imshow(heat, cmap="inferno", vmin=0, vmax=top, alpha=np.clip(3 * heat / top, 0, 0.85))
        figure.colorbar(drawn, ax=axes, orientation="horizontal", fraction=0.05, pad=0.04, label="% of the frames")
        axes.set_axis_off()
        return figure
