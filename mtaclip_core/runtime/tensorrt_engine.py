"""TensorRT 10.3 to 11.x: a graph becomes an engine, an engine becomes execution contexts.

Only what both generations have is used: strongly typed networks (TensorRT 11 knows no others), execution by tensor
names and addresses. TensorRT reports most failures as None or False and tells its logger why; here they are exceptions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import tensorrt as trt

from mtaclip_core.cli import UserError
from mtaclip_core.deploy.engine_graph import IMAGE
from mtaclip_core.runtime.cuda_stager import Port

PROGRESS_SECONDS = 5.0
OLDEST = (10, 3)

Dims4 = tuple[int, int, int, int]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Range:
    """Shapes of `image` (B, H, W, 3) that an engine takes, and the one that it is best at."""

    least: Dims4
    best: Dims4
    most: Dims4

    def takes(self, shape: Dims4) -> bool:
        return all(low <= side <= high for low, side, high in zip(self.least, shape, self.most, strict=True))

    def __str__(self) -> str:
        return " ".join("x".join(map(str, shape)) for shape in (self.least, self.best, self.most))


def tensorrt_version() -> str:
    """The version of the TensorRT that runs here.

    Raises:
        UserError: one that is older than what this was written for.
    """
    version = str(trt.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise UserError(f"TensorRT {version} is too old; backend tensorrt needs {OLDEST[0]}.{OLDEST[1]} or newer")
    return version


def build_plan(
    onnx_bytes: bytes,
    shapes: Range,
    *,
    workspace_mb: int | None,
    prepare_thread: Callable[[], None],
    say: Callable[[str], None],
) -> bytes:
    """Build an engine, which takes minutes; the plan is its serialised form.

    TensorRT works in a thread of its own, so that Ctrl-C is heard: it ends the build at its next step.

    Args:
        onnx_bytes: as of `engine_graph.engine_onnx`.
        workspace_mb: limit of the scratch memory, None for TensorRT's own.
        prepare_thread: called first in that thread; chooses the GPU.
        say: told every 5 s how far it is.

    Raises:
        UserError: TensorRT refused the graph or found no way to run it; the text has its reason.
        KeyboardInterrupt: after the build has stopped.
    """
    log = _Log()
    progress = _Progress()
    result: list[bytes | BaseException] = []
    finished = threading.Event()  # Ctrl-C during Thread.join can make a later one return at once

    def work() -> None:
        try:
            prepare_thread()
            result.append(_build(onnx_bytes, shapes, workspace_mb, log, progress))
        except BaseException as error:  # handed over to the thread that waits
            result.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=work, name="tensorrt-build", daemon=True)
    began = time.monotonic()
    thread.start()
    try:
        while not finished.wait(PROGRESS_SECONDS):
            say(f"building the engine: {time.monotonic() - began:.0f} s{progress}")
    except BaseException:
        progress.cancelled = True
        say("stopping the build of the engine")
        finished.wait()
        raise
    finally:
        if finished.is_set():
            thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _build(onnx_bytes: bytes, shapes: Range, workspace_mb: int | None, log: _Log, progress: _Progress) -> bytes:
    builder = _made(lambda: trt.Builder(log), log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx_bytes):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise UserError(f"TensorRT cannot read this graph: {_one_line(errors[0] if errors else log.reason)}")
    config = builder.create_builder_config()
    config.progress_monitor = progress
    # What the graph calls float32 is float32: TensorFloat-32 keeps 10 bits of the mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    profile = builder.create_optimization_profile()
    profile.set_shape(IMAGE, shapes.least, shapes.best, shapes.most)
    if config.add_optimization_profile(profile) < 0:
        raise UserError(f"TensorRT refuses the shapes {shapes}: {log.reason}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        hint = "" if workspace_mb is None else f" (scratch memory was limited to {workspace_mb} MiB: allow more)"
        raise UserError(f"TensorRT could not build the engine{hint}: {log.reason}")
    return bytes(plan)


class TensorRTEngine:
    """A deserialised engine.

    Attributes:
        shapes: what it takes.
        outputs: names of its outputs.
        weight_bytes: about what its weights take on the GPU.
    """

    def __init__(self, plan: bytes) -> None:
        """
        Args:
            plan: of `build_plan`, by this TensorRT on this GPU; anything else may crash the process.

        Raises:
            UserError: TensorRT does not take it.
        """
        self._log = _Log()
        self._runtime = _made(lambda: trt.Runtime(self._log), self._log)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise UserError(f"TensorRT {trt.__version__} does not take this engine: {self._log.reason}")
        self._engine = engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.inputs = tuple(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        self.outputs = tuple(name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT)
        least, best, most = (_dims(shape) for shape in engine.get_tensor_profile_shape(IMAGE, 0))
        self.shapes = Range(least, best, most)
        self.weight_bytes = len(plan)

    @property
    def context_bytes(self) -> int:
        """Device memory that each context takes."""
        return int(self._engine.device_memory_size_v2)

    def context(self, shape: Dims4) -> TensorRTContext:
        """What runs batches of this shape of `image`.

        Raises:
            RuntimeError: no memory for it, or a shape that the engine does not take.
        """
        context = self._engine.create_execution_context()
        if context is None:
            raise RuntimeError(f"TensorRT could not make an execution context: {self._log.reason}")
        if not context.set_input_shape(IMAGE, shape):
            raise RuntimeError(f"the engine takes {self.shapes}, not {shape}: {self._log.reason}")
        unknown = context.infer_shapes()
        if unknown:
            raise RuntimeError(f"TensorRT cannot tell the shapes of {', '.join(unknown)}")
        return TensorRTContext(self._engine, context, self._log, self.inputs, self.outputs)


class TensorRTContext:
    """An engine's state for batches of one shape.

    Attributes:
        inputs, outputs: its ports.
    """

    def __init__(
        self,
        engine: trt.ICudaEngine,
        context: trt.IExecutionContext,
        log: _Log,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
    ) -> None:
        self._context = context
        self._log = log
        types = {
            trt.DataType.UINT8: np.uint8,
            trt.DataType.INT32: np.int32,
            trt.DataType.FLOAT: np.float32,
            trt.DataType.HALF: np.float16,
        }

        def port(name: str) -> Port:
            return Port(name, tuple(context.get_tensor_shape(name)), np.dtype(types[engine.get_tensor_dtype(name)]))

        self.inputs = tuple(port(name) for name in inputs)
        self.outputs = tuple(port(name) for name in outputs)

    def bind(self, addresses: dict[str, int]) -> None:
        """Say where its inputs and outputs lie on the GPU."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise RuntimeError(f"TensorRT does not take the address of '{name}': {self._log.reason}")

    def run(self, stream: int) -> None:
        """Put the work on a stream. Raises RuntimeError where TensorRT cannot."""
        if not self._context.execute_async_v3(stream):
            raise RuntimeError(f"TensorRT could not run the engine: {self._log.reason}")


class _Log(trt.ILogger):
    """Keeps TensorRT's last error; its warnings (of which every build has many) are nobody's concern."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.reason = "TensorRT gave no reason"

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.reason = _one_line(msg)


class _Progress(trt.IProgressMonitor):
    """Which phase a build is in; its methods are called by threads of TensorRT."""

    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)
        self.cancelled = False
        self._phases: dict[str, tuple[int, int]] = {}  # steps done and in all, the innermost phase last
        self._lock = threading.Lock()

    def __str__(self) -> str:
        with self._lock:
            parts = [f"{name} {done}/{steps}" for name, (done, steps) in self._phases.items()]
        return "".join(f", {part}" for part in parts)

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        with self._lock:
            self._phases[phase_name] = (0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        with self._lock:
            if phase_name in self._phases:
                self._phases[phase_name] = (step + 1, self._phases[phase_name][1])
        return not self.cancelled

    def phase_finish(self, phase_name: str) -> None:
        with self._lock:
            self._phases.pop(phase_name, None)


def _made(make: Callable[[], Made], log: _Log) -> Made:
    """Call a constructor of TensorRT; its C++ side gives a null pointer where there is no usable GPU."""
    try:
        return make()
    except (TypeError, RuntimeError) as error:
        raise UserError(f"TensorRT {trt.__version__} does not start on this machine ({error}): {log.reason}") from error


def _dims(shape: Any) -> Dims4:
    batch, height, width, channels = (int(side) for side in shape)
    return batch, height, width, channels


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
