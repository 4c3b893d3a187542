"""Small operations on an ONNX graph that several rewrites need; all of them in place."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Constants:
    """The constant tensors of a graph by name, weights that are stored as float16 behind a Cast included."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._names = set(self._tensors) | {name for node in graph.node for name in (*node.input, *node.output)}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._tensors[name])

    def add(self, name: str, value: np.ndarray) -> str:
        """Store a new constant under this name, or a similar one where it is taken, which is returned."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        tensor = self._graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(value, name))
        self._tensors[name] = tensor
        return name


def restore_float32(graph: onnx.GraphProto) -> None:
    """Undo `store_as_float16`: weights are float32 again and the Casts behind them are gone."""
    stored = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    casts = [n for n in graph.node if n.op_type == "Cast" and n.input[0] in stored and _target(n) == TensorProto.FLOAT]
    gone = {node.input[0] for node in casts}
    for node in casts:
        exact = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        graph.initializer.add().CopyFrom(numpy_helper.from_array(exact, node.output[0]))
    replace_nodes(graph, [node for node in graph.node if not any(node is cast for cast in casts)])
    still = {name for node in graph.node for name in node.input}
    keep = [t for t in graph.initializer if t.name not in gone or t.name in still]
    del graph.initializer[:]
    graph.initializer.extend(keep)


def fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Fold every batch norm behind a convolution into the convolution's kernel and bias, in float32."""
    constants = Constants(graph)
    uses = consumers(graph)
    producer = {name: node for node in graph.node for name in node.output}
    outputs = {port.name for port in graph.output}
    dropped = set()
    for norm in graph.node:
        if norm.op_type != "BatchNormalization":
            continue
        conv = producer.get(norm.input[0])
        parts = norm.input[1:5]
        if conv is None or conv.op_type != "Conv" or len(uses[conv.output[0]]) != 1 or conv.output[0] in outputs:
            continue
        if conv.input[1] not in constants or any(name not in constants for name in (*conv.input[2:], *parts)):
            continue
        scale, bias, mean, variance = (constants[name].astype(np.float64) for name in parts)
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        kernel = constants[conv.input[1]].astype(np.float64) * factor.reshape(-1, 1, 1, 1)
        before = constants[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else np.zeros_like(mean)
        names = [
            constants.add(f"{norm.output[0]}_kernel", kernel.astype(np.float32)),
            constants.add(f"{norm.output[0]}_bias", ((before - mean) * factor + bias).astype(np.float32)),
        ]
        image = conv.input[0]
        del conv.input[:]
        conv.input.extend([image, *names])
        conv.output[0] = norm.output[0]
        dropped.add(id(norm))
    replace_nodes(graph, [node for node in graph.node if id(node) not in dropped])
    drop_unused(graph)


def plain_casts(model: onnx.ModelProto) -> None:
    """Turn every CastLike into a Cast to the type that it means, and casts of constants into constants."""
    graph = model.graph
    types = element_types(model)
    constants = Constants(graph)
    folded: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "CastLike":
            node.op_type = "Cast"
            node.attribute.append(helper.make_attribute("to", types[node.input[1]]))
            del node.input[1]
        if node.op_type == "Cast" and node.input[0] in constants:
            value = constants[node.input[0]].astype(helper.tensor_dtype_to_np_dtype(_target(node)))
            folded[node.output[0]] = constants.add(f"{node.output[0]}_constant", value)
        else:
            kept.append(node)
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = folded.get(name, name)
    replace_nodes(graph, kept)
    drop_unused(graph)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """`TensorProto` element type of every tensor of the graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    ports = (*graph.input, *graph.output, *graph.value_info)
    return {
        **{port.name: port.type.tensor_type.elem_type for port in ports},
        **{tensor.name: tensor.data_type for tensor in graph.initializer},
    }


def consumers(graph: onnx.GraphProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor; an empty list for one that none reads."""
    uses: dict[str, list[NodeProto]] = {name: [] for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    return uses


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants that no output depends on."""
    needed = {port.name for port in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    replace_nodes(graph, kept[::-1])
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    """Give the graph these nodes, in this order."""
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _target(node: NodeProto) -> int:
    return next(attribute.i for attribute in node.attribute if attribute.name == "to")
