"""Encodings that ROS does not define. cv_bridge is no wheel, so stand-ins of a few lines play it, in processes of
their own: one that works, and three that do what a real one does that was built against another NumPy or hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtaclip_ros import cv_bridge_codec
from mtaclip_ros.image_codec import FORMATS, decode
from mtaclip_ros.image_encodings import Packed

sensor_msgs = pytest.importorskip("sensor_msgs.msg", reason="ROS is not installed")
PROJECT = Path(__file__).resolve().parents[2]

STAND_IN = """
import os, signal, time
import numpy as np

class CvBridgeError(TypeError):
    pass

class CvBridge:
    def imgmsg_to_cv2(self, message, wanted):
        with open(os.environ["CALLS"], "a") as calls:
            calls.write(f"{os.getpid()} {message.encoding}\\n")
        BODY
        data = np.frombuffer(message.data, np.uint8)
        picks = {"rgb8": [2, 1, 0], "bgr8": [0, 1, 2], "rgba8": [2, 1, 0], "mono8": [0, 0, 0], "acme_gbr": [1, 0, 2]}
        if message.encoding == "acme_small":
            return np.zeros((1, 1, 3), np.uint8)
        if message.encoding not in picks:
            raise CvBridgeError(f"Unrecognized image encoding [{message.encoding}]")
        return data.reshape(message.height, message.width, -1)[..., picks[message.encoding]]
"""

USE = """
import numpy as np
from sensor_msgs.msg import Image
from mtaclip_ros import cv_bridge_codec
from mtaclip_ros.image_codec import BadImage, decode

cv_bridge_codec._TIMEOUT = float({timeout})
for encoding in {encodings}:
    message = Image(height=2, width=2, encoding=encoding, step=6)
    message.data.frombytes(bytes(range(12)))
    try:
        frame = decode(message)
    except BadImage as error:
        print(error.reason, error)
    else:
        print(frame.channel_order, frame.pixels.dtype, frame.pixels.shape, frame.pixels.ravel().tolist())
"""


def decoded_beside(folder: Path, body: str, code: str) -> list[str]:
    """What a process says that has the stand-in installed; `calls` in the folder lists what the stand-in was asked."""
    package = folder / "site" / "cv_bridge"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN.replace("BODY", body))
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(package.parent), str(PROJECT), os.environ.get("PYTHONPATH", ""))),
        "CALLS": str(folder / "calls"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def calls(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "calls").read_text().splitlines()]


def test_a_cv_bridge_that_works_decodes_what_ros_does_not_define(tmp_path: Path) -> None:
    encodings = ["acme_gbr", "rgb8", "acme_gbr", "acme_raw", "acme_small", "32FC1"]
    lines = decoded_beside(tmp_path, "pass", USE.format(timeout=60, encodings=encodings))
    picture = "bgr uint8 (2, 2, 3) [1, 0, 2, 4, 3, 5, 7, 6, 8, 10, 9, 11]"
    assert lines[0] == lines[2] == picture
    assert lines[1].startswith("rgb uint8"), "what ROS defines never goes through cv_bridge"
    assert lines[3].startswith("encoding ") and "Unrecognized image encoding [acme_raw]" in lines[3]
    assert lines[4].startswith("decode ") and "(1, 1, 3)" in lines[4]
    assert lines[5].startswith("encoding "), "a measurement is none of cv_bridge's business"
    users = {process for process, encoding in calls(tmp_path) if encoding.startswith("acme")}
    trials = {process for process, encoding in calls(tmp_path) if not encoding.startswith("acme")}
    assert len(users) == 1 and len(trials) == 1 and users != trials, "one trial, in a process of its own"


@pytest.mark.parametrize(
    ("body", "timeout", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", 60.0, ["crashes with NumPy", np.__version__, "11"]),
        ("time.sleep(600)", 3.0, ["did not finish", "3 s"]),
        ("raise KeyError(16)", 60.0, ["fails with NumPy", "KeyError: 16"]),
        ("return np.zeros((2, 4, 3), np.uint8)", 60.0, ["rgb8 came out wrong"]),
    ],
)
def test_a_cv_bridge_that_dies_hangs_or_lies_costs_one_trial_and_no_node(
    tmp_path: Path, body: str, timeout: float, words: list[str]
) -> None:
    code = USE.format(timeout=timeout, encodings=["acme_gbr", "bgr8", "acme_gbr"])
    lines = decoded_beside(tmp_path, body, code)
    assert lines[0].startswith("encoding ") and all(word in lines[0] for word in words), lines[0]
    assert "use one of" in lines[0] and "bgr8" in lines[0]
    assert lines[1].startswith("bgr uint8")
    assert lines[2] == lines[0]
    assert len(calls(tmp_path)) == 1


LIVE = """
import time
from sensor_msgs.msg import Image
from mtaclip_ros.image_codec import BadImage, decode

message = Image(height=2, width=2, encoding="acme_gbr", step=6)
message.data.frombytes(bytes(range(12)))
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        decode(message, wait=False)
        print("a picture")
        break
    except BadImage as error:
        print(error.reason, error)
    time.sleep(0.05)
"""


def test_a_live_camera_does_not_wait_while_cv_bridge_is_tried(tmp_path: Path) -> None:
    *refused, last = decoded_beside(tmp_path, "time.sleep(message.encoding == 'rgb8')", LIVE)
    assert len(refused) > 1 and last == "a picture"
    assert all(line.startswith("encoding ") and "cv_bridge is being tried" in line for line in refused)
    assert len({process for process, _ in calls(tmp_path)}) == 2, "one trial, though many frames asked for it"


def test_every_encoding_is_as_the_real_cv_bridge_decodes_it() -> None:
    trouble = cv_bridge_codec.trouble()
    if trouble:
        pytest.skip(trouble)
    rng = np.random.default_rng(0)
    for encoding, form in FORMATS.items():
        if not isinstance(form, Packed) or encoding in ("uyvy", "yuyv", "8UC1", "16UC1"):
            continue  # cv_bridge does not know them, or not as colour
        row = 16 * form.channels * form.bits // 8
        message = sensor_msgs.Image(height=12, width=16, encoding=encoding, step=row)
        message.data.frombytes(rng.bytes(12 * row))
        ours = decode(message)
        rgb = ours.pixels if ours.channel_order == "rgb" else ours.pixels[..., ::-1]
        theirs = cv_bridge_codec.decode(message).pixels[..., ::-1]
        assert np.abs(rgb.astype(int) - theirs).max() <= (form.bits == 16), encoding
