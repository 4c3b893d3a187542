"""The one interface between inference and everything that uses it."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace

if TYPE_CHECKING:
    from mtaclip_core.bundle import Bundle
    from mtaclip_core.runtime.engine_settings import EngineSettings
    from mtaclip_core.runtime.openvino_backend import OpenVINOSegmenter
    from mtaclip_core.runtime.tensorrt_backend import TensorRTSegmenter
    from mtaclip_core.runtime.torch_backend import TorchSegmenter

ChannelOrder = Literal["rgb", "bgr"]
BACKENDS = ("auto", "tensorrt", "openvino", "torch")
PRECISIONS = ("f32", "bf16", "fp16", "int8")
MODES = {
    "tensorrt": ("cuda_graph", "eager"),
    "openvino": ("latency", "throughput"),
    "torch": ("eager", "compile", "cuda_graph"),
}
"""How a backend can run, the first one where nothing is said."""

_EXTRAS = {"tensorrt": "gpu", "openvino": "onboard", "torch": "train"}  # what to install for a backend


@dataclass(frozen=True)
class Segmentation:
    """The result for one frame.

    Attributes:
        label: (H, W) uint8, ids of the bundle's classes, 255 unlabelled; contiguous.
        confidence: (H, W) uint8, round(255 x best / sum of class maps); contiguous.
    """

    label: np.ndarray
    confidence: np.ndarray


class Segmenter(ABC):
    """A loaded model. Not thread-safe: one thread at a time calls `segment`.

    Attributes:
        name, model_hash: the bundle's name and the sha256 of its bundle.yaml.
        space: the classes whose ids the labels hold.
        network_size: (height, width) that frames are resized to inside the graph.
        backend, precision: what really runs, for tables and diagnostics.
        parallel: frames that run side by side; a caller that has many gives `segment` a few times as many at once.
    """

    name: str
    model_hash: str
    space: LabelSpace
    network_size: tuple[int, int]
    backend: str
    precision: str
    parallel: int = 1

    @abstractmethod
    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        """Segment frames, in order. Frames of one size run as one batch.

        Args:
            frames: (H, W, 3) uint8 arrays, any size, any strides.
            channel_order: order of the last axis of every frame.

        Raises:
            ValueError: a frame is not (H, W, 3) uint8 or has no pixels.
        """

    def segment_with_maps(self, frame: np.ndarray) -> tuple[Segmentation, np.ndarray | None]:
        """One (H, W, 3) uint8 RGB frame and its class maps (C, h, w) float32 before they are resized to it, for checks.

        None where the backend, or this graph, does not show them.
        """
        return self.segment([frame])[0], None

    def close(self) -> None:  # noqa: B027 - most backends have nothing to free
        """Free what the model holds; `segment` must not be called afterwards."""

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_frames(frames: Sequence[np.ndarray]) -> None:
    """Raise ValueError unless every frame is a non-empty (H, W, 3) uint8 array."""
    for frame in frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
            raise ValueError(f"a frame must be (H, W, 3) uint8 with pixels, got {frame.dtype} {frame.shape}")


def group_by_size(frames: Sequence[np.ndarray]) -> list[list[int]]:
    """Positions of the frames, those of one size together, each group in the order of the frames."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(frame.shape, []).append(i)
    return list(groups.values())


