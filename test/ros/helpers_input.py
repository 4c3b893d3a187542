"""`ImageInput` in a process of its own, without a model: `python helpers_input.py --ros-args -p NAME:=VALUE`.

Its log is on stderr; every image is a line `image NUMBER` on stdout.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from helpers_node import DEADLINE, PROJECT, domain_environment, wait_until

from mtaclip_ros.processes import child

TOPIC = "/camera/image_raw"


class InputProcess:
    """Runs the program below for the length of a block; `a__b=1` is the parameter `a.b`."""

    def __init__(self, *arguments: str, **parameters: object) -> None:
        given = list(arguments)
        for name, value in parameters.items():
            given += ["-p", f"{name.replace('__', '.')}:={value}"]
        self._command = [sys.executable, __file__, "--ros-args", *given]
        self._stack = ExitStack()
        self.lines: list[str] = []

    def __enter__(self) -> InputProcess:
        reader, writer = os.pipe()
        env = domain_environment()
        env["PYTHONPATH"] = os.pathsep.join([str(PROJECT / "test" / "ros"), env["PYTHONPATH"]])
        with os.fdopen(writer, "wb") as out:
            self._stack.enter_context(child(self._command, env=env, stdout=out, stderr=out))
        threading.Thread(target=self._read, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _read(self, reader: int) -> None:
        with os.fdopen(reader, encoding="utf-8") as stream:
            for line in stream:
                self.lines.append(line.rstrip())

    def find(self, *words: str, after: int = 0) -> list[str]:
        """The lines, from number `after` on, that have all the words."""
        return [line for line in self.lines[after:] if all(word in line for word in words)]

    def wait_for(self, *words: str, after: int = 0, seconds: float = DEADLINE) -> str:
        """The first such line, once it is there."""

        def found() -> list[str]:
            return self.find(*words, after=after)

        try:
            return wait_until(found, f"a line with {words}", seconds)[0]
        except AssertionError as error:
            raise AssertionError(f"{error}, in:\n" + "\n".join(self.lines)) from error

    def images(self) -> int:
        """How many images have arrived."""
        return sum(line.startswith("image ") for line in self.lines)


def main(argv: list[str]) -> int | None:
    """Listen until SIGTERM."""
    import rclpy
    import rclpy.signals
    from rclpy.executors import SingleThreadedExecutor

    from mtaclip_ros.frame_statistics import FrameStatistics
    from mtaclip_ros.image_input import ImageInput
    from mtaclip_ros.parameter_declaration import declare
    from mtaclip_ros.processes import exit_on_sigterm
    from mtaclip_ros.transport import prepare_process

    prepare_process()
    rclpy.init(args=["helpers_input", *argv], signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    exit_on_sigterm()
    node = rclpy.create_node("mtaclip")
    parameters = declare(node)
    count = 0

    def take(message: Any) -> None:
        nonlocal count
        count += 1
        print(f"image {count}", flush=True)

    camera_input = ImageInput(node, lambda: parameters, FrameStatistics(), take, TOPIC)
    camera_input.start()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin()
    return None


if __name__ == "__main__":
    from mtaclip_core.cli import run

    run(main)
