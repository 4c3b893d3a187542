"""The programs of `ros2 run mtaclip_ros ...`: each runs `main` of the module of the same name."""

from __future__ import annotations

from typing import NoReturn

from mtaclip_core.cli import run

# Imported one by one, inside: the offline programs run where rclpy is not installed.


def segment_node() -> NoReturn:
    """The node: camera images in, labels out."""
    from mtaclip_ros.segment_node import main

    run(main)


def drive_writer() -> NoReturn:
    """A data set or a generated street -> a bag with ground truth."""
    from mtaclip_ros.drive_writer import main

    run(main)


def play() -> NoReturn:
    """Publish a bag."""
    from mtaclip_ros.play import main

    run(main)


def replay() -> NoReturn:
    """Evaluate a model on a bag, offline."""
    from mtaclip_ros.replay import main

    run(main)


def evaluate_live() -> NoReturn:
    """Play a bag to the running node and compare its labels with the bag's."""
    from mtaclip_ros.evaluate_live import main

    run(main)
