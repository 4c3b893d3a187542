"""A labelled drive as a rosbag2 folder: images and exact ground truth from a data set or from the generated street."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Qos
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from mtaclip_core.cli import Parser, UserError, run, size
from mtaclip_core.data.dataset import Sample, SegmentationDataset, open_dataset
from mtaclip_core.labels import CITYSCAPES, LabelSpace
from mtaclip_ros.bag_reader import IMAGE, IMAGE_TOPIC, LABEL_TOPIC, STRING
from mtaclip_ros.drive_arguments import positive
from mtaclip_ros.new_bag import LATCHED_QOS, STREAM_QOS, new_bag
from mtaclip_ros.processes import die_with_parent, exit_on_sigterm

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
CAMERA_INFO_TOPIC = "/camera/camera_info"
FRAME_ID = "camera"
ENCODINGS = ("rgb8", "bgr8")
SYNTHETIC_SIZE = (360, 480)
START = 1_700_000_000_000_000_000
"""Stamp of the first frame in ns: fixed, so that the same drive is the same bag."""


class DriveWriter:
    """Writes one camera and its ground truth into an open bag; made by `open_drive`.

    Args:
        writer: an open rosbags writer.
        space: the classes of the labels.
        rate: frames per second; frame i is stamped START + i / rate.
        encoding: `rgb8` or `bgr8`.
    """

    def __init__(self, writer: Writer, space: LabelSpace, rate: float, encoding: str) -> None:
        self._writer, self._rate, self._encoding = writer, rate, encoding
        self._types = get_typestore(Stores.ROS2_KILTED)
        self._index = 0
        self._image = self._connect(IMAGE_TOPIC, IMAGE, STREAM_QOS)
        self._info = self._connect(CAMERA_INFO_TOPIC, CAMERA_INFO, STREAM_QOS)
        self._label = self._connect(LABEL_TOPIC, IMAGE, STREAM_QOS)
        classes = self._connect(f"{LABEL_TOPIC}/classes", STRING, LATCHED_QOS)
        self._write(classes, START, self._types.types[STRING](data=space.to_json()))

    def add(self, sample: Sample) -> None:
        """Append the next frame: image, camera_info and label with one stamp.

        Raises:
            UserError: image and label differ in size.
        """
        if sample.image.shape[:2] != sample.label.shape:
            raise UserError(
                f"frame '{sample.name}': the image is {_hxw(sample.image)} and its label {_hxw(sample.label)}; "
                f"they must be of one size"
            )
        stamp = START + round(self._index * 1e9 / self._rate)
        header = self._header(stamp)
        pixels = sample.image if self._encoding == "rgb8" else sample.image[:, :, ::-1]
        self._write(self._image, stamp, self._message(header, pixels, self._encoding))
        self._write(self._info, stamp, self._camera_info(header, *sample.label.shape))
        self._write(self._label, stamp, self._message(header, sample.label, "mono8"))
        self._index += 1

    def _connect(self, topic: str, msgtype: str, qos: Qos) -> Any:
        return self._writer.add_connection(topic, msgtype, typestore=self._types, offered_qos_profiles=[qos])

    def _write(self, connection: Any, stamp: int, message: object) -> None:
        self._writer.write(connection, stamp, self._types.serialize_cdr(message, connection.msgtype))

    def _header(self, stamp: int) -> Any:
        types = self._types.types
        time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
        return types["std_msgs/msg/Header"](stamp=time, frame_id=FRAME_ID)

    def _message(self, header: Any, array: np.ndarray, encoding: str) -> Any:
        height, width = array.shape[:2]
        flat = np.ascontiguousarray(array).reshape(-1)
        return self._types.types[IMAGE](
            header=header,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=flat.size // height,
            data=flat,
        )

    def _camera_info(self, header: Any, height: int, width: int) -> Any:
        """The image's size; K, R and P are zero, sensor_msgs' word for an uncalibrated camera."""
        types = self._types.types
        return types[CAMERA_INFO](
            header=header,
            height=height,
            width=width,
            distortion_model="",
            d=np.zeros(0),
            k=np.zeros(9),
            r=np.zeros(9),
            p=np.zeros(12),
            binning_x=0,
            binning_y=0,
            roi=types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )


def _hxw(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


@contextmanager
def open_drive(out: str | Path, space: LabelSpace, rate: float, encoding: str = "rgb8") -> Iterator[DriveWriter]:
    """A writer for a new bag at `out`, which appears there when the block ends well, and not at all otherwise.

    Raises:
        UserError: `out` exists already, or its folder cannot be written.
    """
    with new_bag(out, "--out") as writer:
        yield DriveWriter(writer, space, rate, encoding)


def resized(sample: Sample, to: tuple[int, int] | None) -> Sample:
    """The sample at another size (height, width): image by area or linear weights, label by the nearest pixel."""
    if to is None or sample.label.shape == to:
        return sample
    shrinks = to[0] * to[1] < sample.label.size
    image = cv2.resize(sample.image, to[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    label = cv2.resize(sample.label, to[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return Sample(image, label, sample.name)


def dataset_frames(dataset: SegmentationDataset, to: tuple[int, int] | None) -> Iterator[Sample]:
    """All frames of a split in its order, resized to one size when asked."""
    for index in range(len(dataset)):
        yield resized(dataset[index], to)


_drive: Any = None  # the street of a worker process, built once


def _start_worker(to: tuple[int, int], seed: int, rate: float) -> None:
    from mtaclip_core.data.synthetic import StreetDrive

    global _drive
    die_with_parent()
    cv2.setNumThreads(1)
    _drive = StreetDrive(size=to, seed=seed, fps=rate)


def _worker_frame(index: int) -> Sample:
    return _drive.frame(index)


def street_frames(count: int, to: tuple[int, int], seed: int, rate: float, processes: int) -> Iterator[Sample]:
    """Frames 0..count-1 of a generated street, in order, drawn by several processes a few frames ahead."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _start_worker, (to, seed, rate))
    waiting: deque[Future[Sample]] = deque()
    try:
        for index in range(count):
            # Workers that start now inherit the mask: Ctrl-C is the parent's to handle.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            waiting.append(pool.submit(_worker_frame, index))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            if len(waiting) > 4 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def write_drive(
    frames: Iterable[Sample], count: int, space: LabelSpace, out: str | Path, rate: float, encoding: str = "rgb8"
) -> None:
    """Write all frames into a new bag at `out`, with a progress bar on stderr."""
    with open_drive(out, space, rate, encoding) as drive:
        for sample in tqdm(frames, desc=f"writing {Path(out).name}", total=count, unit="frame", file=sys.stderr):
            drive.add(sample)


