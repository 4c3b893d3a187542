"""Precision that the graph itself carries: typed float16 with float32 islands, symmetric int8 with calibrated scales.

Engines that are strongly typed (TensorRT from 11 on has no other mode) compute every node in the type that stands in
the graph, so the choice is made here, once, and is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import NodeProto, TensorProto, helper

from mtaclip_core.cli import UserError
from mtaclip_core.deploy import onnx_graph
from mtaclip_core.deploy.onnx_graph import Constants

Precision = Literal["f32", "fp16", "int8"]
CLASS_MAPS = "class_maps"
"""Name of the tensor inside the graph that holds the class maps; no output, but a gate can ask for it."""

_HALF_MAX = 65504.0
# The products, where the time goes: inputs and result in float16 (engines accumulate in float32).
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"}
# Follow their inputs: float16 where all of them are.
_FOLLOWERS = {
    *("Abs", "Add", "AveragePool", "Clip", "Concat", "DepthToSpace", "Elu", "Erf", "Expand", "Flatten", "Gather"),
    *("Gelu", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Max", "MaxPool", "Min"),
    *("Mul", "Neg", "PRelu", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Sub"),
    *("Tanh", "Tile", "Transpose", "Unsqueeze", "Where"),
}
# What decides by comparing or by whole numbers: everything that leads to it is float32 back to the last product.
_DECISIONS = {
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "TopK", "ArgMax", "ArgMin", "Floor", "Ceil"),
    *("Round", "GridSample", "NonZero"),
}
# Inputs that keep their type whatever the node computes in: Resize's region and scales.
_FIXED_INPUTS = {"Resize": (1, 2)}


def typed_onnx(onnx_bytes: bytes, precision: Precision, *, calibration: Iterable[np.ndarray] | None = None) -> bytes:
    """The same graph with the precision written into it; input, outputs and their names stay as they are.

    Args:
        onnx_bytes: a bundle's `model.onnx`, float32.
        precision: `f32` gives the graph back as it is; `fp16`: products in float16, with float32 islands for softmax,
            norms, sums, positions and everything that decides; `int8`: see `quantize.quantised_onnx`.
        calibration: frames (H, W, 3) uint8 RGB for `int8`; street scenes like those that the model will see.

    Raises:
        UserError: an unknown precision, int8 without calibration frames, a file that is no ONNX graph.
    """
    if precision not in get_args(Precision):
        raise UserError(f"unknown graph precision '{precision}'; expected one of {', '.join(get_args(Precision))}")
    if precision == "f32":
        return onnx_bytes
    if precision == "fp16":
        model = prepared(parse_onnx(onnx_bytes))
        half_graph(model)
        return model.SerializeToString(deterministic=True)
    if calibration is None:
        raise UserError("precision int8 needs calibration frames; give some images of the kind the model will see")
    from mtaclip_core.deploy.quantize import quantised_onnx

    return quantised_onnx(onnx_bytes, calibration)


def parse_onnx(onnx_bytes: bytes) -> onnx.ModelProto:
    """Parse a graph.

    Raises:
        UserError: not one, or cut off.
    """
    try:
        model = onnx.load_from_string(onnx_bytes)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise UserError(f"this is not a readable ONNX graph ({' '.join(str(error).split())[:150]})") from error
    return model


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph that the rewrites start from: weights in float32, batch norms in the convolutions. In place."""
    onnx_graph.restore_float32(model.graph)
    onnx_graph.fold_batch_norms(model.graph)
    onnx_graph.plain_casts(model)
    return model


def half_graph(model: onnx.ModelProto) -> None:
    """Write float16 and its float32 islands into a `prepared` graph, in place; tensors keep their names."""
    graph = model.graph
    types = onnx_graph.element_types(model)
    constants = Constants(graph)
    _retype(graph, types, constants, _choose(graph, types, constants))
    del graph.value_info[:]
    onnx_graph.drop_unused(graph)
    onnx.checker.check_model(model, full_check=True)


