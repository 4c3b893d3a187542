"""The way of one camera's frames through the node: input -> mailbox -> pipeline -> outputs, counted at every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace
from mtaclip_core.runtime.segmenter import Segmentation
from mtaclip_ros.camera_parameters import CameraParameters
from mtaclip_ros.camera_region import Region
from mtaclip_ros.diagnostics import CameraHealth
from mtaclip_ros.frame_statistics import FrameStatistics, RateLimit
from mtaclip_ros.image_codec import BadImage, Scratch
from mtaclip_ros.image_input import ImageInput
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.pipeline import Decoded, Pipeline, Segments
from mtaclip_ros.publishers import Outputs

_REPEAT_LINE = 10.0  # seconds between two log lines on the same kind of trouble


@dataclass(frozen=True)
class Arrival:
    """A message as it came from `line`'s camera; `received` is monotonic."""

    line: CameraLine
    message: Any
    received: float


class CameraLine:
    """Lives from configure to cleanup; listens between `start` and `stop`.

    Args:
        node: owner of everything made here.
        parameters: gives the current values.
        camera: the settings of this camera.
        segmenter: what the frames go to; not closed here.
        space: the model's classes.
        submit: takes every frame that keeps the rate, in the executor's thread.

    Raises:
        UserError: the topic, the region of interest, the mask or a `qos_overrides` parameter is wrong.
    """

    def __init__(
        self,
        node: Node,
        parameters: Callable[[], Parameters],
        camera: CameraParameters,
        segmenter: Segments,
        space: LabelSpace,
        submit: Callable[[Arrival], None],
    ) -> None:
        self.name = camera.name
        self._node = node
        self._parameters = parameters
        self._submit = submit
        try:
            region = Region.load(camera.roi, camera.mask)
        except UserError as error:
            raise UserError(f"{camera.setting('roi')}, {camera.setting('mask')}: {error}") from error
        self.pipeline = Pipeline(segmenter, region=region, scratch=Scratch(), wait=False)
        self._rate = RateLimit()
        self._last_lines: dict[str, float] = {}
        self._last_failure = ""
        self.statistics = FrameStatistics()
        setting = camera.setting("image")
        self.input = ImageInput(node, parameters, self.statistics, self._receive, camera.image, setting)
        self._outputs = Outputs(node, space, f"~/{camera.name}/" if camera.name else "~/")

    @property
    def health(self) -> CameraHealth:
        """What diagnostics tell."""
        statistics, made = self.statistics.snapshot(), dict(self._outputs.made)
        return CameraHealth(self.name, self.input.topic, statistics, self.input.trouble, self._last_failure, made)

    def start(self) -> None:
        self.input.start()

    def stop(self) -> None:
        self.input.stop()

    def close(self) -> None:
        self.stop()
        self._outputs.close()

    def decode(self, arrival: Arrival) -> Decoded | None:
        """The picture of a message; None when it has none, which is counted and told."""
        try:
            return self.pipeline.decode(arrival.message)
        except BadImage as bad:
            self.statistics.bad(bad.reason)
            self.explain(f"bad image ({bad.reason}) on {self.input.topic}", str(bad))
        except Exception as error:  # MemoryError, OpenCV's: this frame's fault and no other's
            self.failed(error)
        return None

    def deliver(self, arrival: Arrival, decoded: Decoded, segmentation: Segmentation, segment_seconds: float) -> None:
        """Publish what was found in a frame."""
        try:
            self._deliver(arrival, decoded, segmentation, segment_seconds)
        except RuntimeError as error:  # RCLError: a reliable publisher under overload, or the program is ending
            self.statistics.count("publish_errors")
            if self._node.context.ok():
                self.explain(f"a label of {self.input.topic} was not published", str(error))
        except Exception as error:  # MemoryError and the like
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Count a frame that was lost to a fault."""
        self.statistics.count("failed")
        self._last_failure = " ".join(f"{type(error).__name__}: {error}".split())
        self.explain(f"a frame of {self.input.topic} failed", self._last_failure)

    def explain(self, what: str, why: str) -> None:
        """One line in the log; a repeated `what` is told every 10 s."""
        now = time.monotonic()
        if now - self._last_lines.get(what, -_REPEAT_LINE) >= _REPEAT_LINE:
            self._last_lines[what] = now
            self._node.get_logger().warning(f"{what}: {' '.join(why.split())}; counted in /diagnostics")

    def _receive(self, message: Any) -> None:
        stamp = message.header.stamp
        if self.statistics.stamp(stamp.sec + 1e-9 * stamp.nanosec) == "back":
            self.explain(f"stamps go back on {self.input.topic}", f"now {stamp.sec}.{stamp.nanosec:09d}")
        if "\ufffd" in message.header.frame_id:  # what rclpy makes of bytes that are no UTF-8
            self.statistics.count("garbled_ids")
            self.explain(
                f"frame_id is not UTF-8 on {self.input.topic}", f"labels have {message.header.frame_id[:60]!r}"
            )
        if self._rate.ready(self._parameters().max_rate_of(self.name)):
            self._submit(Arrival(self, message, time.monotonic()))
        else:
            self.statistics.count("limited")

    def _deliver(self, arrival: Arrival, decoded: Decoded, segmentation: Segmentation, segment_seconds: float) -> None:
        parameters = self._parameters()
        self.pipeline.confidence_floor = parameters.confidence_floor
        header = arrival.message.header
        start = time.monotonic()
        result = self.pipeline.finish(decoded, segmentation, segment_seconds)
        self._outputs.publish(header, result, self.input.camera_info, parameters)
        end = time.monotonic()
        seconds = {
            "decode": decoded.seconds,
            "segment": segment_seconds,
            "publish": end - start,
            "node": end - arrival.received,
            "own": end - arrival.received - segment_seconds,
        }
        if header.stamp.sec or header.stamp.nanosec:
            now = self._node.get_clock().now().nanoseconds
            seconds["latency"] = (now - header.stamp.sec * 10**9 - header.stamp.nanosec) * 1e-9
        self.statistics.labelled(seconds)
