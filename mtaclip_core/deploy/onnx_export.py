"""`DeployedSegmenter` -> one ONNX file of plain operators with dynamic batch, height and width."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common as ir_passes
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import opset18, optimizer, rewriter
from onnxscript.rewriter.rules import common as rules
from torch import nn

from mtaclip_core.cli import UserError
from mtaclip_core.deploy import onnx_graph
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.deploy.precision import CLASS_MAPS

OPSET = 18
MAX_BATCH = 64
MAX_SIDE = 8192

_BLOCKED = -1e30  # as an attention logit: its exponential is zero in every float type
_SMALL = 256  # elements; smaller constants are not worth a Cast
_LARGEST_FOLDED = (
    4096  # elements; larger constants (position embeddings) stay a computation, which engines fold themselves
)
_RULES = (
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.transpose_transpose_rule,
    rules.squeeze_reshape_1d_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
)


def export_onnx(graph: DeployedSegmenter) -> bytes:
    """The graph as ONNX: input `image` uint8 (B, H, W, 3) RGB, outputs `label` and `confidence` uint8 (B, H, W).

    Weights that float16 holds without loss (`round_weights`) are stored so, with a Cast to float32 behind them:
    half the file, the same arithmetic.

    Raises:
        UserError: the model has an operation that ONNX cannot express, or the file would pass protobuf's 2 GB.
    """
    example = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    sides = {0: _dim("B", 1, MAX_BATCH), 1: _dim("H", 8, MAX_SIDE), 2: _dim("W", 8, MAX_SIDE)}
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                _WithClassMaps(graph).eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(sides,),
                input_names=["image"],
                output_names=["label", "confidence", CLASS_MAPS],
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"this model cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None
    with quiet():
        _simplify(program.model)
    model = program.model_proto
    del model.graph.output[2]
    onnx_graph.plain_casts(model)
    _read_sizes_behind_the_cast(model.graph)
    store_as_float16(model)
    if model.ByteSize() >= 2**31:
        raise UserError(f"the ONNX graph takes {model.ByteSize() / 1e9:.1f} GB, more than the 2 GB of one file")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def round_weights(model: nn.Module) -> None:
    """Round the matrices and kernels of a model to float16 values, in place; vectors (norms, biases) stay as they are.

    Done once, before everything that is exported from the model, so that all backends compute with the same weights.
    """
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim >= 2 and tensor.dtype == torch.float32:
                rounded = tensor.half().float()
                if rounded.isfinite().all():
                    tensor.copy_(rounded)


def store_as_float16(model: onnx.ModelProto) -> None:
    """Store every initializer that float16 holds exactly as float16, and cast it back in the graph. In place."""
    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or np.prod(initializer.dims, dtype=np.int64) < _SMALL:
            continue
        exact = numpy_helper.to_array(initializer)
        with np.errstate(over="ignore"):
            half = exact.astype(np.float16)
        if np.array_equal(half.astype(np.float32), exact):
            name = initializer.name
            initializer.CopyFrom(numpy_helper.from_array(half, f"{name}_f16"))
            casts.append(helper.make_node("Cast", [f"{name}_f16"], [name], to=TensorProto.FLOAT, name=f"{name}_f32"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class _WithClassMaps(nn.Module):
    """The deployed graph with its class maps as third output, so that the tensor gets a name."""

    def __init__(self, graph: DeployedSegmenter) -> None:
        super().__init__()
        self.deployed = graph  # `graph` is a name that torch.export's own modules use

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps = self.deployed.class_maps(image)
        label, confidence = self.deployed.decide(maps, image.shape[1], image.shape[2])
        return label, confidence, maps


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention (B, M, N, d) x (B, M, K, d) in five operators; the exporter's own form checks for rows without keys.

    Those do not exist: a token that is blocked everywhere looks everywhere. All arguments are `onnx_ir.Value`s.
    """
    assert not is_causal and not enable_gqa and dropout_p == 0.0
    op: Any = opset18
    factor = op.Constant(value=_scalar(scale or float(query.shape[-1]) ** -0.5))
    logits = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[0, 1, 3, 2]))
    if attn_mask is not None:
        free, blocked = op.Constant(value=_scalar(0.0)), op.Constant(value=_scalar(_BLOCKED))
        logits = op.Add(logits, op.Where(attn_mask, free, blocked))
    return op.MatMul(op.Softmax(logits, axis=-1), value)


def _scalar(value: float) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.float32))


def _read_sizes_behind_the_cast(graph: onnx.GraphProto) -> None:
    """Take the frame's sizes from its float32 copy: engines may refuse any other use of a uint8 tensor than a Cast."""
    cast = next(node for node in graph.node if node.op_type == "Cast" and node.input[0] == "image")
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == "image":
            node.input[0] = cast.output[0]
    nodes = [node for node in graph.node if node is not cast]
    onnx_graph.replace_nodes(graph, [cast, *nodes])


def _simplify(model: onnx_ir.Model) -> None:
    """Fold constants and drop what does nothing.

    The exporter's own optimisation would fold batch norms into convolutions too, whose weights float16 then no longer
    holds exactly; every inference engine does that by itself.
    """
    ir_passes.InlinePass()(model)
    for _ in range(2):
        optimizer.fold_constants(model, output_size_limit=_LARGEST_FOLDED)
        rewriter.RewritePass(rewriter.pattern.RewriteRuleSet(_RULES))(model)
        optimizer.remove_unused_nodes(model)
    for step in (
        ir_passes.IdentityEliminationPass(),
        ir_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        ir_passes.DeduplicateInitializersPass(),
        ir_passes.CommonSubexpressionEliminationPass(),
        ir_passes.RemoveUnusedNodesPass(),
        ir_passes.RemoveUnusedFunctionsPass(),
        ir_passes.RemoveUnusedOpsetsPass(),
        ir_passes.ClearMetadataAndDocStringPass(),  # the exporter notes the paths of the source files
    ):
        step(model)


def _dim(name: str, least: int, most: int) -> torch.export.Dim:
    return torch.export.Dim(name, min=least, max=most)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints its steps and warns about its own deprecations."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]}"[:300]
