"""The real node in a process of its own, driven over DDS and watched from outside: for soak runs and measurements."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtaclip_core.cli import UserError
from mtaclip_ros.processes import child, free_domain, stop
from mtaclip_ros.rclpy_start import import_rclpy
from mtaclip_ros.transport import prepare_process, transport_environment

if TYPE_CHECKING:
    from rclpy.publisher import Publisher

IMAGE_TOPIC = "/camera/image_raw"
_NODE = "/mtaclip"
_START_SECONDS = 120.0  # that a node may take to load its model, on a busy machine
_ANSWER_SECONDS = 30.0
_TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}  # lifecycle_msgs/Transition


@dataclass(frozen=True)
class Footprint:
    """What a process holds (Linux)."""

    rss_mb: float
    threads: int
    handles: int


@dataclass(frozen=True)
class Told:
    """A camera's status from `/diagnostics`.

    Attributes:
        values: all pairs, as text.
        bad: messages without a usable picture, by reason.
    """

    values: Mapping[str, str]
    bad: Mapping[str, int]

    def count(self, what: str) -> int:
        """The number of frames `received`, `labelled`, `dropped`, `bad` and so on."""
        return int(self.values[f"frames {what}"])

    @property
    def accounted(self) -> int:
        """Frames that have met their end; equals `received` when none is in work."""
        return sum(self.count(end) for end in ("limited", "dropped", "labelled", "bad", "failed", "publish errors"))

    def milliseconds(self, stage: str, percentile: str = "p50") -> float | None:
        """Time of a stage over the last 300 frames, None where none was measured."""
        value = self.values.get(f"{stage} {percentile} (ms)")
        return None if value is None else float(value)


class DrivenNode:
    """Starts the node for the length of a block, in a ROS domain of its own; one thread uses it.

    Args:
        model: bundle, None for the constant model (`constant_node`).
        parameters: of the node, by ROS name.
        program: what Python runs, None for the program that fits the model.

    Attributes:
        node: the rclpy node on this side.
        status: exit status of the node, set when the block ends.
    """

    def __init__(
        self, model: str | None, parameters: Mapping[str, object], program: Sequence[str] | None = None
    ) -> None:
        given = {**parameters} if model is None else {"model.path": model, **parameters}
        if program is None:
            program = ("-m", f"mtaclip_ros.{'constant_node' if model is None else 'segment_node'}")
        self._command = [sys.executable, *program, "--ros-args"]
        for name, value in given.items():
            self._command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
        self._stack = ExitStack()
        self._diagnostics: list[Any] = []
        self.status: int | None = None

    def __enter__(self) -> DrivenNode:
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.status = stop(self._process)
        self._stack.close()

    def _open(self, stack: ExitStack) -> None:
        rclpy = import_rclpy()
        prepare_process()
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor

        domain = free_domain()
        self._log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown, context=context)
        self.node = rclpy.create_node("driver", context=context)
        stack.callback(self.node.destroy_node)
        self._executor = SingleThreadedExecutor(context=context)
        stack.callback(self._executor.shutdown)
        self._executor.add_node(self.node)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics.append, 10)
        env = {**os.environ, **transport_environment(os.environ), "ROS_DOMAIN_ID": str(domain)}
        self._process: subprocess.Popen[bytes] = stack.enter_context(
            child(self._command, env=env, stdout=self._log, stderr=self._log)
        )
        self.spin_until(lambda: self._state() == "active", "the node to become active", _START_SECONDS)

    def spin(self, seconds: float) -> None:
        """Do what is due, and return after the first of it or after so many seconds."""
        self._executor.spin_once(timeout_sec=max(0.0, seconds))

    def spin_until(self, condition: Callable[[], bool], what: str, seconds: float = _ANSWER_SECONDS) -> None:
        """Spin until the condition holds.

        Raises:
            UserError: the node ended, or it took longer.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            self.spin(0.05)
            if self._process.poll() is not None:
                raise UserError(f"the node ended with status {self._process.returncode}: {self.last_line()}")
            if time.monotonic() > deadline:
                raise UserError(f"waited {seconds:g} s for {what}; the node's last line: {self.last_line()}")

    def camera(self, message_type: type[Any], topic: str = IMAGE_TOPIC, depth: int = 5) -> Publisher:
        """A reliable publisher."""
        return self.node.create_publisher(message_type, topic, depth)

    def camera_told(self) -> Told:
        """The camera's status, made after this call."""
        now = self.node.get_clock().now().to_msg()
        asked = (now.sec, now.nanosec)
        found: list[Any] = []

        def arrived() -> bool:
            fresh = [m for m in self._diagnostics if (m.header.stamp.sec, m.header.stamp.nanosec) > asked]
            found.extend(status for m in fresh for status in m.status if ": camera" in status.name)
            self._diagnostics.clear()
            return bool(found)

        self.spin_until(arrived, "a camera's status on /diagnostics")
        return _told(found[-1])

    def settled(self) -> Told:
        """The camera's status when no frame is in work.

        Raises:
            UserError: frames stay unaccounted for.
        """
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (told := self.camera_told()).accounted != told.count("received"):
            if time.monotonic() > deadline:
                raise UserError(f"{told.count('received')} frames were received and {told.accounted} accounted for")
        return told

    def transition(self, name: str) -> None:
        """Ask for a lifecycle transition. Raises UserError when it is refused."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request(transition=Transition(id=_TRANSITIONS[name]))
        if not self._call(ChangeState, "change_state", request).success:
            raise UserError(f"the node refused to {name}: {self.last_line()}")

    def set_parameter(self, name: str, value: Any) -> None:
        """Raises UserError when the node refuses the value."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self._call(SetParameters, "set_parameters", request).results[0]
        if not result.successful:
            raise UserError(result.reason)

    def footprint(self) -> Footprint:
        """Of the node now."""
        process = Path("/proc") / str(self._process.pid)
        pages = int((process / "statm").read_text(encoding="ascii").split()[1])
        rss_mb = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        threads, handles = (len(list((process / name).iterdir())) for name in ("task", "fd"))
        return Footprint(round(rss_mb, 2), threads, handles)

    def cpu_seconds(self) -> float:
        """Time that the processors have worked for the node, all its threads together (Linux)."""
        stat = (Path("/proc") / str(self._process.pid) / "stat").read_text(encoding="utf-8")
        user, system = stat.rpartition(")")[2].split()[11:13]  # proc(5): utime, stime
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def log(self) -> list[str]:
        """The lines that the node has logged."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace").splitlines()

    def last_line(self) -> str:
        """Of the node's log."""
        return (self.log() or ["nothing was logged"])[-1]

    def _state(self) -> str:
        from lifecycle_msgs.srv import GetState

        client = self.node.create_client(GetState, f"{_NODE}/get_state")
        try:
            if not client.wait_for_service(0.5):
                return ""
            future = client.call_async(GetState.Request())
            self._executor.spin_until_future_complete(future, timeout_sec=_ANSWER_SECONDS)
            return future.result().current_state.label if future.done() else ""
        finally:
            self.node.destroy_client(client)

    def _call(self, service_type: type[Any], name: str, request: object) -> Any:
        client = self.node.create_client(service_type, f"{_NODE}/{name}")
        try:
            self.spin_until(client.service_is_ready, f"the service {name}")
            future = client.call_async(request)
            self.spin_until(future.done, f"the answer of {name}")
            return future.result()
        finally:
            self.node.destroy_client(client)


def _told(status: Any) -> Told:
    values = {pair.key: pair.value for pair in status.values}
    marker = "frames bad: "
    bad = {key.removeprefix(marker): int(value) for key, value in values.items() if key.startswith(marker)}
    return Told(values, bad)
