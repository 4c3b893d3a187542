"""For tests of the real node: it runs in a process of its own, the test talks to it over DDS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mtaclip_ros.image_codec import fill
from mtaclip_ros.transport import PROFILE_VARIABLES, transport_environment

PROJECT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shut down": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Poll until the condition gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
    return found


def domain_environment() -> dict[str, str]:
    """A domain of this test process, and the transport settings."""
    env = {**os.environ, "ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(PROJECT), env.get("PYTHONPATH", "")) if p)
    return {**env, **transport_environment(env)}


class NodeProcess:
    """`python -m mtaclip_ros.segment_node --ros-args ARGUMENTS`, `a__b=1` for `-p a.b:=1`; collects its log.

    Attributes:
        lines: what it logged.
        output: what it printed, after `wait`.
    """

    program: tuple[str, ...] = ("-m", "mtaclip_ros.segment_node")

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, **parameters: object) -> None:
        given = list(arguments)
        for name, value in {"model.threads": 1, **parameters}.items():
            given += ["-p", f"{name.replace('__', '.')}:={str(value).lower() if isinstance(value, bool) else value}"]
        environment = domain_environment()
        for name, value in (env or {}).items():
            environment[name] = os.pathsep.join([value, environment[name]]) if name == "PYTHONPATH" else value
        self._process = subprocess.Popen(
            [sys.executable, *self.program, "--ros-args", *given],
            cwd=PROJECT,
            env=environment,
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.lines: list[str] = []
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip())

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def find_line(self, pattern: str, after: int = 0) -> str | None:
        """The first log line that the pattern is found in, from line `after` on."""
        return next((line for line in self.lines[after:] if re.search(pattern, line)), None)

    def wait_for_line(self, pattern: str, after: int = 0, seconds: float = DEADLINE) -> str:
        """`find_line`, once it is there."""

        def matching() -> str | None:
            assert self._process.poll() is None or self._reader.is_alive(), f"the node ended:\n{self.log}"
            return self.find_line(pattern, after)

        return wait_until(matching, f"the log line '{pattern}', in:\n{self.log}", seconds)

    def wait(self, seconds: float = DEADLINE) -> int:
        """The exit code, once the process has ended and its log is read."""
        code = self._process.wait(seconds)
        self._reader.join(seconds)
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        return code

    def running(self) -> bool:
        return self._process.poll() is None

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """What Ctrl-C does, or another signal."""
        self.interrupt(number)
        try:
            return self.wait()
        finally:
            self._process.kill()


class StandInProcess(NodeProcess):
    """The node with a stand-in for the model, see `stand_in_node.py`."""

    program = (str(PROJECT / "test" / "ros" / "stand_in_node.py"),)


class Probe:
    """A node in the test process: camera, consumer and operator of the node under test."""

    def __init__(self, target: str = "/mtaclip") -> None:
        self.target = target
        env = domain_environment()
        os.environ.update({name: env[name] for name in ("ROS_DOMAIN_ID", *PROFILE_VARIABLES) if name in env})
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = Node("probe", context=self._context)
        self.received: dict[str, list[Any]] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stamp = 0
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(DEADLINE)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def listen(self, topic: str, message_type: Any, latched: bool = False) -> Any:
        """Collect what comes on a topic in `received[topic]`; returns the subscription."""
        self.received.setdefault(topic, []).clear()
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        profile = QoSProfile(depth=50, durability=durability)
        # looked up at each message: clearing a topic's list must not cut the subscription off from it
        return self.node.create_subscription(message_type, topic, lambda m: self.received[topic].append(m), profile)

    def wait_for(self, topic: str, condition: Callable[[Any], bool] = lambda _: True, seconds: float = DEADLINE) -> Any:
        """The first collected message that fits."""
        return wait_until(lambda: next((m for m in self.received[topic] if condition(m)), None), f"{topic}", seconds)

    def camera(self, topic: str, message_type: Any = Image, reliable: bool = True) -> Any:
        """A publisher with the sizes of history that cameras have."""
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        return self.node.create_publisher(message_type, topic, QoSProfile(depth=5, reliability=reliability))

    def header(self, frame_id: str = "front_camera") -> Header:
        """With the present time and nanoseconds unlike those of any header before."""
        header = Header(frame_id=frame_id, stamp=self.node.get_clock().now().to_msg())
        self._stamp += 1
        header.stamp.nanosec = header.stamp.nanosec // 1000 * 1000 + self._stamp % 1000
        return header

    def labelled(self, camera: Any, message: Any, topic: str = "") -> Image:
        """Publish a message, as often as it takes, until its label comes on `topic`, by default `label`."""
        labels = self.received[topic or f"{self.target}/label"]
        return self.publish_until(
            camera, message, lambda: next((m for m in list(labels) if m.header == message.header), None), "its label"
        )

    def publish_until(self, camera: Any, message: Any, condition: Callable[[], Any], what: str) -> Any:
        """Publish a message again and again, as a camera does: best effort and busy receivers lose some."""
        published = 0.0

        def answer() -> Any:
            nonlocal published
            if time.monotonic() - published > 0.4:
                camera.publish(message)
                published = time.monotonic()
            return condition()

        return wait_until(answer, what)

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service of the node under test."""
        client = self.node.create_client(service_type, f"{self.target}/{name}")
        assert client.wait_for_service(DEADLINE), f"no service {name}"
        future = client.call_async(request)
        wait_until(future.done, f"the answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def transition(self, name: str) -> bool:
        return self.call(
            ChangeState, "change_state", ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        ).success

    def state(self) -> str:
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def set_parameter(self, name: str, value: object) -> tuple[bool, str]:
        """(accepted, reason)"""
        parameter: ParameterValue = Parameter(name, value=value).get_parameter_value()
        request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=parameter)])
        result = self.call(SetParameters, "set_parameters", request).results[0]
        return result.successful, result.reason


def picture(pixels: np.ndarray, header: Header, encoding: str = "rgb8", pad: int = 0) -> Image:
    """(H, W, 3) uint8 pixels as a message, each row followed by `pad` bytes."""
    message = fill(Image(), pixels, encoding, header)
    if pad:
        rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, pad)), constant_values=200)
        message.step = rows.shape[1]
        del message.data[:]
        message.data.frombytes(rows.tobytes())
    return message


def as_array(message: Image) -> np.ndarray:
    """The pixels of a mono8 or three-channel message without row padding."""
    shape = (message.height, message.width, -1) if message.step != message.width else (message.height, message.width)
    return np.frombuffer(message.data, np.uint8).reshape(shape)
