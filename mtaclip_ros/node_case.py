"""One measurement of `node_benchmark`: a camera, subscribers, and the real node between them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2

from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_ros.driven_node import IMAGE_TOPIC, DrivenNode
from mtaclip_ros.frame_statistics import STAGES
from mtaclip_ros.image_codec import fill

_WARM_UP = 3
_JPEG_QUALITY = 90
_RESEND = 0.5  # seconds


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        model: bundle, None for one that costs nothing.
        height, width: of the images.
        encoding: of raw images; `jpeg` for `sensor_msgs/CompressedImage`.
        rate: images a second; None: each is sent when the one before is labelled.
        frames: how many are sent.
        overlay: someone subscribes to the overlay, beside label and confidence.
    """

    model: str | None
    height: int
    width: int
    encoding: Literal["rgb8", "bgr8", "jpeg"]
    rate: float | None
    frames: int
    overlay: bool = False

    def __str__(self) -> str:
        rate = "" if self.rate is None else f" {self.rate:g} Hz"
        return f"{self.model or 'constant'} {self.encoding} {self.height}x{self.width}{rate}"


@dataclass(frozen=True)
class Measured:
    """What came of a case.

    Attributes:
        sent, received, labelled: frames; received are those that the node took from its subscription.
        lost: on the way, as far as the middleware tells.
        overlays: that were made.
        cpu_ms: processor time of the node for each frame that was sent, all threads together: with the middleware's,
            which bring the images in, and with the model's.
        stages: time in ms of `frame_statistics.STAGES`, p50 and p99 of the last 300 frames.
        seconds: that sending took.
    """

    case: Case
    sent: int
    received: int
    labelled: int
    lost: int
    overlays: int
    cpu_ms: float
    stages: Mapping[str, Mapping[str, float]]
    seconds: float

    @property
    def replaced(self) -> int:
        """Frames that a newer one replaced: in the mailbox, or in the subscription's queue of one."""
        return self.sent - self.labelled - self.lost

    @property
    def own_ms(self) -> float | None:
        """The node's median time without inference; None at a rate, where frames wait, and where none was labelled."""
        return None if self.case.rate is not None or "own" not in self.stages else self.stages["own"]["p50"]


def measure(case: Case) -> Measured:
    """Run the node, send the frames of a case, and read what `/diagnostics` tells of them.

    Raises:
        UserError: the node does not start, or does not answer.
    """
    parameters: dict[str, object] = {"image_transport": "compressed" if case.encoding == "jpeg" else "raw"}
    with DrivenNode(case.model, parameters) as driven:
        camera = _Camera(driven, case)
        camera.warm_up()
        before = driven.settled()
        worked, refused = driven.cpu_seconds(), camera.refused
        seconds = camera.send()
        worked = driven.cpu_seconds() - worked
        told = driven.settled()
    stages = {
        stage: {name: value for name in ("p50", "p99") if (value := told.milliseconds(stage, name)) is not None}
        for stage in STAGES
    }
    return Measured(
        case=case,
        sent=case.frames - (camera.refused - refused),
        received=told.count("received") - before.count("received"),
        labelled=told.count("labelled") - before.count("labelled"),
        lost=told.count("lost") - before.count("lost"),
        overlays=int(told.values["made on request: overlay"]) - int(before.values["made on request: overlay"]),
        cpu_ms=round(1000 * worked / case.frames, 2),
        stages={stage: values for stage, values in stages.items() if values},
        seconds=round(seconds, 2),
    )


class _Camera:
    """Publishes a generated street, and listens as consumers do: serialised messages are enough to count.

    Attributes:
        refused: frames that the middleware did not take.
    """

    def __init__(self, driven: DrivenNode, case: Case) -> None:
        from sensor_msgs.msg import CompressedImage, Image

        self._driven = driven
        self._case = case
        self._pixels = StreetDrive((case.height, case.width), seed=1).frame(0).image
        quality = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
        self._file = cv2.imencode(".jpg", self._pixels[..., ::-1], quality)[1].tobytes()
        compressed = case.encoding == "jpeg"
        topic = f"{IMAGE_TOPIC}/compressed" if compressed else IMAGE_TOPIC
        self._publisher = driven.camera(CompressedImage if compressed else Image, topic)
        self._labels = 0
        self.refused = 0
        driven.node.create_subscription(Image, "/mtaclip/label", self._count, 10, raw=True)
        for output in ("confidence", "overlay") if case.overlay else ("confidence",):
            driven.node.create_subscription(Image, f"/mtaclip/{output}", _take, 10, raw=True)

    def warm_up(self) -> None:
        """The first frames: sent until both sides know each other and the model has run."""
        for _ in range(_WARM_UP):
            seen = self._labels
            sent = float("-inf")

            def labelled(seen: int = seen) -> bool:
                nonlocal sent
                if self._labels == seen and time.monotonic() - sent > _RESEND:
                    sent = time.monotonic()
                    self._publish()
                return self._labels > seen

            self._driven.spin_until(labelled, "the label of a first frame", 60.0)
        self._driven.spin_until(lambda: time.monotonic() - sent > 2 * _RESEND, "the last of them")

    def send(self) -> float:
        """All frames; returns the seconds that it took."""
        start = time.monotonic()
        for number in range(self._case.frames):
            if self._case.rate is None:
                seen = self._labels
                self._publish()
                self._driven.spin_until(lambda seen=seen: self._labels > seen, "a label")  # type: ignore[misc]
                continue
            due = start + number / self._case.rate
            while (left := due - time.monotonic()) > 0:
                self._driven.spin(left)
            self._publish()
        return time.monotonic() - start

    def _publish(self) -> None:
        from std_msgs.msg import Header

        message = self._publisher.msg_type()
        header = Header(frame_id="camera")
        if self._case.encoding == "jpeg":
            message.format = "jpeg"
            message.data.frombytes(self._file)
        else:
            fill(message, self._pixels, self._case.encoding, header)
        header.stamp = self._driven.node.get_clock().now().to_msg()
        message.header = header
        try:
            self._publisher.publish(message)
        except RuntimeError:  # RCLError: the queue of a reliable publisher is full
            self.refused += 1

    def _count(self, serialised: Any) -> None:
        self._labels += 1


def _take(serialised: Any) -> None:
    """Of an output that is only listened to."""
