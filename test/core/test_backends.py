"""How the backends can run: precision, side by side, from a cache, compiled; and what they never do."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from bundles import make_colour_bundle, paint
from helpers_bundle import edit, replace_file
from helpers_clip import register_tiny_clip
from safetensors.torch import save

from mtaclip_core.bundle import load_bundle, write_bundle
from mtaclip_core.bundle_manifest import GraphOptions
from mtaclip_core.cli import UserError
from mtaclip_core.config import parse_config
from mtaclip_core.labels import CAMVID
from mtaclip_core.modeling.mta_clip import build_model
from mtaclip_core.runtime.openvino_backend import CACHE, OpenVINOSegmenter
from mtaclip_core.runtime.segmenter import load_segmenter
from mtaclip_core.runtime.torch_backend import TorchSegmenter, bundle_weights, model_of_bundle

SIZE = (64, 64)


@pytest.fixture(scope="module")
def colour(tmp_path_factory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", CAMVID, SIZE)


@pytest.fixture(scope="module")
def tagged_clip() -> Iterator[str]:
    """A small CLIP model with a tag `odd`, whose weights nobody has and which has image statistics of its own."""
    name = register_tiny_clip()
    known = {"quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip, "list_pretrained_tags_by_model", lambda _: ["odd"])
        patch.setattr(open_clip, "get_pretrained_cfg", lambda *_: known)
        yield name


@pytest.fixture(scope="module")
def clip_like(tagged_clip: str, tmp_path_factory) -> Path:
    """A bundle of that CLIP tower; its graph is of no use."""
    config = parse_config(
        {
            "classes": "camvid",
            "model": {
                "backbone": {"kind": "clip", "name": tagged_clip, "pretrained": "odd"},
                "pixel_decoder": {"kind": "fpn"},
                "text": {"source": "learned", "contexts": 1, "width": 32},
                "decoder": {"queries": 6, "width": 32, "layers": 1, "heads": 4, "feedforward": 32},
            },
            "train": [{"data": "camvid:somewhere/camvid", "split": "train"}],
            "augment": {"crop": list(SIZE)},
        },
        "test",
    )
    torch.manual_seed(0)
    model = build_model(config.model, CAMVID, load=False).eval()
    donor = make_colour_bundle(tmp_path_factory.mktemp("donor") / "donor", CAMVID, SIZE)
    return write_bundle(
        tmp_path_factory.mktemp("models") / "clip-like",
        space=CAMVID,
        network_size=SIZE,
        text_source="learned",
        training_config=config.model_dump(mode="json"),
        revision="none",
        files={"model.onnx": donor / "model.onnx", "model.safetensors": save(bundle_weights(model))},
        graph=GraphOptions(),
    )


def test_torch_keeps_what_a_clip_tag_decides(clip_like: Path) -> None:
    """The tag is not at hand on the target, and still decides activation and image statistics."""
    bundle = load_bundle(clip_like)
    config = parse_config(bundle.metadata["training"]["config"], "test")
    model = model_of_bundle(bundle)
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    image = torch.rand(1, 3, *SIZE)
    expected = build_model(config.model, CAMVID, load=False).eval()
    expected.backbone.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(model.backbone(image), expected.backbone(image), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_torch_runs_in_the_precision_that_was_asked_for(clip_like: Path) -> None:
    image, _ = paint(CAMVID, SIZE)
    maps = {
        precision: load_segmenter(clip_like, "torch", precision=precision, verify=False).segment_with_maps(image)[1]
        for precision in ("f32", "bf16")
    }
    assert maps["bf16"] is not None and maps["bf16"].dtype == np.float32 and not np.array_equal(*maps.values())
    np.testing.assert_allclose(*maps.values(), rtol=0.3, atol=0.02)


def test_a_compiled_network_gives_what_eager_gives(clip_like: Path, monkeypatch) -> None:
    """Through all of torch.compile but the C++ compiler, which takes a minute."""
    frames = [paint(CAMVID, SIZE)[0]]
    eager = load_segmenter(clip_like, "torch", verify=False).segment(frames)
    compiled: list[object] = []

    def as_it_is(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    def no_compiler(*_: object) -> None:
        raise FileNotFoundError("g++")

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(compile_with, backend=as_it_is))
    with load_segmenter(clip_like, "torch", mode="compile", verify=False) as segmenter:
        assert len(compiled) == 1  # whole, and before the first frame
        for a, b in zip(eager, segmenter.segment(frames), strict=True):
            assert (a.label == b.label).mean() >= 0.999
    monkeypatch.setattr(torch, "compile", functools.partial(compile_with, backend=no_compiler))
    with pytest.raises(
        UserError, match=r"torch\.compile cannot compile this network \(.*g\+\+.*take mode eager"
    ) as error:
        load_segmenter(clip_like, "torch", mode="compile", verify=False)
    assert len(str(error.value).splitlines()) == 1


def test_torch_runs_channels_last_without_gradients(clip_like: Path, monkeypatch) -> None:
    seen: list[tuple[bool, bool, bool]] = []
    convolve = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
        last = torch.channels_last
        whole = all(t.is_contiguous(memory_format=last) for t in (images, self.weight))
        seen.append((whole, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        return convolve(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    for precision in ("f32", "bf16"):
        seen.clear()
        load_segmenter(clip_like, "torch", precision=precision, verify=False).segment([paint(CAMVID, SIZE)[0]])
        assert seen[0] == (True, True, precision == "bf16") and all(inference for _, inference, _ in seen)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_cuda_graph_gives_what_eager_gives(clip_like: Path) -> None:
    frames = [paint(CAMVID, SIZE, seed)[0] for seed in range(3)]
    eager = load_segmenter(clip_like, "torch", verify=False).segment(frames)
    recorded = load_segmenter(clip_like, "torch", mode="cuda_graph", verify=False)
    for _ in range(2):
        for a, b in zip(eager, recorded.segment(frames), strict=True):
            assert (a.label == b.label).mean() >= 0.99


def test_throughput_runs_frames_side_by_side_with_the_same_results(colour: Path) -> None:
    frames, labels = zip(*(paint(CAMVID, SIZE, seed) for seed in range(11)), strict=True)
    odd = np.full((30, 50, 3), CAMVID.palette[1], np.uint8)
    with load_segmenter(colour, "openvino", mode="throughput") as segmenter:
        assert segmenter.parallel >= 1
        results = segmenter.segment([*frames, odd])
        for result, label in zip(results, labels, strict=False):
            np.testing.assert_array_equal(result.label, label)
        assert results[-1].label.shape == (30, 50) and (results[-1].label == 1).all()
        assert segmenter.segment([]) == []
        swapped = segmenter.segment([frames[0][..., ::-1]], "bgr")[0]
        np.testing.assert_array_equal(swapped.label, labels[0])


def test_compiled_graphs_are_kept_in_the_cache_folder(
    colour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "openvino"
    monkeypatch.setenv(CACHE, str(folder))
    image, label = paint(CAMVID, SIZE, 7)
    np.testing.assert_array_equal(load_segmenter(colour, "openvino").segment([image])[0].label, label)
    blobs = sorted(folder.rglob("*.blob"))
    assert blobs
    before = [blob.stat().st_mtime_ns for blob in blobs]
    np.testing.assert_array_equal(load_segmenter(colour, "openvino").segment([image])[0].label, label)
    assert [blob.stat().st_mtime_ns for blob in blobs] == before  # read, not made again
    for blob in blobs:  # a cache that was cut off is made again, or read around
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    np.testing.assert_array_equal(load_segmenter(colour, "openvino").segment([image])[0].label, label)


def test_another_graph_does_not_take_the_cached_one(colour: Path, tmp_path: Path) -> None:
    other = make_colour_bundle(tmp_path / "other", CAMVID, (32, 32))
    for folder, size in ((colour, SIZE), (other, (32, 32))):
        image, label = paint(CAMVID, size, 5)
        with OpenVINOSegmenter(load_bundle(folder), cache=tmp_path / "cache") as segmenter:
            np.testing.assert_array_equal(segmenter.segment([image])[0].label, label)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "openvino", "mode": "eager"}, "openvino has no mode 'eager'; expected one of latency, throughput"),
        (
            {"backend": "torch", "mode": "latency"},
            "torch has no mode 'latency'; expected one of eager, compile, cuda_gr",
        ),
        ({"backend": "torch", "precision": "int8"}, "torch has no precision 'int8'; expected one of f32, bf16, fp16"),
        (
            {"backend": "openvino", "precision": "int8"},
            "holds no int8 graph for openvino; make one that does: python -m",
        ),
    ],
)
def test_a_way_to_run_that_cannot_be_had_is_one_line(colour: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_segmenter(colour, **settings)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cuda_graph_without_a_gpu_is_one_line(clip_like: Path) -> None:
    with pytest.raises(UserError, match="mode cuda_graph needs a CUDA GPU"):
        TorchSegmenter(load_bundle(clip_like), mode="cuda_graph")


def test_a_cache_that_cannot_be_written_is_one_line(colour: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"OpenVINO cache '.*file/folder'.*set MTACLIP_OPENVINO_CACHE"):
        OpenVINOSegmenter(load_bundle(colour), cache=tmp_path / "file" / "folder")


HUGE = struct.pack("<Q", 2**60)
LYING = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'


@pytest.mark.parametrize(
    "content",
    [HUGE + b"{}", struct.pack("<Q", len(LYING)) + LYING, b"\x80\x04cos\nsystem\n.", b""],
    ids=["a header without end", "a tensor of terabytes", "a pickle", "nothing"],
)
def test_weights_that_are_none_are_one_line_and_take_no_memory(clip_like: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(clip_like, folder)
    replace_file(folder, "model.safetensors", content)
    with pytest.raises(UserError, match="is not a readable safetensors file") as caught:
        TorchSegmenter(load_bundle(folder))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("decoder", {"feedforward": 10**11}, r"tensors differ, the first is 'decoder\.layers\.0\.feedforward"),
        ("decoder", {"width": 2**62, "heads": 1}, "there is no such model"),
        ("decoder", {"layers": 10**9}, "1000000000 layers, and"),
        ("backbone", {"kind": "timm", "name": "resnet18", "options": {"layers": [10**9] * 4}}, "1000000000 layers"),
    ],
)
def test_a_config_of_a_giant_model_is_one_line_and_takes_no_memory(
    clip_like: Path, tmp_path: Path, part: str, values: dict, message: str
) -> None:
    folder = tmp_path / "giant"
    shutil.copytree(clip_like, folder)
    edit(folder, lambda m: m["training"]["config"]["model"][part].update(values))
    with pytest.raises(UserError, match=f"do not fit its training config: .*{message}") as caught:
        TorchSegmenter(load_bundle(folder))
    assert len(str(caught.value).splitlines()) == 1


def _unsafe(call: ast.Call) -> bool:
    """Whether a call can build objects that a file names."""
    name = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in ("torch.load", "open_clip.load_checkpoint"):
        return given.get("weights_only") != "True"
    return (
        given.get("allow_pickle") == "True"
        or name.startswith(("pickle.load", "pickle.Unpickler", "joblib.load", "dill.", "marshal.load", "shelve."))
        or name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec")
    )


def test_no_pickle_is_ever_loaded(root: Path) -> None:
    """Nor YAML that builds objects; PyTorch files only as plain tensors."""
    found = [
        f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)}"
        for package in ("mtaclip_core", "mtaclip_ros")
        for path in (root / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _unsafe(node)
    ]
    assert found == []
