"""docs/node.md and the view configurations against the node: its parameters, topics, services and diagnostics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

from mtaclip_ros.camera_parameters import camera_specs
from mtaclip_ros.constant_node import ConstantSegmenter
from mtaclip_ros.diagnostics import camera_details, model_details
from mtaclip_ros.driven_node import Footprint
from mtaclip_ros.frame import Reason
from mtaclip_ros.frame_statistics import STAGES
from mtaclip_ros.image_encodings import FORMATS, NO_PICTURE
from mtaclip_ros.node_benchmark import own_table, rate_table
from mtaclip_ros.node_case import Case, Measured
from mtaclip_ros.parameter_spec import Spec
from mtaclip_ros.parameters import SPECS
from mtaclip_ros.segment_node import DEFAULT_IMAGE, SegmentNode
from mtaclip_ros.soak import table as soak_table
from mtaclip_ros.soak_phases import Phase

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENT = (PROJECT / "docs" / "node.md").read_text(encoding="utf-8")
# Every rclpy node has these, or they follow from an endpoint's name.
OF_ROS = re.compile(r"use_sim_time|start_type_description_service|qos_overrides\..*")
CAMERA_INFO = f"{DEFAULT_IMAGE.rpartition('/')[0]}/camera_info"


def section(title: str) -> str:
    """The text below a heading of the document, up to the next one of its rank."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    return found


def rows(text: str) -> list[str]:
    """The rows of all tables in a text, without their heads."""
    return [line for line in text.splitlines() if line.startswith("| `")]


def names(text: str) -> list[str]:
    """What stands first in each row, in backticks."""
    return [row.split("`")[1] for row in rows(text)]


@pytest.fixture(scope="module")
def node() -> Iterator[SegmentNode]:
    """The node, configured with a model that costs nothing, as it is without remaps but that of the camera topic."""
    context = rclpy.Context()
    rclpy.init(args=["node", "--ros-args", "-r", f"image:={DEFAULT_IMAGE}"], context=context)
    node = SegmentNode(lambda parameters: ConstantSegmenter(), context=context)
    assert node.bring_up(), node.last_error
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def published(node: SegmentNode) -> dict[str, str]:
    """Topic -> message type, as sensor_msgs/Image."""
    of_ros = ("/rosout", "/parameter_events", "/mtaclip/transition_event")
    topics = node.get_publisher_names_and_types_by_node(node.get_name(), node.get_namespace())
    return {topic: types[0].replace("/msg/", "/") for topic, types in topics if topic not in of_ros}


def diagnostics(node: SegmentNode) -> dict[str, set[str]]:
    """Name of a status -> its keys, after a frame that was labelled and one of each kind of trouble."""
    line = node._cameras.lines[0]
    line.statistics.labelled(dict.fromkeys(STAGES, 0.001))
    for reason in Reason.__args__:  # type: ignore[attr-defined]
        line.statistics.bad(reason)
    health = node._health()
    return {
        "mtaclip: model": set(model_details(health)),
        "mtaclip: camera": set(camera_details(health.cameras[0])),
    }


def row_of(spec: Spec) -> str:
    """What the document has to say about a parameter."""
    default = "true" if spec.default is True else "false" if spec.default is False else spec.default
    written = f"`{default}`" if default not in ("", ()) else '`""`' if default == "" else "`[]`"
    when = {"never": "at start", "unconfigured": "unconfigured", "any time": "any time"}[spec.changes]
    expected = spec.expected.removeprefix("of type ")
    return f"| `{spec.name}` | {written} | {expected} | {when} | {spec.description} |"


def test_every_parameter_stands_in_the_document_as_it_is_declared(node: SegmentNode) -> None:
    wanted = [row_of(spec) for spec in SPECS.values()]
    wanted += [row_of(spec) for spec in camera_specs("NAME").values()]
    assert rows(section("Parameters")) == wanted, "the table should be:\n" + "\n".join(wanted)
    declared = {name for name in node._parameters if not OF_ROS.fullmatch(name)}
    assert declared == set(SPECS)


def test_every_topic_that_the_node_publishes_stands_in_the_document_with_its_type(node: SegmentNode) -> None:
    told = {}
    for row in rows(section("Outputs")):
        topic, message_type = row.split("`")[1:4:2]
        told[topic.replace("~", "/mtaclip")] = message_type
    found = published(node)
    only_with_vision_msgs = {"/mtaclip/label_info": "vision_msgs/LabelInfo"}
    assert told == found | only_with_vision_msgs


def test_every_topic_that_the_node_listens_to_stands_in_the_document(node: SegmentNode) -> None:
    def heard() -> set[str]:
        topics = node.get_subscriber_names_and_types_by_node(node.get_name(), node.get_namespace())
        return {topic for topic, _ in topics}

    publisher = node.create_publisher(Image, DEFAULT_IMAGE, 1)  # with one, the node subscribes at its next look
    try:
        node._cameras.lines[0].input._look()
        assert heard() - {"/parameter_events"} == {DEFAULT_IMAGE, CAMERA_INFO}
    finally:
        node.destroy_publisher(publisher)
    assert names(section("Inputs"))[:3] == [DEFAULT_IMAGE, f"{DEFAULT_IMAGE}/compressed", CAMERA_INFO]


def test_every_encoding_stands_in_the_document() -> None:
    told = set(re.findall(r"`(\w+)`", section("Inputs").partition("### Encodings")[2]))
    assert set(FORMATS) <= told
    assert not told & NO_PICTURE.keys()


