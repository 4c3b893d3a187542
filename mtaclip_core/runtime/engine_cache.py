"""TensorRT engines on disk: each with a JSON that says what it was built from, and that it is whole.

An engine is code for one GPU, one driver and one version of TensorRT, made from one graph. TensorRT itself may crash
on a file that is damaged or comes from elsewhere, so nothing is given to it whose sha256 and key were not checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mtaclip_core.cli import UserError
from mtaclip_core.runtime.engine_settings import Mismatch

FORMAT = 1
MAX_PLAN_BYTES = 8 * 1024**3
"""More than the engine of any graph that fits into one file (2 GB)."""
_MAX_JSON_BYTES = 64 * 1024
_SHAPES = re.compile(r"\d{1,5}(x\d{1,5}){3}( \d{1,5}(x\d{1,5}){3}){2}")


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on.

    Attributes:
        model: the bundle's name; with precision, shape and GPU it names the file, the rest must agree.
        model_hash: sha256 of the bundle's `model.onnx`.
        graph_options: form of the deployed graph, as in `bundle.yaml`, and the version of what is changed in it here.
        shapes: least, best and largest `image`, "1x64x64x3 1x1024x2048x3 1x1024x2048x3".
        precision: that stands in the graph: `f32`, `fp16` or `int8`.
        workspace_mb: limit of the scratch memory, 0 for none.
        calibration: hash of the frames that the scales of int8 were taken from; empty where any will do.
        tensorrt, gpu, compute_capability, driver: where it was built.
    """

    model: str
    model_hash: str
    graph_options: str
    shapes: str
    precision: str
    workspace_mb: int
    calibration: str
    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str

    @property
    def digest(self) -> str:
        """Hex digits that differ where any field differs."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """`street-tiny.fp16.1x1024x2048.NVIDIA-L4.engine`"""
        best = self.shapes.split()[1].rpartition("x")[0]
        parts = (self.model, self.precision, best, self.gpu)
        return ".".join(re.sub(r"[^A-Za-z0-9_-]+", "-", part) for part in parts) + ".engine"

    def difference(self, found: EngineKey) -> str:
        """Which fields of `found` are not as here, in words; empty if none."""
        ours, theirs = asdict(self), asdict(found)
        if not self.calibration:
            theirs["calibration"] = ""
        return ", ".join(
            f"{name.replace('_', ' ')} {_short(theirs[name])} where {_short(ours[name])} is needed"
            for name in ours
            if ours[name] != theirs[name]
        )


@dataclass(frozen=True)
class CachedEngine:
    """An engine that is whole and has the wanted key.

    Attributes:
        plan: the bytes that TensorRT reads.
        built: whether it was built just now.
    """

    path: Path
    key: EngineKey
    plan: bytes
    built: bool


class EngineCache:
    """A folder of engines; safe for several processes."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """
        Args:
            say: told in one line what happens to engines, and why.
        """
        self.folder = folder
        self._say = say

    def get(
        self,
        key: EngineKey,
        build: Callable[[], bytes] | None,
        on_mismatch: Mismatch = "rebuild",
        again: bool = False,
    ) -> CachedEngine:
        """The engine of this key, from the folder or built; two processes that want the same one build it once.

        Args:
            build: makes the plan; may take minutes. None: building is not allowed.
            on_mismatch: what to do with an engine under this name that has another key.
            again: build it even if it is there.

        Raises:
            UserError: there is none and none may be built, another key and `refuse`, or a folder without access.
            BaseException: what `build` raises; the folder is as it was then.
        """
        path = self.folder / key.file_name
        may_build = build is not None and on_mismatch == "rebuild"
        # Without the lock first: a folder that cannot be written serves the engines that are in it.
        engine = None if again else self._look(path, key, may_build)[1]
        if engine is not None:
            return engine
        if build is None:
            raise UserError(f"there is no engine '{path}' for this model and machine, and none may be built")
        with self._locked(path):
            problem, engine = ("", None) if again else self._look(path, key, may_build)
            if engine is not None:  # another process has built it meanwhile
                return engine
            if problem:
                self._say(f"engine '{path}' is built again: {problem}")
            plan = build()
            self._write(path, key, plan)
            return CachedEngine(path, key, plan, built=True)

    def find(self, model: str, precision: str, gpu: str) -> list[EngineKey]:
        """Keys of the engines of this name, precision and GPU, as their JSON has them; whatever else they were for."""
        entries = [_read_entry(path) for path in sorted(self.folder.glob("*.engine.json"))]
        keys = [entry[0] for entry in entries if entry is not None]
        return [key for key in keys if (key.model, key.precision, key.gpu) == (model, precision, gpu)]

    def has(self, key: EngineKey) -> bool:
        """Whether the engine of exactly this key is there, and whole."""
        return _check(self.folder / key.file_name, key)[1] is not None

    def set_aside(self, engine: CachedEngine, why: str) -> Path:
        """Rename an engine, so that the next start builds it anew and somebody can look at it.

        Returns:
            Where it lies now; where it was, if the folder cannot be written.
        """
        aside = engine.path.with_suffix(".refused")
        try:
            with self._locked(engine.path):
                os.replace(engine.path, aside)
                _entry_path(engine.path).unlink(missing_ok=True)
        except (UserError, OSError) as error:
            self._say(f"engine refused ({why}); it stays where it is: {error}")
            return engine.path
        self._say(f"engine refused ({why}); it is now '{aside}'")
        return aside

    def _look(self, path: Path, key: EngineKey, may_build: bool) -> tuple[str, CachedEngine | None]:
        """As `_check`. Raises UserError where what is there cannot be used and must not be built anew."""
        problem, engine = _check(path, key)
        if problem and not may_build:
            todo = "delete it, allow a rebuild, or run: python -m mtaclip_core.export engine " + key.model
            raise UserError(f"engine '{path}' cannot be used: {problem}; {todo}")
        return problem, engine

    def _write(self, path: Path, key: EngineKey, plan: bytes) -> None:
        """Engine first, then its JSON: whenever this is cut off, the JSON does not fit and the engine is not used."""
        entry = {"format": FORMAT, "key": asdict(key), "sha256": hashlib.sha256(plan).hexdigest(), "bytes": len(plan)}
        for target, content in ((path, plan), (_entry_path(path), json.dumps(entry, indent=2).encode() + b"\n")):
            partial = target.with_name(f".{target.name}.partial")  # one process at a time: it holds the lock
            try:
                partial.write_bytes(content)
                os.replace(partial, target)
            except OSError as error:
                raise UserError(f"engine '{target}' cannot be written ({error.strerror})") from error
            finally:
                with contextlib.suppress(OSError):
                    partial.unlink()

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        lock = path.with_name(f".{path.name}.lock")
        with contextlib.ExitStack() as held:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Closing unlocks; the file stays, so that nobody locks one that is being deleted.
                stream = held.enter_context(lock.open("wb"))
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self._say(f"waiting for another process that builds '{path.name}'")
                    fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(
                    f"engine cache '{self.folder}' cannot be written ({error.strerror}); "
                    f"set MTACLIP_ENGINE_CACHE to a folder that can"
                ) from error
            yield


def _check(path: Path, key: EngineKey) -> tuple[str, CachedEngine | None]:
    """What is wrong with an engine file, or the engine; neither where there is no file."""
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        return "", None
    except OSError as error:
        return f"it cannot be read ({error.strerror})", None
    entry = _read_entry(_entry_path(path))
    if entry is None:
        return f"'{_entry_path(path).name}', which says what it was built for, is missing or not readable", None
    found, sha256, size = entry
    if difference := key.difference(found):
        return f"it was built for {difference}", None
    if actual != size or size > MAX_PLAN_BYTES:
        return f"it has {actual} bytes and was written with {size}: truncated, or another file", None
    try:
        plan = path.read_bytes()
    except OSError as error:
        return f"it cannot be read ({error.strerror})", None
    if hashlib.sha256(plan).hexdigest() != sha256:
        return "its content is not what was written: damaged, or another file", None
    return "", CachedEngine(path, found, plan, built=False)


def _read_entry(path: Path) -> tuple[EngineKey, str, int] | None:
    """(key, sha256, bytes) of the JSON beside an engine; None where it is not such a file."""
    try:
        with path.open("rb") as stream:
            entry: Any = json.loads(stream.read(_MAX_JSON_BYTES))
        if entry["format"] != FORMAT:
            return None
        key = EngineKey(**entry["key"])
        typed = all(type(getattr(key, field.name)).__name__ == field.type for field in fields(key))
        if not typed or not _SHAPES.fullmatch(key.shapes):
            return None
        return key, str(entry["sha256"]), int(entry["bytes"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _entry_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _short(value: object) -> str:
    text = str(value) or "none"
    return f"'{text[:12]}...'" if re.fullmatch(r"[0-9a-f]{64}", text) else f"'{text}'"
