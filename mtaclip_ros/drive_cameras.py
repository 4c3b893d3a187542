"""The cameras of a drive: where a bag has their images and their ground truth, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtaclip_core.cli import UserError
from mtaclip_ros.bag_reader import CAMERA_TYPES, IMAGE, IMAGE_TOPIC, Bag

_TRUTH = "label_gt"


@dataclass(frozen=True)
class Camera:
    """One camera.

    Attributes:
        name: as in the node's parameter `cameras`; empty for the only one.
        image_topic: its images.
        label_topic: its ground truth, as asked for; None: `label_gt` beside the images, where the bag has it.
    """

    name: str
    image_topic: str
    label_topic: str | None = None

    def outputs(self, namespace: str) -> str:
        """What the node's topics of this camera begin with: `/mtaclip`, or `/mtaclip/front`."""
        return f"{namespace}/{self.name}" if self.name else namespace

    def truth(self, bag: Bag) -> str | None:
        """The topic with ground truth in a bag, None where there is none.

        Raises:
            UserError: the topic asked for is not in the bag, or holds no images.
        """
        if self.label_topic is not None:
            return bag.require(self.label_topic, IMAGE).name
        beside = f"{_folder(self.image_topic)}/{_TRUTH}"
        return beside if beside in bag.topics and bag.topics[beside].count else None

    def check(self, bag: Bag) -> None:
        """Raises UserError where the bag lacks this camera's images, or the ground truth asked for."""
        bag.require(self.image_topic, *CAMERA_TYPES)
        self.truth(bag)


def cameras_of(
    image_topics: Sequence[str] | None, label_topics: Sequence[str] | None, names: Sequence[str] | None = None
) -> list[Camera]:
    """The cameras a command line asks for, one for each image topic.

    Args:
        image_topics: None for `/camera/image_raw` alone.
        label_topics: one for each image topic, in their order, or None.
        names: the same; by default `front` for `/front/image_raw`, and none for a single camera.

    Raises:
        UserError: the numbers differ, or a topic or name is there twice.
    """
    images = list(image_topics or [IMAGE_TOPIC])
    for option, given in (("--label-topic", label_topics), ("--camera", names)):
        if given is not None and len(given) != len(images):
            raise UserError(f"{option} names {len(given)}, but there are {len(images)} image topics: give one for each")
    called = list(names) if names is not None else [""] if len(images) == 1 else [_folder(t)[1:] for t in images]
    called = [name.replace("/", "_") for name in called]
    for values, what in ((images, "--image-topic"), (called, "--camera")):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"{what} '{twice[0]}' is there twice; each camera needs its own (see --help)")
    labels: Sequence[str | None] = label_topics or [None] * len(images)
    return [Camera(*row) for row in zip(called, images, labels, strict=True)]


def _folder(topic: str) -> str:
    """`/front` of `/front/image_raw` and of `/front/image_raw/compressed`."""
    return topic.removesuffix("/compressed").rpartition("/")[0]