def leads_to_decision(model: onnx.ModelProto) -> set[str]:
    """Outputs of the products of weights from which positions or comparisons follow without another product."""
    return _float_islands(model.graph, onnx_graph.element_types(model), Constants(model.graph))[1]


def _choose(graph: onnx.GraphProto, types: dict[str, int], constants: Constants) -> list[bool]:
    """For every node whether it computes in float16."""
    forced, _ = _float_islands(graph, types, constants)
    half_tensors: set[str] = set()
    chosen = []
    for position, node in enumerate(graph.node):
        floats = [name for name in node.input if types.get(name) == TensorProto.FLOAT]
        moving = [name for name in floats if name not in constants]
        half = (
            position not in forced
            and any(types.get(name) == TensorProto.FLOAT for name in node.output)
            and (
                (node.op_type in _PRODUCTS and bool(moving))
                or (node.op_type in _FOLLOWERS and bool(moving) and half_tensors.issuperset(moving))
            )
            and all(_fits_half(constants[name]) for name in floats if name in constants)
        )
        if half:
            half_tensors.update(name for name in node.output if types[name] == TensorProto.FLOAT)
        chosen.append(half)
    return chosen


def _float_islands(graph: onnx.GraphProto, types: dict[str, int], constants: Constants) -> tuple[set[int], set[str]]:
    """Positions of the nodes that stay float32: those that lead to a decision, and all that follows the class maps.

    Then the outputs of the products of weights where the way back ended.
    """
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output}
    forced: set[int] = set()
    ends: set[str] = set()

    def lead(name: str) -> None:
        """Mark what computes this tensor, back to the products of weights; a product of activations is the last."""
        pending = [name]
        while pending:
            position = producer.get(pending.pop())
            if position is None or position in forced:
                continue
            node = graph.node[position]
            if node.op_type in _FOLLOWERS:
                forced.add(position)
                pending += [given for given in node.input if types.get(given) == TensorProto.FLOAT]
            elif node.op_type in _PRODUCTS:
                if any(given in constants for given in node.input):
                    ends.add(node.output[0])
                else:
                    forced.add(position)

    for node in graph.node:
        to_integer = node.op_type == "Cast" and types.get(node.output[0]) not in (TensorProto.FLOAT, TensorProto.BOOL)
        if node.op_type in _DECISIONS or to_integer:
            inputs = node.input[1:] if node.op_type == "GridSample" else node.input
            for name in inputs:
                if types.get(name) == TensorProto.FLOAT:
                    lead(name)
    if CLASS_MAPS in producer:
        lead(CLASS_MAPS)
        after = {CLASS_MAPS}
        for position, node in enumerate(graph.node):
            if after.intersection(node.input):
                forced.add(position)
                after.update(node.output)
    return forced, ends


def _retype(graph: onnx.GraphProto, types: dict[str, int], constants: Constants, half: list[bool]) -> None:
    """Cast where a tensor meets a node of the other type; weights of float16 nodes are stored as float16."""
    halves = {
        name
        for node, is_half in zip(graph.node, half, strict=True)
        if is_half
        for name in node.output
        if types[name] == TensorProto.FLOAT
    }
    casts: dict[tuple[str, int], str] = {}
    nodes: list[NodeProto] = []

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            suffix = "half" if to == TensorProto.FLOAT16 else "float"
            casts[name, to] = f"{name}__{suffix}"
            if name in constants:
                constants.add(casts[name, to], constants[name].astype(np.float16))
            else:
                nodes.append(helper.make_node("Cast", [name], [casts[name, to]], to=to, name=casts[name, to]))
        return casts[name, to]

    for node, is_half in zip(graph.node, half, strict=True):
        fixed = _FIXED_INPUTS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT or i in fixed:
                continue
            if is_half and name not in halves:
                node.input[i] = cast(name, TensorProto.FLOAT16)
            elif not is_half and name in halves:
                node.input[i] = cast(name, TensorProto.FLOAT)
        nodes.append(node)
    onnx_graph.replace_nodes(graph, nodes)


def _fits_half(value: np.ndarray) -> bool:
    return value.size == 0 or bool(np.abs(value).max() <= _HALF_MAX)
