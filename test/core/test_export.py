"""Export: a checkpoint becomes a bundle that gives the same labels in PyTorch, OpenVINO and onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file
from torch.nn import functional as F

from mtaclip_core.bundle import Bundle, load_bundle
from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig, parse_config
from mtaclip_core.data.camvid import CamVid
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.deploy.graph import DeployedSegmenter, bilinear_matrix
from mtaclip_core.export import main
from mtaclip_core.labels import CAMVID
from mtaclip_core.modeling.mta_clip import MTAClip, build_model
from mtaclip_core.runtime.segmenter import load_segmenter
from mtaclip_core.training.checkpoint import load_model, save_checkpoint

NETWORK = (96, 128)
SIZES = [NETWORK, (120, 160), (75, 211)]


def tiny_config(text: str = "learned") -> TrainConfig:
    return parse_config(
        {
            "classes": "camvid",
            "model": {
                "backbone": {"kind": "timm", "name": "mobilenetv4_conv_small_035"},
                "pixel_decoder": {"kind": "fpn"},
                "text": {"source": text, "contexts": 2, "width": 64},
                "decoder": {"queries": 12, "width": 32, "layers": 2, "heads": 4, "feedforward": 64},
                "text_map_weight": 0.5,
            },
            "train": [{"data": "camvid:somewhere/camvid", "split": "train"}],
            "augment": {"crop": list(NETWORK)},
        },
        "test",
    )


def lively_model(config: TrainConfig) -> MTAClip:
    """Random weights, but with class maps that differ from pixel to pixel, as a trained model's do."""
    torch.manual_seed(0)
    model = build_model(config.model, CAMVID)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        model.train()
        drive = StreetDrive(NETWORK, seed=5)
        images = (
            torch.from_numpy(np.stack([drive.frame(8 * i).image for i in range(4)])).permute(0, 3, 1, 2) / 127.5 - 1
        )
        for _ in range(10):  # batch norms see real statistics
            model(images)
        model.decoder.mask_head[-1].weight.mul_(90)
        model.decoder.class_head.weight.mul_(40)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    config = tiny_config()
    path = tmp_path_factory.mktemp("run") / "tiny.safetensors"
    tensors = {f"model.{name}": tensor for name, tensor in lively_model(config).state_dict().items()}
    space = {"name": CAMVID.name, "classes": CAMVID.to_list()}
    meta = {"config": config.model_dump(mode="json"), "space": space, "step": 7, "versions": {"git": "abc123"}}
    save_checkpoint(path, tensors, meta)
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("models")
    measured = folder / "val.json"
    measured.write_text(
        json.dumps(
            {
                "miou": 0.61239,
                "data": "camvid:somewhere/camvid",
                "split": "val",
                "backend": "openvino",
                "precision": "f32",
                "command": "python -m mtaclip_core.evaluate --model tiny",
            }
        )
    )
    (folder / "licence").write_text("CC BY-NC 4.0\n")
    out = folder / "tiny"
    arguments = ["--measured", str(measured), "--license-file", str(folder / "licence")]
    assert main([str(checkpoint), "--out", str(out), *arguments]) == 0
    return load_bundle(out)


@pytest.fixture(scope="module")
def streets() -> list[np.ndarray]:
    drive = StreetDrive((180, 240), seed=11)
    return [drive.frame(20 * i).image for i in range(4)]


