"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mtaclip_core.modeling.mta_clip import MTAClip


class WeightAverage:
    """A second model whose weights follow the first.

    The decay grows from 0 as `(1 + n) / (10 + n)`, so that the first steps do not count for ever. Parameters that are
    not trained, such as CLIP's text tower, are the first model's own: they stand in memory and in checkpoints once.
    """

    def __init__(self, model: MTAClip, decay: float) -> None:
        self.decay = decay
        shared = {id(p): p for p in model.parameters() if not p.requires_grad}
        self.frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        self.model = copy.deepcopy(model, shared).eval().requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: MTAClip) -> None:
        """Take one step towards `model`; buffers (batch-norm statistics) are averaged too."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        theirs = model.state_dict()
        for name, mine in self.model.state_dict().items():
            if name in self.frozen:
                continue
            if mine.dtype.is_floating_point:
                mine.lerp_(theirs[name], 1.0 - decay)
            else:
                mine.copy_(theirs[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, without those that are the trained model's own."""
        return {name: t for name, t in self.model.state_dict().items() if name not in self.frozen}

    def load_state_dict(self, tensors: dict[str, Tensor], trained: dict[str, Tensor]) -> None:
        """Take averaged weights; what they lack comes from the trained model's. RuntimeError where they do not fit."""
        self.model.load_state_dict({**trained, **tensors})
