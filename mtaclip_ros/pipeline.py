"""From a camera message to its labels: the one object that the node and the offline replay both use. No ROS here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation
from mtaclip_ros.camera_region import Region
from mtaclip_ros.image_codec import Frame, Scratch, decode


class Segments(Protocol):
    """A `Segmenter`, or what stands before one."""

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]: ...


@dataclass(frozen=True)
class Decoded:
    """A message that is ready for the model.

    Attributes:
        frame: the whole picture; may be a view of the message.
        cut: the part of it that is segmented.
        seconds: time that decoding took.
    """

    frame: Frame
    cut: Frame
    seconds: float


@dataclass(frozen=True)
class FrameResult:
    """What became of one message.

    Attributes:
        frame: the decoded picture; may be a view of the message.
        segmentation: label and confidence of the frame's size.
        decode_seconds, segment_seconds: time of the two stages; the second is that of the batch and of `finish`.
    """

    frame: Frame
    segmentation: Segmentation
    decode_seconds: float
    segment_seconds: float


class Pipeline:
    """One camera's decode -> segment -> confidence floor, for messages of rclpy and of `rosbags` alike.

    `process` does all for one message. Cameras that share a model call the three stages: `decode` of each, one
    `segment_together`, `finish` of each.

    Args:
        segmenter: the loaded model; whoever loaded it closes it.
        confidence_floor: pixels whose confidence (0-255) is below become 255 in the label; 0 changes nothing.
        region: the part of the picture that is segmented; 255 elsewhere.
        scratch: memory that is reused, so that a result's frame is valid until the next `decode`; None takes fresh
            memory for each.
        wait: as `image_codec.decode` has it.
    """

    def __init__(
        self,
        segmenter: Segments,
        confidence_floor: int = 0,
        region: Region | None = None,
        scratch: Scratch | None = None,
        wait: bool = True,
    ) -> None:
        self.segmenter = segmenter
        self.confidence_floor = confidence_floor
        self.region = Region() if region is None else region
        self._scratch = scratch
        self._wait = wait

    def process(self, message: Any) -> FrameResult:
        """Segment one `sensor_msgs/Image` or `sensor_msgs/CompressedImage`.

        Raises:
            BadImage: the message holds no usable picture.
        """
        decoded = self.decode(message)
        start = time.perf_counter()
        segmentation = segment_together(self.segmenter, [decoded])[0]
        return self.finish(decoded, segmentation, time.perf_counter() - start)

    def decode(self, message: Any) -> Decoded:
        """The picture of a message and the part of it that is segmented. Raises BadImage as `process` does."""
        start = time.perf_counter()
        frame = decode(message, self._scratch, self._wait)
        cut = self.region.cut(frame)
        return Decoded(frame, cut, time.perf_counter() - start)

    def finish(self, decoded: Decoded, segmentation: Segmentation, segment_seconds: float) -> FrameResult:
        """Lay the result of the part that was segmented into the whole picture, and apply the floor."""
        start = time.perf_counter()
        height, width = decoded.frame.pixels.shape[:2]
        whole = self.region.restore(segmentation, height, width)
        if self.confidence_floor > 0:
            # 255 where the confidence is below, 0 elsewhere
            uncertain = cv2.threshold(whole.confidence, self.confidence_floor - 1, 255, cv2.THRESH_BINARY_INV)[1]
            whole = Segmentation(np.bitwise_or(whole.label, uncertain), whole.confidence)
        return FrameResult(decoded.frame, whole, decoded.seconds, segment_seconds + time.perf_counter() - start)


def segment_together(segmenter: Segments, batch: Sequence[Decoded]) -> list[Segmentation]:
    """Segment frames of several cameras: one call for those of one channel order, as nearly always all are.

    Returns:
        A segmentation of each `cut`, in the order of the batch.
    """
    results: dict[int, Segmentation] = {}
    orders: tuple[ChannelOrder, ...] = ("rgb", "bgr")
    for order in orders:
        rows = [row for row, decoded in enumerate(batch) if decoded.cut.channel_order == order]
        if rows:
            results.update(zip(rows, segmenter.segment([batch[row].cut.pixels for row in rows], order), strict=True))
    return [results[row] for row in range(len(batch))]
