"""The folder of engines by itself: what differs is named, what is cut off is not there, many processes build once."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_package import ROOT

from mtaclip_core.cli import UserError
from mtaclip_core.runtime.engine_cache import MAX_PLAN_BYTES, EngineCache, EngineKey

KEY = EngineKey(
    model="street",
    model_hash="a" * 64,
    graph_options="deformable gather, revision 1",
    shapes="1x32x32x3 1x64x96x3 1x64x96x3",
    precision="int8",
    workspace_mb=0,
    calibration="1234567890abcdef",
    tensorrt="10.3.0",
    gpu="Orin",
    compute_capability="8.7",
    driver="CUDA 12.6",
)
PLAN = b"plan" * 5000


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> EngineCache:
    return EngineCache(tmp_path / "engines", said.append)


@pytest.fixture
def engine(cache: EngineCache) -> Path:
    return cache.get(KEY, lambda: PLAN).path


def forbidden() -> bytes:
    raise AssertionError("nothing is to be built")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineKey)])
def test_every_field_that_differs_is_named(cache: EngineCache, engine: Path, said: list[str], field: str) -> None:
    """Whatever it is: the engine is not used, refused by setting, or built again with a line."""
    value = getattr(KEY, field)
    other = value + 1 if isinstance(value, int) else value.replace(value[-1], "0" if value[-1] != "0" else "1")
    entry = json.loads(Path(f"{engine}.json").read_text())
    entry["key"][field] = other
    Path(f"{engine}.json").write_text(json.dumps(entry))
    named = rf"it was built for {field.replace('_', ' ')} '[^']*' where '[^']*' is needed"
    for settings in ({"on_mismatch": "refuse", "build": forbidden}, {"build": None}):
        with pytest.raises(UserError, match=f"cannot be used: {named}; delete it, allow a rebuild") as caught:
            cache.get(KEY, **settings)  # type: ignore[arg-type]
        assert len(str(caught.value).splitlines()) == 1
    assert not cache.has(KEY)
    assert cache.get(KEY, lambda: b"new").built
    assert [line for line in said if f"is built again: it was built for {field.replace('_', ' ')}" in line]
    assert cache.get(KEY, forbidden).plan == b"new"


def test_keys_of_different_builds_have_different_digests() -> None:
    changed = [dataclasses.replace(KEY, **{field.name: 7}) for field in dataclasses.fields(EngineKey)]
    assert len({key.digest for key in (KEY, *changed)}) == len(changed) + 1


def test_who_has_no_calibration_frames_takes_the_engine_of_any(cache: EngineCache, engine: Path) -> None:
    found = cache.get(dataclasses.replace(KEY, calibration=""), None)
    assert found.plan == PLAN and found.key == KEY


def test_a_folder_that_cannot_be_written_serves_its_engines(cache: EngineCache, engine: Path) -> None:
    lock = cache.folder / f".{engine.name}.lock"
    lock.unlink()
    lock.mkdir()  # root, who runs many tests, could write into a folder without permission
    assert cache.get(KEY, forbidden).plan == PLAN
    with pytest.raises(UserError, match=r"cannot be written \(Is a directory\); set MTACLIP_ENGINE_CACHE"):
        cache.get(KEY, forbidden, again=True)
    assert cache.set_aside(cache.get(KEY, None), "wrong") == engine  # the reason is not lost for it


@pytest.fixture
def small_disk() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_line_and_leaves_the_folder_as_it_was(cache: EngineCache, small_disk: None) -> None:
    old = cache.get(KEY, lambda: b"small").path
    before = {path.name: path.read_bytes() for path in cache.folder.iterdir()}
    with pytest.raises(UserError, match=rf"engine '{old}' cannot be written \(File too large\)"):
        cache.get(KEY, lambda: PLAN, again=True)
    assert {path.name: path.read_bytes() for path in cache.folder.iterdir()} == before
    assert cache.get(KEY, forbidden).plan == b"small"


@pytest.mark.parametrize("entry", [{"bytes": 1e999}, {"bytes": None}, {"key": []}, {"format": 99}])
def test_an_entry_of_another_kind_is_built_again(cache: EngineCache, engine: Path, entry: dict) -> None:
    known = json.loads(Path(f"{engine}.json").read_text())
    Path(f"{engine}.json").write_text(json.dumps(known | entry))
    with pytest.raises(UserError, match="is missing or not readable"):
        cache.get(KEY, None)
    assert cache.get(KEY, lambda: b"new").built


def test_an_engine_of_absurd_size_is_not_read(cache: EngineCache, engine: Path) -> None:
    with engine.open("r+b") as stream:
        stream.truncate(MAX_PLAN_BYTES + 1)  # takes no room on the disk
    known = json.loads(Path(f"{engine}.json").read_text())
    Path(f"{engine}.json").write_text(json.dumps(known | {"bytes": MAX_PLAN_BYTES + 1}))
    with pytest.raises(UserError, match="truncated, or another file"):
        cache.get(KEY, None)


BUILDER = """
import dataclasses, pathlib, sys, time
from mtaclip_core.runtime.engine_cache import EngineCache, EngineKey
folder, fields = pathlib.Path(sys.argv[1]), eval(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
def build():
    with (folder / "builds").open("a") as log:
        log.write("x")
    time.sleep(0.5)
    return b"plan"
print(EngineCache(folder / "engines", print).get(EngineKey(**fields), build).plan)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(folder), repr(dataclasses.asdict(KEY))]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_build_once_and_one_that_is_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    first, *others = (start(tmp_path) for _ in range(3))
    for process in (first, *others):
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    first.stdin.write("\n"), first.stdin.flush()  # type: ignore[union-attr]
    deadline = time.monotonic() + 60
    while not (tmp_path / "builds").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()
    first.communicate()
    answers = []
    for process in others:
        process.stdin.write("\n"), process.stdin.flush()  # type: ignore[union-attr]
    for process in others:
        answers.append(process.communicate(timeout=60)[0].splitlines())
    assert [lines[-1] for lines in answers] == ["b'plan'"] * 2
    assert (tmp_path / "builds").read_text() == "xx"  # of the one that was killed, and of one of the others
    assert {path.suffix for path in (tmp_path / "engines").iterdir()} == {".lock", ".engine", ".json"}
