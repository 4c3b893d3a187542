"""The CUDA runtime through cuda-python: found, asked about its GPUs, and every error code turned into an exception."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mtaclip_core.cli import UserError

_DRIVER_VERSION = Path("/sys/module/nvidia/version")  # absent on a Jetson, whose driver is part of its Linux


class CudaError(RuntimeError):
    """A call of the CUDA runtime failed; the text names the call and CUDA's reason."""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device, as far as an engine depends on it.

    Attributes:
        index: the CUDA device id.
        compute_capability: "8.7".
        memory_bytes: all of its memory.
        driver: highest CUDA version of the driver, and the driver's own version where the system tells it.
    """

    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    driver: str


def load_cudart() -> ModuleType:
    """The module of the CUDA runtime: `cuda.bindings.runtime`, or `cuda.cudart` of cuda-python before 12.8.

    Raises:
        UserError: neither is installed.
    """
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UserError("backend tensorrt needs cuda-python, which is not installed: pip install 'mtaclip_ros[gpu]'")


def call(cudart: Any, name: str, *args: object) -> Any:
    """Call a function of the CUDA runtime.

    Returns:
        None, its one result, or a tuple of its results, less the error code that comes first.

    Raises:
        CudaError: the code was not success, or the driver library is not there.
    """
    try:
        error, *results = getattr(cudart, name)(*args)
    except RuntimeError as failed:  # cuda-python 12 cannot find libcuda
        raise CudaError(f"{name}: {failed}") from failed
    if int(error) != 0:
        _, text = cudart.cudaGetErrorString(error)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        raise CudaError(f"{name}: {reason} ({error.name})")
    if not results:
        return None
    return results[0] if len(results) == 1 else tuple(results)


def find_gpu(cudart: Any, index: int = 0) -> Gpu:
    """What there is to know of a GPU.

    Raises:
        UserError: no GPU, no driver, or none of that id.
    """
    try:
        count = call(cudart, "cudaGetDeviceCount")
        if 0 <= index < count:
            call(cudart, "cudaSetDevice", index)
            found = call(cudart, "cudaGetDeviceProperties", index)
            version = call(cudart, "cudaDriverGetVersion")
    except CudaError as error:
        raise UserError(
            f"backend tensorrt needs an NVIDIA GPU with its driver, and CUDA finds none ({error})"
        ) from error
    if not 0 <= index < count:
        raise UserError(f"there is no GPU {index}: CUDA finds {count} (their ids begin with 0)")
    return Gpu(
        index=index,
        name=found.name.decode().rstrip("\0") if isinstance(found.name, bytes) else str(found.name),
        compute_capability=f"{found.major}.{found.minor}",
        memory_bytes=int(found.totalGlobalMem),
        driver=_driver(version),
    )


def _driver(version: int) -> str:
    cuda = f"CUDA {version // 1000}.{version % 1000 // 10}"
    try:
        return f"{cuda}, {_DRIVER_VERSION.read_text(encoding='ascii').strip()}"
    except OSError:
        return cuda
