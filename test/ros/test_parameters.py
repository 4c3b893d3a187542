"""The node's parameters: one set of defaults for node, YAML file and launch file; every one described and checked."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtaclip_core.cli import UserError
from mtaclip_ros.parameters import SPECS, Parameters, misspelt

PROJECT = Path(__file__).resolve().parents[2]


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_yaml_file_holds_every_parameter_with_the_default_of_the_node() -> None:
    tree = yaml.safe_load((PROJECT / "config" / "segment.yaml").read_text(encoding="utf-8"))
    values = dict(leaves(tree["/**"]["ros__parameters"]))
    defaults = {name: list(s.default) if s.is_list else s.default for name, s in SPECS.items()}
    assert values == defaults
    assert {name: type(value) for name, value in values.items()} == {n: type(v) for n, v in defaults.items()}
    assert Parameters.from_ros(values) == Parameters()


def test_launch_file_leaves_defaults_to_the_yaml_file_and_knows_only_parameters_of_the_node() -> None:
    launch = runpy.run_path(str(PROJECT / "launch" / "segment.launch.py"))
    assert Path(launch["ARGUMENTS"]["params_file"][0]) == PROJECT / "config" / "segment.yaml"
    assert set(launch["PARAMETERS"].values()) <= set(SPECS)
    assert {"cameras", *launch["SWITCHES"]} - {"use_sim_time"} <= set(SPECS)
    for argument in (*launch["PARAMETERS"], *launch["SWITCHES"], "cameras"):
        assert launch["ARGUMENTS"][argument][0] == "", "a default here would override the user's params_file"
    node = ast.parse((PROJECT / "mtaclip_ros" / "segment_node.py").read_text(encoding="utf-8"))
    default_image = next(
        statement.value.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id == "DEFAULT_IMAGE"
        and isinstance(statement.value, ast.Constant)
    )
    assert launch["ARGUMENTS"]["image"][0] == default_image


def test_launch_arguments_become_parameters_of_the_node() -> None:
    node_parameters = runpy.run_path(str(PROJECT / "launch" / "segment.launch.py"))["node_parameters"]
    assert node_parameters({"params_file": "x.yaml", "image": "/lens"}) == {}
    given = {"model": "m", "cameras": "front, left", "build_only": "True", "autostart": "false", "backend": "openvino"}
    values = node_parameters(given)
    assert values["cameras"] == ["front", "left"]
    assert values["build_only"] is True
    assert node_parameters({"cameras": "['front','left']"}) == {"cameras": ["front", "left"]}
    assert Parameters.from_ros(values).autostart is False
    with pytest.raises(RuntimeError, match="expected true or false"):
        node_parameters({"build_only": "yes"})
    with pytest.raises(RuntimeError, match="expected names"):
        node_parameters({"cameras": "front,,left"})


def test_launch_description_offers_its_arguments() -> None:
    pytest.importorskip("launch.actions", reason="ROS's own launch is not installed (it is not among the wheels)")
    pytest.importorskip("launch_ros.actions", reason="launch_ros is not installed")
    launch = runpy.run_path(str(PROJECT / "launch" / "segment.launch.py"))
    described = {a.name: a for a in launch["generate_launch_description"]().get_launch_arguments()}
    assert set(described) == set(launch["ARGUMENTS"])


def test_every_parameter_is_described_and_every_number_has_a_range() -> None:
    for spec in SPECS.values():
        assert spec.description.endswith("."), spec.name
        if type(spec.default) in (int, float):
            assert spec.low is not None
            assert spec.high is not None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("overlay.alpha", 1.01, "of type double from 0 to 1; got 1.01"),
        ("overlay.alpha", float("nan"), "from 0 to 1"),
        ("overlay.alpha", "half", "of type double"),
        ("confidence_floor", -1, "from 0 to 255"),
        ("confidence_floor", True, "of type integer"),
        ("image_transport", "theora", "one of raw, compressed"),
        ("model.path", 3, "of type string"),
        ("autostart", 1, "of type bool"),
        ("cameras", "front", "a list of strings; got 'front'"),
        ("cameras", ["front", 2], "a list of strings"),
        ("image_roi", [0, 0, 640.0, 480], "a list of integers"),
        ("overlay.alfa", 0.5, "did you mean 'overlay.alpha'?"),
    ],
)
def test_a_wrong_value_is_refused_with_name_and_expectation(name: str, value: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Parameters().updated({name: value})
    assert f"'{name}'" in str(caught.value)
    assert words in str(caught.value)


def test_each_camera_has_parameters_of_its_own() -> None:
    values = {
        "cameras": ["front", "left"],
        "max_rate": 10.0,
        "camera.front.image": "/front/image_color",
        "camera.front.roi": [0, 10, 640, 400],
        "camera.left.mask": "hood.png",
        "camera.left.max_rate": 5.0,
    }
    wanted = Parameters.from_ros(values)
    front, left = wanted.sources
    assert (front.name, front.image, front.roi, front.mask) == ("front", "/front/image_color", (0, 10, 640, 400), "")
    assert (left.name, left.image, left.roi, left.mask) == ("left", "left/image_raw", (), "hood.png")
    assert (wanted.max_rate_of("front"), wanted.max_rate_of("left")) == (10.0, 5.0)
    assert set(values) < set(wanted.specs)
    fewer = wanted.updated({"cameras": ["left"]})
    assert fewer.sources == (left,), "a camera that stays keeps its settings"
    (only,) = wanted.updated({"cameras": [], "image_topic": "/lens"}).sources
    assert (only.name, only.image) == ("", "/lens")
    with pytest.raises(UserError, match=r"'camera.left.max_rate' must be of type double from 0 to 1000; got -1"):
        wanted.updated({"camera.left.max_rate": -1.0})
    with pytest.raises(UserError, match=r"'camera\.right\.image' is not a parameter"):
        wanted.updated({"camera.right.image": "/right"})


@pytest.mark.parametrize("names", [["front", "front"], ["1st"], ["front/left"], ["ö"], ["a__b"]])
def test_camera_names_that_no_topic_can_have_are_refused(names: list[str]) -> None:
    with pytest.raises(UserError, match="'cameras'"):
        Parameters().updated({"cameras": names})


def test_slips_are_told_from_the_parameters_of_other_nodes() -> None:
    names = ["model.pth", "use_sim_time", "qos_overrides./mtaclip/label.publisher.depth", "camera.frame_rate", *SPECS]
    (line,) = misspelt(names)
    assert "'model.pth'" in line
    assert "'model.path'" in line
    lines = misspelt(["camera.front.roi", "camera.front.image_roi", "camera.rear.roi"], ["front"])
    assert "a camera has image, roi, mask, max_rate" in lines[0]
    assert "'rear' is not in `cameras` (front)" in lines[1]
    assert len(lines) == 2
