"""What pip and colcon install, and whether setup.py, package.xml and constraints.txt say the same."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path

import pytest
from helpers_package import ROOT, clean_environment, copy_sources, files_below, make_venv, ros_environment, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mtaclip_core

COMMANDS = ("segment_node", "drive_writer", "play", "replay", "evaluate_live")
PYTHONS = ("3.10", "3.11", "3.12")
# CONTRACTS: what each set installs.
SETS = {
    "": "numpy pydantic pyyaml opencv-python-headless tqdm",
    "onboard": "openvino rosbags apsw lz4 backports-zstd jinja2 matplotlib",
    "ros": "ros-rclpy ros-sensor-msgs ros-std-msgs ros-std-srvs ros-diagnostic-msgs ros-geometry-msgs "
    "ros-lifecycle-msgs",
    "gpu": "tensorrt cuda-python onnx",
    "train": "torch torchvision open-clip-torch timm lightning-fabric scipy safetensors tensorboard onnx onnxscript",
    "bench": "transformers",
    "fleet": "ray",
}
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def borrow_dependencies(python: Path) -> None:
    """Let a fresh environment import what this one has installed, so that nothing is downloaded twice."""
    site = python.parents[1] / SITE
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of a fresh environment with the project installed by `pip install .`."""
    folder = tmp_path_factory.mktemp("pip")
    python = make_venv(folder / "venv")
    sources = copy_sources(folder / "sources")
    done = run([str(python), "-m", "pip", "install", "--no-deps", str(sources)])
    assert done.returncode == 0, done.stdout + done.stderr
    borrow_dependencies(python)
    return folder / "venv"


def check_share(share: Path) -> None:
    """Share holds the launch files, the configuration and the models of the sources, and package.xml."""
    assert (share / "package.xml").read_bytes() == (ROOT / "package.xml").read_bytes()
    for name in ("launch", "config", "models"):
        assert files_below(share / name) == files_below(ROOT / name)


def check_packages(site: Path) -> None:
    """Both packages are there with every file (templates too), the tests are not."""
    for package in ("mtaclip_core", "mtaclip_ros"):
        assert files_below(site / package) == files_below(ROOT / package)
    assert not (site / "test").exists()
    assert not (site / "tools").exists()


