"""PyTorch: the deployed graph built from the bundle's weights and training config, for research and as fallback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mtaclip_core.bundle import WEIGHTS, Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.config import ModelConfig, parse_config
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.labels import LabelSpace
from mtaclip_core.modeling.mta_clip import MTAClip, build_model
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames, group_by_size

_TABLE = "text.table"
_TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchSegmenter(Segmenter):
    """See `Segmenter`. Runs on the GPU where there is one; bf16, fp16: autocast of the network, not of the resizes.

    Kernels get channels-last weights. Modes: `eager`; `compile`: the network goes through `torch.compile`, which takes
    its time; `cuda_graph`: the network's kernels are recorded once per batch size and replayed.
    """

    backend = "torch"

    def __init__(self, bundle: Bundle, precision: str = "f32", threads: int | None = None, mode: str = "eager") -> None:
        """
        Args:
            precision: `f32`, `bf16` or `fp16`.
            threads: sets PyTorch's threads for the whole process.
            mode: `eager`, `compile` or `cuda_graph`.

        Raises:
            UserError: the bundle has no weights, or they do not fit its config; a precision or mode that is not to be
                had here.
        """
        if precision not in _TYPES:
            raise UserError(f"backend torch has no precision '{precision}'; expected one of {', '.join(_TYPES)}")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if mode == "cuda_graph" and self._device.type != "cuda":
            raise UserError("mode cuda_graph needs a CUDA GPU, and PyTorch finds none; take mode eager or compile")
        self.name = bundle.name
        self.model_hash = bundle.hash
        self.space = bundle.space
        self.network_size = bundle.network_size
        self.precision = precision
        self.mode = mode
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        model = model_of_bundle(bundle)
        graph = DeployedSegmenter(model, bundle.network_size, bundle.metadata["confidence_floor"], bundle.graph)
        self._graph = graph.eval().to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = {
            "eager": lambda: self._graph.network,
            "compile": lambda: torch.compile(self._graph.network),
            "cuda_graph": lambda: CudaGraphs(self._graph.network),
        }[mode]()
        if mode == "compile":
            try:
                self.segment([np.zeros((*self.network_size, 3), np.uint8)])
            except RuntimeError as error:  # no C++ compiler, most of the time
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"torch.compile cannot compile this network ({reason}); take mode eager") from error

    @property
    def graph(self) -> DeployedSegmenter:
        return self._graph

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        check_frames(frames)
        results: dict[int, Segmentation] = {}
        for indices in group_by_size(frames):
            height, width = frames[indices[0]].shape[:2]
            with torch.inference_mode():
                maps = self._class_maps([frames[i] for i in indices], channel_order)
                label, confidence = (t.cpu().numpy() for t in self._graph.decide(maps, height, width))
            for row, i in enumerate(indices):
                results[i] = Segmentation(label[row], confidence[row])
        return [results[i] for i in range(len(frames))]

    def segment_with_maps(self, frame: np.ndarray) -> tuple[Segmentation, np.ndarray | None]:
        check_frames([frame])
        with torch.inference_mode():
            maps = self._class_maps([frame], "rgb")
            label, confidence = (t[0].cpu().numpy() for t in self._graph.decide(maps, *frame.shape[:2]))
            return Segmentation(label, confidence), maps[0].cpu().numpy()

    def _class_maps(self, frames: list[np.ndarray], order: ChannelOrder) -> Tensor:
        batch = torch.from_numpy(np.stack(frames)).to(self._device)  # stack: always a contiguous copy
        images = self._graph.normalised(batch if order == "rgb" else batch.flip(3))
        with torch.autocast(self._device.type, _TYPES[self.precision], enabled=self.precision != "f32"):
            return self._network(images.contiguous(memory_format=torch.channels_last)).float()


class CudaGraphs:
    """A network whose kernels are recorded on first use of a batch size and replayed from then on.

    Without the launches of some hundred small kernels a GPU is never idle. The result of a call is overwritten by the
    next one.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self._network = network
        self._recorded: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) on the GPU; B is recorded apart."""
        key = tuple(images.shape)
        if key not in self._recorded:
            self._recorded[key] = self._record(images)
        graph, given, result = self._recorded[key]
        given.copy_(images)
        graph.replay()
        return result

    def _record(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = images.clone(memory_format=torch.preserve_format)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose kernels and take their memory before the recording
                self._network(given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._network(given)
        return graph, given, result


def model_of_bundle(bundle: Bundle) -> MTAClip:
    """The model of a bundle in evaluation mode, its text folded.

    Raises:
        UserError: as `TorchSegmenter`.
    """
    if bundle.weights_path is None:
        raise UserError(f"bundle '{bundle.name}' ships without {WEIGHTS}, which backend torch needs; use openvino")
    try:
        weights = load(bundle.read(WEIGHTS))
    except SafetensorError as error:
        raise UserError(f"'{bundle.weights_path}' is not a readable safetensors file ({error})") from error
    config = parse_config(bundle.metadata["training"]["config"], f"training.config of bundle '{bundle.name}'").model
    text = config.text
    if text.source != "none":
        if _TABLE not in weights or weights[_TABLE].ndim != 3:
            raise UserError(f"'{bundle.weights_path}' holds no text table; export the bundle again")
        contexts, _, width = weights[_TABLE].shape
        # Whatever the text came from, here it is a constant table (see `bundle_weights`): no text tower is built.
        text = text.model_copy(update={"source": "random_orthogonal", "contexts": contexts, "width": width})
    config = config.model_copy(update={"text": text})
    check_fit(config, bundle.space, weights, f"the weights of bundle '{bundle.name}' do not fit its training config")
    # Nothing is loaded, but the tag of the pretrained backbone still decides its activation and image statistics.
    model = build_model(config, bundle.space, load=False)
    model.load_state_dict(weights)
    model.eval()
    model.fold_text(keep_tokens=bundle.graph.text_tokens == "kept")
    return model


def check_fit(config: ModelConfig, space: LabelSpace, weights: Mapping[str, Tensor], complaint: str) -> None:
    """Hold weights against the shapes of the model that a configuration describes, before any of it takes memory.

    Args:
        weights: by the model's names; counters of batch norms may be missing.

    Raises:
        UserError: they do not fit, or there is no such model; the text begins with `complaint`.
    """
    depths = [config.decoder.layers, config.pixel_decoder.layers]
    for values in (config.backbone.options.get("depths"), config.backbone.options.get("layers")):
        depths += [depth for depth in values if isinstance(depth, int)] if isinstance(values, list) else []
    if max(depths) > len(weights):
        raise UserError(f"{complaint}: {max(depths)} layers, and {len(weights)} tensors in all")
    try:
        with torch.device("meta"):
            expected = build_model(config, space, load=False).state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{complaint}: there is no such model ({' '.join(str(error).split())[:200]})") from error
    # Older files have no counters of batch norms, and nothing reads them after training.
    names = {name for name in expected if not name.endswith("num_batches_tracked")} | weights.keys()
    if wrong := sorted(name for name in names if _shape(expected, name) != _shape(weights, name)):
        raise UserError(
            f"{complaint}: {len(wrong)} tensors differ, the first is '{wrong[0]}' (expected "
            f"{_shape(expected, wrong[0])}, found {_shape(weights, wrong[0])})"
        )


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return "x".join(map(str, tensors[name].shape)) or "one number" if name in tensors else "none"


def bundle_weights(model: MTAClip) -> dict[str, Tensor]:
    """What `model_of_bundle` reads: the weights, with the text table in place of what computes it.

    Tensors that float16 holds exactly are float16, half the file.
    """
    with torch.no_grad():
        tensors = {name: t for name, t in model.state_dict().items() if not name.startswith("text.")}
        if model.decoder.contexts:
            tensors[_TABLE] = model.text()
        return {name: _smallest(t.detach().cpu()).contiguous().clone() for name, t in tensors.items()}


def _smallest(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor
