"""Scoring a drive frame by frame, offline or live: the counts, the per-frame records and the JSON of CONTRACTS."""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace, common_space
from mtaclip_core.metrics.confusion import Confusion
from mtaclip_ros.flicker import Flicker

Outcome = Literal["labelled", "dropped", "bad"]


@dataclass(frozen=True)
class FrameRecord:
    """What became of one frame of the drive.

    Attributes:
        index: position in the bag, from 0.
        seconds: of recorded time, after the first message of the bag; what `--from` and `--to` count.
        outcome: `labelled`, `dropped` (no label came) or `bad` (no picture in the message).
        miou: over the classes of this frame, None without ground truth or label.
        latency_ms: None without a label.
        label_crc32: of the label's bytes in the model's ids, None without a label: equal labels have equal ones.
        flicker, label_change: against the frame before, 0-1 as `Flicker` defines them; None without a pair.
    """

    index: int
    seconds: float
    outcome: Outcome
    miou: float | None = None
    latency_ms: float | None = None
    label_crc32: int | None = None
    flicker: float | None = None
    label_change: float | None = None


@dataclass(frozen=True)
class Run:
    """What ran, for the JSON: the model's name and hash, backend and arithmetic precision."""

    model: str
    model_hash: str
    backend: str
    precision: str


@dataclass(frozen=True)
class Scored:
    """One frame in the common space: both (H, W) uint8 ids of it, `truth` None without ground truth."""

    prediction: np.ndarray
    truth: np.ndarray | None
    record: FrameRecord


@dataclass
class DriveScore:
    """Counts a drive frame by frame; frames come in the order of the bag.

    Args:
        model: the classes whose ids the predictions hold.
        truth: the classes of the ground truth, None without.

    Attributes:
        space: where both are compared, the coarser of the two.
        frames: one record per frame so far.
        confusion, flicker: of all frames so far, over `space`.
        scored: frames with a label and ground truth.

    Raises:
        UserError: the two spaces cannot be joined.
    """

    model: LabelSpace
    truth: LabelSpace | None
    frames: list[FrameRecord] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.space = self.model
        self._of_model = self._of_truth = np.arange(256, dtype=np.uint8)
        if self.truth is not None:
            self.space, self._of_model, self._of_truth = common_space(self.model, self.truth)
        self.confusion = Confusion(self.space)
        self.flicker = Flicker(self.space)
        self.scored = 0

    def add(self, seconds: float, prediction: np.ndarray, truth: np.ndarray | None, latency_ms: float) -> Scored:
        """Count a labelled frame.

        Args:
            seconds: as in `FrameRecord`.
            prediction: (H, W) uint8, ids of `model`.
            truth: (H, W) uint8, ids of `truth`, or None for a frame without ground truth.

        Raises:
            UserError: label and ground truth differ in size.
        """
        predicted = self._of_model[prediction]
        actual = None if truth is None else self._of_truth[truth]
        miou = None
        if actual is not None:
            if actual.shape != predicted.shape:
                raise UserError(
                    f"frame {len(self.frames)}: its ground truth is {_hxw(actual)}, its label {_hxw(predicted)}; "
                    f"image and ground truth of a bag must be of one size"
                )
            one = Confusion(self.space)
            one.update(actual, predicted)
            miou = one.miou()
            self.confusion += one
            self.scored += 1
        checksum = zlib.crc32(np.ascontiguousarray(prediction).data)
        flicker, change = self.flicker.add(predicted, actual)
        record = self._record(seconds, "labelled", miou, latency_ms, checksum, flicker, change)
        return Scored(predicted, actual, record)

    def add_dropped(self, seconds: float) -> FrameRecord:
        """Count a frame for which no label came."""
        self.flicker.interrupt()
        return self._record(seconds, "dropped")

    def add_bad(self, seconds: float, reason: str) -> FrameRecord:
        """Count a frame whose message holds no usable picture."""
        self.bad[reason] = self.bad.get(reason, 0) + 1
        self.flicker.interrupt()
        return self._record(seconds, "bad")

    def __add__(self, other: DriveScore) -> DriveScore:
        """Both drives as one; where only one of them has ground truth, its classes are those of the sum.

        Raises:
            ValueError: their ground truths are of different classes.
        """
        if not isinstance(other, DriveScore):
            return NotImplemented
        first, second = (self, other) if self.scored or not other.scored else (other, self)
        same = first.space == second.space
        if second.scored and not same:
            raise ValueError(f"cannot merge scores over {first.space.name} and {second.space.name}")
        both = DriveScore(first.model, first.truth, self.frames + other.frames)
        both.bad = {r: self.bad.get(r, 0) + other.bad.get(r, 0) for r in {**self.bad, **other.bad}}
        both.scored = first.scored + second.scored
        both.confusion = first.confusion + second.confusion if same else first.confusion
        both.flicker = first.flicker + second.flicker if same else first.flicker
        return both

    def count(self, outcome: Outcome) -> int:
        return sum(f.outcome == outcome for f in self.frames)

    def result(self, run: Run, *, command: str, seconds: float, fps: float | None) -> dict[str, Any]:
        """The numbers of `replay` and `evaluate_live` for their JSON, as plain values.

        Args:
            command: as `command_line` gives it.
            seconds: of the whole run.
            fps: labels per second while labels came.
        """
        iou = self.confusion.iou()
        latencies = [f.latency_ms for f in self.frames if f.latency_ms is not None]
        return {
            "miou": self.confusion.miou(),
            "per_class": iou,
            "classes": self.space.names,
            "images": self.scored,
            "model": {"name": run.model, "hash": run.model_hash},
            "backend": run.backend,
            "precision": run.precision,
            "command": command,
            "seconds": round(seconds, 3),
            "frames_in": len(self.frames),
            "frames_labelled": self.count("labelled"),
            "frames_dropped": self.count("dropped"),
            "frames_bad": dict(self.bad),
            "flicker": self.flicker.result(),
            "latency_ms": percentiles(latencies),
            "fps": None if fps is None else round(fps, 3),
        }

    def _record(self, seconds: float, outcome: Outcome, *values: Any) -> FrameRecord:
        record = FrameRecord(len(self.frames), seconds, outcome, *values)
        self.frames.append(record)
        return record


def percentiles(milliseconds: Sequence[float]) -> dict[str, float | None]:
    """{p50, p90, p99} of times in ms, None each where there is none."""
    if not milliseconds:
        return dict.fromkeys(("p50", "p90", "p99"))
    values = np.percentile(np.asarray(milliseconds), (50, 90, 99))
    return {name: round(float(v), 3) for name, v in zip(("p50", "p90", "p99"), values, strict=True)}


def command_line(module: str, argv: Sequence[str]) -> str:
    """The command as it can be typed again."""
    return shlex.join(["python", "-m", module, *argv])


def table(result: Mapping[str, object]) -> str:
    """The result's headline numbers as an aligned two-column text table."""
    latency = result["latency_ms"]
    bad = result["frames_bad"]
    assert isinstance(latency, Mapping) and isinstance(bad, Mapping)
    flicker = result["flicker"]
    assert isinstance(flicker, Mapping)
    rows = [
        ("mIoU", _number(result["miou"], "{:.4f}")),
        ("label flicker", _number(flicker["share"], "{:.2%}")),
        ("frames in", str(result["frames_in"])),
        ("frames labelled", str(result["frames_labelled"])),
        ("frames dropped", str(result["frames_dropped"])),
        ("frames bad", ", ".join(f"{n} {reason}" for reason, n in bad.items()) or "0"),
        ("latency p50", _number(latency["p50"], "{:.1f} ms")),
        ("latency p90", _number(latency["p90"], "{:.1f} ms")),
        ("latency p99", _number(latency["p99"], "{:.1f} ms")),
        ("fps", _number(result["fps"], "{:.1f}")),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _number(value: object, form: str) -> str:
    return "-" if value is None else form.format(value)


def _hxw(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"
