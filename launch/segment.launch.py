"""Start the node `mtaclip`:  ros2 launch mtaclip_ros segment.launch.py image:=/front/image_raw model:=street-tiny

Sets the Fast DDS profile and the malloc thresholds for large images, unless you set your own. Start the camera driver
with the same FASTDDS_DEFAULT_PROFILES_FILE: the sender's shared memory counts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mtaclip_ros.transport import share_directory, transport_environment

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescription

# name: (default, description); an empty default leaves the value to the parameter file
ARGUMENTS = {
    "namespace": ("", "namespace of the node"),
    "params_file": (str(share_directory() / "config" / "segment.yaml"), "YAML file of the node's parameters"),
    "image": ("/camera/image_raw", "camera topic, without /compressed"),
    "cameras": (
        "",
        "several cameras, as front,left; topics: /front/image_raw, or camera.NAME.image in params_file",
    ),
    "model": ("", "bundle, in place of model.path in params_file"),
    "backend": ("", "in place of model.backend in params_file"),
    "autostart": ("", "true or false, in place of autostart in params_file"),
    "build_only": ("", "true: build and load the model, say what was built, and end"),
    "use_sim_time": ("", "true or false, in place of use_sim_time in params_file"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}
PARAMETERS = {"model": "model.path", "backend": "model.backend"}
SWITCHES = ("autostart", "build_only", "use_sim_time")


def generate_launch_description() -> LaunchDescription:
    # imported here, so that a test can compare the defaults where launch is not installed
    from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable

    from launch import LaunchDescription

    return LaunchDescription(
        [
            *(DeclareLaunchArgument(n, default_value=d, description=text) for n, (d, text) in ARGUMENTS.items()),
            *(SetEnvironmentVariable(name, value) for name, value in transport_environment(os.environ).items()),
            OpaqueFunction(function=_node),
        ]
    )


def node_parameters(given: dict[str, str]) -> dict[str, Any]:
    """The node's parameters for the arguments that were given.

    Raises:
        RuntimeError: a switch that is neither true nor false, or no name in `cameras`.
    """
    parameters: dict[str, Any] = {PARAMETERS[name]: given[name] for name in PARAMETERS if name in given}
    for name in SWITCHES:
        if name in given:
            if given[name].lower() not in ("true", "false"):
                raise RuntimeError(f"{name}:={given[name]}: expected true or false")
            parameters[name] = given[name].lower() == "true"
    if "cameras" in given:
        cameras = [name.strip(" '\"") for name in given["cameras"].strip("[] ").split(",")]
        if not all(cameras):
            raise RuntimeError(f"cameras:={given['cameras']}: expected names with commas between, as front,left")
        parameters["cameras"] = cameras
    return parameters


def _node(context: LaunchContext) -> list[Any]:
    from launch_ros.actions import Node

    given = {name: value for name in ARGUMENTS if (value := context.launch_configurations[name])}
    return [
        Node(
            package="mtaclip_ros",
            executable="segment_node",
            name="mtaclip",
            namespace=given.get("namespace", ""),
            parameters=[given["params_file"], node_parameters(given)],
            remappings=[("image", given["image"])],
            ros_arguments=["--log-level", given["log_level"]],
            output="screen",
            emulate_tty=True,
        )
    ]
