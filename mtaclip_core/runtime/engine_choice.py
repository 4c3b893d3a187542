"""Which TensorRT engine a bundle needs on this machine, and whether backend `auto` has one."""

from __future__ import annotations

import importlib.util

from mtaclip_core.bundle import ONNX, Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.deploy.engine_graph import REVISION, engine_precision
from mtaclip_core.deploy.reference import load_reference
from mtaclip_core.runtime.cuda_runtime import Gpu, find_gpu, load_cudart
from mtaclip_core.runtime.engine_cache import EngineCache, EngineKey
from mtaclip_core.runtime.engine_settings import EngineSettings, Shape
from mtaclip_core.runtime.tensorrt_engine import Range, tensorrt_version

LEAST_SIDE = 32
"""Height and width from which on every engine takes frames."""


def engine_range(shape: Shape, reference_size: tuple[int, ...]) -> Range:
    """What an engine for a shape (B, H, W) takes: up to B frames, of every size up to H x W and the reference's."""
    batch, height, width = shape
    sides = list(zip((height, width), reference_size, strict=True))
    low, high = [min(LEAST_SIDE, *pair) for pair in sides], [max(pair) for pair in sides]
    return Range((1, low[0], low[1], 3), (batch, height, width, 3), (batch, high[0], high[1], 3))


def engine_key(
    bundle: Bundle, precision: str, shapes: Range, gpu: Gpu, workspace_mb: int | None, calibration: str = ""
) -> EngineKey:
    """The key of an engine of this bundle on this machine.

    Args:
        calibration: as of `EngineKey`.
    """
    options = ", ".join(f"{name} {value}" for name, value in bundle.graph.model_dump().items())
    return EngineKey(
        model=bundle.name,
        model_hash=bundle.metadata["files"][ONNX]["sha256"],
        graph_options=f"{options}, revision {REVISION}",
        shapes=str(shapes),
        precision=precision,
        workspace_mb=workspace_mb or 0,
        calibration=calibration,
        tensorrt=tensorrt_version(),
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=gpu.driver,
    )


def suits_auto(bundle: Bundle, precision: str, settings: EngineSettings | None = None) -> bool:
    """Whether backend `auto` takes TensorRT: there is a GPU, and a fitting engine or all that it takes to build one."""
    settings = settings or EngineSettings.from_environment()
    try:
        wanted = engine_precision(bundle, precision)
        gpu = find_gpu(load_cudart(), settings.device)
        tensorrt_version()
        calibrated = wanted != "int8" or bundle.precision == "int8"
        if settings.build != "never" and calibrated and importlib.util.find_spec("onnx") is not None:
            return True
        cache = EngineCache(settings.cache, print)
        shapes = [best_shape(key) for key in cache.find(bundle.name, wanted, gpu.name)]
        size = load_reference(bundle).label.shape[1:3]
        needed = [engine_key(bundle, wanted, engine_range(s, size), gpu, settings.workspace_mb) for s in shapes]
    except UserError:
        return False
    return bool(needed) and all(map(cache.has, needed)) and set(settings.shapes) <= set(shapes)


def best_shape(key: EngineKey) -> Shape:
    batch, height, width, _ = (int(side) for side in key.shapes.split()[1].split("x"))
    return batch, height, width
