"""Encodings that ROS does not define, by way of cv_bridge: only where it is installed and survived a trial.

cv_bridge built against another NumPy kills the process at its first colour conversion, so a process of its own goes
first. Its import is large too: nothing is imported here until a camera sends an encoding that needs it.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import threading
from typing import Any

import cv2
import numpy as np

from mtaclip_ros.frame import BadImage, Frame, check_size, frame_of

_TIMEOUT = 30.0  # seconds; cv_bridge's import takes a few on a small computer
_LOCK = threading.Lock()

# The conversions that a broken cv_bridge dies of, and their results; run by `python -c`.
_TRIAL = """
import numpy as np
from cv_bridge import CvBridge
from sensor_msgs.msg import Image

for encoding, pixel in (("rgb8", [30, 20, 10]), ("mono8", [7]), ("rgba8", [30, 20, 10, 255]), ("bgr8", [10, 20, 30])):
    message = Image(height=2, width=4, encoding=encoding, step=4 * len(pixel))
    message.data.frombytes(bytes(pixel * 8))
    picture = np.asarray(CvBridge().imgmsg_to_cv2(message, "bgr8"))
    wanted = pixel * 3 if len(pixel) == 1 else [10, 20, 30]
    assert picture.shape == (2, 4, 3) and (picture == wanted).all(), f"{encoding} came out wrong"
"""


def trouble(wait: bool = True) -> str:
    """Why cv_bridge is not used, empty where it can be.

    The first call tries it in a process of its own, which may take seconds. Without `wait` that is done in a thread,
    and is the trouble as long as it takes: other cameras' frames, and whoever stops the node, do not wait for it.
    """
    if not _installed():
        return "cv_bridge is not installed"
    if not wait and not _trouble.cache_info().currsize:
        if _LOCK.acquire(blocking=False):
            _LOCK.release()
            threading.Thread(target=trouble, name="cv_bridge_trial", daemon=True).start()
        return "cv_bridge is being tried"
    with _LOCK:
        return _trouble()


def decode(message: Any) -> Frame:
    """Let cv_bridge convert a `sensor_msgs/Image`. Only where `trouble()` is empty.

    Raises:
        BadImage: cv_bridge does not know the encoding either, or the bytes do not fit.
    """
    check_size(int(message.height), int(message.width))
    convert, refusals = _converter()
    told = f"encoding {message.encoding[:40]!r}"
    try:
        pixels = np.asarray(convert(message, "bgr8"))
    except refusals as error:
        raise BadImage("encoding", f"{told} is not supported, and cv_bridge says: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (message.height, message.width, 3):
        raise BadImage("decode", f"cv_bridge made {pixels.dtype} {pixels.shape} of {told}, not a picture of its size")
    return frame_of(pixels, "bgr")


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("cv_bridge") is not None


@functools.cache
def _trouble() -> str:
    command = [sys.executable, "-c", _TRIAL]
    try:
        trial = subprocess.run(command, timeout=_TIMEOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return f"cv_bridge did not finish a trial within {_TIMEOUT:g} s"
    except OSError as error:
        return f"cv_bridge could not be tried: {error.strerror}"
    if trial.returncode < 0:
        return f"cv_bridge crashes with NumPy {np.__version__} (signal {-trial.returncode})"
    if trial.returncode:
        return f"cv_bridge fails with NumPy {np.__version__}: {(trial.stderr.strip() or 'no reason').splitlines()[-1]}"
    return ""


@functools.cache
def _converter() -> tuple[Any, tuple[type[Exception], ...]]:
    from cv_bridge import CvBridge, CvBridgeError

    # its C++ half raises RuntimeError, its Python half what numpy and a look-up raise
    return CvBridge().imgmsg_to_cv2, (CvBridgeError, RuntimeError, TypeError, ValueError, KeyError, cv2.error)
