"""What is set for each of several cameras: `camera.NAME.image` and so on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mtaclip_core.cli import UserError
from mtaclip_ros.parameter_spec import Spec

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class CameraParameters:
    """What is set for each camera apart.

    Attributes:
        name: of the camera, empty for the only one of a node without `cameras`.
        image: topic before remapping.
        roi: x, y, width, height in pixels, or empty.
        mask: path of a PNG, or empty.
        max_rate: frames a second; 0 leaves it to the node's `max_rate`.
    """

    name: str
    image: str
    roi: tuple[int, ...] = ()
    mask: str = ""
    max_rate: float = 0.0

    def setting(self, field_name: str) -> str:
        """The ROS name of a field, for messages."""
        if self.name:
            return f"camera.{self.name}.{field_name}"
        return {"image": "image_topic", "roi": "image_roi", "mask": "image_mask"}.get(field_name, field_name)


def camera_specs(name: str) -> dict[str, Spec]:
    """Field of `CameraParameters` -> declaration, for a camera of that name."""
    prefix = f"camera.{name}."
    return {
        "image": Spec(f"{prefix}image", f"{name}/image_raw", "Topic of this camera, before remapping.", "unconfigured"),
        "roi": Spec(
            f"{prefix}roi",
            (),
            "Only this part of the picture is segmented: [x, y, width, height] in pixels; []: all of it.",
            "unconfigured",
            items=int,
        ),
        "mask": Spec(
            f"{prefix}mask",
            "",
            "PNG of the picture's size that is black where nothing is labelled, such as the vehicle's own hood.",
            "unconfigured",
        ),
        "max_rate": Spec(
            f"{prefix}max_rate",
            0.0,
            "Most frames a second of this camera that are segmented; 0: max_rate.",
            "any time",
            low=0.0,
            high=1000.0,
        ),
    }


def checked_names(cameras: tuple[str, ...]) -> tuple[str, ...]:
    """The names, when each can be part of a topic name and none is there twice. Raises UserError otherwise."""
    for name in cameras:
        if not _CAMERA_NAME.fullmatch(name) or name.endswith("_") or "__" in name:
            raise UserError(
                f"parameter 'cameras': '{name}' cannot be part of a topic name; use letters, digits and single "
                f"underscores, a letter first"
            )
        if cameras.count(name) > 1:
            raise UserError(f"parameter 'cameras' names '{name}' twice")
    return cameras
