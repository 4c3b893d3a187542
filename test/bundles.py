"""Real bundles for tests, made in a moment and without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mtaclip_core.bundle import write_bundle
from mtaclip_core.deploy.reference import Reference, reference_files
from mtaclip_core.labels import CAMVID, LabelSpace

_SHARPNESS = 1 / 200
"""Class map of a class = softmax over classes of -(squared RGB distance) * _SHARPNESS."""


def make_colour_bundle(path: Path, space: LabelSpace = CAMVID, network_size: tuple[int, int] = (90, 120)) -> Path:
    """A bundle that gives every pixel the class whose colour is nearest.

    An image painted with `space.palette[label]` is segmented back to `label`: exactly at network size, but for
    borders at other sizes. Classes of equal colour cannot be told apart: the first one wins.

    Args:
        path: the folder to write; its last part is the bundle's name.
    """
    reference = _reference(space, network_size)
    return write_bundle(
        path,
        space=space,
        network_size=network_size,
        text_source="learned",
        training_config={"hand_built": "nearest class colour"},
        revision="none",
        files={
            "model.onnx": colour_onnx(space, network_size),
            "README.md": b"Nearest class colour, for tests.\n",
            "LICENSE": b"Apache-2.0\n",
            **reference_files(reference),
        },
    )


def paint(space: LabelSpace, size: tuple[int, int], seed: int = 0, cell: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Random rectangles of classes: ((H, W, 3) uint8 RGB in the classes' colours, (H, W) uint8 label)."""
    random = np.random.default_rng(seed)
    coarse = random.choice(space.ids, (-(-size[0] // cell), -(-size[1] // cell))).astype(np.uint8)
    label = np.ascontiguousarray(np.kron(coarse, np.ones((cell, cell), np.uint8))[: size[0], : size[1]])
    return space.palette[label], label


def colour_maps(image: np.ndarray, space: LabelSpace) -> np.ndarray:
    """(H, W, 3) uint8 -> (C, H, W) float32 class maps, as the graph computes them where nothing is resized."""
    colours = space.palette[space.ids].astype(np.float32)
    distance = ((image.astype(np.float32)[None] - colours[:, None, None, :]) ** 2).sum(-1)
    weights = np.exp(-(distance - distance.min(0)) * _SHARPNESS)
    return (weights / weights.sum(0)).astype(np.float32)


def colour_onnx(space: LabelSpace, network_size: tuple[int, int]) -> bytes:
    """The deployed graph (uint8 image in, uint8 label and confidence out) with colour distances for a network."""
    colours = space.palette[space.ids].astype(np.float32)
    linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    constants = {
        "network_hw": np.array(network_size, np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "three": np.array([3], np.int64),
        "channels": np.array([3], np.int64),
        "maps": np.array([len(space)], np.int64),
        "weight": (2 * _SHARPNESS * colours).reshape(len(space), 3, 1, 1),
        "bias": -_SHARPNESS * (colours**2).sum(1),
        "ids": np.array(space.ids, np.int64),
        "scale": np.array(255, np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Slice", ["shape", "one", "three"], ["hw"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "channels", "network_hw"], ["network_shape"], axis=0),
        helper.make_node("Concat", ["batch", "maps", "hw"], ["full_shape"], axis=0),
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["planes", "", "", "network_shape"], ["small"], **linear),
        helper.make_node("Conv", ["small", "weight", "bias"], ["closeness"]),
        helper.make_node("Softmax", ["closeness"], ["class_maps"], axis=1),
        helper.make_node("Resize", ["class_maps", "", "", "full_shape"], ["full"], **linear),
        helper.make_node("ArgMax", ["full"], ["index"], axis=1, keepdims=0),
        helper.make_node("Gather", ["ids", "index"], ["id"], axis=0),
        helper.make_node("Cast", ["id"], ["label"], to=TensorProto.UINT8),
        helper.make_node("ReduceMax", ["full", "one"], ["best"], keepdims=0),
        helper.make_node("ReduceSum", ["full", "one"], ["sum"], keepdims=0),
        helper.make_node("Div", ["best", "sum"], ["share"]),
        helper.make_node("Mul", ["share", "scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "nearest_colour",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["B", "H", "W"]) for name in ("label", "confidence")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _reference(space: LabelSpace, size: tuple[int, int]) -> Reference:
    images = np.stack([paint(space, size, seed)[0] for seed in range(4)])
    maps = np.stack([colour_maps(image, space) for image in images])
    index = maps.argmax(1)
    best = maps.max(1) / maps.sum(1)
    return Reference(
        images=images,
        label=np.array(space.ids, np.uint8)[index],
        confidence=np.rint(255 * best).astype(np.uint8),
        class_maps=maps.astype(np.float16),
    )
