"""The deployed graph as a TensorRT engine takes it: channel order as an input, class maps as an output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import numpy as np

from mtaclip_core.bundle import ONNX, Bundle
from mtaclip_core.cli import UserError

REVISION = 1
"""Of what `engine_onnx` does; engines of another revision are built again."""

IMAGE = "image"
CLASS_MAPS = "class_maps"  # as in `deploy.precision`, which cannot be imported where onnx is not installed
ORDER = "channel_order"
"""Input of the engine: int32 (3,), where red, green and blue stand in the frames: 0 1 2 or 2 1 0.

So one engine serves cameras of both orders, and no frame is copied on the host for it.
"""


def engine_precision(bundle: Bundle, precision: str) -> str:
    """The precision that the engine's graph carries when `precision` is asked for.

    Raises:
        UserError: a graph cannot carry it.
    """
    from_graph = bundle.precision
    if from_graph != "f32" and precision in ("f32", from_graph):
        return from_graph  # products that were rounded are not to be had back
    if precision not in ("f32", "fp16", "int8") or from_graph != "f32":
        raise UserError(
            f"backend tensorrt has no precision '{precision}' for a bundle in {from_graph}; "
            f"expected {'f32, fp16 or int8' if from_graph == 'f32' else from_graph}"
        )
    return precision


def engine_onnx(bundle: Bundle, precision: str, calibration: Iterable[np.ndarray] | None = None) -> bytes:
    """The ONNX that an engine is built from; needs the package onnx, which running an engine does not.

    Inputs `image` uint8 (B, H, W, 3) and `channel_order`; outputs `label`, `confidence` uint8 (B, H, W) and, where
    the graph names them, `class_maps` float32 (B, C, h, w).

    Args:
        precision: as of `engine_precision`.
        calibration: frames (H, W, 3) uint8 RGB, for int8.

    Raises:
        UserError: onnx is not installed, int8 without calibration, a graph of another form.
    """
    try:
        from mtaclip_core.deploy import precision as graph_precision
    except ImportError as error:
        raise UserError(
            f"building an engine needs the package {error.name}: pip install {error.name}, or build the engine where "
            f"it is installed (same GPU, driver and TensorRT) and copy the cache folder"
        ) from error
    model = bundle.read(ONNX)
    if precision != bundle.precision:
        assert precision in get_args(graph_precision.Precision)
        model = graph_precision.typed_onnx(model, precision, calibration=calibration)  # type: ignore[arg-type]
    return _with_engine_ports(model)


def _with_engine_ports(onnx_bytes: bytes) -> bytes:
    import onnx
    from onnx import TensorProto, helper

    from mtaclip_core.deploy.onnx_graph import element_types, replace_nodes
    from mtaclip_core.deploy.precision import parse_onnx

    model = parse_onnx(onnx_bytes)
    graph = model.graph
    types = element_types(model)
    outputs = {port.name for port in graph.output}
    casts = [node for node in graph.node if node.op_type == "Cast" and list(node.input) == [IMAGE]]
    if len(casts) != 1:
        raise UserError("this graph does not begin with one Cast of its uint8 image; export the bundle again")
    given = casts[0].output[0]
    ordered = f"{given}__rgb"
    before = [node for node in graph.node if node is not casts[0]]
    for node in before:
        for i, name in enumerate(node.input):
            if node.op_type == "Shape":  # sizes come from the cast: an engine takes a uint8 tensor nowhere else
                node.input[i] = given if name == IMAGE else name
            elif name == given:
                node.input[i] = ordered
    nodes = [casts[0], helper.make_node("Gather", [given, ORDER], [ordered], axis=3, name=ordered)]
    for node in before:
        # Engines turn only floats into uint8.
        if node.op_type == "Cast" and types[node.output[0]] == TensorProto.UINT8 and node.output[0] in outputs:
            source = node.input[0]
            if types[source] not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                nodes.append(helper.make_node("Cast", [source], [f"{source}__float"], to=TensorProto.FLOAT))
                node.input[0] = f"{source}__float"
        nodes.append(node)
    replace_nodes(graph, nodes)
    graph.input.append(helper.make_tensor_value_info(ORDER, TensorProto.INT32, [3]))
    if types.get(CLASS_MAPS) == TensorProto.FLOAT:
        graph.output.append(helper.make_tensor_value_info(CLASS_MAPS, TensorProto.FLOAT, ["B", "C", "h", "w"]))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)
