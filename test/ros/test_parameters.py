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
    defaults = {name: spec.default for name, spec in SPECS.items()}
    assert values == defaults
    assert {name: type(value) for name, value in values.items()} == {n: type(v) for n, v in defaults.items()}
    assert Parameters.from_ros(values) == Parameters()


def test_launch_file_leaves_defaults_to_the_yaml_file_and_knows_only_parameters_of_the_node() -> None:
    launch = runpy.run_path(str(PROJECT / "launch" / "segment.launch.py"))
    assert Path(launch["ARGUMENTS"]["params_file"][0]) == PROJECT / "config" / "segment.yaml"
    assert set(launch["PARAMETERS"].values()) <= set(SPECS)
    for argument in (*launch["PARAMETERS"], "autostart", "use_sim_time"):
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
        ("overlay.alfa", 0.5, "did you mean 'overlay.alpha'?"),
    ],
)
def test_a_wrong_value_is_refused_with_name_and_expectation(name: str, value: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Parameters().updated({name: value})
    assert f"'{name}'" in str(caught.value)
    assert words in str(caught.value)


def test_slips_are_told_from_the_parameters_of_other_nodes() -> None:
    names = ["model.pth", "use_sim_time", "qos_overrides./mtaclip/label.publisher.depth", "camera.frame_rate", *SPECS]
    (line,) = misspelt(names)
    assert "'model.pth'" in line
    assert "'model.path'" in line