def resized(images: list[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    planes = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    scaled = F.interpolate(planes, size=size, mode="bilinear", antialias=True).round().clamp(0, 255)
    return list(scaled.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy())


def agreement(bundle: Bundle, images: list[np.ndarray]) -> dict[str, float]:
    """Share of pixels with torch's label, per other runtime and batch size."""
    session = onnxruntime.InferenceSession(str(bundle.onnx_path), providers=["CPUExecutionProvider"])
    with load_segmenter(bundle.path, "torch") as reference, load_segmenter(bundle.path, "openvino") as openvino:
        expected = np.stack([reference.segment([image])[0].label for image in images])
        assert len(np.unique(expected)) >= 3, "the images must tell labels apart"
        found = {
            "onnxruntime, batch 1": [session.run(["label"], {"image": image[None]})[0][0] for image in images],
            "onnxruntime, batch 4": session.run(["label"], {"image": np.stack(images)})[0],
            "openvino, batch 1": [openvino.segment([image])[0].label for image in images],
            "openvino, batch 4": [result.label for result in openvino.segment(images)],
            "torch, batch 4": [result.label for result in reference.segment(images)],
        }
    return {name: float((np.stack(labels) == expected).mean()) for name, labels in found.items()}


@pytest.mark.parametrize("size", SIZES)
def test_all_runtimes_give_the_same_labels(bundle: Bundle, streets: list[np.ndarray], size: tuple[int, int]) -> None:
    for name, share in agreement(bundle, resized(streets, size)).items():
        assert share >= 0.999, f"{name} at {size}: {share:.4%}"


@pytest.mark.camvid
def test_all_runtimes_give_the_same_labels_on_real_images(bundle: Bundle, camvid: Path) -> None:
    data = CamVid(camvid, "val")
    images = [data[i].image for i in range(0, len(data), max(1, len(data) // 4))][:4]
    for name, share in agreement(bundle, images).items():
        assert share >= 0.999, f"{name}: {share:.4%}"


def test_torch_and_openvino_agree_in_both_channel_orders(bundle: Bundle, streets: list[np.ndarray]) -> None:
    for backend in ("torch", "openvino"):
        with load_segmenter(bundle.path, backend) as segmenter:
            rgb = segmenter.segment(streets[:1], "rgb")[0]
            bgr = segmenter.segment([streets[0][..., ::-1]], "bgr")[0]
            assert (rgb.label == bgr.label).mean() >= 0.999
            assert np.abs(rgb.confidence.astype(int) - bgr.confidence).max() <= 1


def test_the_graph_is_one_plain_file_with_dynamic_sizes(bundle: Bundle) -> None:
    model = onnx.load(bundle.onnx_path)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""} and not model.functions
    assert all(node.domain == "" for node in model.graph.node)
    ports = {p.name: p.type.tensor_type for p in (*model.graph.input, *model.graph.output)}
    assert list(ports) == ["image", "label", "confidence"]
    assert {port.elem_type for port in ports.values()} == {TensorProto.UINT8}
    dims = [d.dim_param or d.dim_value for d in ports["image"].shape.dim]
    assert dims == ["B", "H", "W", 3]
    assert all([d.dim_param for d in ports[name].shape.dim] == ["B", "H", "W"] for name in ("label", "confidence"))
    text = bundle.onnx_path.read_bytes()
    assert b".py" not in text and str(Path(__file__).parents[2]).encode() not in text


def test_stored_weights_are_small_and_the_same_everywhere(bundle: Bundle) -> None:
    weights = load_file(bundle.weights_path)  # type: ignore[arg-type]
    model = onnx.load(bundle.onnx_path)
    stored = {w.name.removesuffix("_f16"): numpy_helper.to_array(w) for w in model.graph.initializer}
    kernels = {name: w for name, w in weights.items() if w.ndim == 4 and w.size >= 256 and "pixel_decoder" in name}
    assert kernels
    for name, kernel in kernels.items():
        found = next(array for key, array in stored.items() if key.endswith(name))
        assert kernel.dtype == found.dtype == np.float16
        np.testing.assert_array_equal(found, kernel)


def test_the_text_tower_does_not_travel(bundle: Bundle) -> None:
    names = [name for name in load_file(bundle.weights_path) if name.startswith("text.")]  # type: ignore[arg-type]
    assert names == ["text.table"]
    assert bundle.text_source == "learned"


def test_the_card_and_the_manifest_tell_where_it_comes_from(bundle: Bundle) -> None:
    card = (bundle.path / "README.md").read_text()
    assert "0.6124" in card and "python -m mtaclip_core.evaluate --model tiny" in card
    assert "camvid `train`" in card and "No language model was involved" in card and "abc123" in card
    assert "somewhere" not in card
    assert bundle.metadata["measured"][0]["what"] == "mIoU on camvid val (openvino, f32)"
    assert bundle.metadata["training"]["config"]["model"]["decoder"]["queries"] == 12
    assert bundle.graph.deformable == "gather"  # where nobody asks for another form: the one that TensorRT gets right
    assert (bundle.path / "LICENSE").read_text() == "CC BY-NC 4.0\n"


@pytest.mark.parametrize(("source", "target"), [(24, 96), (32, 75), (32, 211), (24, 10), (7, 1024), (5, 5)])
def test_the_resize_of_class_maps_is_bilinear(source: int, target: int) -> None:
    signal = torch.rand(1, 1, source, source)
    matrix = bilinear_matrix(source, target, signal.device)
    expected = F.interpolate(signal, size=(target, target), mode="bilinear", align_corners=False)
    torch.testing.assert_close(matrix @ signal @ matrix.T, expected, atol=1e-5, rtol=0)


def test_label_and_confidence_follow_from_the_class_maps(checkpoint: Path, streets: list[np.ndarray]) -> None:
    model, _ = load_model(checkpoint)
    graph = DeployedSegmenter(model, NETWORK)
    image = torch.from_numpy(streets[0])[None]
    with torch.no_grad():
        label, confidence = graph(image)
        small = F.interpolate(image.permute(0, 3, 1, 2) / 255, size=NETWORK, mode="bilinear", align_corners=False)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (model.mean, model.std))
        maps = model.class_maps((small - mean) / std)
        full = F.interpolate(maps, size=image.shape[1:3], mode="bilinear", align_corners=False)
        uncertain = DeployedSegmenter(model, NETWORK, confidence_floor=int(confidence.float().median()) + 1)(image)
    assert (label == full.argmax(1)).float().mean() >= 0.9995
    expected = 255 * full.amax(1) / full.sum(1)
    assert (confidence - expected).abs().max() <= 0.51
    low = confidence < int(confidence.float().median()) + 1
    assert (uncertain[0][low] == 255).all() and (uncertain[0][~low] == label[~low]).all()
    torch.testing.assert_close(uncertain[1], confidence)


def test_bf16_is_bf16(bundle: Bundle, streets: list[np.ndarray]) -> None:
    exact = load_segmenter(bundle.path, "torch").segment(streets[:1])[0]
    with load_segmenter(bundle.path, "torch", precision="bf16", verify=False) as segmenter:
        assert segmenter.precision == "bf16"
        rough = segmenter.segment(streets[:1])[0]
    assert (rough.confidence != exact.confidence).any()
    assert (rough.label == exact.label).mean() > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/run"], "no checkpoint at 'no/such/run'"),
        (["CHECKPOINT", "--network-size", "100x128"], "multiples of 32, for example 96x128"),
        (["CHECKPOINT", "--measured", "no.json"], "measured numbers 'no.json': No such file"),
        (["CHECKPOINT", "--measured", "BROKEN"], "are not JSON"),
        (["CHECKPOINT", "--measured", "NOCOMMAND"], "do not name the command"),
        (["CHECKPOINT", "--measured", "NOTHING"], "holds neither miou nor fps"),
        (["CHECKPOINT", "--license-file", "no-licence"], "cannot read 'no-licence'"),
        (["CHECKPOINT", "--out", "BROKEN/models/x"], "cannot create this folder"),
        (["CHECKPOINT", "--out", "a name"], "'a name' is no name for a bundle"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(checkpoint: Path, tmp_path: Path, arguments: list, message: str) -> None:
    files = {"BROKEN": "{", "NOCOMMAND": '{"miou": 1}', "NOTHING": '{"command": "x"}'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    given = {"CHECKPOINT": str(checkpoint), **{name: str(tmp_path / name) for name in files}}
    given["BROKEN/models/x"] = str(tmp_path / "BROKEN" / "models" / "x")
    with pytest.raises(UserError, match=message) as caught:
        main(["--out", str(tmp_path / "out"), *(given.get(a, a) for a in arguments)])
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()
