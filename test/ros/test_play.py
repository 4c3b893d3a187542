"""play: a bag goes out over real DDS byte for byte, on time, with its recorded QoS, once subscribers are there."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_bags import ROOT, command, painted_bag, refusal, ros_environment, run_module, stamps_of
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mtaclip_ros.bag_reader import COMPRESSED_IMAGE, IMAGE, IMAGE_TOPIC, LABEL_TOPIC, Bag
from mtaclip_ros.drive_writer import START
from mtaclip_ros.play import main

pytest.importorskip("rclpy")

LISTENER = """
import hashlib, json, sys, time
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String
images, classes, topic, count = [], [], sys.argv[1], int(sys.argv[2])
rclpy.init()
node = rclpy.create_node('listener')
def take(data):
    images.append((time.monotonic(), hashlib.sha256(data).hexdigest()))
node.create_subscription(Image, topic, take, QoSProfile(depth=10), raw=True)
offered = []
def late():
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(String, '/camera/label_gt/classes', lambda m: classes.append(m.data), latched)
print('ready', flush=True)
deadline = time.monotonic() + 60
while time.monotonic() < deadline and (len(images) < count or not classes):
    rclpy.spin_once(node, timeout_sec=0.05)
    if len(images) == 3 and not offered:  # long after the classes were published
        infos = node.get_publishers_info_by_topic('/camera/label_gt/classes')
        offered = [info.qos_profile.durability.name for info in infos]
        late()
print(json.dumps({'images': images, 'classes': classes, 'offered': offered}))
"""


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted_bag(tmp_path_factory.mktemp("bags") / "painted", count=16, rate=10.0)


def listen(env: dict[str, str], topic: str, count: int) -> subprocess.Popen[str]:
    listener = subprocess.Popen(
        [sys.executable, "-c", LISTENER, topic, str(count)],
        env=env, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    return listener


def heard(listener: subprocess.Popen[str]) -> dict:
    out, _ = listener.communicate(timeout=40)
    return json.loads(out)


def recorded(bag: Path, topic: str) -> list[str]:
    with Bag(bag) as reader:
        return [hashlib.sha256(record.data).hexdigest() for record in reader.records([topic])]


def test_every_message_arrives_unchanged_on_time_and_late_joiners_get_the_classes(bag: Path, tmp_path: Path) -> None:
    env = ros_environment()
    listener = listen(env, IMAGE_TOPIC, 16)
    log = tmp_path / "sent"
    played = run_module("mtaclip_ros.play", "--bag", bag, "--wait-for", 20, "--log", log, env=env)
    got = heard(listener)
    assert played.returncode == 0, played.stderr
    assert "published 49 messages" in played.stdout  # 16 images, infos and labels, and the classes
    assert [digest for _, digest in got["images"]] == recorded(bag, IMAGE_TOPIC)
    # 10 Hz on an absolute schedule: the last frame comes 1.5 s after the first, however late single ones are
    times = np.array([at for at, _ in got["images"]])
    assert times[-1] - times[0] == pytest.approx(1.5, abs=0.25)
    assert got["offered"] == ["TRANSIENT_LOCAL"]
    assert [json.loads(text)[3]["name"] for text in got["classes"]] == ["Road"]
    rows = [line.split() for line in log.read_text().splitlines()]
    assert [int(stamp) for topic, stamp, _ in rows if topic == IMAGE_TOPIC] == stamps_of(16, 10.0, START)
    left = [int(at) * 1e-9 for topic, _, at in rows if topic == IMAGE_TOPIC]
    assert all(0 <= came - went < 1.0 for came, went in zip(times, left, strict=True))


def test_rate_topics_and_remapping(bag: Path) -> None:
    env = ros_environment()
    listener = listen(env, "/front/truth", 16)
    args = ["--bag", bag, "--rate", 4, "--wait-for", 20, "--topics", LABEL_TOPIC, f"{LABEL_TOPIC}/classes"]
    played = run_module("mtaclip_ros.play", *args, "--ros-args", "-r", f"{LABEL_TOPIC}:=/front/truth", env=env)
    got = heard(listener)
    assert played.returncode == 0, played.stderr
    assert "published 17 messages" in played.stdout
    assert [digest for _, digest in got["images"]] == recorded(bag, LABEL_TOPIC)
    assert got["images"][-1][0] - got["images"][0][0] == pytest.approx(1.5 / 4, abs=0.25)


def test_loop_repeats_until_interrupted_and_ends_in_order(bag: Path) -> None:
    env = ros_environment()
    args = ["--bag", bag, "--rate", 20, "--loop", "--wait-for", 20, "--topics", IMAGE_TOPIC, f"{LABEL_TOPIC}/classes"]
    listener = listen(env, IMAGE_TOPIC, 40)  # more than the bag holds
    player = subprocess.Popen(command("mtaclip_ros.play", *args), env=env, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    got = heard(listener)
    player.send_signal(signal.SIGINT)
    _, stderr = player.communicate(timeout=20)
    assert len(got["images"]) >= 40
    assert player.returncode == 130
    assert "Traceback" not in stderr, stderr


def test_without_a_subscriber_it_says_so_in_one_line(bag: Path) -> None:
    started = time.monotonic()
    played = run_module("mtaclip_ros.play", "--bag", bag, "--wait-for", 1, env=ros_environment())
    assert played.returncode == 2
    assert played.stderr.splitlines()[-1].startswith(f"error: too few subscribers on {IMAGE_TOPIC}")
    assert "Traceback" not in played.stderr
    assert time.monotonic() - started < 15


def test_what_the_user_got_wrong_is_one_line(bag: Path, tmp_path: Path) -> None:
    assert "no bag at" in refusal(main, "--bag", tmp_path / "nowhere")
    for rate in (0, "nan", "inf"):
        assert f"--rate: '{rate}'" in refusal(main, "--bag", bag, "--rate", rate)
    assert "no message in this window: it is 1.5 s" in refusal(main, "--bag", bag, "--from", 2, "--loop")
    assert "is a folder" in refusal(main, "--bag", bag, "--log", tmp_path)
    line = refusal(main, "--bag", bag, "--topics", "/front/image_raw")
    assert "no topic '/front/image_raw'" in line and IMAGE_TOPIC in line


CLOCKED = """
import json, sys, time
import rclpy
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('simulated', parameter_overrides=[Parameter('use_sim_time', value=True)])
late, times = [], []
def take(message):
    stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    late.append((node.get_clock().now().nanoseconds - stamp) * 1e-9)
