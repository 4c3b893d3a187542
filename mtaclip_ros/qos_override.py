"""QoS of the node's endpoints from the standard parameters `qos_overrides.TOPIC.publisher.POLICY` and `.subscription.`.

rclpy declares them itself, but then the reliability chosen by `image_reliability: auto` would be pinned at the first
choice, a wrong value would end the program from inside a timer or be told without its parameter, and `keep_all` would
let a queue grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from mtaclip_core.cli import UserError

AUTOMATIC = "auto"
_DEEPEST = 100
_RELIABILITIES = ("reliable", "best_effort")
_DURABILITIES = ("volatile", "transient_local")


def reliability_override(node: Node, topic: str) -> str:
    """`reliable` or `best_effort` where the user set an override for a subscription to this topic, else `auto`.

    Raises:
        UserError: the override is something else.
    """
    name = f"qos_overrides.{topic}.subscription.reliability"
    choices = (AUTOMATIC, *_RELIABILITIES)
    return _choice(node, name, AUTOMATIC, choices, "Reliability to ask for; auto: the node's own choice.")


def overridden(node: Node, topic: str, depth: int, reliable: bool) -> QoSProfile:
    """The profile of a subscription: keep_last, with the depth that the user set, else `depth`.

    Raises:
        UserError: an override of the wrong type, a depth out of 1..100, or a history other than keep_last.
    """
    return QoSProfile(
        **_queue(node, f"qos_overrides.{topic}.subscription.", depth),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
    )


def publisher_profile(node: Node, topic: str, depth: int, latched: bool = False) -> QoSProfile:
    """The profile of a publisher: reliable, keep_last, transient local if `latched`, but for what the user set.

    Args:
        topic: its full name.

    Raises:
        UserError: as `overridden`, or a reliability or durability that there is not.
    """
    start = f"qos_overrides.{topic}.publisher."
    durability = _DURABILITIES[latched]
    reliability = _choice(node, f"{start}reliability", "reliable", _RELIABILITIES, "Reliability to offer.")
    durability = _choice(node, f"{start}durability", durability, _DURABILITIES, "Durability to offer.")
    return QoSProfile(
        **_queue(node, start, depth),
        reliability=ReliabilityPolicy[reliability.upper()],
        durability=DurabilityPolicy[durability.upper()],
    )


def _queue(node: Node, start: str, depth: int) -> dict[str, Any]:
    _choice(node, f"{start}history", "keep_last", ("keep_last",), "keep_last is the only one: no queue may grow.")
    limits = IntegerRange(from_value=1, to_value=_DEEPEST, step=1)
    descriptor = ParameterDescriptor(description="Messages that the queue holds.", integer_range=[limits])
    depth = _declared(node, f"{start}depth", depth, descriptor, f"an integer from 1 to {_DEEPEST}")
    return {"history": HistoryPolicy.KEEP_LAST, "depth": depth}


def _choice(node: Node, name: str, default: str, choices: Sequence[str], text: str) -> str:
    expected = ("" if len(choices) == 1 else "one of ") + ", ".join(choices)
    value = _declared(node, name, default, ParameterDescriptor(description=text), expected)
    if value not in choices:
        raise UserError(f"parameter '{name}' must be {expected}; got '{value}'")
    return value


def _declared(node: Node, name: str, default: Any, descriptor: ParameterDescriptor, expected: str) -> Any:
    if node.has_parameter(name):
        return node.get_parameter(name).value
    descriptor.read_only = True
    try:
        return node.declare_parameter(name, default, descriptor).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise UserError(f"parameter '{name}' must be {expected}: {error.args[0]}") from error
