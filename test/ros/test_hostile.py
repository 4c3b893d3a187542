"""Messages that no camera should send: to the codec in numbers, and over the wire to the running node."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import make_colour_bundle, paint
from hypothesis import given, settings
from hypothesis import strategies as st

from mtaclip_core.labels import CAMVID
from mtaclip_ros.compressed_codec import read_picture
from mtaclip_ros.hostile_messages import Hostile, hostile_compressed, hostile_images
from mtaclip_ros.image_codec import FORMATS, MAX_PIXELS, NO_PICTURE, BadImage, Scratch, decode

pytest.importorskip("rclpy", reason="ROS is not installed")

from helpers_node import NodeProcess, Probe, as_array, picture, wait_until
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage

TOPIC = "/camera/image_raw"
SIZE = (24, 32)
REASONS = {"encoding", "size", "step", "data_length", "decode"}
SCRATCH = Scratch()


@pytest.mark.parametrize(("generate", "kinds"), [(hostile_images, 14), (hostile_compressed, 11)])
def test_every_hostile_message_is_refused_for_the_reason_it_is_known_for(
    generate: Callable[[int], Iterator[Hostile]], kinds: int, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[str] = Counter()
    for hostile in itertools.islice(generate(1), 3000):
        with pytest.raises(BadImage) as caught:
            decode(hostile.message, SCRATCH)
        assert caught.value.reason == hostile.reason, f"{hostile.kind}: {caught.value}"
        assert len(str(caught.value)) < 600
        seen[hostile.kind] += 1
    assert len(seen) == kinds and min(seen.values()) > 50
    printed = capfd.readouterr()
    assert printed.err == printed.out == "", "the decoders' own lines could not be throttled"


def test_equal_seeds_give_equal_messages() -> None:
    for generate in (hostile_images, hostile_compressed):
        first, again, other = (list(itertools.islice(generate(seed), 50)) for seed in (7, 7, 8))
        assert first == again != other


_number = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1), st.sampled_from([2**16, 2**31, 2**32 - 1]))
_word = st.one_of(st.sampled_from(sorted(FORMATS)), st.sampled_from(sorted(NO_PICTURE)), st.text(max_size=20))


@st.composite
def _raw(draw: st.DrawFn) -> SimpleNamespace:
    """Any fields, often such that they nearly fit each other."""
    height, width, encoding = draw(_number), draw(_number), draw(_word)
    step, length = draw(_number), draw(st.integers(0, 600))
    if draw(st.booleans()):
        height, width = height % 13, width % 13
        step = width * draw(st.sampled_from([1, 1, 2, 3, 3, 4, 6, 8])) + draw(st.sampled_from([0, 0, 1, 2]))
        length = height * step * draw(st.sampled_from([2, 2, 3, 6])) // 2 + draw(st.sampled_from([0, 0, 0, 1]))
    big = draw(st.sampled_from([0, 1, 255]))
    data = draw(st.sampled_from([bytes, bytearray, lambda b: np.frombuffer(b, np.uint8)]))(bytes(length))
    return SimpleNamespace(height=height, width=width, encoding=encoding, step=step, is_bigendian=big, data=data)


@settings(max_examples=600, deadline=None)
@given(_raw())
def test_any_fields_give_a_picture_of_their_size_or_a_reason(message: SimpleNamespace) -> None:
    tracemalloc.start()
    try:
        pixels = decode(message, SCRATCH).pixels
    except BadImage as error:
        assert error.reason in REASONS
    else:
        assert pixels.shape == (message.height, message.width, 3) and pixels.dtype == np.uint8
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 200_000, "memory for what the message claims, not for what it holds"


_start = st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\x89PNG\r\n\x1a\n", b"RIFF"])
_inside = st.lists(
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\xff\xc0\x00\x11\x08", b"\xff" * 9, b"\0" * 99]))
)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), _start, _inside, st.sampled_from([b"", b"\xff\xd9", b"\0\0\0\0IEND\xaeB`\x82"]))
def test_any_bytes_give_a_picture_or_a_reason(form: str, start: bytes, inside: list[bytes], end: bytes) -> None:
    try:
        pixels = decode(SimpleNamespace(format=form, data=start + b"".join(inside) + end)).pixels
    except BadImage as error:
        assert error.reason in REASONS
    else:
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
        assert pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


@pytest.mark.parametrize("filling", [b"\xff\x00", b"\xff\xff", b"\xff\xe0\x00\x02", b"\xff\xd0", b"ab"])
def test_a_long_file_that_goes_nowhere_is_given_up_soon(filling: bytes) -> None:
    data = np.frombuffer(b"\xff\xd8" + filling * 2_000_000 + b"\xff\xd9", np.uint8)
    with pytest.raises(BadImage, match="damaged"):
        read_picture(data, 1, "a file")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    bundle = make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", network_size=SIZE)
    process = NodeProcess(model__path=bundle)
    process.wait_for_line("model colour ", seconds=60.0)
    yield process
    assert process.stop() == 0, process.log
    assert "Traceback" not in process.log


def bad_frames(probe: Probe) -> dict[str, int]:
    """reason -> how many, of the latest diagnostics."""
    latest = probe.received["/diagnostics"][-1:]
    pairs = [pair for message in latest for status in message.status for pair in status.values]
    return {p.key.split(": ")[1]: int(p.value) for p in pairs if p.key.startswith("frames bad: ")}


def told(probe: Probe, key: str) -> int:
    """A count of the camera in the next diagnostics."""
    probe.received["/diagnostics"].clear()
    message = probe.wait_for("/diagnostics")
    return next(int(pair.value) for status in message.status for pair in status.values if pair.key == key)


def until_counted(probe: Probe, camera: Any, hostile: Iterator[Hostile], reasons: set[str]) -> Counter[str]:
    """Publish hostile messages until the diagnostics have all the reasons; how many were sent with each.

    They come faster than the node looks at them, so it drops most: it owes an answer to the newest alone.
    """
    sent: Counter[str] = Counter()

    def counted() -> bool:
        for _ in range(10):
            message = next(hostile)
            camera.publish(message.message)
            sent[message.reason] += 1
        return reasons <= set(bad_frames(probe))

    wait_until(counted, f"{reasons} in /diagnostics", 60.0)
    return sent


def test_the_node_counts_hostile_messages_by_reason_and_serves_the_next_frame(
    node: NodeProcess, probe: Probe, camera: Any
) -> None:
    painted, expected = paint(CAMVID, SIZE, seed=1)
    probe.labelled(camera, picture(painted, probe.header()))
    reasons = {"encoding", "size", "step", "data_length"}
    sent = until_counted(probe, camera, hostile_images(3), reasons)
    label = probe.labelled(camera, picture(painted, probe.header()))
    np.testing.assert_array_equal(as_array(label), expected)
    bad = bad_frames(probe)
    assert set(bad) == reasons
    for reason in reasons:
        assert 0 < bad[reason] <= sent[reason]
        lines = [line for line in node.lines if f"bad image ({reason})" in line]
        assert 0 < len(lines) <= 1 + bad[reason] // 2, "throttled"


def test_a_size_that_changes_every_frame_and_stamps_that_go_back(probe: Probe, camera: Any) -> None:
    now = probe.header().stamp.sec
    for i, (height, width) in enumerate(((24, 32), (2, 3), (90, 70), (1, 1), (33, 200), (9, 8))):
        painted, _ = paint(CAMVID, (height, width), seed=i)
        header = probe.header()
        header.stamp.sec = now - 1000 * i if i < 5 else -7
        label = probe.labelled(camera, picture(painted, header))
        assert (label.height, label.width, label.step) == (height, width, width)
    assert told(probe, "frames failed") == 0


def test_a_frame_id_that_is_not_utf8_comes_back_as_rclpy_reads_it(node: NodeProcess, probe: Probe, camera: Any) -> None:
    painted, expected = paint(CAMVID, SIZE, seed=2)
    header = probe.header("front_cam")
    wire = bytes(serialize_message(picture(painted, header)))
    assert wire.count(b"front_cam") == 1

    def answer() -> Any:
        labels = list(probe.received["/mtaclip/label"])
        return next((m for m in labels if m.header.stamp == header.stamp), None)

    label = probe.publish_until(camera, wire.replace(b"front_cam", b"fr\xff\xfet\x80cam"), answer, "its label")
    assert label.header.frame_id == "fr\ufffd\ufffdt\ufffdcam", "rclpy gives no one the bytes themselves"
    np.testing.assert_array_equal(as_array(label), expected)
    assert told(probe, "frame ids not UTF-8") > 0
    assert len([line for line in node.lines if f"frame_id is not UTF-8 on {TOPIC}" in line]) == 1, "throttled"


def test_what_is_no_message_at_all_does_no_harm(probe: Probe, camera: Any) -> None:
    painted, expected = paint(CAMVID, SIZE, seed=3)
    wire = bytes(serialize_message(picture(painted, probe.header())))
    length = struct.pack("<I", painted.size)
    assert wire.count(length) == 1
    huge = wire.replace(length, struct.pack("<I", 2**32 - 1))
    for broken in (wire[: len(wire) // 2], wire[:-1], wire[:7], huge, bytes(range(200))):
        camera.publish(broken)
    label = probe.labelled(camera, picture(painted, probe.header()))
    np.testing.assert_array_equal(as_array(label), expected)


def test_hostile_compressed_messages_over_the_wire(node: NodeProcess, probe: Probe) -> None:
    assert probe.transition("deactivate") and probe.transition("cleanup")
    assert probe.set_parameter("image_transport", "compressed") == (True, "")
    assert probe.transition("configure") and probe.transition("activate")
    camera = probe.camera(TOPIC + "/compressed", CompressedImage)
    until_counted(probe, camera, hostile_compressed(3), {"decode", "size", "encoding"})
    painted, expected = paint(CAMVID, SIZE, seed=4)
    file = cv2.imencode(".png", painted[..., ::-1])[1].tobytes()
    label = probe.labelled(camera, CompressedImage(header=probe.header(), format="png", data=file))
    np.testing.assert_array_equal(as_array(label), expected)
    assert not node.find_line("libpng|grfmt|Corrupt JPEG"), node.log
