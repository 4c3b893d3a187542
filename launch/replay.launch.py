"""Judge the node on a bag:  ros2 launch mtaclip_ros replay.launch.py bag:=/bags/drive report:=runs/judged

Starts the node (segment.launch.py), plays the bag's images through it at the recorded rate, compares the labels with
the bag's ground truth, and ends with a table, live.json and the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtaclip_ros.transport import share_directory

if TYPE_CHECKING:
    from launch import LaunchContext, LaunchDescription

# name: (default, description); an empty default leaves the value to segment.launch.py
ARGUMENTS = {
    "bag": (None, "rosbag2 folder"),
    "report": ("mtaclip_report", "folder for report.html, overlay.mp4, contact_sheet.png, frames.csv and live.json"),
    "image": ("/camera/image_raw", "topic of the images in the bag"),
    "labels": ("", "topic of the ground truth (default: /camera/label_gt where the bag has it)"),
    "rate": ("1.0", "factor on the recorded speed"),
    "from": ("0.0", "begin so many seconds after the bag's start"),
    "to": ("inf", "end before so many seconds after the bag's start"),
    "min_miou": ("", "fail where the mIoU (0-1) is below"),
    "use_sim_time": ("false", "the bag's time on /clock, and the node on it"),
    "namespace": ("", "namespace of the node"),
    "model": ("", "bundle, in place of model.path in the parameter file"),
    "backend": ("", "in place of model.backend in the parameter file"),
}
PASSED_ON = ("image", "namespace", "model", "backend", "use_sim_time")


def generate_launch_description() -> LaunchDescription:
    # imported here, so that a test can read the arguments where launch is not installed
    from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch.substitutions import LaunchConfiguration

    from launch import LaunchDescription

    return LaunchDescription(
        [
            *(DeclareLaunchArgument(n, default_value=d, description=text) for n, (d, text) in ARGUMENTS.items()),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(share_directory() / "launch" / "segment.launch.py")),
                launch_arguments=[(name, LaunchConfiguration(name)) for name in PASSED_ON],
            ),
            OpaqueFunction(function=_evaluation),
        ]
    )


def evaluation_arguments(given: dict[str, str]) -> list[str]:
    """The arguments of `evaluate_live` for the values of `ARGUMENTS`."""
    node = "/".join(["", *filter(None, given["namespace"].split("/")), "mtaclip"])
    arguments = ["--bag", given["bag"], "--report", given["report"], "--json", f"{given['report']}/live.json"]
    arguments += ["--image-topic", given["image"], "--rate", given["rate"], "--namespace", node, "--wait-for", "60"]
    arguments += ["--from", given["from"], "--to", given["to"]]
    arguments += ["--clock"] if given["use_sim_time"].lower() in ("true", "1") else []
    arguments += ["--min-miou", given["min_miou"]] if given["min_miou"] else []
    return arguments + (["--label-topic", given["labels"]] if given["labels"] else [])


def _evaluation(context: LaunchContext) -> list[Any]:
    from launch.actions import Shutdown
    from launch_ros.actions import Node

    given = {name: context.launch_configurations[name] for name in ARGUMENTS}
    return [
        Node(
            package="mtaclip_ros",
            executable="evaluate_live",
            arguments=evaluation_arguments(given),
            output="screen",
            emulate_tty=True,
            on_exit=Shutdown(reason="the evaluation ended"),
        )
    ]
