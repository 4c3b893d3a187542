"""The node's parameters as ROS has them: declared with description, range and read-only flag, and read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from mtaclip_core.cli import UserError
from mtaclip_ros.parameter_spec import Spec
from mtaclip_ros.parameters import SPECS, Parameters


def declare(node: Node) -> Parameters:
    """Declare every parameter on a node and read what the user set.

    Raises:
        UserError: a value of the wrong type or out of range.
    """
    return declare_cameras(node, Parameters.from_ros(_declared(node, SPECS.values())))


def declare_cameras(node: Node, parameters: Parameters) -> Parameters:
    """The same for the parameters of each camera in `cameras`, those that are declared already among them.

    Raises:
        UserError: as `declare`.
    """
    specs = [spec for name, spec in parameters.specs.items() if name not in SPECS]
    return parameters.updated(_declared(node, specs))


def _declared(node: Node, specs: Iterable[Spec]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for spec in specs:
        if node.has_parameter(spec.name):
            values[spec.name] = node.get_parameter(spec.name).value
            continue
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        try:
            values[spec.name] = node.declare_parameter(spec.name, default, _descriptor(spec)).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise UserError(f"parameter '{spec.name}' must be {spec.expected}: {error.args[0]}") from error
    return values


def _descriptor(spec: Spec) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=spec.description,
        read_only=spec.changes == "never",
        additional_constraints=spec.expected if spec.choices or spec.is_list else "",
        dynamic_typing=spec.is_list,  # to rclpy an empty list is one of bytes, and one from a YAML file is no value
    )
    if spec.low is not None and spec.high is not None:
        if isinstance(spec.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
    return descriptor
