"""The way of one camera's frames through the node: input -> worker -> pipeline -> outputs, counted at every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.time import Time

from mtaclip_core.runtime.segmenter import Segmenter
from mtaclip_ros.frame_statistics import FrameStatistics, RateLimit
from mtaclip_ros.frame_worker import FrameWorker
from mtaclip_ros.image_codec import BadImage
from mtaclip_ros.image_input import ImageInput
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.pipeline import Pipeline
from mtaclip_ros.publishers import Outputs

_REPEAT_LINE = 10.0  # seconds between two log lines on the same kind of trouble


@dataclass(frozen=True)
class _Arrival:
    message: Any
    received: float


class CameraLine:
    """Lives from configure to cleanup; listens between `start` and `stop`.

    Args:
        node: owner of everything made here.
        parameters: gives the current values.
        segmenter: the loaded model; not closed here.
        topic: camera topic before remapping.
        prefix: what stands before the output names.
    """

    def __init__(
        self, node: Node, parameters: Callable[[], Parameters], segmenter: Segmenter, topic: str, prefix: str = "~/"
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._pipeline = Pipeline(segmenter)
        self._rate = RateLimit()
        self._last_lines: dict[str, float] = {}
        self.last_failure = ""
        self.statistics = FrameStatistics()
        self.input = ImageInput(node, parameters, self.statistics, self._receive, topic)
        self._outputs = Outputs(node, segmenter.space, prefix)
        self._worker: FrameWorker[_Arrival] = FrameWorker(self._process, self._failed)

    def start(self) -> None:
        self._worker.start()
        self.input.start()

    def stop(self) -> None:
        """No frame is in work when it returns, and none waits."""
        self.input.stop()
        self._worker.stop()

    def close(self) -> None:
        self.stop()
        self._outputs.close()

    def _receive(self, message: Any) -> None:
        if not self._rate.ready(self._parameters().max_rate):
            self.statistics.count("limited")
        elif self._worker.submit(_Arrival(message, time.monotonic())):
            self.statistics.count("dropped")

    def _process(self, arrival: _Arrival) -> None:
        parameters = self._parameters()
        self._pipeline.confidence_floor = parameters.confidence_floor
        header = arrival.message.header
        try:
            result = self._pipeline.process(arrival.message)
        except BadImage as bad:
            self.statistics.bad(bad.reason)
            self._explain(f"bad image ({bad.reason}) on {self.input.topic}", str(bad))
            return
        start = time.monotonic()
        try:
            self._outputs.publish(header, result, self.input.camera_info, parameters)
        except RuntimeError as error:  # RCLError: a reliable publisher under overload, or the program is ending
            self.statistics.count("publish_errors")
            if self._node.context.ok():
                self._explain("a label was not published", str(error))
            return
        end = time.monotonic()
        seconds = {
            "decode": result.decode_seconds,
            "segment": result.segment_seconds,
            "publish": end - start,
            "node": end - arrival.received,
        }
        if header.stamp.sec or header.stamp.nanosec:
            age = self._node.get_clock().now() - Time.from_msg(header.stamp)
            seconds["latency"] = age.nanoseconds * 1e-9
        self.statistics.labelled(seconds)

    def _failed(self, arrival: _Arrival, error: Exception) -> None:
        self.statistics.count("failed")
        self.last_failure = f"{type(error).__name__}: {error}"
        self._explain(f"a frame of {self.input.topic} failed", self.last_failure)

    def _explain(self, what: str, why: str) -> None:
        now = time.monotonic()
        if now - self._last_lines.get(what, -_REPEAT_LINE) >= _REPEAT_LINE:
            self._last_lines[what] = now
            self._node.get_logger().warning(f"{what}: {' '.join(why.split())}; counted in /diagnostics")