def load_segmenter(
    bundle: str | Path,
    backend: str = "auto",
    *,
    precision: str = "f32",
    threads: int | None = None,
    mode: str | None = None,
    verify: bool = True,
) -> Segmenter:
    """Load a bundle into a backend and hold it against the bundle's reference outputs.

    Args:
        bundle: folder or name of the bundle.
        backend: `auto` takes TensorRT where it is installed, there is a GPU, and the engine is in the cache or can be
            built; else OpenVINO where it is installed, else torch.
        precision: arithmetic precision to ask for; what the backend really runs stands in `Segmenter.precision`.
        threads: CPU threads, None for the backend's own choice.
        mode: one of `MODES` of the backend, None for the first of them.
        verify: run the reference gate (deploy.parity) after loading.

    Raises:
        UserError: no such bundle, broken bundle, unknown or missing backend, failed gate.
    """
    from mtaclip_core.bundle import load_bundle
    from mtaclip_core.deploy import parity

    if backend not in BACKENDS:
        raise UserError(f"unknown backend '{backend}'; expected one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision '{precision}'; expected one of {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise UserError(f"threads must be at least 1, got {threads}")
    if backend == "auto":
        loaded = load_bundle(bundle)
        chosen = "tensorrt" if _tensorrt_suits(loaded, precision) else _choose(backend)
        _check_mode(chosen, mode)
    else:
        chosen = _choose(backend)
        _check_mode(chosen, mode)
        loaded = load_bundle(bundle)
    segmenter = _open(chosen, loaded, precision, threads, mode or MODES[chosen][0], verify)
    if verify and chosen != "tensorrt":  # which holds each engine against the reference by itself
        try:
            parity.check(segmenter, loaded)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise UserError(f"backend {chosen} cannot run the graph of bundle '{loaded.name}': {reason}") from error
    return segmenter


def installed_backends() -> list[str]:
    """The backends that run everywhere they are installed, the one that `auto` takes first.

    Not TensorRT, which needs a GPU and an engine: that is held against the reference when it is built.
    """
    return [name for name in BACKENDS if name not in ("auto", "tensorrt") and _is_installed(name)]


def load_tensorrt(
    bundle: Bundle,
    precision: str,
    settings: EngineSettings,
    *,
    calibration: Iterable[np.ndarray] | None = None,
    again: bool = False,
) -> TensorRTSegmenter:
    """Load or build the engines of a bundle as the settings say, each held against the reference.

    Raises:
        UserError: TensorRT is missing or does not load; as `TensorRTSegmenter`.
    """
    _choose("tensorrt")
    return _tensorrt()(bundle, precision, settings=settings, calibration=calibration, again=again)


def _choose(backend: str) -> str:
    wanted = [backend] if backend != "auto" else [name for name in BACKENDS if name not in ("auto", "tensorrt")]
    for name in wanted:
        if _is_installed(name):
            return name
    hint = " or ".join(f"pip install 'mtaclip_ros[{_EXTRAS[name]}]'" for name in wanted)
    raise UserError(f"backend '{backend}' needs {' or '.join(wanted)}, which is not installed: {hint}")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _tensorrt() -> type[TensorRTSegmenter]:
    try:
        from mtaclip_core.runtime.tensorrt_backend import TensorRTSegmenter
    except (ImportError, OSError) as error:
        raise UserError(f"TensorRT is installed but cannot be loaded ({error}); install its libraries") from error
    return TensorRTSegmenter


def _check_mode(backend: str, mode: str | None) -> None:
    if mode is not None and mode not in MODES[backend]:
        raise UserError(f"backend {backend} has no mode '{mode}'; expected one of {', '.join(MODES[backend])}")


def _tensorrt_suits(bundle: Bundle, precision: str) -> bool:
    if not (_is_installed("tensorrt") and _is_installed("cuda")):
        return False
    try:
        from mtaclip_core.runtime.engine_choice import suits_auto
    except (ImportError, OSError):  # installed without its libraries: good for nothing here
        return False
    return suits_auto(bundle, precision)


def _open(backend: str, bundle: Bundle, precision: str, threads: int | None, mode: str, verify: bool) -> Segmenter:
    if backend == "tensorrt":
        return _tensorrt()(bundle, precision, mode, verify=verify)
    return _cpu_backend(backend)(bundle, precision, threads, mode)


def _cpu_backend(name: str) -> type[OpenVINOSegmenter] | type[TorchSegmenter]:
    try:
        if name == "openvino":
            from mtaclip_core.runtime.openvino_backend import OpenVINOSegmenter

            return OpenVINOSegmenter
        from mtaclip_core.runtime.torch_backend import TorchSegmenter

        return TorchSegmenter
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        raise UserError(
            f"{name} is installed but cannot be loaded ({error}): pip install 'mtaclip_ros[{_EXTRAS[name]}]'"
        ) from error
