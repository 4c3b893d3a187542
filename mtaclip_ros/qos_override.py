"""QoS of the camera's subscriptions from the standard parameters `qos_overrides.TOPIC.subscription.POLICY`.

rclpy declares them itself, but then with a fixed default: the reliability chosen by `image_reliability: auto` would be
pinned at the first choice, and a wrong value would end the program from inside a timer.
"""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from mtaclip_core.cli import UserError

AUTOMATIC = "auto"
_DEEPEST = 100
_RELIABILITIES = (AUTOMATIC, "reliable", "best_effort")


def reliability_override(node: Node, topic: str) -> str:
    """`reliable` or `best_effort` where the user set an override for this topic, else `auto`.

    Raises:
        UserError: the override is something else.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    value = _declared(node, name, AUTOMATIC, "Reliability to ask for; auto: the node's own choice.")
    if value not in _RELIABILITIES:
        raise UserError(f"parameter '{name}' is '{value}': expected one of {', '.join(_RELIABILITIES)}")
    return value


def overridden(node: Node, topic: str, depth: int, reliable: bool) -> QoSProfile:
    """The profile of a subscription: keep_last, with the depth that the user set, else `depth`.

    Raises:
        UserError: an override of the wrong type, a depth out of 1..100, or a history other than keep_last.
    """
    start = f"qos_overrides.{topic}.subscription."
    history = _declared(node, f"{start}history", "keep_last", "keep_last is the only one: no queue may grow.")
    if history != "keep_last":
        raise UserError(f"parameter '{start}history' is '{history}': expected keep_last, set the depth instead")
    limits = [IntegerRange(from_value=1, to_value=_DEEPEST, step=1)]
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_declared(node, f"{start}depth", depth, "Messages that wait to be taken.", limits),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def _declared(node: Node, name: str, default: Any, text: str, limits: list[IntegerRange] | None = None) -> Any:
    if node.has_parameter(name):
        return node.get_parameter(name).value
    descriptor = ParameterDescriptor(description=text, read_only=True, integer_range=limits or [])
    try:
        return node.declare_parameter(name, default, descriptor).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise UserError(f"parameter '{name}' must be like {default!r}: {error.args[0]}") from error