node.create_subscription(Image, '/camera/image_raw', take, 10)
node.create_timer(0.01, lambda: times.append(node.get_clock().now().nanoseconds))
print('ready', flush=True)
deadline = time.monotonic() + 60
while time.monotonic() < deadline and len(late) < 8:
    rclpy.spin_once(node, timeout_sec=0.05)
print(json.dumps({'late': late, 'times': times}))
"""


def test_a_node_with_use_sim_time_lives_in_the_bags_time(bag: Path) -> None:
    env = ros_environment()
    simulated = subprocess.Popen(
        [sys.executable, "-c", CLOCKED], env=env, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )  # fmt: skip
    assert simulated.stdout is not None and simulated.stdout.readline() == "ready\n"
    args = ["--bag", bag, "--clock", "--wait-for", 20, "--from", 0.45, "--rate", 0.5]
    played = run_module("mtaclip_ros.play", *args, "--topics", IMAGE_TOPIC, f"{LABEL_TOPIC}/classes", env=env)
    out, _ = simulated.communicate(timeout=60)
    got = json.loads(out)
    assert played.returncode == 0, played.stderr
    assert "published 12 messages" in played.stdout  # 11 images from 0.5 s on, and the classes, which are latched
    # stamps of the bag are years old: only the bag's clock makes them now
    assert all(-0.2 < seconds < 5 for seconds in got["late"]), got["late"]
    ticks = [(now - START) * 1e-9 for now in got["times"] if now > 0]
    assert ticks == sorted(ticks) and ticks[0] > 0.4 and ticks[-1] < 1.6
    assert len(set(ticks)) > 12  # it runs on between the messages


def test_a_part_of_a_broken_bag_is_played_as_far_as_it_goes(bag: Path, tmp_path: Path) -> None:
    data = (bag / "painted.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: len(data) // 2])
    played = run_module(
        "mtaclip_ros.play", "--bag", tmp_path / "cut.mcap", "--to", 0.35, "--rate", 10, env=ros_environment()
    )
    assert played.returncode == 0
    assert "warning: bag" in played.stderr and "is cut off at byte" in played.stderr
    assert "published 13 messages" in played.stdout  # images, infos and labels of four frames, and the classes


def test_only_topics_that_can_be_published_are(bag: Path, tmp_path: Path) -> None:
    """A damaged bag may name any type and topic; a topic of two types has none."""
    strange = tmp_path / "strange"
    types = get_typestore(Stores.ROS2_KILTED)
    with Bag(bag) as reader, Writer(strange, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        record = next(iter(reader.records([IMAGE_TOPIC])))
        topics = [("/both", IMAGE), ("/both", COMPRESSED_IMAGE), (IMAGE_TOPIC, IMAGE), ("/not a topic", IMAGE)]
        for name, msgtype in topics:
            writer.write(writer.add_connection(name, msgtype, typestore=types), record.recorded, record.data)
        definition = "uint8 x\n"
        for msgtype in ("os/path/Join", "other_msgs/msg/Thing"):
            connection = writer.add_connection("/x", msgtype, msgdef=definition, rihs01="RIHS01_0")
            writer.write(connection, record.recorded, b"\0\1\0\0\7")
    log = tmp_path / "sent"
    played = run_module("mtaclip_ros.play", "--bag", strange, "--log", log, env=ros_environment())
    assert played.returncode == 0 and "Traceback" not in played.stderr, played.stderr
    assert "published 1 messages" in played.stdout
    assert "skipping /both: it is of several types" in played.stderr and "skipping /not a topic" in played.stderr
    assert [line.split()[:2] for line in log.read_text().splitlines()] == [[IMAGE_TOPIC, str(START)]]
