"""Import boundaries, each in a fresh interpreter: what runs without torch, without ROS, and who imports whom."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers_package import ROOT, ros_environment, run

# CONTRACTS, "Where torch may be imported".
TORCH = (
    "mtaclip_core.modeling",
    "mtaclip_core.losses",
    "mtaclip_core.training",
    "mtaclip_core.data.transforms",
    "mtaclip_core.data.loader",
    "mtaclip_core.deploy.graph",
    "mtaclip_core.deploy.onnx_export",
    "mtaclip_core.runtime.torch_backend",
    "mtaclip_core.train",
    "mtaclip_core.deploy.bundle_command",
    "mtaclip_core.import_hf",
    "mtaclip_core.comparison.compare_",
    "mtaclip_core.comparison.floor",
    "mtaclip_core.comparison.hugging_face",
    "mtaclip_core.comparison.random_bundle",
    "mtaclip_core.comparison.training_side",
)
# They rewrite ONNX files, without torch.
ONNX = ("mtaclip_core.deploy.onnx_graph", "mtaclip_core.deploy.precision", "mtaclip_core.deploy.quantize")
# They begin with an import of tensorrt.
TENSORRT = ("mtaclip_core.runtime.tensorrt_", "mtaclip_core.runtime.engine_choice")
# What `make run` does not install.
TRAINING_PACKAGES = (
    *("torch", "torchvision", "open_clip", "timm", "lightning_fabric", "scipy", "safetensors", "tensorboard"),
    *("onnx", "onnxscript", "onnxruntime", "transformers", "ray", "tensorrt", "cuda", "pytest", "cityscapesscripts"),
)
ROS_PACKAGES = (
    *("rclpy", "sensor_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs"),
    *("rcl_interfaces", "builtin_interfaces", "vision_msgs", "cv_bridge", "rosbag2_py", "launch", "launch_ros"),
    *("ament_index_python", "rosidl_runtime_py"),
)
# They read and write bags in code and work on a machine that has no ROS.
OFFLINE = ("mtaclip_ros.drive_writer", "mtaclip_ros.replay", "mtaclip_ros.transport", "mtaclip_ros.console")

IMPORT_ALL = """
import importlib, sys, traceback
blocked, modules = sys.argv[1].split(","), sys.argv[2].split(",")
sys.modules.update(dict.fromkeys(blocked))  # None: an import says that there is no such module
failed = 0
for name in modules:
    try:
        importlib.import_module(name)
    except ImportError:
        failed += 1
        print(name, *traceback.format_exc().splitlines()[-5:], sep="\\n  ")
sys.exit(failed > 0)
"""


def modules(package: str) -> list[str]:
    """Names of all modules in a package's folder."""
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / package).rglob("*.py")]
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def import_without(blocked: Sequence[str], names: Sequence[str]) -> None:
    """Import all `names` in one new interpreter in which the packages `blocked` do not exist."""
    assert names
    done = run([sys.executable, "-c", IMPORT_ALL, ",".join(blocked), ",".join(names)], cwd=ROOT, env=ros_environment())
    assert done.returncode == 0, done.stdout + done.stderr


def imported(file: Path) -> set[str]:
    """Top-level names that a file imports anywhere, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def importers(package: str, forbidden: Sequence[str]) -> dict[str, set[str]]:
    """File -> forbidden names that it imports."""
    found = {file.name: imported(file) & set(forbidden) for file in (ROOT / package).rglob("*.py")}
    return {name: names for name, names in found.items() if names}


def test_what_is_not_training_imports_without_the_training_packages() -> None:
    excepted = TORCH + ONNX + TENSORRT
    names = [name for name in modules("mtaclip_core") + modules("mtaclip_ros") if not name.startswith(excepted)]
    import_without(TRAINING_PACKAGES, names)
    import_without([name for name in TRAINING_PACKAGES if name != "onnx"], ONNX)


def test_core_imports_without_ros() -> None:
    names = [name for name in modules("mtaclip_core") if not name.startswith(TENSORRT)]  # no tests install that
    import_without([*ROS_PACKAGES, "mtaclip_ros"], names)


def test_offline_programs_import_without_ros() -> None:
    import_without(ROS_PACKAGES, OFFLINE)


def test_blocking_blocks() -> None:
    with pytest.raises(AssertionError, match=r"mtaclip_core\.modeling"):
        import_without(["torch"], ["mtaclip_core.modeling.mta_clip"])


def test_core_never_imports_ros() -> None:
    assert importers("mtaclip_core", [*ROS_PACKAGES, "mtaclip_ros"]) == {}


def test_ros_side_never_imports_torch() -> None:
    assert importers("mtaclip_ros", ["torch", "torchvision", "open_clip", "timm", "lightning_fabric"]) == {}
