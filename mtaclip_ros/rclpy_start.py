"""Starting rclpy in a command line: found or explained, with the transport settings, and Ctrl-C left to Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtaclip_core.cli import UserError
from mtaclip_ros.transport import prepare_process


def import_rclpy() -> Any:
    """The module rclpy.

    Raises:
        UserError: it is not installed, or ROS is not sourced.
    """
    try:
        import rclpy
        import rclpy.signals
    except ImportError as error:
        raise UserError(
            f"rclpy cannot be imported ({error}): source your ROS installation, or install the extra with "
            f"`pip install '.[ros]'`"
        ) from error
    return rclpy


def init_rclpy(ros_args: Sequence[str]) -> Any:
    """The module rclpy, initialised without signal handlers: Ctrl-C stays Python's KeyboardInterrupt.

    Raises:
        UserError: rclpy is not there, or refuses its arguments or the environment (ROS_DOMAIN_ID, remapping rules).
    """
    rclpy = import_rclpy()
    prepare_process()
    try:
        rclpy.init(args=list(ros_args), signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError
        raise UserError(f"rclpy cannot start: {str(error).splitlines()[0]}") from error
    return rclpy


def split_ros_args(argv: list[str]) -> tuple[list[str], list[str]]:
    """(our arguments, those from `--ros-args` on)."""
    at = argv.index("--ros-args") if "--ros-args" in argv else len(argv)
    return argv[:at], argv[at:]
