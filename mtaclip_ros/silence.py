"""Why no image arrives: one line from what the ROS graph shows, with what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtaclip_ros.transport import PROFILE, share_directory


@dataclass(frozen=True)
class Offer:
    """A publisher on the image topic: its node, message type (`sensor_msgs/msg/Image`), and `reliable` or not."""

    node: str
    message_type: str
    reliable: bool

    def __str__(self) -> str:
        return f"{self.node} offers {'reliable' if self.reliable else 'best effort'} {self.message_type}"


def wants_reliable(setting: str, offers: Sequence[Offer], message_type: str) -> bool:
    """What to ask of the camera: `image_reliability`, where `auto` is reliable if all publishers offer it.

    Without any publisher, best effort: it matches whatever comes.
    """
    if setting != "auto":
        return setting == "reliable"
    fitting = [offer for offer in offers if offer.message_type == message_type]
    return bool(fitting) and all(offer.reliable for offer in fitting)


def explain(message_type: str, reliable: bool, offers: Sequence[Offer], elsewhere: Sequence[str], rmw: str) -> str:
    """One clause on who publishes on the image topic, one on what to change.

    Args:
        message_type, reliable: what is asked for.
        offers: the publishers on the topic.
        elsewhere: other topics of that message type.
        rmw: identifier of the middleware in use.
    """
    if not offers:
        where = f"{message_type} is on: {', '.join(elsewhere)}" if elsewhere else f"nobody publishes {message_type}"
        return f"0 publishers on it; {where}; remap 'image' or set image_topic, and check ROS_DOMAIN_ID"
    who = f"{len(offers)} publisher{'s' if len(offers) > 1 else ''}: {'; '.join(str(offer) for offer in offers)}"
    if all(offer.message_type != message_type for offer in offers):
        return f"{who}; this node takes {message_type}: choose another topic or set image_transport"
    if reliable and not any(offer.reliable for offer in offers if offer.message_type == message_type):
        return f"{who}; reliable is asked for and not offered: set image_reliability to auto or best_effort"
    return f"{who}; they match, so they send nothing or it is lost on the way{_transport_hint(rmw)}"


def _transport_hint(rmw: str) -> str:
    if "fastrtps" in rmw:
        profile = share_directory() / PROFILE
        return (
            f": images above 0.5 MiB need a larger shared-memory segment on the sender, "
            f"start the camera with FASTDDS_DEFAULT_PROFILES_FILE={profile}"
        )
    if "cyclone" in rmw:
        return ": large images need a larger receive buffer, sudo sysctl -w net.core.rmem_max=2147483647"
    return ""