def test_every_key_of_the_diagnostics_stands_in_the_document(node: SegmentNode) -> None:
    told = set(names(section("Diagnostics")))
    for stage in STAGES:
        assert f"`{stage}`" in section("Diagnostics")
    found = set().union(*diagnostics(node).values())
    of_stages = {f"{stage} {percentile} (ms)" for stage in STAGES for percentile in ("p50", "p99")}
    of_reasons = {f"frames bad: {reason}" for reason in Reason.__args__}  # type: ignore[attr-defined]
    assert of_stages | of_reasons <= found
    only_sometimes = {"last failure", "engine key", "GPU memory (MiB)", "latency"}
    patterns = {"frames bad: REASON", "STAGE p50 (ms)", "STAGE p99 (ms)"}
    assert told - only_sometimes - patterns == found - of_stages - of_reasons


def test_the_services_stand_in_the_document(node: SegmentNode) -> None:
    told = {name.replace("~", "/mtaclip") for name in names(section("Services"))}
    there = {service for service, _ in node.get_service_names_and_types_by_node(node.get_name(), node.get_namespace())}
    assert told <= there
    assert "/mtaclip/enable" in told


def test_the_measured_tables_are_those_of_the_stored_numbers() -> None:
    stored = PROJECT / "docs" / "benchmarks" / "x86_64-2-cores"
    numbers = json.loads((stored / "node.json").read_text(encoding="utf-8"))
    own, rates = ([measured(values) for values in numbers[name]] for name in ("own_time", "rates"))
    phases = json.loads((stored / "soak.json").read_text(encoding="utf-8"))["phases"]
    soak = "\n".join(soak_table([phase(values) for values in phases]).splitlines()[: 2 + len(phases)])
    for table in (own_table(own, numbers["inference_ms"]), rate_table(rates), soak):
        assert table in section("Measured"), f"the table should be:\n{table}"


def measured(values: dict[str, Any]) -> Measured:
    """What `node_benchmark.as_json` wrote."""
    parts = ({f.name: values[f.name] for f in fields(kind) if f.name in values} for kind in (Case, Measured))
    case, results = parts
    return Measured(Case(**case), **results)


def phase(values: dict[str, Any]) -> Phase:
    """What `soak` wrote."""
    return Phase(**values | {name: Footprint(**values[name]) for name in ("early", "late")})


def topics_in(tree: Any, key: str) -> list[str]:
    """All values of a key, anywhere in a tree of dictionaries and lists."""
    if isinstance(tree, dict):
        return [v for k, v in tree.items() if k == key] + [t for v in tree.values() for t in topics_in(v, key)]
    return [t for v in tree for t in topics_in(v, key)] if isinstance(tree, list) else []


def panels(layout: Any) -> list[str]:
    """The panels of a Foxglove layout, from left to right and top to bottom."""
    if isinstance(layout, str):
        return [layout]
    assert layout["direction"] in ("row", "column")
    return panels(layout["first"]) + panels(layout["second"])


def test_the_foxglove_layout_shows_what_the_node_publishes(node: SegmentNode) -> None:
    layout = json.loads((PROJECT / "config" / "foxglove.json").read_text(encoding="utf-8"))
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    found = published(node)
    pictures = {topic for topic, message_type in found.items() if message_type == "sensor_msgs/Image"}
    assert set(topics_in(layout, "imageTopic")) <= pictures | {DEFAULT_IMAGE}
    assert set(topics_in(layout, "calibrationTopic")) == {"/mtaclip/camera_info", CAMERA_INFO}
    statuses = diagnostics(node)
    assert set(topics_in(layout, "selectedName")) == set(statuses)
    assert set(topics_in(layout, "topicToRender")) == {"/diagnostics"}
    plotted = [value for value in topics_in(layout, "value") if isinstance(value, str)]
    assert plotted
    for path in plotted:
        found_path = re.fullmatch(r'(/\w+)\.status\[:\]\{name=="([^"]+)"\}\.values\[:\]\{key=="([^"]+)"\}\.value', path)
        assert found_path, path
        topic, status, key = found_path.groups()
        assert found[topic] == "diagnostic_msgs/DiagnosticArray"
        assert key in statuses[status]
    for path in topics_in(layout, "topicPath"):
        assert path.partition(".")[0] in found


def test_the_statuses_have_the_names_that_the_views_ask_for(node: SegmentNode) -> None:
    heard: list[DiagnosticArray] = []
    subscription = node.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 1)
    executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
    try:
        for _ in range(600):
            rclpy.spin_once(node, executor=executor, timeout_sec=0.1)
            if heard:
                break
    finally:
        executor.shutdown()
        node.destroy_subscription(subscription)
    assert [status.name for status in heard[0].status] == list(diagnostics(node))
    assert heard[0].status[1].hardware_id == DEFAULT_IMAGE


def test_the_rviz_configuration_shows_what_the_node_publishes(node: SegmentNode) -> None:
    config = yaml.safe_load((PROJECT / "config" / "segment.rviz").read_text(encoding="utf-8"))
    displays = config["Visualization Manager"]["Displays"]
    found = published(node)
    for display in displays:
        topic = display["Topic"]["Value"]
        assert display["Class"] == "rviz_default_plugins/Image"
        assert topic == DEFAULT_IMAGE or found[topic] == "sensor_msgs/Image"
    assert {d["Topic"]["Value"] for d in displays} >= {DEFAULT_IMAGE, "/mtaclip/overlay", "/mtaclip/color"}
    # a camera may offer either reliability, the node's outputs are reliable
    assert displays[0]["Topic"]["Reliability Policy"] == "Best Effort"
    # a display is docked by its name
    assert {d["Name"] for d in displays} <= config["Window Geometry"].keys()
