"""What the processes of a training tell each other, all of it through Fabric; a single one is told its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor


def reduced(fabric: Fabric, values: Tensor, how: Literal["sum", "mean"] = "sum") -> Tensor:
    """`values` of all processes, elementwise; the tensor that is given stays as it is."""
    if fabric.world_size == 1:
        return values
    result = fabric.all_reduce(values.clone(), reduce_op=how)
    assert isinstance(result, Tensor)
    return result


def any_process(fabric: Fabric, mine: bool) -> bool:
    """Whether it is so in any process: all of them must go the same way, or one would wait for the others for ever."""
    if fabric.world_size == 1:
        return mine
    return reduced(fabric, torch.tensor(float(mine), device=fabric.device)).item() > 0


@torch.no_grad()
def take_from_first(fabric: Fabric, tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of the first process."""
    if fabric.world_size == 1:
        return
    mine = list(tensors)
    for tensor, first in zip(mine, fabric.broadcast([t.cpu() for t in mine]), strict=True):
        tensor.copy_(first)
