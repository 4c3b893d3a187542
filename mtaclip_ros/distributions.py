"""What differs between the rclpy of Humble, Jazzy and Kilted where a subscription is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

_UNSUPPORTED: type[Exception] = rclpy_implementation.UnsupportedEventTypeError
_TELLS_MESSAGE_INFO = hasattr(Subscription, "CallbackType")  # Humble hands the message over alone


def subscribe(
    node: Node,
    message_type: Any,
    topic: str,
    on_message: Callable[[Any, Mapping[str, Any]], None],
    profile: QoSProfile,
    events: Mapping[str, Callable[[Any], None]],
    group: CallbackGroup | None,
) -> Subscription:
    """Subscribe with those of the event callbacks that this rclpy and this middleware know.

    Args:
        on_message: takes the message and its info, whose values may be missing or None.
        events: callbacks by rclpy's names: `incompatible_qos`, `message_lost` (not every middleware), `matched` (not on
            Humble).
        group: of the callbacks, None for the node's own.
    """

    def alone(message: Any) -> None:
        on_message(message, {})

    known = inspect.signature(SubscriptionEventCallbacks).parameters
    wanted = {name: callback for name, callback in events.items() if name in known}
    for chosen in (wanted, {}):
        try:
            return node.create_subscription(
                message_type,
                topic,
                on_message if _TELLS_MESSAGE_INFO else alone,
                profile,
                callback_group=group,
                event_callbacks=SubscriptionEventCallbacks(**chosen, use_default_callbacks=False),
            )
        except _UNSUPPORTED:
            if not chosen:
                raise
    raise AssertionError("unreachable")
