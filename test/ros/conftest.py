"""What tests of a running node share: a probe beside the `node` of their module, and a camera on its topic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helpers_node import NodeProcess, Probe


@pytest.fixture(scope="module")
def probe(node: NodeProcess) -> Iterator[Probe]:
    """Hears labels and diagnostics."""
    from diagnostic_msgs.msg import DiagnosticArray  # ROS may be absent; the modules that use this skip themselves
    from helpers_node import Probe
    from sensor_msgs.msg import Image

    probe = Probe()
    probe.listen("/mtaclip/label", Image)
    probe.listen("/diagnostics", DiagnosticArray)
    yield probe
    probe.close()


@pytest.fixture
def camera(probe: Probe) -> Iterator[Any]:
    camera = probe.camera("/camera/image_raw")
    yield camera
    probe.node.destroy_publisher(camera)
