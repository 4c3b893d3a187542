"""PyTorch: the deployed graph built from the bundle's weights and training config, for research and as fallback."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mtaclip_core.bundle import WEIGHTS, Bundle
from mtaclip_core.cli import UserError
from mtaclip_core.config import parse_config
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.modeling.mta_clip import MTAClip, build_model
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames, group_by_size

_TABLE = "text.table"


class TorchSegmenter(Segmenter):
    """See `Segmenter`. Runs on the GPU where there is one; bf16 is autocast of the network, not of the resizes."""

    backend = "torch"

    def __init__(self, bundle: Bundle, precision: str = "f32", threads: int | None = None) -> None:
        """
        Args:
            threads: sets PyTorch's threads for the whole process.

        Raises:
            UserError: the bundle has no weights, or they do not fit its config.
        """
        self.name = bundle.name
        self.model_hash = bundle.hash
        self.space = bundle.space
        self.network_size = bundle.network_size
        self.precision = precision
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        graph = DeployedSegmenter(model_of_bundle(bundle), bundle.network_size, bundle.metadata["confidence_floor"])
        self._graph = graph.eval().to(self._device)

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

    def class_maps(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (C, h, w) float32 class maps before they are resized to the frame; for checks."""
        with torch.inference_mode():
            return self._class_maps([frame], "rgb")[0].cpu().numpy()

    def _class_maps(self, frames: list[np.ndarray], order: ChannelOrder) -> Tensor:
        batch = torch.from_numpy(np.stack(frames)).to(self._device)  # stack: always a contiguous copy
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._graph.class_maps(batch if order == "rgb" else batch.flip(3)).float()


def model_of_bundle(bundle: Bundle) -> MTAClip:
    """The model of a bundle in evaluation mode, its text folded.

    Raises:
        UserError: as `TorchSegmenter`.
    """
    if bundle.weights_path is None:
        raise UserError(f"bundle '{bundle.name}' ships without {WEIGHTS}, which backend torch needs; use openvino")
    try:
        weights = load_file(bundle.weights_path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{bundle.weights_path}' is not a readable safetensors file ({error})") from error
    config = parse_config(bundle.metadata["training"]["config"], f"training.config of bundle '{bundle.name}'").model
    if _TABLE not in weights or weights[_TABLE].ndim != 3:
        raise UserError(f"'{bundle.weights_path}' holds no text table; export the bundle again")
    contexts, _, width = weights[_TABLE].shape
    # Whatever the text came from, here it is a constant table (see `bundle_weights`): no text tower is built.
    text = config.text.model_copy(update={"source": "random_orthogonal", "contexts": contexts, "width": width})
    backbone = config.backbone.model_copy(update={"pretrained": None})
    model = build_model(config.model_copy(update={"text": text, "backbone": backbone}), bundle.space)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the weights of bundle '{bundle.name}' do not fit its training config: {reason}") from error
    model.eval()
    model.fold_text()
    return model


def bundle_weights(model: MTAClip) -> dict[str, Tensor]:
    """What `model_of_bundle` reads: the weights, with the text table in place of what computes it.

    Tensors that float16 holds exactly are float16, half the file.
    """
    with torch.no_grad():
        tensors = {name: t for name, t in model.state_dict().items() if not name.startswith("text.")}
        tensors[_TABLE] = model.text()
        return {name: _smallest(t.detach().cpu()).contiguous().clone() for name, t in tensors.items()}


def _smallest(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor
