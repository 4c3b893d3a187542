"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch

from mtaclip_core.modeling.mta_clip import MTAClip


class WeightAverage:
    """A second model whose weights follow the first.

    The decay grows from 0 as `(1 + n) / (10 + n)`, so that the first steps do not count for ever.
    """

    def __init__(self, model: MTAClip, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: MTAClip) -> None:
        """Take one step towards `model`; buffers (batch-norm statistics) and frozen weights are averaged too."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(theirs, 1.0 - decay)
            else:
                mine.copy_(theirs)
