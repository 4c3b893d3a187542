"""A double of the Python package tensorrt: not TensorRT, but its manner.

An "engine" is the ONNX file itself, computed by onnxruntime in float32 arithmetic when its turn on the stream of the
double of CUDA comes. As in TensorRT, failures are None or False and a line for the logger, a constructor without a GPU
raises TypeError, a plan of another version is not taken, shapes outside the profile are refused, a context must have
run once before it is recorded, and graphs must keep to the rules for uint8. It says nothing about TensorRT's numbers,
memory or speed. That it has no name that TensorRT lacks is tested against the real bindings.
"""

from __future__ import annotations

import enum
import json
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from double_cudart import DoubleCudart
from onnx import TensorProto
from tensorrt_operators import OPERATORS

_MAGIC = b"double of a TensorRT plan\n"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def make_tensorrt(cudart: DoubleCudart, version: str = "10.14.1.48") -> Any:
    """The module. What tests turn:

    `knobs.steps`, `knobs.seconds_per_step`: how long a build takes; `knobs.workspace`: bytes of scratch memory that the
    build needs; `knobs.wrong_answers`: engines give wrong labels; `knobs.builds`: how many were begun;
    `knobs.devices`: the GPUs that were chosen where TensorRT worked.
    """
    trt: Any = ModuleType("tensorrt")
    trt.__spec__ = SimpleNamespace(name="tensorrt")
    trt.__version__ = version
    knobs = trt.knobs = SimpleNamespace(
        steps=3, seconds_per_step=0.0, workspace=1 << 20, wrong_answers=False, builds=0, cleared=[], devices=set()
    )

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    trt.ILogger = ILogger
    trt.IProgressMonitor = type("IProgressMonitor", (), {})
    trt.DataType = enum.Enum("DataType", "FLOAT HALF INT32 UINT8")
    trt.TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", "STRONGLY_TYPED", start=1)
    trt.BuilderFlag = enum.Enum("BuilderFlag", "TF32" if version.startswith("11") else "FP16 TF32")
    types = {
        TensorProto.FLOAT: (trt.DataType.FLOAT, np.float32),
        TensorProto.FLOAT16: (trt.DataType.HALF, np.float16),
        TensorProto.INT32: (trt.DataType.INT32, np.int32),
        TensorProto.UINT8: (trt.DataType.UINT8, np.uint8),
    }

    class Builder:
        def __init__(self, logger: Any) -> None:
            if not cudart.devices:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def create_network(self, flags: int = 0) -> Any:
            typed = bool(flags & 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            return SimpleNamespace(typed=typed, model=b"")

        def create_builder_config(self) -> Any:
            return BuilderConfig()

        def create_optimization_profile(self) -> Any:
            return Profile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            knobs.builds += 1
            knobs.devices.add(cudart.device)
            assert network.typed, "precision must stand in the graph"
            monitor = config.progress_monitor
            monitor.phase_start("Building Engine", None, knobs.steps)
            for step in range(knobs.steps):
                time.sleep(knobs.seconds_per_step)
                if not monitor.step_complete("Building Engine", step):
                    self._logger.log(Severity.ERROR, "build was cancelled")
                    return None
            monitor.phase_finish("Building Engine")
            if config.workspace is not None and config.workspace < knobs.workspace:
                self._logger.log(Severity.ERROR, "Could not find any implementation for node conv1.")
                return None
            head = {"version": version, "profile": config.profiles[0].shapes, "wrong": knobs.wrong_answers}
            return memoryview(_MAGIC + json.dumps(head).encode() + b"\n" + network.model)

    class BuilderConfig:
        progress_monitor: Any = None

        def __init__(self) -> None:
            self.profiles: list[Any] = []
            self.workspace: int | None = None

        def clear_flag(self, flag: Any) -> None:
            assert flag in trt.BuilderFlag
            knobs.cleared.append(flag.name)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self.workspace = pool_size

        def add_optimization_profile(self, profile: Any) -> int:
            self.profiles.append(profile)
            return len(self.profiles) - 1 if profile.shapes else -1

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            if not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
                raise ValueError("Shape provided for min is inconsistent with other shapes.")
            self.shapes[input] = [list(min), list(opt), list(max)]

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self._network = network
            self._errors: list[str] = []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: self._errors[index])

        def parse(self, model: bytes, path: str | None = None) -> bool:
            self._errors = forbidden(model)
            self._network.model = model
            return not self._errors

    class Runtime:
        def __init__(self, logger: Any) -> None:
            if not cudart.devices:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
            knobs.devices.add(cudart.device)
            if not serialized_engine.startswith(_MAGIC):
                self._logger.log(Severity.ERROR, "Serialization assertion stdMagicTag == kPLAN_MAGIC_TAG failed.")
                return None
            head, _, model = serialized_engine[len(_MAGIC) :].partition(b"\n")
            fields = json.loads(head)
            if fields["version"] != version:
                self._logger.log(Severity.ERROR, "The engine plan file is not compatible with this version.")
                return None
            return Engine(fields, model, self._logger)

    class Engine:
        device_memory_size_v2 = 4096

        def __init__(self, fields: dict[str, Any], model: bytes, logger: Any) -> None:
            self.fields, self.logger = fields, logger
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            graph = onnx.load_from_string(model).graph
            self.inputs, self.outputs = list(graph.input), list(graph.output)

        @property
        def num_io_tensors(self) -> int:
            return len(self.inputs) + len(self.outputs)

        def get_tensor_name(self, index: int) -> str:
            return [*self.inputs, *self.outputs][index].name

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name in {p.name for p in self.inputs} else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return types[self.port(name).type.tensor_type.elem_type][0]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
            return self.fields["profile"][name]

        def create_execution_context(self) -> Any:
            knobs.devices.add(cudart.device)
            return Context(self)

        def port(self, name: str) -> Any:
            return next(port for port in (*self.inputs, *self.outputs) if port.name == name)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self._engine = engine
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._ran = False

        def set_input_shape(self, name: str, shape: Any) -> bool:
            least, _, most = self._engine.fields["profile"][name]
            if not all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True)):
                self._engine.logger.log(Severity.ERROR, f"Set dimension {shape} for tensor {name} does not satisfy it.")
                return False
            self._shapes[name] = tuple(shape)
            return True

        def infer_shapes(self) -> list[str]:
            ports = self._engine.inputs
            missing = [port.name for port in ports if 0 in _dims(port) and port.name not in self._shapes]
            if missing:
                return missing
            self._shapes.update({port.name: _dims(port) for port in ports if port.name not in self._shapes})
            dtypes = {port.name: types[port.type.tensor_type.elem_type][1] for port in ports}
            empty = {name: np.zeros(shape, dtypes[name]) for name, shape in self._shapes.items()}
            outputs = self._engine.session.run(None, empty)
            self._shapes.update({p.name: o.shape for p, o in zip(self._engine.outputs, outputs, strict=True)})
            return []

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._shapes[name]

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if name not in self._shapes:
                self._engine.logger.log(Severity.ERROR, f"given invalid tensor name: {name}")
                return False
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            missing = [name for name in self._shapes if name not in self._addresses]
            stream = cudart.live[stream_handle][1]
            if missing or (stream.recording is not None and not self._ran):
                self._engine.logger.log(Severity.ERROR, f"Neither address or allocator is set for {missing}")
                return False
            self._ran = True
            return int(cudart.enqueue(stream_handle, self._compute)[0]) == 0

        def _compute(self) -> None:
            feeds = {port.name: self._tensor(port).copy() for port in self._engine.inputs}
            for port, found in zip(self._engine.outputs, self._engine.session.run(None, feeds), strict=True):
                if self._engine.fields["wrong"] and port.name == "label":
                    found = np.roll(found, 7, axis=1)
                self._tensor(port)[...] = found

        def _tensor(self, port: Any) -> np.ndarray:
            dtype = np.dtype(types[port.type.tensor_type.elem_type][1])
            shape = self._shapes[port.name]
            memory = cudart.device_memory(self._addresses[port.name], int(np.prod(shape)) * dtype.itemsize)
            if memory is None:
                raise RuntimeError("illegal address")
            return np.frombuffer(memory, dtype).reshape(shape)

    for part in (Builder, OnnxParser, Runtime):
        setattr(trt, part.__name__, part)
    trt.ICudaEngine, trt.IExecutionContext, trt.IBuilderConfig = Engine, Context, BuilderConfig
    trt.IOptimizationProfile = Profile
    return trt


def forbidden(model: bytes) -> list[str]:
    """What TensorRT's ONNX parser does not take in a graph, as far as its documents tell."""
    try:
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto)
    except Exception as error:
        return [f"Failed to parse the ONNX model: {type(error).__name__}"]
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    types = {p.name: p.type.tensor_type.elem_type for p in (*graph.input, *graph.output, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = [f"No importer registered for op: {node.op_type}" for node in graph.node if node.op_type not in OPERATORS]
    for node in graph.node:
        sides = [types[name] for name in (*node.input, *node.output) if name]
        if TensorProto.UINT8 in sides and not (
            node.op_type == "Cast" and any(kind in _FLOATS for kind in sides) and len(sides) == 2
        ):
            found.append(f"node {node.output[0]} ({node.op_type}): uint8 is only converted from and to floats")
    return found


def _dims(port: Any) -> tuple[int, ...]:
    """Dimensions, 0 for one that is not known."""
    return tuple(dim.dim_value for dim in port.type.tensor_type.shape.dim)
