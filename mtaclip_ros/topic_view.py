"""What the ROS graph and this machine show about a camera topic, for the lines that say why images do not arrive."""

from __future__ import annotations

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from mtaclip_ros.silence import IMAGE, Offer, Situation
from mtaclip_ros.transport_hint import Machine, discovery_hint, transport_hint


class TopicView:
    """Args:
    node: looks at the graph.
    topic, message_type: what the node subscribes to.
    sibling: the topic of the other `image_transport`.
    setting: the parameter that the topic comes from.
    """

    def __init__(self, node: Node, topic: str, message_type: str, sibling: str, setting: str) -> None:
        self._node = node
        self._topic = topic
        self._message_type = message_type
        self._sibling = sibling
        self._setting = setting
        self._rmw = rclpy.get_rmw_implementation_identifier()

    def publishers(self) -> tuple[frozenset[bytes], list[Offer]]:
        """The publishers on the topic: their ids, and what each offers."""
        infos = self._node.get_publishers_info_by_topic(self._topic)
        return frozenset(bytes(info.endpoint_gid) for info in infos), [_offer(info) for info in infos]

    def situation(
        self, *, reliable: bool, connected: int | None, lost: int, camera_info: bool, image_bytes: int | None
    ) -> Situation:
        """All that is known while images are missing; the arguments are those of `Situation` and `transport_hint`."""
        ours = f"{self._node.get_fully_qualified_name()}/"
        topics = [name for name, types in self._node.get_topic_names_and_types() if self._message_type in types]
        others = [name for name in topics if name != self._topic and not name.startswith(ours)]
        return Situation(
            message_type=self._message_type,
            reliable=reliable,
            offers=self.publishers()[1],
            elsewhere=sorted(name for name in others if self._node.count_publishers(name)),
            sibling=self._sibling if self._node.count_publishers(self._sibling) else "",
            setting=self._setting,
            connected=connected,
            lost=lost,
            camera_info=camera_info,
            discovery=discovery_hint(self._rmw, Machine.look()),
            hint=self.transport_hint(image_bytes),
        )

    def transport_hint(self, image_bytes: int | None) -> str:
        """What to set so that images come through; `image_bytes` is the size of one, None where none has arrived."""
        if image_bytes is None and self._message_type != IMAGE:
            image_bytes = 0  # compressed images are small until one shows otherwise
        if "fastrtps" in self._rmw and not all(offer.known for offer in self.publishers()[1]):
            return "not even its name arrives: containers that share the network must share /dev/shm too (--ipc=host)"
        return transport_hint(self._rmw, self._same_host(), image_bytes, Machine.look())

    def _same_host(self) -> bool | None:
        """True when all publishers run on this machine; None where the middleware's ids do not tell."""
        if "fastrtps" not in self._rmw:
            return None
        name = (self._node.get_name(), self._node.get_namespace())
        subscriptions = self._node.get_subscriptions_info_by_topic(self._topic)
        hosts = {_host(bytes(s.endpoint_gid)) for s in subscriptions if (s.node_name, s.node_namespace) == name}
        return all(_host(gid) in hosts for gid in self.publishers()[0]) if hosts else None


def _host(gid: bytes) -> bytes:
    """The part of a Fast DDS GUID that names the machine: it follows the vendor id of 2 bytes."""
    return gid[2:4]


def _offer(info: TopicEndpointInfo) -> Offer:
    profile = info.qos_profile
    return Offer(
        f"{info.node_namespace.rstrip('/')}/{info.node_name}",
        info.topic_type,
        profile.reliability == ReliabilityPolicy.RELIABLE,
        profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
    )
