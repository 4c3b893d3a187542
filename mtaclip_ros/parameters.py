"""All parameters of the node in one frozen dataclass: name, default, description, range, and when each may change."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from mtaclip_core.cli import UserError
from mtaclip_core.runtime.segmenter import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from rclpy.node import Node

Changes = Literal["never", "unconfigured", "any time"]
RELIABILITIES = ("auto", "reliable", "best_effort")
TRANSPORTS = ("raw", "compressed")
_TYPE_NAMES = {bool: "bool", int: "integer", float: "double", str: "string"}


@dataclass(frozen=True)
class Spec:
    """How one parameter is declared.

    Attributes:
        name: its ROS name, dotted.
        default: also fixes its type.
        description: one sentence for `ros2 param describe` and the README.
        changes: `never` is read-only, `unconfigured` waits for `ros2 lifecycle set NODE cleanup`.
        low, high: inclusive range of a number.
        choices: the allowed strings.
    """

    name: str
    default: bool | int | float | str
    description: str
    changes: Changes
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """What a good value is, in words."""
        kind = f"of type {_TYPE_NAMES[type(self.default)]}"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return kind if self.low is None or self.high is None else f"{kind} from {self.low:g} to {self.high:g}"

    def check(self, value: Any) -> Any:
        """The value, when it is a good one.

        Raises:
            UserError: wrong type, out of range, or not one of the choices.
        """
        good = type(value) is type(self.default) and (not self.choices or value in self.choices)
        if not good or (self.low is not None and self.high is not None and not self.low <= value <= self.high):
            raise UserError(f"parameter '{self.name}' must be {self.expected}; got {value!r}")
        return value


def _parameter(name: str, default: Any, description: str, changes: Changes = "any time", **limits: Any) -> Any:
    return field(default=default, metadata={"spec": Spec(name, default, description, changes, **limits)})


@dataclass(frozen=True)
class Parameters:
    """The values in use. A change makes a new object, so a frame in work sees one set from start to end."""

    autostart: bool = _parameter(
        "autostart", True, "The program configures and activates itself; false waits for lifecycle requests.", "never"
    )
    image_topic: str = _parameter(
        "image_topic",
        "image",
        "Topic of the camera; the default name 'image' is remapped to /camera/image_raw unless you remap it.",
        "unconfigured",
    )
    image_transport: str = _parameter(
        "image_transport",
        "raw",
        "raw: sensor_msgs/Image on the topic; compressed: sensor_msgs/CompressedImage on TOPIC/compressed.",
        "unconfigured",
        choices=TRANSPORTS,
    )
    image_reliability: str = _parameter(
        "image_reliability",
        "auto",
        "Reliability asked of the camera; auto: reliable if all its publishers offer it, else best effort.",
        "unconfigured",
        choices=RELIABILITIES,
    )
    model_path: str = _parameter(
        "model.path", "street-tiny", "Bundle: a folder, or the name of one that ships in models/.", "unconfigured"
    )
    model_backend: str = _parameter(
        "model.backend",
        "auto",
        "What runs the model; auto takes the fastest that is installed.",
        "unconfigured",
        choices=BACKENDS,
    )
    model_precision: str = _parameter(
        "model.precision",
        "f32",
        "Arithmetic precision to ask for; /diagnostics shows what really runs.",
        "unconfigured",
        choices=PRECISIONS,
    )
    model_threads: int = _parameter(
        "model.threads", 0, "CPU threads of the model; 0: the backend chooses.", "unconfigured", low=0, high=256
    )
    model_verify: bool = _parameter(
        "model.verify", True, "Hold the loaded model against the bundle's reference outputs.", "unconfigured"
    )
    confidence_floor: int = _parameter(
        "confidence_floor", 0, "Pixels of lower confidence (0-255) are labelled 255; 0: never.", low=0, high=255
    )
    max_rate: float = _parameter(
        "max_rate", 0.0, "Most frames a second that are segmented; 0: as many as the model can.", low=0.0, high=1000.0
    )
    overlay_alpha: float = _parameter(
        "overlay.alpha", 0.5, "Weight of the class colours in the overlay; 0: camera only.", low=0.0, high=1.0
    )
    overlay_max_rate: float = _parameter(
        "overlay.max_rate", 10.0, "Most overlay and color images a second; 0: one per label.", low=0.0, high=1000.0
    )
    watchdog_timeout: float = _parameter(
        "watchdog.timeout", 5.0, "Seconds without an image until the log says why; 0: never.", low=0.0, high=3600.0
    )
    diagnostics_max_latency: float = _parameter(
        "diagnostics.max_latency",
        1.0,
        "Warns when the median from stamp to label takes more seconds; 0: never.",
        low=0.0,
        high=3600.0,
    )
    diagnostics_max_drop_ratio: float = _parameter(
        "diagnostics.max_drop_ratio",
        0.9,
        "Warns when a larger share of frames is dropped; 1: never.",
        low=0.0,
        high=1.0,
    )

    @classmethod
    def from_ros(cls, values: Mapping[str, Any]) -> Parameters:
        """Check a value for each ROS name; names that are missing keep their default.

        Raises:
            UserError: a value that its `Spec` refuses, or a name that is not a parameter of the node.
        """
        return cls().updated(values)

    def updated(self, values: Mapping[str, Any]) -> Parameters:
        """A copy with other values, by ROS name. Raises UserError as `from_ros` does."""
        unknown = [name for name in values if name not in SPECS]
        if unknown:
            raise UserError(f"'{unknown[0]}' is not a parameter of the node" + _suggestion(unknown[0]))
        return replace(self, **{_FIELDS[name]: SPECS[name].check(value) for name, value in values.items()})


SPECS: dict[str, Spec] = {f.metadata["spec"].name: f.metadata["spec"] for f in fields(Parameters)}
"""ROS name -> declaration, in the order in which tables list them."""
_FIELDS = {f.metadata["spec"].name: f.name for f in fields(Parameters)}


def declare(node: Node) -> Parameters:
    """Declare every parameter on a node and read what the user set.

    Raises:
        UserError: a value of the wrong type or out of range.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    values: dict[str, Any] = {}
    for spec in SPECS.values():
        descriptor = ParameterDescriptor(
            description=spec.description,
            read_only=spec.changes == "never",
            additional_constraints=f"one of {', '.join(spec.choices)}" if spec.choices else "",
        )
        if spec.low is not None and spec.high is not None:
            if isinstance(spec.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
        try:
            values[spec.name] = node.declare_parameter(spec.name, spec.default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise UserError(f"parameter '{spec.name}' must be {spec.expected}: {error.args[0]}") from error
    return Parameters.from_ros(values)


def misspelt(names: Iterable[str]) -> list[str]:
    """A line for every name that looks like a slip for one of ours; foreign names (shared YAML files) pass."""
    slips = [name for name in names if name not in SPECS and _near(name)]
    return [f"parameter '{name}' is not one of the node's, ignored{_suggestion(name)}" for name in slips]


def _near(name: str) -> list[str]:
    return difflib.get_close_matches(name, SPECS, n=1, cutoff=0.75)


def _suggestion(name: str) -> str:
    return "".join(f"; did you mean '{near}'?" for near in _near(name))
