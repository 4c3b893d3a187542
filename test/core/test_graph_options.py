"""The deployed graph in all its forms: the same labels in every runtime, and only what TensorRT can read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from tensorrt_operators import OPERATORS
from test_export import NETWORK, lively_model, resized
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mtaclip_core.bundle import Bundle, load_bundle
from mtaclip_core.bundle_manifest import GraphOptions
from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig, parse_config
from mtaclip_core.data.camvid import CamVid
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.deploy.graph import MAPS_PER_BLOCK, DeployedSegmenter, bilinear_matrix, bilinear_rows
from mtaclip_core.deploy.onnx_export import export_onnx
from mtaclip_core.deploy.onnx_graph import element_types
from mtaclip_core.deploy.precision import typed_onnx
from mtaclip_core.export import main
from mtaclip_core.labels import CAMVID, MAX_CLASSES, LabelClass, LabelSpace
from mtaclip_core.runtime.segmenter import load_segmenter
from mtaclip_core.training.checkpoint import load_model, save_checkpoint

FORMS = ("gather", "grid_sample")
SIZES = [NETWORK, (120, 160), (75, 211)]


def deformable_config(text_tokens: str = "kept") -> TrainConfig:
    return parse_config(
        {
            "classes": "camvid",
            "model": {
                "backbone": {"kind": "timm", "name": "mobilenetv4_conv_small_035"},
                "pixel_decoder": {"kind": "deformable", "layers": 1},
                "text": {"source": "learned", "contexts": 2, "width": 64},
                "decoder": {"queries": 12, "width": 32, "layers": 2, "heads": 4, "feedforward": 64},
                "text_tokens": text_tokens,
            },
            "train": [{"data": "camvid:somewhere/camvid", "split": "train"}],
            "augment": {"crop": list(NETWORK)},
        },
        "test",
    )


def write_checkpoint(path: Path, sharpness: float = 1.0, text_tokens: str = "kept") -> Path:
    """A random model; `sharpness` scales masks and class logits."""
    config = deformable_config(text_tokens)
    model = lively_model(config)
    with torch.no_grad():
        # Far looks, so that a wrong sampling position shows.
        model.pixel_decoder.layers[0].attention.sampling_offsets.weight.normal_(std=0.3)
        # onnxruntime's sigmoid is flat beyond 18: where all masks are further off, its labels would be chance.
        model.decoder.mask_head[-1].weight.mul_(0.2 * sharpness)
        model.decoder.class_head.weight.mul_(sharpness)
    space = {"name": CAMVID.name, "classes": CAMVID.to_list()}
    meta = {"config": config.model_dump(mode="json"), "space": space, "step": 7, "versions": {"git": "abc123"}}
    save_checkpoint(path, {f"model.{name}": tensor for name, tensor in model.state_dict().items()}, meta)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "deformable.safetensors")


@pytest.fixture(scope="module")
def bundles(checkpoint: Path, tmp_path_factory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("models")
    for form in FORMS:
        assert main([str(checkpoint), "--out", str(folder / form), "--deformable", form]) == 0
    return {form: load_bundle(folder / form) for form in FORMS}


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return StreetDrive((120, 160), seed=12).frame(7).image


def graph_of(checkpoint: Path, **options: str) -> DeployedSegmenter:
    model, _ = load_model(checkpoint)
    chosen = GraphOptions(**options)  # type: ignore[arg-type]
    model.fold_text(keep_tokens=chosen.text_tokens == "kept")
    return DeployedSegmenter(model, NETWORK, options=chosen).eval()


def run_onnx(content: bytes, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    label, confidence = session.run(["label", "confidence"], {"image": image[None]})
    return label[0], confidence[0]


@pytest.mark.camvid
@pytest.mark.parametrize("form", FORMS)
def test_all_runtimes_agree_on_real_images_in_every_size_and_batch(
    bundles: dict[str, Bundle], camvid: Path, form: str
) -> None:
    data, bundle = CamVid(camvid, "val"), bundles[form]
    real = [data[i].image for i in range(0, len(data), len(data) // 4)][:4]
    session = onnxruntime.InferenceSession(str(bundle.onnx_path), providers=["CPUExecutionProvider"])
    with load_segmenter(bundle.path, "torch") as reference, load_segmenter(bundle.path, "openvino") as openvino:
        for size in SIZES:
            images = resized(real, size)
            expected = np.stack([reference.segment([image])[0].label for image in images])
            assert len(np.unique(expected)) >= 3, "the images must tell labels apart"
            found = {
                "onnxruntime, batch 1": [session.run(["label"], {"image": image[None]})[0][0] for image in images],
                "onnxruntime, batch 4": session.run(["label"], {"image": np.stack(images)})[0],
                "openvino, batch 1": [openvino.segment([image])[0].label for image in images],
                "openvino, batch 4": [result.label for result in openvino.segment(images)],
                "torch, batch 4": [result.label for result in reference.segment(images)],
            }
            for name, labels in found.items():
                share = (np.stack(labels) == expected).mean()
                assert share >= 0.999, f"{form}, {name} at {size}: {share:.4%}"


def test_both_forms_give_the_same_labels_and_are_named_in_the_bundle(
    bundles: dict[str, Bundle], street: np.ndarray
) -> None:
    labels = {}
    for form, bundle in bundles.items():
        assert bundle.graph.deformable == form
        operators = {node.op_type for node in onnx.load(bundle.onnx_path).graph.node}
        assert ("GridSample" in operators) == (form == "grid_sample")
        labels[form] = run_onnx(bundle.onnx_path.read_bytes(), street)[0]
    assert (labels["gather"] == labels["grid_sample"]).mean() >= 0.999


@pytest.mark.parametrize("precision", ["f32", "fp16", "int8"])
def test_only_what_tensorrt_reads_occurs(bundles: dict[str, Bundle], street: np.ndarray, precision: str) -> None:
    for bundle in bundles.values():
        content = typed_onnx(bundle.onnx_path.read_bytes(), precision, calibration=[street])  # type: ignore[arg-type]
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        # From opset 20 on, TensorRT up to 11.1 takes every GridSample for one without interpolation.
        assert {opset.domain for opset in model.opset_import} == {""} and model.opset_import[0].version < 20
        assert {node.op_type for node in model.graph.node} <= OPERATORS
        constants = {tensor.name for tensor in model.graph.initializer}
        types = element_types(model)
        for node in model.graph.node:
            byte = [name for name in (*node.input, *node.output) if types.get(name) == TensorProto.UINT8]
            assert not byte or node.op_type == "Cast", f"{node.op_type} has a uint8 tensor"
            if node.op_type.startswith("Reduce"):
                assert set(node.input[1:]) <= constants, f"{node.op_type} computes its axes"
            if node.op_type == "Slice" and len(node.input) > 3:
                assert node.input[3] in constants, "Slice computes its axes"


def test_float16_computes_the_products_and_leaves_decisions_in_float32(
    bundles: dict[str, Bundle], street: np.ndarray
) -> None:
    for bundle in bundles.values():
        exact = bundle.onnx_path.read_bytes()
        content = typed_onnx(exact, "fp16")
        model = onnx.load_from_string(content)
        types = element_types(model)
        of_type = {
            kind: {types[node.output[0]] for node in model.graph.node if node.op_type == kind}
            for kind in ("Conv", "Softmax", "LayerNormalization", "TopK", "Floor", "GridSample")
        }
        assert of_type.pop("Conv") == {TensorProto.FLOAT16}
        assert all(found <= {TensorProto.FLOAT} for found in of_type.values())
        assert types["class_maps"] == TensorProto.FLOAT
        compared = [node.input[0] for node in model.graph.node if node.op_type in ("GreaterOrEqual", "Less")]
        assert all(types[name] == TensorProto.FLOAT for name in compared)
        assert (run_onnx(content, street)[0] == run_onnx(exact, street)[0]).mean() > 0.9


def test_options_and_precision_are_exported_recorded_and_gated(tmp_path: Path, street: np.ndarray) -> None:
    """The export itself holds OpenVINO, which runs the graph, against PyTorch, which is built from the options.

    Text tokens are dropped where the training's config says so.
    """
    soft = tmp_path / "soft.safetensors"
    checkpoint = write_checkpoint(soft, 0.1, text_tokens="dropped")  # a trained model's masks flip as rarely
    chosen = {"text_tokens": "dropped", "resize": "masks", "deformable": "grid_sample"}
    options = ["--resize", "masks", "--deformable", "grid_sample"]
    assert main([str(checkpoint), "--out", str(tmp_path / "half"), "--precision", "fp16", *options]) == 0
    bundle = load_bundle(tmp_path / "half")
    assert (bundle.precision, bundle.graph.model_dump()) == ("fp16", chosen)
    with load_segmenter(bundle.path, "openvino") as segmenter:
        assert segmenter.precision == "fp16"
        assert segmenter.segment([street])[0].label.shape == street.shape[:2]


def test_int8_is_symmetric_and_close(bundles: dict[str, Bundle], street: np.ndarray) -> None:
    exact = bundles["gather"].onnx_path.read_bytes()
    drive = StreetDrive((96, 128), seed=3)
    content = typed_onnx(exact, "int8", calibration=[drive.frame(9 * i).image for i in range(4)])
    model = onnx.load_from_string(content)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantisers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(quantisers) > 50
    for node in quantisers:
        assert values[node.input[2]].dtype == np.int8 and not values[node.input[2]].any()
    weights = [node.input[0] for node in quantisers if node.input[0] in values]
    assert weights and all(values[name].dtype == np.int8 and values[name].min() >= -127 for name in weights)
    assert (run_onnx(content, street)[0] == run_onnx(exact, street)[0]).mean() > 0.7


@pytest.mark.parametrize(
    ("precision", "frames", "message"),
    [
        ("fp8", [], "unknown graph precision 'fp8'; expected one of f32, fp16, int8"),
        ("int8", None, "needs calibration frames; give some"),
        ("int8", [], "needs calibration frames, and there are none"),
    ],
)
def test_a_precision_that_cannot_be_written_is_one_line(
    bundles: dict[str, Bundle], precision: str, frames: Iterable[np.ndarray] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        typed_onnx(bundles["gather"].onnx_path.read_bytes(), precision, calibration=frames)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"not a graph", b""])
def test_what_is_no_graph_is_one_line(content: bytes) -> None:
    with pytest.raises(UserError, match="not a readable ONNX graph") as caught:
        typed_onnx(content, "fp16")
    assert len(str(caught.value).splitlines()) == 1


def test_dropped_text_tokens_leave_the_graph(checkpoint: Path, street: np.ndarray) -> None:
    """The decoder then computes with the queries alone."""
    kept, dropped = graph_of(checkpoint), graph_of(checkpoint, text_tokens="dropped")
    image = torch.from_numpy(street)[None]
    with torch.no_grad():
        before, after = kept.class_maps(image), dropped.class_maps(image)
    assert before.shape == after.shape and not torch.allclose(before, after)
    tokens = dropped.model._folded
    assert tokens is not None and tokens.shape[0] == 12


def test_text_tokens_that_are_needed_cannot_be_dropped(checkpoint: Path) -> None:
    model, _ = load_model(checkpoint)
    model.text_map_weight = 0.5
    with pytest.raises(UserError, match=r"text tokens cannot be dropped: .* hold 50% of their masks"):
        model.fold_text(keep_tokens=False)


def test_masks_resized_before_their_sum_are_mask2formers_order(checkpoint: Path, street: np.ndarray) -> None:
    exact = graph_of(checkpoint, resize="masks")
    image = torch.from_numpy(street)[None]
    with torch.no_grad():
        images = exact.normalised(image)
        pixels = exact.model.pixel_decoder(exact.model.backbone(images))
        last = exact.model.decoder(pixels, None, exact.model._folded, last_only=True)[-1]
        masks = torch.einsum("bqd,bdhw->bqhw", last.mask_embed, pixels.mask_features)
        masks = F.interpolate(masks, size=NETWORK, mode="bilinear", align_corners=False).sigmoid()
        expected = torch.einsum("bqc,bqhw->bchw", last.class_logits.softmax(-1)[..., :11], masks)
        maps = exact.class_maps(image)
        label = exact(image)[0][0]
        contracted = graph_of(checkpoint)(image)[0][0]
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)
    assert (contracted == label).float().mean() > 0.9  # nearly the same function


@pytest.mark.parametrize(("source", "target"), [(24, 96), (32, 75), (32, 211), (24, 10), (24, 8), (9, 1024)])
def test_rows_in_blocks_are_the_rows_of_the_whole(source: int, target: int) -> None:
    whole = bilinear_matrix(source, target, torch.device("cpu"))
    count = -(-target // 8)
    for block in range(8):
        window, rows = bilinear_rows(source, target, block * count, count, torch.device("cpu"))
        found = torch.zeros(count, source).index_add(1, window.long(), rows)
        wanted = whole[[min(block * count + i, target - 1) for i in range(count)]]
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


class ManyClasses(torch.nn.Module):
    """Sharp class maps for many classes out of the colours of an image."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self, classes: int = 150) -> None:
        super().__init__()
        self.space = LabelSpace("many", tuple(LabelClass(i, f"c{i}", (i, i, i)) for i in range(classes)))
        torch.manual_seed(0)
        self.mix = torch.nn.Conv2d(3, classes, 4, stride=4)
        self.mix.weight.data.mul_(40)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        return self.mix(images).softmax(1)


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that is computed."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for found in result if isinstance(result, tuple | list) else [result]:
            if isinstance(found, torch.Tensor):
                self.elements = max(self.elements, found.numel())
        return result


