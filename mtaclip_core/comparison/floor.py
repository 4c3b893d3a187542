"""The least time that a network can take here: its multiply-adds over the machine's rate of matrix products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op
from torch.utils.flop_counter import FlopCounterMode

from mtaclip_core.modeling.mta_clip import MTAClip
from mtaclip_core.runtime.openvino_backend import shared_core

ROWS, INNER, COLUMNS = 4096, 1024, 1024
PRODUCT_GMAC = ROWS * INNER * COLUMNS / 1e9


def multiply_adds(model: MTAClip, network_size: tuple[int, int]) -> float:
    """10^9 multiply-adds of convolutions and matrix products for one image. Freezes the model's weights.

    Sampling, norms, activations and resizes are not in it: they are work of another kind, and the floor has none.
    """
    model.requires_grad_(False)  # the counter follows gradients, where there are any
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.class_maps(torch.zeros(1, 3, *network_size))
    return counter.get_total_flops() / 2e9


def matrix_product(precision: str, threads: int | None) -> Callable[[], object]:
    """A call that multiplies two matrices of `PRODUCT_GMAC`, large enough to keep all cores busy and fit the cache."""
    generator = np.random.default_rng(0)
    left = op.parameter([ROWS, INNER], np.float32)
    right = op.constant(generator.standard_normal((INNER, COLUMNS), np.float32))
    graph = ov.Model([op.matmul(left, right, False, False)], [left])
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = shared_core().compile_model(graph, "CPU", settings).create_infer_request()
    values = generator.standard_normal((ROWS, INNER), np.float32)
    return lambda: request.infer([values])
