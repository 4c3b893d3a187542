"""OpenVINO on the CPU: the deployed graph of a bundle, compiled once for frames of any size."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from mtaclip_core.bundle import ONNX, OPENVINO_INT8, OPENVINO_INT8_WEIGHTS, Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.deploy.engine_graph import CLASS_MAPS
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames, group_by_size

CACHE = "MTACLIP_OPENVINO_CACHE"
"""Environment variable: a folder for compiled graphs, so that the next start need not compile."""

# The part of an int8 graph that is not quantised runs in f32.
_TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "fp16": ov.Type.f16, "int8": ov.Type.f32}
_OUTPUTS = ("label", "confidence")
_NAMES = {ov.Type.f32: "f32", ov.Type.bf16: "bf16", ov.Type.f16: "fp16"}

COMPILED_BATCHES = 4
"""Batch sizes that get a graph of their own, in the order in which they come; frames of further ones run one by one.

Height and width stay dynamic: inside, the network's size is constant, so that costs 5-10 % against a graph for one size
(15.5 against 14.7 ms at 360x480, 26.3 against 23.9 ms at 720x1280, street-tiny, 2 cores), and no frame of a new size
waits 0.4 s for a compiler. A dynamic batch would cost 35 %.
"""


@functools.cache
def shared_core() -> ov.Core:
    """The one `ov.Core` of this process, never destroyed: use it wherever OpenVINO is used.

    The CPU plugin of every Core gives its thread an alternate signal stack and, when it is destroyed, puts back the one
    that it found (OpenVINO 2026.4). Two Cores that do not end in reverse order leave a stack that is no longer mapped,
    and the next signal that Python handles (Ctrl-C) ends the process with a segmentation fault.
    """
    return ov.Core()


class OpenVINOSegmenter(Segmenter):
    """See `Segmenter`. A frame that is contiguous, writeable and alone in its size is read in place.

    In mode `latency` all cores work on one call; in mode `throughput` several frames of a call run side by side, each
    on a share of the cores, which gives more frames per second and every single one later.
    """

    backend = "openvino"

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "f32",
        threads: int | None = None,
        mode: str = "latency",
        cache: Path | None = None,
    ) -> None:
        """Read the graph and compile it for single frames of any size, in both channel orders.

        Args:
            precision: `int8` needs a bundle of `mtaclip_core.export int8`.
            mode: `latency` or `throughput`.
            cache: folder of compiled graphs, the environment variable `MTACLIP_OPENVINO_CACHE` by default. OpenVINO
                keys them by graph, settings, its version and the CPU.

        Raises:
            UserError: OpenVINO cannot read or compile the graph; no int8 graph; a cache folder that cannot be written.
        """
        self.name = bundle.name
        self.model_hash = bundle.hash
        self.space = bundle.space
        self.network_size = bundle.network_size
        self.mode = mode
        self._path = bundle.path / OPENVINO_INT8 if precision == "int8" else bundle.onnx_path
        files = [OPENVINO_INT8, OPENVINO_INT8_WEIGHTS] if precision == "int8" else [ONNX]
        if not bundle.metadata["files"].keys() >= set(files):
            raise UserError(
                f"bundle '{bundle.name}' holds no int8 graph for openvino; make one that does: "
                f"python -m mtaclip_core.export int8 {bundle.name} --data KIND:PATH --out models/{bundle.name}-int8"
            )
        self._settings: dict[str, object] = {
            "PERFORMANCE_HINT": mode.upper(),
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
        }
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        if cache := cache or (Path(os.environ[CACHE]) if os.environ.get(CACHE) else None):
            self._settings["CACHE_DIR"] = str(_writeable(cache))
        self._core = shared_core()
        try:
            # From memory: OpenVINO would also take weights from files that the bundle does not name.
            self._model = self._core.read_model(*map(bundle.read, files))
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot read '{self._path}' ({_last_line(error)}); copy or export the bundle again"
            ) from error
        ports = {name: port for port in (*self._model.inputs, *self._model.outputs) for name in port.names}
        kinds = [ports[name].element_type if name in ports else None for name in ("image", *_OUTPUTS)]
        if kinds != [ov.Type.u8] * 3 or len(self._model.inputs) != 1:
            raise UserError(
                f"'{self._path}' lacks an image, label or confidence of uint8, or wants more than the image; "
                f"export it again"
            )
        self._maps = self._add_maps()
        self._requests: dict[tuple[ChannelOrder, int], list[ov.InferRequest]] = {
            ("rgb", 1): self._compile("rgb", 1),
            ("bgr", 1): self._compile("bgr", 1),
        }
        compiled = self._requests["rgb", 1][0].get_compiled_model()
        runs = _NAMES[compiled.get_property("INFERENCE_PRECISION_HINT")]
        # A graph of float16 computes with float16 values whatever the hint.
        self.precision = "int8" if precision == "int8" else bundle.precision if runs == "f32" else runs
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self.parallel = len(self._requests["rgb", 1])

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        check_frames(frames)
        if self.mode == "throughput":
            return self._side_by_side(frames, channel_order)
        results: dict[int, Segmentation] = {}
        for indices in group_by_size(frames):
            step = len(indices) if self._fits(channel_order, len(indices)) else 1
            for start in range(0, len(indices), step):
                part = indices[start : start + step]
                (request,) = self._requests[channel_order, step]
                batch = _batch([frames[i] for i in part])  # named: the tensor below does not keep it alive
                request.set_input_tensor(ov.Tensor(batch, shared_memory=True))
                request.infer()
                results.update(zip(part, _results(request), strict=True))
        return [results[i] for i in range(len(frames))]

    def _side_by_side(self, frames: Sequence[np.ndarray], order: ChannelOrder) -> list[Segmentation]:
        requests = self._requests[order, 1]
        results: list[Segmentation] = []
        batches = [_batch([frame]) for frame in frames]  # alive until the last request is done
        try:
            for i, batch in enumerate(batches):
                request = requests[i % len(requests)]
                if i >= len(requests):  # it is the oldest that runs
                    request.wait()
                    results += _results(request)
                request.set_input_tensor(ov.Tensor(batch, shared_memory=True))
                request.start_async()
            for i in range(len(results), len(batches)):
                requests[i % len(requests)].wait()
                results += _results(requests[i % len(requests)])
        finally:
            for request in requests:  # none may still read a frame that its owner takes back
                request.wait()
        return results

    def segment_with_maps(self, frame: np.ndarray) -> tuple[Segmentation, np.ndarray | None]:
        result = self.segment([frame])[0]
        maps = self._requests["rgb", 1][0].get_tensor(CLASS_MAPS).data[0].copy() if self._maps else None
        return result, maps

    def close(self) -> None:
        self._requests.clear()

    def _add_maps(self) -> bool:
        """Make the class maps an output, which costs no time that could be measured; whether the graph names them."""
        try:
            self._model.add_outputs(CLASS_MAPS)
        except RuntimeError:
            return False
        return True

    def _fits(self, order: ChannelOrder, batch: int) -> bool:
        """Whether there is a graph for this batch size; compiles it where it is new and there is room."""
        if (order, batch) not in self._requests:
            if sum(key[0] == order for key in self._requests) >= COMPILED_BATCHES:
                return False
            self._requests[order, batch] = self._compile(order, batch)
        return True

    def _compile(self, order: ChannelOrder, batch: int) -> list[ov.InferRequest]:
        model = self._model.clone()
        try:
            model.reshape([batch, -1, -1, 3])
            if order == "bgr":
                steps = PrePostProcessor(model)
                steps.input().tensor().set_layout(ov.Layout("NHWC"))
                steps.input().model().set_layout(ov.Layout("NHWC"))
                steps.input().preprocess().reverse_channels()
                model = steps.build()
            compiled = self._core.compile_model(model, "CPU", self._settings)
            count = 1 if self.mode == "latency" else int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
            return [compiled.create_infer_request() for _ in range(count)]
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot compile '{self._path}' for {batch} frames a call ({_last_line(error)})"
            ) from error


def _batch(frames: list[np.ndarray]) -> np.ndarray:
    """(B, H, W, 3) contiguous and writeable (OpenVINO shares no other memory); a lone frame's own where it is both."""
    if len(frames) > 1:
        return np.stack(frames)
    return np.require(frames[0], requirements=("C", "W"))[None]


def _results(request: ov.InferRequest) -> list[Segmentation]:
    """Copies: the request writes into the same memory with the next frame."""
    label, confidence = (request.get_tensor(name).data.copy() for name in _OUTPUTS)
    return [Segmentation(*pair) for pair in zip(label, confidence, strict=True)]


def _writeable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OpenVINO cache '{folder}': {error.strerror}; set {CACHE} to a folder that can be") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"OpenVINO cache '{folder}' cannot be written; set {CACHE} to a folder that can be")
    return folder


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
