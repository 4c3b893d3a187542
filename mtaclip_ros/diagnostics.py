"""The node's health once a second: a `diagnostic_msgs/DiagnosticStatus` for the model, and one for each camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from mtaclip_ros.engine import EngineState
from mtaclip_ros.frame_statistics import Snapshot
from mtaclip_ros.parameters import Parameters
from mtaclip_ros.qos_override import publisher_profile

PERIOD = 1.0
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_OTHER_CLOCK = 3600.0  # a latency beyond is no latency: the stamps are of another clock (a bag without use_sim_time)
_NOTHING = Snapshot(0, 0, 0, 0, 0, {}, 0, 0.0, 0.0, 0.0, {})
Verdict = tuple[bytes, str]


@dataclass(frozen=True)
class CameraHealth:
    """What a camera's status is made from.

    Attributes:
        name: of the camera, empty for the only one.
        trouble: why images do not arrive, empty while they do.
        last_failure: what the last lost frame failed on.
        made: how many of the outputs that are made on request were made.
    """

    name: str
    topic: str
    statistics: Snapshot
    trouble: str
    last_failure: str
    made: dict[str, int]


@dataclass(frozen=True)
class Health:
    """What all statuses are made from; `engine` is None and `cameras` empty while nothing is configured."""

    state: str
    enabled: bool
    last_error: str
    engine: EngineState | None
    cameras: tuple[CameraHealth, ...]

    @property
    def listening(self) -> bool:
        return self.state == "active" and self.enabled


class Diagnostics:
    """Publishes `/diagnostics` every second of wall time, in every lifecycle state.

    Args:
        node: owner of publisher and timer.
        health: gives the present facts.
        parameters: gives the limits for warnings.

    Raises:
        UserError: a `qos_overrides` parameter of the topic is wrong.
    """

    def __init__(self, node: Node, health: Callable[[], Health], parameters: Callable[[], Parameters]) -> None:
        self._node = node
        self._health = health
        self._parameters = parameters
        self._before: dict[str, Snapshot] = {}
        self._failures_before = 0
        profile = publisher_profile(node, node.resolve_topic_name("/diagnostics"), depth=10)
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", profile)
        node.create_timer(PERIOD, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        health = self._health()
        limits = self._parameters()
        statuses = [self._status("model", assess_model(health, self._failures_before), "", model_details(health))]
        for camera in health.cameras:
            verdict = assess_camera(camera, self._before.get(camera.name, _NOTHING), limits, health)
            name = f"camera {camera.name}".strip()
            statuses.append(self._status(name, verdict, camera.topic, camera_details(camera)))
        self._before = {camera.name: camera.statistics for camera in health.cameras}
        self._failures_before = health.engine.failures if health.engine else 0
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self._node.get_clock().now().to_msg()
        try:
            self._publisher.publish(message)
        except RuntimeError as error:  # RCLError: a subscriber that does not keep up must not end the node
            if self._node.context.ok():
                self._node.get_logger().warning(f"diagnostics were not published: {error}", throttle_duration_sec=10.0)

    def _status(self, name: str, verdict: Verdict, hardware: str, values: dict[str, str]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=verdict[0],
            name=f"{self._node.get_fully_qualified_name().lstrip('/')}: {name}",
            message=verdict[1],
            hardware_id=hardware,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )


def assess_model(health: Health, failures_before: int) -> Verdict:
    """Level and message of the model, from what happened since it had failed `failures_before` times."""
    engine = health.engine
    if engine is None:
        return (ERROR, health.last_error) if health.last_error else (OK, health.state)
    if engine.segmenter is None:
        when = f"next try in {engine.retry_in:.0f} s" if engine.retry_in else "it is loaded again now"
        return ERROR, f"no model, {when}: {engine.error}"
    if engine.failures not in (0, failures_before):  # less: the node was configured anew
        return ERROR, f"the model failed and is loaded again: {engine.error}"
    if not health.listening:
        return OK, "disabled by ~/enable" if health.state == "active" else health.state
    return OK, f"{engine.segmenter.name}, {engine.segmenter.backend} {engine.segmenter.precision}"


def assess_camera(camera: CameraHealth, before: Snapshot, limits: Parameters, health: Health) -> Verdict:
    """Level and message of a camera, from what happened since the snapshot `before`; errors go first."""
    if not health.listening:
        return OK, "disabled by ~/enable" if health.state == "active" else health.state
    now = camera.statistics
    if now.received < before.received:
        before = _NOTHING  # of the time before the node was configured anew
    if limits.watchdog_timeout and now.silence > limits.watchdog_timeout:
        return ERROR, camera.trouble or f"no image for {now.silence:.1f} s"
    errors: list[str] = []
    warnings: list[str] = []
    if now.failed > before.failed:
        errors.append(f"{now.failed - before.failed} frames failed: {camera.last_failure}")
    received = now.received - before.received
    bad = now.bad_total - before.bad_total
    if bad > 0:
        fresh = {reason: n - before.bad.get(reason, 0) for reason, n in now.bad.items()}
        told = "bad images: " + ", ".join(f"{n} {reason}" for reason, n in fresh.items() if n)
        (errors if bad > limits.diagnostics_max_bad_ratio * received else warnings).append(told)
    if now.publish_errors > before.publish_errors:
        warnings.append(f"{now.publish_errors - before.publish_errors} frames not published: middleware overloaded")
    dropped = now.dropped - before.dropped
    if received and dropped > limits.diagnostics_max_drop_ratio * received:
        warnings.append(f"{dropped} of {received} frames dropped")
    back = now.stamps.get("back", 0) - before.stamps.get("back", 0)
    if back > 0:
        warnings.append(f"stamps went back {back} times")
    latency = now.stages.get("latency")
    if latency and latency.p50 < _OTHER_CLOCK:
        told = f"latency p50 {latency.p50:.2f} s"
        if 0 < limits.diagnostics_error_latency < latency.p50:
            errors.append(told)
        elif 0 < limits.diagnostics_max_latency < latency.p50:
            warnings.append(told)
    if now.received and now.input_rate < limits.diagnostics_min_input_rate:
        warnings.append(f"{now.input_rate:.1f} images a second")
    if now.received and now.output_rate < limits.diagnostics_min_output_rate:
        errors.append(f"{now.output_rate:.1f} labels a second")
    if camera.trouble:
        warnings.append(camera.trouble)
    if errors or warnings:
        return ERROR if errors else WARN, "; ".join(errors + warnings)
    return OK, f"{now.input_rate:.1f} Hz in, {now.output_rate:.1f} Hz out"


def model_details(health: Health) -> dict[str, str]:
    """The key-value pairs of the model: what runs, where, and how often it had to be loaded again."""
    values = {"state": health.state, "enabled": str(health.enabled).lower()}
    if health.engine is None:
        return values
    values["failures"] = str(health.engine.failures)
    values["rebuilds"] = str(health.engine.rebuilds)
    if health.engine.error:
        values["last failure"] = health.engine.error
    segmenter = health.engine.segmenter
    if segmenter is None:
        return values
    values["model"] = segmenter.name
    values["model hash"] = segmenter.model_hash
    values["backend"] = segmenter.backend
    values["precision"] = segmenter.precision
    engine_key = getattr(segmenter, "engine_key", None)  # of backends that build an engine
    if engine_key:
        values["engine key"] = str(engine_key)
    gpu_memory = getattr(segmenter, "gpu_memory_bytes", None)  # of backends that know
    if gpu_memory:
        values["GPU memory (MiB)"] = f"{gpu_memory / 2**20:.0f}"
    return values


def camera_details(camera: CameraHealth) -> dict[str, str]:
    """The key-value pairs of a camera: counts, rates, stage times in ms."""
    now = camera.statistics
    values = {
        "image topic": camera.topic,
        "input rate (Hz)": f"{now.input_rate:.2f}",
        "stamp rate (Hz)": f"{now.stamp_rate:.2f}",
        "output rate (Hz)": f"{now.output_rate:.2f}",
        "seconds since the last image": f"{now.silence:.1f}",
    }
    for key in ("received", "labelled", "dropped", "limited", "failed", "publish_errors", "lost"):
        values[f"frames {key.replace('_', ' ')}"] = str(getattr(now, key))
    values["frames bad"] = str(now.bad_total)
    for reason, count in sorted(now.bad.items()):
        values[f"frames bad: {reason}"] = str(count)
    for what in ("back", "repeated", "missing"):
        values[f"stamps {what}"] = str(now.stamps.get(what, 0))
    values["frame ids not UTF-8"] = str(now.garbled_ids)
    for output, count in camera.made.items():
        values[f"made on request: {output}"] = str(count)
    for stage, times in now.stages.items():
        if stage == "latency" and not 0 <= times.p50 < _OTHER_CLOCK:
            values["latency"] = "unknown: the stamps are not of this node's clock"
            continue
        values[f"{stage} p50 (ms)"] = f"{1000 * times.p50:.2f}"
        values[f"{stage} p99 (ms)"] = f"{1000 * times.p99:.2f}"
    return values