def test_pip_installs_all_that_the_sources_hold(installed: Path) -> None:
    check_share(installed / "share" / "mtaclip_ros")
    check_packages(installed / SITE)
    assert (installed / "share/ament_index/resource_index/packages/mtaclip_ros").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_installed_command_runs_from_any_folder(installed: Path, tmp_path: Path, command: str) -> None:
    done = run([str(installed / "bin" / command), "--help"], cwd=tmp_path, env=ros_environment())
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_installed_package_finds_its_own_share(installed: Path, tmp_path: Path) -> None:
    code = (
        "import json\n"
        "from mtaclip_core.bundle import resolve_bundle\n"
        "from mtaclip_ros.transport import share_directory\n"
        f"names = {sorted(path.parent.name for path in ROOT.glob('models/*/bundle.yaml'))!r}\n"
        "print(json.dumps([str(share_directory()), *(str(resolve_bundle(name)) for name in names)]))"
    )
    done = run([str(installed / "bin" / "python"), "-c", code], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(Path(path).is_relative_to(installed) for path in json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--symlink-install"]], ids=["copied", "symlinked"])
def test_colcon_builds_a_working_install(colcon: Path, tmp_path: Path, options: list[str]) -> None:
    copy_sources(tmp_path / "src" / "mtaclip_ros")
    environment = clean_environment(PATH=f"{colcon.parent}:{os.environ['PATH']}")
    done = run([str(colcon), "build", "--base-paths", "src", *options], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr

    prefix = tmp_path / "install" / "mtaclip_ros"
    check_share(prefix / "share" / "mtaclip_ros")
    assert (prefix / "share/ament_index/resource_index/packages/mtaclip_ros").is_file()
    assert sorted(path.name for path in (prefix / "lib" / "mtaclip_ros").iterdir()) == sorted(COMMANDS)
    if not options:
        check_packages(prefix / SITE)
    # The scripts run with colcon's interpreter, which borrows our dependencies here; the shell is set up as by a user.
    called = run(
        ["bash", "-c", f". {tmp_path}/install/setup.bash && {prefix}/lib/mtaclip_ros/drive_writer --help"], cwd="/"
    )
    assert called.returncode == 0, called.stderr
    assert "usage:" in called.stdout


@pytest.mark.slow
def test_colcon_runs_the_tests_of_the_package(colcon: Path, tmp_path: Path) -> None:
    """In a clean workspace; a part of the tests, since we are among those that it would run."""
    copy_sources(tmp_path / "src" / "mtaclip_ros")
    environment = ros_environment() | {"PATH": f"{colcon.parent}:{os.environ['PATH']}"}
    part = ["test/core/test_labels.py", "test/ros/test_parameters.py"]
    for arguments in (["build"], ["test", "--return-code-on-test-failure", "--pytest-args", *part], ["test-result"]):
        done = run([str(colcon), *arguments], cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    (suite,) = ElementTree.parse(tmp_path / "build" / "mtaclip_ros" / "pytest.xml").iter("testsuite")
    assert int(suite.attrib["tests"]) > 10
    assert suite.attrib["errors"] == suite.attrib["failures"] == "0"


@pytest.fixture(scope="module")
def colcon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program colcon in an environment of its own: it wants an older setuptools than ours."""
    python = make_venv(tmp_path_factory.mktemp("colcon") / "venv")
    done = run([str(python), "-m", "pip", "install", "--quiet", "--prefer-binary", "colcon-common-extensions"])
    if done.returncode != 0:
        pytest.skip(f"colcon cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    borrow_dependencies(python)
    return python.parent / "colcon"


@pytest.fixture(scope="module")
def requirements(installed: Path) -> dict[str, list[Requirement]]:
    """Extra -> what it asks for, from the installed metadata."""
    asked: dict[str, list[Requirement]] = {}
    (info,) = (installed / SITE).glob("mtaclip_ros-*.dist-info")
    for line in metadata.PathDistribution(info).requires or []:
        requirement = Requirement(line)
        extra = re.search(r'extra == "(\w+)"', line)
        asked.setdefault(extra.group(1) if extra else "", []).append(requirement)
    return asked


@pytest.mark.parametrize("extra", SETS)
def test_sets_install_what_the_contract_says(requirements: dict[str, list[Requirement]], extra: str) -> None:
    assert sorted(canonicalize_name(item.name) for item in requirements[extra]) == sorted(SETS[extra].split())


def test_contract_bounds_hold(requirements: dict[str, list[Requirement]]) -> None:
    named = {item.name: item.specifier for items in requirements.values() for item in items}
    assert named["opencv-python-headless"].contains("4.14.0.94")
    assert not named["opencv-python-headless"].contains("5.0.0")
    assert named["torch"].contains("2.6.0")


def pins() -> list[Requirement]:
    """The lines of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pinned(python: str) -> dict[str, str]:
    """Name -> version that constraints.txt has for this Python; one line at most for each."""
    found: dict[str, str] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = canonicalize_name(pin.name)
            assert name not in found, f"two lines for {name} on Python {python}"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            found[name] = specifier.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_name_a_fitting_version_of_every_dependency(
    requirements: dict[str, list[Requirement]], python: str
) -> None:
    versions = pinned(python)
    for extra in requirements.keys() - {"gpu"}:
        for item in requirements[extra]:
            assert item.specifier.contains(versions[canonicalize_name(item.name)]), f"{item} [{extra}]"


def test_constraints_are_the_versions_tested_here() -> None:
    here = {canonicalize_name(found.metadata["Name"]): found.version for found in metadata.distributions()}
    versions = pinned(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {name: here[name] for name in versions if name in here} == {
        name: version for name, version in versions.items() if name in here
    }


def test_package_xml_names_the_ros_packages_that_are_imported() -> None:
    files = [*(ROOT / "mtaclip_ros").glob("*.py"), *(ROOT / "launch").glob("*.py")]
    trees = [ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for file in files]
    nodes = [node for tree in trees for node in tree]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    of_ros = re.compile(r"rclpy|\w+_msgs|\w+_srvs|\w+_interfaces|launch|launch_ros")
    asked = [item.text or "" for item in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")]
    named = {name for name in asked if not name.startswith("python3-")}
    assert named == {top for name in imported if of_ros.fullmatch(top := name.partition(".")[0])} | {"ros2launch"}


def test_the_version_stands_the_same_everywhere(installed: Path) -> None:
    (info,) = (installed / SITE).glob("mtaclip_ros-*.dist-info")
    assert metadata.PathDistribution(info).version == mtaclip_core.__version__
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == mtaclip_core.__version__
