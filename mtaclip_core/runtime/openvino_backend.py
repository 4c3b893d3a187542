"""OpenVINO on the CPU: the deployed graph of a bundle, compiled once for frames of any size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino.preprocess import PrePostProcessor

from mtaclip_core.bundle import Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames, group_by_size

_TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16}
_NAMES = {ov.Type.f32: "f32", ov.Type.bf16: "bf16", ov.Type.f16: "f16"}

COMPILED_BATCHES = 4
"""Batch sizes that get a graph of their own, in the order in which they come; frames of further ones run one by one.

Height and width stay dynamic: inside, the network's size is constant, so that costs 5-10 % against a graph for one size
(15.5 against 14.7 ms at 360x480, 26.3 against 23.9 ms at 720x1280, street-tiny, 2 cores), and no frame of a new size
waits 0.4 s for a compiler. A dynamic batch would cost 35 %.
"""


class OpenVINOSegmenter(Segmenter):
    """See `Segmenter`. A frame that is contiguous, writeable and alone in its size is read in place."""

    backend = "openvino"

    def __init__(self, bundle: Bundle, precision: str = "f32", threads: int | None = None) -> None:
        """Read the graph and compile it for single frames of any size, in both channel orders.

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
        self._requests: dict[tuple[ChannelOrder, int], ov.InferRequest] = {
            ("rgb", 1): self._compile("rgb", 1),
            ("bgr", 1): self._compile("bgr", 1),
        }
        compiled = self._requests["rgb", 1].get_compiled_model()
        self.precision = _NAMES[compiled.get_property("INFERENCE_PRECISION_HINT")]
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        check_frames(frames)
        results: dict[int, Segmentation] = {}
        for indices in group_by_size(frames):
            step = len(indices) if self._fits(channel_order, len(indices)) else 1
            for start in range(0, len(indices), step):
                part = indices[start : start + step]
                request = self._requests[channel_order, step]
                batch = _batch([frames[i] for i in part])  # named: the tensor below does not keep it alive
                request.set_input_tensor(ov.Tensor(batch, shared_memory=True))
                request.infer()
                # The request writes into the same memory with the next frame; results are copies, so they stay valid.
                label = request.get_tensor("label").data.copy()
                confidence = request.get_tensor("confidence").data.copy()
                for row, i in enumerate(part):
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
        self._requests.clear()

    def _fits(self, order: ChannelOrder, batch: int) -> bool:
        """Whether there is a graph for this batch size; compiles it where it is new and there is room."""
        if (order, batch) not in self._requests:
            if sum(key[0] == order for key in self._requests) >= COMPILED_BATCHES:
                return False
            self._requests[order, batch] = self._compile(order, batch)
        return True

    def _compile(self, order: ChannelOrder, batch: int) -> ov.InferRequest:
        model = self._model.clone()
        try:
            model.reshape([batch, -1, -1, 3])
            if order == "bgr":
                steps = PrePostProcessor(model)
                steps.input().tensor().set_layout(ov.Layout("NHWC"))
                steps.input().model().set_layout(ov.Layout("NHWC"))
                steps.input().preprocess().reverse_channels()
                model = steps.build()
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot compile '{self._path}' for {batch} frames a call ({_last_line(error)})"
            ) from error


def _batch(frames: list[np.ndarray]) -> np.ndarray:
    """(B, H, W, 3) contiguous and writeable (OpenVINO shares no other memory); a lone frame's own where it is both."""
    if len(frames) > 1:
        return np.stack(frames)
    return np.require(frames[0], requirements=("C", "W"))[None]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
