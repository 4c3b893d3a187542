"""What tests share: a bundle; of a running node a probe beside the `node` of their module, and a camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bundles import make_colour_bundle

if TYPE_CHECKING:
    from helpers_node import NodeProcess, Probe


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds the class of each colour in images of 90x120."""
    return make_colour_bundle(tmp_path_factory.mktemp("models") / "colour")


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
