"""The node's health as one `diagnostic_msgs/DiagnosticStatus` a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions

from mtaclip_core.runtime.segmenter import Segmenter
from mtaclip_ros.frame_statistics import Snapshot
from mtaclip_ros.parameters import Parameters

PERIOD = 1.0
_OTHER_CLOCK = 3600.0  # a latency beyond is no latency: the stamps are of another clock (a bag without use_sim_time)


@dataclass(frozen=True)
class Health:
    """What a status is made from; `statistics` and `segmenter` are None while nothing is configured."""

    state: str
    enabled: bool
    topic: str
    segmenter: Segmenter | None
    statistics: Snapshot | None
    last_error: str


class Diagnostics:
    """Publishes `/diagnostics` every second of wall time, in every lifecycle state.

    Args:
        node: owner of publisher and timer.
        health: gives the present facts.
        parameters: gives the limits for warnings.
    """

    def __init__(self, node: Node, health: Callable[[], Health], parameters: Callable[[], Parameters]) -> None:
        self._node = node
        self._health = health
        self._parameters = parameters
        self._before: Snapshot | None = None
        self._publisher = node.create_publisher(
            DiagnosticArray,
            "/diagnostics",
            10,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        node.create_timer(PERIOD, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _publish(self) -> None:
        health = self._health()
        level, text = assess(health, self._before, self._parameters())
        self._before = health.statistics
        status = DiagnosticStatus(
            level=level,
            name=f"{self._node.get_fully_qualified_name().lstrip('/')}: segmentation",
            message=text,
            hardware_id=health.topic,
            values=[KeyValue(key=key, value=value) for key, value in details(health).items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


def assess(health: Health, before: Snapshot | None, limits: Parameters) -> tuple[bytes, str]:
    """Level and message, from what happened since the snapshot `before`; the worst finding first."""
    now = health.statistics
    if now is None:
        return (DiagnosticStatus.ERROR, health.last_error) if health.last_error else (DiagnosticStatus.OK, health.state)
    if health.state != "active" or not health.enabled:
        return DiagnosticStatus.OK, "disabled by ~/enable" if health.state == "active" else health.state
    if before is None:
        before = Snapshot(0, 0, 0, 0, 0, {}, 0, 0.0, 0.0, 0.0, {})
    if now.failed > before.failed:
        return DiagnosticStatus.ERROR, f"{now.failed - before.failed} frames failed: {health.last_error}"
    if limits.watchdog_timeout and now.silence > limits.watchdog_timeout:
        return DiagnosticStatus.ERROR, f"no image for {now.silence:.1f} s"
    warnings = []
    if now.bad_total > before.bad_total:
        fresh = {reason: n - before.bad.get(reason, 0) for reason, n in now.bad.items()}
        warnings.append("bad images: " + ", ".join(f"{n} {reason}" for reason, n in fresh.items() if n))
    if now.publish_errors > before.publish_errors:
        warnings.append(f"{now.publish_errors - before.publish_errors} frames not published: middleware overloaded")
    received = now.received - before.received
    if received and (now.dropped - before.dropped) / received > limits.diagnostics_max_drop_ratio:
        warnings.append(f"{now.dropped - before.dropped} of {received} frames dropped")
    latency = now.stages.get("latency")
    if latency and limits.diagnostics_max_latency and limits.diagnostics_max_latency < latency.p50 < _OTHER_CLOCK:
        warnings.append(f"latency p50 {latency.p50:.2f} s")
    if warnings:
        return DiagnosticStatus.WARN, "; ".join(warnings)
    return DiagnosticStatus.OK, f"{now.input_rate:.1f} Hz in, {now.output_rate:.1f} Hz out"


def details(health: Health) -> dict[str, str]:
    """The key-value pairs: model, counts, rates, stage times in ms."""
    values = {"state": health.state, "enabled": str(health.enabled).lower(), "image topic": health.topic}
    if health.segmenter is not None:
        values["model"] = health.segmenter.name
        values["model hash"] = health.segmenter.model_hash
        values["backend"] = health.segmenter.backend
        values["precision"] = health.segmenter.precision
    if health.statistics is None:
        return values
    now = health.statistics
    values["input rate (Hz)"] = f"{now.input_rate:.2f}"
    values["output rate (Hz)"] = f"{now.output_rate:.2f}"
    for key in ("received", "labelled", "dropped", "limited", "failed", "publish_errors"):
        values[f"frames {key.replace('_', ' ')}"] = str(getattr(now, key))
    values["frames bad"] = str(now.bad_total)
    for reason, count in sorted(now.bad.items()):
        values[f"frames bad: {reason}"] = str(count)
    for stage, times in now.stages.items():
        if stage == "latency" and not 0 <= times.p50 < _OTHER_CLOCK:
            values["latency"] = "unknown: the stamps are not of this node's clock"
            continue
        values[f"{stage} p50 (ms)"] = f"{1000 * times.p50:.2f}"
        values[f"{stage} p99 (ms)"] = f"{1000 * times.p99:.2f}"
    return values
