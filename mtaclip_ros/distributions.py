"""What differs between the rclpy of Humble, Jazzy and Kilted where a publisher or a subscription is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

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

    def create(wanted: Mapping[str, Callable[[Any], None]]) -> Subscription:
        return node.create_subscription(
            message_type,
            topic,
            on_message if _TELLS_MESSAGE_INFO else alone,
            profile,
            callback_group=group,
            event_callbacks=SubscriptionEventCallbacks(**wanted, use_default_callbacks=False),
        )

    known = inspect.signature(SubscriptionEventCallbacks).parameters
    with suppress(_UNSUPPORTED):
        return create({name: callback for name, callback in events.items() if name in known})
    return create({})


def advertise(
    node: Node,
    message_type: Any,
    topic: str,
    profile: QoSProfile,
    on_refused: Callable[[str], None],
    group: CallbackGroup | None,
) -> Publisher:
    """Make a publisher that tells, where the middleware does, of subscribers that it cannot serve.

    Args:
        on_refused: takes the policy that a subscriber was refused for: `reliability`, `durability` and so on.
        group: of the callback, None for the node's own.
    """

    def refused(event: Any) -> None:
        on_refused(qos_policy_name_from_kind(event.last_policy_kind).lower())

    def create(**events: Callable[[Any], None]) -> Publisher:
        callbacks = PublisherEventCallbacks(**events, use_default_callbacks=False)
        return node.create_publisher(message_type, topic, profile, callback_group=group, event_callbacks=callbacks)

    with suppress(_UNSUPPORTED):
        return create(incompatible_qos=refused)
    return create()
