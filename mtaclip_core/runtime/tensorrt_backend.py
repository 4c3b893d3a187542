"""TensorRT on an NVIDIA GPU: the deployed graph of a bundle as cached engines, fed through a `CudaStager`."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtaclip_core.bundle import Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.deploy import parity
from mtaclip_core.deploy.engine_graph import CLASS_MAPS, IMAGE, ORDER, engine_onnx, engine_precision
from mtaclip_core.deploy.reference import load_reference
from mtaclip_core.runtime.cuda_runtime import call, find_gpu, load_cudart
from mtaclip_core.runtime.cuda_stager import CudaStager
from mtaclip_core.runtime.engine_cache import CachedEngine, EngineCache
from mtaclip_core.runtime.engine_choice import best_shape, engine_key, engine_range
from mtaclip_core.runtime.engine_settings import FIRST_SHAPE, EngineSettings, Shape, shape_text
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames, group_by_size
from mtaclip_core.runtime.tensorrt_engine import TensorRTContext, TensorRTEngine, build_plan

SLOTS = 2
"""Batches under way: one is computed, the next one copied."""
SHAPES_READY = 4
"""Shapes of batches that keep their buffers and their CUDA graph; the one not used for longest goes first."""

_ORDERS = {"rgb": np.array([0, 1, 2], np.int32), "bgr": np.array([2, 1, 0], np.int32)}


@dataclass(frozen=True)
class _Loaded:
    """An engine, where it lies, and how it meets the reference ("not checked" where nobody asked)."""

    engine: TensorRTEngine
    cached: CachedEngine
    gate: str = "not checked"


@dataclass(frozen=True)
class _Runner:
    """What takes batches of one shape through one engine."""

    context: TensorRTContext
    stager: CudaStager


class TensorRTSegmenter(Segmenter):
    """See `Segmenter`. A frame of a size that no engine takes gets one built, where that is allowed.

    Modes: `cuda_graph`: the kernels of a batch are recorded and replayed by one call; `eager`: they are put on the
    stream each time.

    Attributes:
        engine_key: digest of the key of the first engine, for diagnostics.
        graph_problem: why no CUDA graph could be recorded, empty if all could.
    """

    backend = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "f32",
        mode: str = "cuda_graph",
        settings: EngineSettings | None = None,
        *,
        verify: bool = True,
        calibration: Iterable[np.ndarray] | None = None,
        again: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Load the engines of the wanted shapes from the cache, or build them.

        Args:
            precision: `f32`, `fp16` or `int8`.
            settings: of the environment by default.
            verify: hold every engine against the bundle's reference.
            calibration: frames (H, W, 3) uint8 RGB; without them an int8 engine can be loaded, not built.
            again: build engines even if they are in the cache.
            say: told in one line at a time what is built and why; standard error by default.

        Raises:
            UserError: no GPU, no engine and none may be built, a failed build, an engine that failed the reference.
        """
        self._bundle = bundle
        self.name = bundle.name
        self.model_hash = bundle.hash
        self.space = bundle.space
        self.network_size = bundle.network_size
        self.precision = engine_precision(bundle, precision)
        self.mode = mode
        self.threads = 1  # of the host; the work is the GPU's
        self._settings = settings or EngineSettings.from_environment()
        self._say = say or _to_stderr
        self._verify = verify
        self._calibration = None if calibration is None or self.precision != "int8" else list(calibration)
        self._again = again
        self._cudart = load_cudart()
        self._gpu = find_gpu(self._cudart, self._settings.device)
        self._cache = EngineCache(self._settings.cache, self._say)
        self._reference_size = load_reference(bundle).label.shape[1:3]
        self._engines: list[_Loaded] = []
        self._runners: OrderedDict[tuple[int, ...], _Runner] = OrderedDict()
        self.graph_problem = ""
        try:
            for shape in self._first_shapes():
                self._add(shape)
        except RuntimeError as error:
            self.close()
            raise UserError(f"backend tensorrt could not load '{bundle.name}': {error}") from error
        except BaseException:
            self.close()
            raise
        self._again = False  # was meant for the shapes that were asked for
        self.engine_key = self._engines[0].cached.key.digest
        self.parallel = SLOTS * max(loaded.engine.shapes.most[0] for loaded in self._engines)

    @property
    def gpu_memory_bytes(self) -> int:
        """About what this model holds on the GPU, without CUDA's own context."""
        engines = sum(loaded.engine.weight_bytes for loaded in self._engines)
        per_context = {id(loaded.engine): loaded.engine.context_bytes for loaded in self._engines}
        runners = sum(per_context[key[0]] + runner.stager.device_bytes for key, runner in self._runners.items())
        return engines + runners

    @property
    def engine_gates(self) -> dict[Path, str]:
        """Files of the engines that are loaded, and by what numbers each met the reference."""
        return {loaded.cached.path: loaded.gate for loaded in self._engines}

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        check_frames(frames)
        results: dict[int, Segmentation] = {}
        for part, found in self._run(frames, channel_order, ("label", "confidence")):
            for row, i in enumerate(part):
                results[i] = Segmentation(found["label"][row], found["confidence"][row])
        return [results[i] for i in range(len(frames))]

    def segment_with_maps(self, frame: np.ndarray) -> tuple[Segmentation, np.ndarray | None]:
        check_frames([frame])
        ((_, found),) = self._run([frame], "rgb", ())
        maps = found[CLASS_MAPS][0] if CLASS_MAPS in found else None
        return Segmentation(found["label"][0], found["confidence"][0]), maps

    def close(self) -> None:
        while self._runners:
            self._runners.popitem()[1].stager.close()
        self._engines.clear()

    def _run(
        self, frames: Sequence[np.ndarray], order: ChannelOrder, fetch: tuple[str, ...]
    ) -> list[tuple[list[int], dict[str, np.ndarray]]]:
        """Positions of the frames of each batch, and its outputs."""
        done: list[tuple[list[int], dict[str, np.ndarray]]] = []
        under_way: deque[tuple[_Runner, list[int]]] = deque()

        def collect(down_to: int) -> None:
            while len(under_way) > down_to:
                runner, part = under_way.popleft()
                done.append((part, runner.stager.collect()))

        groups = [(indices, *frames[indices[0]].shape[:2]) for indices in group_by_size(frames)]
        # All before the first batch is under way: an engine that is built is tried with batches of its own.
        engines = [self._engine_for(height, width) for _, height, width in groups]
        try:
            for (indices, height, width), loaded in zip(groups, engines, strict=True):
                step = loaded.engine.shapes.most[0]
                for start in range(0, len(indices), step):
                    part = indices[start : start + step]
                    key = (id(loaded.engine), len(part), height, width)
                    collect(SLOTS - 1 if key in self._runners else 0)  # a new runner may end the oldest one
                    runner = self._runner(loaded.engine, key)
                    runner.stager.submit({IMAGE: [frames[i] for i in part], ORDER: _ORDERS[order]}, fetch)
                    under_way.append((runner, part))
            collect(0)
        finally:
            for runner, _ in under_way:
                runner.stager.abandon()
        for runner in self._runners.values():
            self._note_graph(runner.stager)
        return done

    def _engine_for(self, height: int, width: int) -> _Loaded:
        """The engine that is best at frames of this size, built if there is none that takes them."""
        fitting = [loaded for loaded in self._engines if loaded.engine.shapes.takes((1, height, width, 3))]
        if not fitting:
            self._say(f"no engine takes frames of {height}x{width}")
            return self._add((1, height, width))
        exact = [loaded for loaded in fitting if loaded.engine.shapes.best[1:3] == (height, width)]
        return min(exact or fitting, key=lambda loaded: loaded.engine.shapes.most)

    def _runner(self, engine: TensorRTEngine, key: tuple[int, ...]) -> _Runner:
        if key in self._runners:
            self._runners.move_to_end(key)
            return self._runners[key]
        while len(self._runners) >= SHAPES_READY:
            self._runners.popitem(last=False)[1].stager.close()
        call(self._cudart, "cudaSetDevice", self._gpu.index)
        _, batch, height, width = key
        context = engine.context((batch, height, width, 3))
        stager = CudaStager(
            self._cudart,
            context.inputs,
            context.outputs,
            device=self._gpu.index,
            slots=SLOTS,
            graph=self.mode == "cuda_graph",
        )
        context.bind(stager.addresses)
        stager.set_work(context.run)
        self._runners[key] = _Runner(context, stager)
        return self._runners[key]

    def _note_graph(self, stager: CudaStager) -> None:
        if stager.graph_problem and not self.graph_problem:
            self.graph_problem = stager.graph_problem
            self._say(f"no CUDA graph could be recorded, kernels are launched one by one: {stager.graph_problem}")

    def _first_shapes(self) -> list[Shape]:
        if self._settings.shapes:
            return list(self._settings.shapes)
        keys = self._cache.find(self._bundle.name, self.precision, self._gpu.name)
        if keys:
            return sorted({best_shape(key) for key in keys}, key=lambda shape: (shape[1] * shape[2], shape))
        height, width = (max(pair) for pair in zip(FIRST_SHAPE, self.network_size, strict=True))
        return [(1, height, width)]

    def _add(self, shape: Shape) -> _Loaded:
        """Load or build the engine of a shape and hold it against the reference.

        Raises:
            UserError: as the constructor.
        """
        settings = self._settings
        shapes = engine_range(shape, self._reference_size)
        seen = _digest(self._calibration or ())
        key = engine_key(self._bundle, self.precision, shapes, self._gpu, settings.workspace_mb, seen)

        def build() -> bytes:
            where = f"{self.precision}, {shape_text(shape)}, TensorRT {key.tensorrt}, {self._gpu.name}"
            self._say(f"building an engine of '{self.name}' ({where}); this takes minutes")
            return build_plan(
                engine_onnx(self._bundle, self.precision, self._calibration),
                shapes,
                workspace_mb=settings.workspace_mb,
                prepare_thread=lambda: call(self._cudart, "cudaSetDevice", self._gpu.index),
                say=self._say,
            )

        cached = self._cache.get(key, None if settings.build == "never" else build, settings.on_mismatch, self._again)
        call(self._cudart, "cudaSetDevice", self._gpu.index)
        try:
            engine = TensorRTEngine(cached.plan)
        except UserError as error:
            todo = f"python -m mtaclip_core.export engine {self.name} --precision {self.precision} --again"
            raise UserError(f"engine '{cached.path}': {error}; if that stays so, build it again: {todo}") from error
        loaded = _Loaded(engine, dataclasses.replace(cached, plan=b""))  # TensorRT has made its own of the plan
        if self._verify:
            loaded = dataclasses.replace(loaded, gate=self._hold_against_reference(loaded))
            if cached.built:
                self._say(f"engine '{cached.path}' gives the reference answers: {loaded.gate}")
        self._engines.append(loaded)
        return loaded

    def _hold_against_reference(self, loaded: _Loaded) -> str:
        """The numbers by which it agrees.

        Raises:
            UserError: it does not; it is set aside in the cache then.
        """
        others, self._engines = self._engines, [loaded]  # so that the reference meets no other engine
        try:
            return str(parity.check(self, self._bundle))
        except BaseException as error:
            for key in [key for key in self._runners if key[0] == id(loaded.engine)]:
                self._runners.pop(key).stager.close()
            if not isinstance(error, UserError):
                raise
            aside = self._cache.set_aside(loaded.cached, "it does not give the reference answers")
            raise UserError(f"{error}; the engine lies at '{aside}' and is built anew at the next start") from error
        finally:
            self._engines = others


def _digest(frames: Sequence[np.ndarray]) -> str:
    """Hex digits that differ where any frame differs; empty where there is none."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(f"{frame.shape}".encode() + frame.tobytes())
    return digest.hexdigest()[:16] if frames else ""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