def test_memory_does_not_grow_with_the_number_of_classes() -> None:
    """No tensor of full size holds many more maps than a block has."""
    height, width = 208, 256
    for classes in (11, 19, 60, 150, MAX_CLASSES):
        maps = torch.rand(1, classes, 8, 8)
        with torch.no_grad(), Largest() as largest:
            DeployedSegmenter(ManyClasses(classes), (32, 32)).decide(maps, height, width)
        assert largest.elements <= 1.2 * MAPS_PER_BLOCK * height * width, f"{classes} classes"


@pytest.mark.parametrize("classes", [150, MAX_CLASSES])
@pytest.mark.parametrize("size", [(96, 128), (50, 61), (9, 12), (200, 90)])
def test_many_classes_are_compared_in_blocks_of_rows(size: tuple[int, int], classes: int) -> None:
    """They give what the whole maps give."""
    graph = DeployedSegmenter(ManyClasses(classes), (96, 128)).eval()
    image = torch.from_numpy(StreetDrive((100, 130), seed=4).frame(0).image[: size[0], : size[1]].copy())[None]
    image = F.interpolate(image.permute(0, 3, 1, 2).float(), size=size).permute(0, 2, 3, 1).to(torch.uint8)
    with torch.no_grad():
        maps = graph.class_maps(image)
        full = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        label, confidence = graph(image)
    assert (label == full.argmax(1)).float().mean() >= 0.999
    assert (confidence - 255 * full.amax(1) / full.sum(1)).abs().max() <= 0.51


def test_blocks_of_rows_run_at_every_size_in_onnx() -> None:
    graph = DeployedSegmenter(ManyClasses(), (96, 128)).eval()
    session = onnxruntime.InferenceSession(export_onnx(graph), providers=["CPUExecutionProvider"])
    for height, width in ((96, 128), (8, 8), (111, 75)):
        image = StreetDrive((height + 32, width + 32), seed=4).frame(0).image[:height, :width].copy()
        label, confidence = session.run(None, {"image": np.stack([image, image[::-1]])})
        expected, certain = graph(torch.from_numpy(np.stack([image, image[::-1]])))
        assert (label == expected.numpy()).mean() >= 0.999
        assert np.abs(confidence.astype(int) - certain.numpy()).max() <= 1
