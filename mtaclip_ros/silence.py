"""Why images do not arrive: one line from what the ROS graph shows, with what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


@dataclass(frozen=True)
class Offer:
    """A publisher on the image topic: its node, message type (`sensor_msgs/msg/Image`), and QoS."""

    node: str
    message_type: str
    reliable: bool
    transient_local: bool = False

    @property
    def known(self) -> bool:
        """False as long as the publisher is found and its node's name, which is sent as data, has not arrived."""
        return "_UNKNOWN_" not in self.node

    def __str__(self) -> str:
        reliability = "reliable" if self.reliable else "best effort"
        durability = ", transient local" if self.transient_local else ""
        return f"{self.node if self.known else 'a nameless node'} offers {reliability}{durability} {self.message_type}"


@dataclass(frozen=True)
class Situation:
    """What is known while images are missing.

    Attributes:
        message_type, reliable: what is asked for.
        offers: the publishers on the topic.
        elsewhere: other topics where somebody publishes that message type.
        sibling: the topic of the other `image_transport` where somebody publishes, or empty.
        setting: the parameter that names the topic.
        connected: publishers that matched, None where the middleware does not tell.
        lost: images that the middleware reports as lost.
        camera_info: camera_info arrives.
        discovery: what to check when nobody publishes.
        hint: on the transport, may be empty.
    """

    message_type: str
    reliable: bool
    offers: Sequence[Offer]
    elsewhere: Sequence[str] = ()
    sibling: str = ""
    setting: str = "image_topic"
    connected: int | None = None
    lost: int = 0
    camera_info: bool = False
    discovery: str = "ROS_DOMAIN_ID"
    hint: str = ""


def wants_reliable(setting: str, offers: Sequence[Offer], message_type: str) -> bool:
    """What to ask of the camera: `image_reliability`, where `auto` is reliable if all publishers offer it.

    Without any publisher, best effort: it matches whatever comes.
    """
    if setting != "auto":
        return setting == "reliable"
    fitting = [offer for offer in offers if offer.message_type == message_type]
    return bool(fitting) and all(offer.reliable for offer in fitting)


def explain(now: Situation) -> str:
    """One clause on who publishes on the image topic, one on what to change."""
    if not now.offers:
        return f"0 publishers; {_where_else(now)}"
    who = describe(now.offers)
    fitting = [offer for offer in now.offers if offer.message_type == now.message_type]
    if not fitting:
        return f"{who}; {wrong_type(now.message_type, now.offers)}"
    if now.reliable and not any(offer.reliable for offer in fitting):
        return f"{who}; {incompatible()}"
    if now.connected == 0:
        return f"{who}; found but not connected: check that both use the same middleware, version and security settings"
    if now.lost or now.camera_info:
        proof = f"{now.lost} images were lost on the way" if now.lost else "camera_info arrives, so images are lost"
        return f"{who}; {proof}{_and(now.hint)}"
    return f"{who}; they match, so they send nothing or it is lost on the way{_and(now.hint)}"


def describe(offers: Sequence[Offer]) -> str:
    """Number of publishers, and what each offers."""
    return f"{len(offers)} publisher{'' if len(offers) == 1 else 's'}: {'; '.join(str(offer) for offer in offers)}"


def incompatible() -> str:
    """What to change when reliable is asked for and best effort offered."""
    return "reliable is asked for and not offered: set image_reliability to auto or best_effort"


def wrong_type(message_type: str, offers: Sequence[Offer]) -> str:
    """What to change when the topic carries other messages than are taken."""
    types = {offer.message_type for offer in offers}
    advice = "choose another topic"
    if message_type == IMAGE and COMPRESSED in types:
        advice = "set image_transport to compressed and the image topic to its name without /compressed"
    elif message_type == COMPRESSED and IMAGE in types:
        advice = "set image_transport to raw"
    return f"this node takes {message_type} there: {advice}"


def _where_else(now: Situation) -> str:
    if now.sibling:
        transport = "raw" if now.message_type == COMPRESSED else "compressed"
        return f"{now.sibling} has a publisher: set image_transport to {transport}"
    if not now.elsewhere:
        return f"nobody publishes {now.message_type}: start the camera, check {now.discovery}"
    where = f"{now.message_type} is on: {', '.join(now.elsewhere)}"
    remap = "remap 'image' or " if now.setting == "image_topic" else ""
    return f"{where}; {remap}set {now.setting}, and check {now.discovery}"


def _and(hint: str) -> str:
    return f": {hint}" if hint else ""
