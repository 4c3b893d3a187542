"""From a camera message to its labels: the one object that the node and the offline replay both use. No ROS here."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtaclip_core.labels import UNLABELLED
from mtaclip_core.runtime.segmenter import Segmentation, Segmenter
from mtaclip_ros.image_codec import Frame, decode


@dataclass(frozen=True)
class FrameResult:
    """What became of one message.

    Attributes:
        frame: the decoded picture; may be a view of the message.
        segmentation: label and confidence of the frame's size.
        decode_seconds, segment_seconds: time of the two stages.
    """

    frame: Frame
    segmentation: Segmentation
    decode_seconds: float
    segment_seconds: float


class Pipeline:
    """decode -> segment -> confidence floor, for messages of rclpy and of `rosbags` alike.

    Args:
        segmenter: the loaded model; whoever loaded it closes it.
        confidence_floor: pixels whose confidence (0-255) is below become 255 in the label; 0 changes nothing.
    """

    def __init__(self, segmenter: Segmenter, confidence_floor: int = 0) -> None:
        self.segmenter = segmenter
        self.confidence_floor = confidence_floor

    def process(self, message: Any) -> FrameResult:
        """Segment one `sensor_msgs/Image` or `sensor_msgs/CompressedImage`.

        Raises:
            BadImage: the message holds no usable picture.
        """
        start = time.perf_counter()
        frame = decode(message)
        decoded = time.perf_counter()
        segmentation = self.segmenter.segment([frame.pixels], frame.channel_order)[0]
        if self.confidence_floor > 0:
            certain = segmentation.confidence >= self.confidence_floor
            label = np.where(certain, segmentation.label, np.uint8(UNLABELLED))
            segmentation = Segmentation(label, segmentation.confidence)
        return FrameResult(frame, segmentation, decoded - start, time.perf_counter() - decoded)
