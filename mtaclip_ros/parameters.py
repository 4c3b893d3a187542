"""All parameters of the node in one frozen dataclass: name, default, description, range, and when each may change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mtaclip_core.cli import UserError
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS
from mtaclip_ros.camera_parameters import CameraParameters, camera_specs, checked_names
from mtaclip_ros.parameter_spec import Spec, parameter

RELIABILITIES = ("auto", "reliable", "best_effort")
TRANSPORTS = ("raw", "compressed")


@dataclass(frozen=True)
class Parameters:
    """The values in use. A change makes a new object, so a frame in work sees one set from start to end."""

    autostart: bool = parameter(
        "autostart", True, "The program configures and activates itself; false waits for lifecycle requests.", "never"
    )
    image_topic: str = parameter(
        "image_topic",
        "image",
        "Topic of the camera; the default name 'image' is remapped to /camera/image_raw unless you remap it.",
        "unconfigured",
    )
    image_roi: tuple[int, ...] = parameter(
        "image_roi",
        (),
        "Only this part of the picture is segmented: [x, y, width, height] in pixels; []: all of it.",
        "unconfigured",
        items=int,
    )
    image_mask: str = parameter(
        "image_mask",
        "",
        "PNG of the picture's size that is black where nothing is labelled, such as the vehicle's own hood.",
        "unconfigured",
    )
    cameras: tuple[str, ...] = parameter(
        "cameras",
        (),
        "Names of several cameras, each with parameters camera.NAME.image and so on; []: one camera on image_topic.",
        "unconfigured",
    )
    image_transport: str = parameter(
        "image_transport",
        "raw",
        "raw: sensor_msgs/Image on the topic; compressed: sensor_msgs/CompressedImage on TOPIC/compressed.",
        "unconfigured",
        choices=TRANSPORTS,
    )
    image_reliability: str = parameter(
        "image_reliability",
        "auto",
        "Reliability asked of the camera; auto: reliable if all its publishers offer it, else best effort.",
        "unconfigured",
        choices=RELIABILITIES,
    )
    model_path: str = parameter(
        "model.path", "street-tiny", "Bundle: a folder, or the name of one that ships in models/.", "unconfigured"
    )
    model_backend: str = parameter(
        "model.backend",
        "auto",
        "What runs the model; auto takes the fastest that is installed.",
        "unconfigured",
        choices=BACKENDS,
    )
    model_precision: str = parameter(
        "model.precision",
        "f32",
        "Arithmetic precision to ask for; /diagnostics shows what really runs.",
        "unconfigured",
        choices=PRECISIONS,
    )
    model_threads: int = parameter(
        "model.threads", 0, "CPU threads of the model; 0: the backend chooses.", "unconfigured", low=0, high=256
    )
    model_verify: bool = parameter(
        "model.verify", True, "Hold the loaded model against the bundle's reference outputs.", "unconfigured"
    )
    model_max_batch: int = parameter(
        "model.max_batch",
        4,
        "Most frames, of as many cameras, that the model takes at once; 1: one after the other.",
        "unconfigured",
        low=1,
        high=16,
    )
    build_only: bool = parameter(
        "build_only", False, "The program builds and loads the model, says what it built, and ends.", "never"
    )
    confidence_floor: int = parameter(
        "confidence_floor", 0, "Pixels of lower confidence (0-255) are labelled 255; 0: never.", low=0, high=255
    )
    max_rate: float = parameter(
        "max_rate", 0.0, "Most frames a second that are segmented; 0: as many as the model can.", low=0.0, high=1000.0
    )
    overlay_alpha: float = parameter(
        "overlay.alpha", 0.5, "Weight of the class colours in the overlay; 0: camera only.", low=0.0, high=1.0
    )
    overlay_max_rate: float = parameter(
        "overlay.max_rate", 10.0, "Most overlay and color images a second; 0: one per label.", low=0.0, high=1000.0
    )
    watchdog_timeout: float = parameter(
        "watchdog.timeout", 5.0, "Seconds without an image until the log says why; 0: never.", low=0.0, high=3600.0
    )
    diagnostics_max_latency: float = parameter(
        "diagnostics.max_latency",
        1.0,
        "WARN when the median from stamp to label takes more seconds; 0: never.",
        low=0.0,
        high=3600.0,
    )
    diagnostics_error_latency: float = parameter(
        "diagnostics.error_latency",
        0.0,
        "ERROR when the median from stamp to label takes more seconds; 0: never.",
        low=0.0,
        high=3600.0,
    )
    diagnostics_max_drop_ratio: float = parameter(
        "diagnostics.max_drop_ratio",
        0.9,
        "WARN when a larger share of frames is dropped; 1: never.",
        low=0.0,
        high=1.0,
    )
    diagnostics_max_bad_ratio: float = parameter(
        "diagnostics.max_bad_ratio",
        0.5,
        "ERROR when a larger share of messages holds no usable picture, WARN below; 1: WARN only.",
        low=0.0,
        high=1.0,
    )
    diagnostics_min_input_rate: float = parameter(
        "diagnostics.min_input_rate",
        0.0,
        "WARN when a camera sends fewer images a second; 0: never.",
        low=0.0,
        high=1000.0,
    )
    diagnostics_min_output_rate: float = parameter(
        "diagnostics.min_output_rate",
        0.0,
        "ERROR when a camera gets fewer labels a second; 0: never.",
        low=0.0,
        high=1000.0,
    )
    camera: tuple[CameraParameters, ...] = ()
    """One for each name in `cameras`, in that order."""

    @classmethod
    def from_ros(cls, values: Mapping[str, Any]) -> Parameters:
        """Check a value for each ROS name; names that are missing keep their default.

        Raises:
            UserError: a value that its `Spec` refuses, or a name that is not a parameter of the node.
        """
        return cls().updated(values)

    def updated(self, values: Mapping[str, Any]) -> Parameters:
        """A copy with other values, by ROS name. Raises UserError as `from_ros` does."""
        fixed = {name: value for name, value in values.items() if name in SPECS}
        wanted = replace(self, **{_FIELDS[name]: SPECS[name].check(value) for name, value in fixed.items()})
        known = {camera.name: camera for camera in self.camera}
        new = {name: CameraParameters(name, f"{name}/image_raw") for name in checked_names(wanted.cameras)}
        cameras = {name: known.get(name, fresh) for name, fresh in new.items()}
        of_cameras = {spec.name: (n, f, spec) for n in cameras for f, spec in camera_specs(n).items()}
        for name, value in values.items():
            if name in of_cameras:
                camera, field_name, spec = of_cameras[name]
                cameras[camera] = replace(cameras[camera], **{field_name: spec.check(value)})
            elif name not in fixed:
                raise UserError(f"'{name}' is not a parameter of the node" + _suggestion(name))
        return replace(wanted, camera=tuple(cameras.values()))

    @property
    def specs(self) -> dict[str, Spec]:
        """ROS name -> declaration, with those of the cameras."""
        of_cameras = (spec for camera in self.camera for spec in camera_specs(camera.name).values())
        return {**SPECS, **{spec.name: spec for spec in of_cameras}}

    @property
    def sources(self) -> tuple[CameraParameters, ...]:
        """The cameras to listen to: those of `cameras`, or the only one, without a name."""
        return self.camera or (CameraParameters("", self.image_topic, self.image_roi, self.image_mask),)

    def max_rate_of(self, name: str) -> float:
        """Frames a second to segment of a camera, 0 for all."""
        return next((c.max_rate for c in self.camera if c.name == name and c.max_rate), self.max_rate)


SPECS: dict[str, Spec] = {f.metadata["spec"].name: f.metadata["spec"] for f in fields(Parameters) if f.metadata}
"""ROS name -> declaration, in the order in which tables list them; those of single cameras: `camera_specs`."""
_FIELDS = {f.metadata["spec"].name: f.name for f in fields(Parameters) if f.metadata}


def misspelt(names: Iterable[str], cameras: Sequence[str] = ()) -> list[str]:
    """A line for every name that looks like a slip for one of ours; foreign names (shared YAML files) pass."""
    lines = []
    for name in names:
        head, _, rest = name.partition(".")
        camera, _, field_name = rest.partition(".")
        if name in SPECS or (head == "camera" and camera in cameras and field_name in camera_specs(camera)):
            continue
        if head == "camera" and field_name in camera_specs(camera) and camera not in cameras:
            lines.append(
                f"parameter '{name}' is ignored: '{camera}' is not in `cameras` ({', '.join(cameras) or 'empty'})"
            )
        elif head == "camera" and camera in cameras:
            expected = ", ".join(camera_specs(camera))
            lines.append(f"parameter '{name}' is not one of the node's, ignored; a camera has {expected}")
        elif _near(name):
            lines.append(f"parameter '{name}' is not one of the node's, ignored{_suggestion(name)}")
    return lines


def _near(name: str) -> list[str]:
    return difflib.get_close_matches(name, SPECS, n=1, cutoff=0.75)


def _suggestion(name: str) -> str:
    return "".join(f"; did you mean '{near}'?" for near in _near(name))
