"""A checkpoint behind the `Segmenter` interface, so that it can be evaluated before it is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtaclip_core.bundle import file_sha256
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.runtime.segmenter import ChannelOrder, Segmentation, Segmenter, check_frames
from mtaclip_core.training.checkpoint import find_checkpoint, load_model


class CheckpointSegmenter(Segmenter):
    """Runs the deployed graph of a trained model in PyTorch, on the GPU where there is one, in float32."""

    backend = "torch"
    precision = "f32"

    def __init__(self, path: str | Path) -> None:
        """
        Args:
            path: a `.safetensors` checkpoint or a run folder.

        Raises:
            UserError: nothing there, unreadable, or not one of ours.
        """
        file = find_checkpoint(path)
        model, config = load_model(file)
        in_run_folder = file.parent.name == "checkpoints"
        self.name = f"{file.parents[1].resolve().name}/{file.stem}" if in_run_folder else file.stem
        self.model_hash = file_sha256(file)
        self.space = model.space
        self.network_size = config.size
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._graph = DeployedSegmenter(model.to(self._device), config.size).eval().to(self._device)
        model.fold_text(keep_tokens=config.model.text_tokens == "kept")

    @property
    def graph(self) -> DeployedSegmenter:
        return self._graph

    def segment(self, frames: Sequence[np.ndarray], channel_order: ChannelOrder = "rgb") -> list[Segmentation]:
        return segment_each(frames, channel_order, self._device, lambda image: self._graph(image[None]))


def segment_each(
    frames: Sequence[np.ndarray],
    channel_order: ChannelOrder,
    device: torch.device,
    answer: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> list[Segmentation]:
    """`Segmenter.segment` frame by frame.

    Args:
        answer: (H, W, 3) uint8 RGB on the device -> label and confidence, (1, H, W) uint8.
    """
    check_frames(frames)
    results = []
    with torch.inference_mode():
        for frame in frames:
            rgb = np.ascontiguousarray(frame if channel_order == "rgb" else frame[..., ::-1])
            label, confidence = answer(torch.from_numpy(rgb).to(device))
            results.append(Segmentation(label[0].cpu().numpy(), confidence[0].cpu().numpy()))
    return results
