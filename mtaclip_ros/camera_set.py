"""All cameras of a node on one model: one worker thread, a mailbox slot for each, waiting frames in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node

from mtaclip_core.labels import LabelSpace
from mtaclip_ros.camera_line import Arrival, CameraLine
from mtaclip_ros.engine import Engine, EngineDown
from mtaclip_ros.frame_worker import FrameWorker
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.pipeline import segment_together


class CameraSet:
    """Lives from configure to cleanup; listens between `start` and `stop`.

    Args:
        node: owner of everything made here.
        parameters: gives the current values.
        engine: the loaded model; not closed here.
        space: its classes.

    Raises:
        UserError: as `CameraLine`.
    """

    def __init__(self, node: Node, parameters: Callable[[], Parameters], engine: Engine, space: LabelSpace) -> None:
        self._engine = engine
        self.lines: list[CameraLine] = []
        wanted = parameters()
        try:
            for camera in wanted.sources:
                self.lines.append(CameraLine(node, parameters, camera, engine, space, self._submit))
        except Exception:
            self._close_lines()
            raise
        self._worker: FrameWorker[Arrival] = FrameWorker(
            self._process,
            self._failed,
            lambda arrival: arrival.line.statistics.count("dropped"),
            wanted.model_max_batch,
        )

    def start(self) -> None:
        """Raises UserError as `ImageInput.start`; nothing listens then."""
        self._worker.start()
        try:
            for line in self.lines:
                line.start()
        except Exception:
            self.stop()
            raise

    def stop(self) -> None:
        """No frame is in work when it returns, and none waits."""
        for line in self.lines:
            line.stop()
        self._worker.stop()

    def close(self) -> None:
        self.stop()
        self._close_lines()

    def _close_lines(self) -> None:
        for line in self.lines:
            line.close()

    def _submit(self, arrival: Arrival) -> None:
        if self._engine.ready:
            self._worker.submit(arrival, arrival.line.name)
        else:  # a frame that waited for a new model would be stale
            arrival.line.statistics.count("dropped")

    def _process(self, arrivals: list[Arrival]) -> None:
        decoded = [(arrival, picture) for arrival in arrivals if (picture := arrival.line.decode(arrival)) is not None]
        if not decoded:
            return
        start = time.monotonic()
        try:
            found = segment_together(self._engine, [picture for _, picture in decoded])
        except EngineDown:
            for arrival, _ in decoded:
                arrival.line.statistics.count("dropped")
            return
        except Exception as error:
            self._failed([arrival for arrival, _ in decoded], error)
            self._worker.discard()
            return
        seconds = time.monotonic() - start
        for (arrival, picture), segmentation in zip(decoded, found, strict=True):
            arrival.line.deliver(arrival, picture, segmentation, seconds)

    def _failed(self, arrivals: list[Arrival], error: Exception) -> None:
        for arrival in arrivals:
            arrival.line.failed(error)
