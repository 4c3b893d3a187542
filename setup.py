"""Package of mtaclip_core and mtaclip_ros, for pip and for colcon (ament_python)."""

from __future__ import annotations

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "mtaclip_ros"
# The command is the name of the module that holds it: `ros2 run mtaclip_ros replay`.
COMMANDS = ("segment_node", "drive_writer", "play", "replay", "evaluate_live")

# Versions that were tested: constraints.txt.
BASE = ["numpy>=1.26", "pydantic>=2.6", "pyyaml>=6", "opencv-python-headless>=4.8,<5", "tqdm>=4.60"]
EXTRAS = {
    "onboard": [
        "openvino>=2024.6",
        "rosbags>=0.11",
        "apsw",  # what rosbags reads with, and what damaged bags are read with
        "lz4",
        'backports-zstd; python_version < "3.14"',
        "jinja2>=3",
        "matplotlib>=3.7",
    ],
    # ROS 2 without a ROS installation; never together with an apt ROS.
    "ros": [
        "ros-rclpy[fastrtps]>=9.1",
        "ros-sensor-msgs",
        "ros-std-msgs",
        "ros-std-srvs",
        "ros-diagnostic-msgs",
        "ros-geometry-msgs",
        "ros-lifecycle-msgs",
    ],
    "gpu": ["tensorrt>=10.3", "cuda-python>=12", "onnx>=1.17"],  # onnx: to build engines, not to run them
    "train": [
        "torch>=2.6",
        "torchvision>=0.21",
        "open_clip_torch>=2.30",
        "timm>=1.0.12",
        "lightning-fabric>=2.5",
        "scipy>=1.11",
        "safetensors>=0.4.5",
        "tensorboard>=2.16",
        "onnx>=1.17",
        "onnxscript>=0.5",
    ],
    # int8: for the CPU by NNCF, for other engines by calibration in onnxruntime.
    "quantise": ["nncf>=3.0", "onnxruntime>=1.20"],
    # Beside these the tests need cityscapesscripts, installed without what it asks for (tools/install.py).
    "test": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "onnxruntime>=1.20",
        "pillow>=10",
        "rosbags-image>=0.10",
        "ruff",
        "mypy",
        "types-PyYAML",
    ],
    "bench": ["transformers>=4.50"],
    "fleet": ["ray>=2.40"],
}


def version() -> str:
    """`__version__` of mtaclip_core, read without importing it: its dependencies are not there yet."""
    found = re.search(r'^__version__ = "(.+)"$', Path("mtaclip_core/__init__.py").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise SystemExit('error: mtaclip_core/__init__.py has no line `__version__ = "..."`; add one')
    return found.group(1)


def share(*patterns: str) -> list[tuple[str, list[str]]]:
    """(target folder, files) under share/mtaclip_ros for every folder that the patterns find files in."""
    folders: dict[str, list[str]] = {}
    for pattern in patterns:
        for file in sorted(glob(pattern, recursive=True)):
            if Path(file).is_file():
                folders.setdefault(f"share/{NAME}/{Path(file).parent.as_posix()}", []).append(file)
    return list(folders.items())


setup(
    name=NAME,
    version=version(),
    description="MTA-CLIP semantic segmentation of camera streams in ROS 2: train, evaluate, deploy, replay",
    license="Apache-2.0",
    maintainer="mtaclip_ros maintainers",
    maintainer_email="maintainers@mtaclip-ros.invalid",
    packages=find_packages(include=["mtaclip_*"]),
    package_data={NAME: ["templates/*"], "mtaclip_core.metrics": ["templates/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *share("launch/*.launch.py", "config/**", "models/**"),
    ],
    python_requires=">=3.10",
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": [f"{command} = {NAME}.console:{command}" for command in COMMANDS]},
    zip_safe=False,
)