def main(argv: list[str]) -> int | None:
    parser = Parser(
        prog="mtaclip_ros.drive_writer",
        description="Write a drive with ground truth as a rosbag2 (mcap) folder.",
        epilog="example:\n  python -m mtaclip_ros.drive_writer --synthetic 20 --seed 7 --out runs/street\n"
        "  python -m mtaclip_ros.drive_writer --data camvid:data/camvid --split val --out runs/camvid_val",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="KIND:PATH", help="a data set, for example camvid:data/camvid")
    source.add_argument("--synthetic", metavar="SECONDS", type=positive, help="a generated street of this length")
    parser.add_argument("--split", metavar="NAME", help="the split of --data, for example val")
    parser.add_argument("--out", metavar="BAG", required=True, help="folder of the new bag")
    parser.add_argument("--rate", type=positive, default=15.0, help="frames per second (default 15)")
    parser.add_argument("--size", type=size, metavar="HxW", help="frame size (default: the data set's; 360x480)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated street (default 0)")
    parser.add_argument("--encoding", choices=ENCODINGS, default="rgb8", help="of the images (default rgb8)")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="that draw the street")
    args = parser.parse_args(argv)
    exit_on_sigterm()
    if args.data:
        if args.split is None:
            raise UserError(f"--data {args.data} needs --split NAME, for example --split val")
        dataset = open_dataset(args.data, args.split)
        count, space, frames = len(dataset), dataset.space, dataset_frames(dataset, args.size)
    else:
        count = round(args.synthetic * args.rate)
        if count < 1 or args.processes < 1:
            raise UserError(f"--synthetic {args.synthetic} at {args.rate} Hz: expected at least one frame and process")
        space = CITYSCAPES
        frames = street_frames(count, args.size or SYNTHETIC_SIZE, args.seed, args.rate, args.processes)
    write_drive(frames, count, space, args.out, args.rate, args.encoding)
    print(f"{args.out}: {count} frames at {args.rate:g} Hz, {count / args.rate:.1f} s, classes of {space.name}")
    return None


if __name__ == "__main__":
    run(main)
