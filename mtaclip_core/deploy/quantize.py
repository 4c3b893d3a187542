"""Symmetric int8 by Q/DQ pairs in the ONNX graph, with scales from calibration frames, for engines that read them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from mtaclip_core.cli import UserError
from mtaclip_core.deploy import onnx_graph
from mtaclip_core.deploy.onnx_graph import Constants
from mtaclip_core.deploy.precision import half_graph, leads_to_decision, parse_onnx, prepared

OPSET = 19  # the first one whose Q/DQ take float16 scales; from 20 on TensorRT misreads GridSample
LEVELS = 127  # symmetric: -127 to 127
_LEAST_SCALE = 2.0**-20  # float16 holds it
_WEIGHT_AXIS = {"Conv": 0, "MatMul": 1, "Gemm": 1}  # output channels


def quantised_onnx(onnx_bytes: bytes, calibration: Iterable[np.ndarray]) -> bytes:
    """The graph in float16 whose products with weights read int8: activations per tensor, weights per output channel.

    The first convolution (it reads the image) and the products that give sampling positions stay in float16; biases,
    norms and all float32 islands are those of the float16 graph.

    Args:
        onnx_bytes: a bundle's `model.onnx`, float32.
        calibration: frames (H, W, 3) uint8 RGB.

    Raises:
        UserError: no calibration frames, onnxruntime is not installed, the file is no ONNX graph or one without
            products to quantise.
    """
    exact = prepared(parse_onnx(onnx_bytes))
    model = onnx.ModelProto.FromString(exact.SerializeToString())
    kept = leads_to_decision(model)
    half_graph(model)
    products = _products(model.graph, kept)
    if not products:
        raise UserError("this graph has no product that could read int8; take precision fp16")
    ranges = activation_ranges(exact, sorted({source for _, source in products}), calibration)
    _insert(model.graph, products, ranges)
    model.opset_import[0].version = OPSET
    model.ir_version = max(model.ir_version, 9)
    onnx_graph.drop_unused(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def activation_ranges(model: onnx.ModelProto, tensors: list[str], frames: Iterable[np.ndarray]) -> dict[str, float]:
    """Mean over the frames of the largest magnitude in each of these tensors of a float32 graph.

    Raises:
        UserError: no frames, or onnxruntime is not installed.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError("calibration runs in onnxruntime, which is not installed: pip install 'mtaclip_ros[quantise]'")
    import onnxruntime

    tapped = onnx.ModelProto.FromString(model.SerializeToString())
    # The largest magnitude is taken inside the graph: copying all activations out would take most of the time.
    for i, name in enumerate(tensors):
        tapped.graph.node.append(helper.make_node("Abs", [name], [f"tap_{i}_abs"]))
        tapped.graph.node.append(helper.make_node("ReduceMax", [f"tap_{i}_abs"], [f"tap_{i}"], keepdims=0))
        tapped.graph.output.append(helper.make_tensor_value_info(f"tap_{i}", TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [f"tap_{i}" for i in range(len(tensors))]
    seen = [[float(value) for value in session.run(names, {"image": frame[None]})] for frame in frames]
    if not seen:
        raise UserError("precision int8 needs calibration frames, and there are none")
    return dict(zip(tensors, np.mean(seen, axis=0).tolist(), strict=True))


def _products(graph: onnx.GraphProto, kept: set[str]) -> list[tuple[NodeProto, str]]:
    """The products to quantise, each with the name of its activation in the float32 graph."""
    constants = Constants(graph)
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    first = next((node.output[0] for node in graph.node if node.op_type == "Conv"), None)
    found = []
    for node in graph.node:
        if node.op_type not in _WEIGHT_AXIS or node.output[0] == first or node.output[0] in kept:
            continue
        weight = node.input[1]
        if node.input[0] in constants or weight not in constants or constants[weight].dtype != np.float16:
            continue
        found.append((node, casts.get(node.input[0], node.input[0])))
    return found


def _insert(graph: onnx.GraphProto, products: list[tuple[NodeProto, str]], ranges: dict[str, float]) -> None:
    """Put Q/DQ before the activation and DQ behind the int8 weight of each product."""
    constants = Constants(graph)
    zero = constants.add("int8_zero", np.zeros((), np.int8))
    ready: dict[str, str] = {}
    before: dict[str, list[NodeProto]] = {}
    for node, source in products:
        name = node.input[0]
        pairs = before.setdefault(node.output[0], [])
        if name not in ready:
            scale = constants.add(f"{name}_scale", _scale(np.array(ranges[source])))
            ready[name] = f"{name}_int8_half"
            pairs.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_int8"]))
            pairs.append(helper.make_node("DequantizeLinear", [f"{name}_int8", scale, zero], [ready[name]]))
        node.input[0] = ready[name]
        weight = node.input[1]
        if weight not in ready:
            value = constants[weight].astype(np.float32)
            transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
            axis = 0 if transposed else _WEIGHT_AXIS[node.op_type]
            scales = _scale(np.abs(value).max(axis=tuple(i for i in range(value.ndim) if i != axis)))
            shape = [-1 if i == axis else 1 for i in range(value.ndim)]
            levels = np.rint(value / scales.astype(np.float32).reshape(shape)).clip(-LEVELS, LEVELS)
            given = [
                constants.add(f"{weight}_int8", levels.astype(np.int8)),
                constants.add(f"{weight}_scale", scales),
                constants.add(f"{weight}_zero", np.zeros(len(scales), np.int8)),
            ]
            ready[weight] = f"{weight}_int8_half"
            pairs.append(helper.make_node("DequantizeLinear", given, [ready[weight]], axis=axis))
        node.input[1] = ready[weight]
    onnx_graph.replace_nodes(graph, [step for node in graph.node for step in (*before.get(node.output[0], ()), node)])


def _scale(largest: np.ndarray) -> np.ndarray:
    """Magnitudes -> float16 steps of the int8 grid."""
    return np.maximum(largest / LEVELS, _LEAST_SCALE).astype(np.float16)
