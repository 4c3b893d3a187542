"""OpenVINO on the CPU: the deployed graph of a bundle, compiled for the frame sizes that come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from mtaclip_core.bundle import Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames, group_by_size

_TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16}
_NAMES = {ov.Type.f32: "f32", ov.Type.bf16: "bf16", ov.Type.f16: "f16"}

COMPILED_SIZES = 4
"""Graphs compiled for one (batch, height, width) that are kept. They run about 25 % faster than the one for all sizes
(14.3 against 19.8 ms at 360x480, 39 against 52 ms at 720x1280, MobileNetV4-small, 2 cores) but
cost 0.3 s to compile."""

STALE_CALLS = 200
"""A kept graph makes room for another size once it was not used for so many calls; until then sizes that find no room
run in the graph for all sizes. So no mix of sizes ever compiles in every frame."""

_Key = tuple[ChannelOrder, tuple[int, ...]]


@dataclass
class _Slot:
    request: ov.InferRequest
    last_call: int


class OpenVINOSegmenter(Segmenter):
    """See `Segmenter`. A frame that is contiguous, writeable and alone in its size is read in place."""

    backend = "openvino"

    def __init__(self, bundle: Bundle, precision: str = "f32", threads: int | None = None) -> None:
        """Read the graph and compile it for all sizes; a size gets its own graph with its first frame.

        Raises:
            UserError: OpenVINO cannot read or compile the graph.
        """
        self.name = bundle.name
        self.model_hash = bundle.hash
        self.space = bundle.space
        self.network_size = bundle.network_size
        self._path = bundle.onnx_path
        self._settings: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
        }
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._core = ov.Core()
        try:
            self._model = self._core.read_model(self._path)
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot read '{self._path}' ({_last_line(error)}); copy or export the bundle again"
            ) from error
        names = {name for port in (*self._model.inputs, *self._model.outputs) for name in port.names}
        if not {"image", "label", "confidence"} <= names:
            raise UserError(f"'{self._path}' lacks the input image or an output label, confidence; export it again")
        self._calls = 0
        self._slots: dict[_Key, _Slot] = {}
        self._any_size: dict[ChannelOrder, ov.InferRequest] = {}
        compiled = self._for_any_size("rgb").get_compiled_model()
        self.precision = _NAMES[compiled.get_property("INFERENCE_PRECISION_HINT")]
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        check_frames(frames)
        results: dict[int, Segmentation] = {}
        for indices in group_by_size(frames):
            batch = _batch([frames[i] for i in indices])
            request = self._request((channel_order, batch.shape))
            request.set_input_tensor(ov.Tensor(batch, shared_memory=True))
            request.infer()
            # The request writes into the same memory with the next frame; results are copies, so they stay valid.
            label = request.get_tensor("label").data.copy()
            confidence = request.get_tensor("confidence").data.copy()
            for row, i in enumerate(indices):
                results[i] = Segmentation(label[row], confidence[row])
        return [results[i] for i in range(len(frames))]

    def class_maps(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (C, h, w) float32 class maps before they are resized to the frame; for checks.

        Compiles a graph of its own for every call.

        Raises:
            UserError: the graph does not name its class maps.
        """
        model = self._model.clone()
        model.reshape([1, *frame.shape])
        try:
            maps = model.add_outputs("class_maps")[0]
        except RuntimeError as error:
            raise UserError(
                f"'{self._path}' has no tensor class_maps ({_last_line(error)}); export it again"
            ) from error
        compiled = self._core.compile_model(model, "CPU", self._settings)
        return compiled([np.ascontiguousarray(frame)[None]])[maps.get_any_name()][0].copy()

    def close(self) -> None:
        self._slots.clear()
        self._any_size.clear()

    def _request(self, key: _Key) -> ov.InferRequest:
        self._calls += 1
        slot = self._slots.get(key)
        if slot is None:
            if len(self._slots) >= COMPILED_SIZES:
                oldest = min(self._slots, key=lambda k: self._slots[k].last_call)
                if self._calls - self._slots[oldest].last_call <= STALE_CALLS:
                    return self._for_any_size(key[0])
                del self._slots[oldest]
            slot = self._slots[key] = _Slot(self._compile(*key), self._calls)
        slot.last_call = self._calls
        return slot.request

    def _for_any_size(self, order: ChannelOrder) -> ov.InferRequest:
        if order not in self._any_size:
            self._any_size[order] = self._compile(order, (-1, -1, -1, 3))
        return self._any_size[order]

    def _compile(self, order: ChannelOrder, shape: tuple[int, ...]) -> ov.InferRequest:
        model = self._model.clone()
        try:
            model.reshape(list(shape))
            if order == "bgr":
                steps = PrePostProcessor(model)
                steps.input().tensor().set_layout(ov.Layout("NHWC"))
                steps.input().model().set_layout(ov.Layout("NHWC"))
                steps.input().preprocess().reverse_channels()
                model = steps.build()
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            raise UserError(f"OpenVINO cannot compile '{self._path}' for {shape} ({_last_line(error)})") from error


def _batch(frames: list[np.ndarray]) -> np.ndarray:
    """(B, H, W, 3) contiguous and writeable (OpenVINO shares no other memory); a lone frame's own where it is both."""
    if len(frames) > 1:
        return np.stack(frames)
    return np.require(frames[0], requirements=("C", "W"))[None]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
