"""`load_segmenter` on the real OpenVINO: any frame, any size, any order gives the labels that the bundle promises."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import onnx
import pytest
from bundles import colour_maps, make_colour_bundle, paint
from helpers_bundle import replace_file
from onnx import TensorProto

from mtaclip_core.bundle import load_bundle
from mtaclip_core.cli import UserError
from mtaclip_core.deploy.parity import check
from mtaclip_core.deploy.reference import Reference, load_reference, reference_files
from mtaclip_core.labels import CAMVID, CITYSCAPES, LabelClass, LabelSpace
from mtaclip_core.runtime import openvino_backend
from mtaclip_core.runtime.openvino_backend import OpenVINOSegmenter
from mtaclip_core.runtime.segmenter import Segmentation, Segmenter, load_segmenter

SIZE = (48, 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", CAMVID, SIZE)


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Segmenter:
    return load_segmenter(bundle, "openvino")


def test_it_says_what_it_runs(bundle: Path, segmenter: Segmenter) -> None:
    assert (segmenter.name, segmenter.backend, segmenter.precision) == ("colour", "openvino", "f32")
    assert segmenter.model_hash == load_bundle(bundle).hash
    assert (segmenter.space, segmenter.network_size) == (CAMVID, SIZE)


def test_auto_takes_openvino(bundle: Path) -> None:
    assert load_segmenter(bundle).backend == "openvino"


def test_labels_are_exact_at_the_network_size(segmenter: Segmenter) -> None:
    image, label = paint(CAMVID, SIZE, seed=3)
    result = segmenter.segment([image])[0]
    np.testing.assert_array_equal(result.label, label)
    assert result.label.dtype == result.confidence.dtype == np.uint8
    assert result.label.flags.c_contiguous and result.confidence.flags.c_contiguous
    maps = colour_maps(image, CAMVID)
    np.testing.assert_array_equal(result.confidence, np.rint(255 * maps.max(0) / maps.sum(0)))


@pytest.mark.parametrize("size", [(96, 128), (31, 47), (200, 64), (8, 8), (240, 321)])
def test_labels_have_the_size_of_the_frame(segmenter: Segmenter, size: tuple[int, int]) -> None:
    label = np.full(size, 3, np.uint8)
    label[: size[0] // 2] = 0
    result = segmenter.segment([CAMVID.palette[label]])[0]
    assert result.label.shape == result.confidence.shape == size
    away = np.abs(np.arange(size[0]) - size[0] // 2) > size[0] / SIZE[0] + 1
    np.testing.assert_array_equal(result.label[away], label[away])


def test_channel_orders_agree(segmenter: Segmenter) -> None:
    image, label = paint(CAMVID, SIZE, seed=4)
    np.testing.assert_array_equal(segmenter.segment([image[..., ::-1].copy()], "bgr")[0].label, label)
    assert (segmenter.segment([image[..., ::-1].copy()], "rgb")[0].label != label).any()


def test_frames_are_read_with_their_strides_and_left_alone(segmenter: Segmenter) -> None:
    image, label = paint(CAMVID, SIZE, seed=5)
    padded = np.full((SIZE[0], SIZE[1] + 7, 3), 77, np.uint8)
    padded[:, : SIZE[1]] = image
    views = [
        padded[:, : SIZE[1]],
        np.asfortranarray(image),
        image[::-1].copy()[::-1],
        image[..., ::-1].copy()[..., ::-1],
    ]
    frozen = image.copy()
    frozen.flags.writeable = False
    before = [view.copy() for view in (*views, frozen)]
    for view, copy in zip((*views, frozen), before, strict=True):
        np.testing.assert_array_equal(segmenter.segment([view])[0].label, label)
        np.testing.assert_array_equal(view, copy)


def test_frames_of_many_sizes_come_back_in_order(segmenter: Segmenter) -> None:
    frames, labels = zip(*(paint(CAMVID, SIZE, seed) for seed in range(3)), strict=True)
    small = np.full((20, 30, 3), CAMVID.palette[1], np.uint8)
    results = segmenter.segment([frames[0], small, frames[1], frames[2]])
    for i, label in ((0, labels[0]), (2, labels[1]), (3, labels[2])):
        np.testing.assert_array_equal(results[i].label, label)
    assert results[1].label.shape == (20, 30) and (results[1].label == 1).all()
    assert segmenter.segment([]) == []


def test_results_outlive_the_next_frame(segmenter: Segmenter) -> None:
    (first, label), (second, _) = paint(CAMVID, SIZE, 1), paint(CAMVID, SIZE, 2)
    kept = segmenter.segment([first])[0]
    segmenter.segment([second])
    np.testing.assert_array_equal(kept.label, label)


def test_neither_new_sizes_nor_batches_compile_without_end(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new size compiles nothing; batch sizes compile a bounded number of graphs, and all frames come back."""
    compiled: list[tuple[object, ...]] = []
    compile_graph = openvino_backend.OpenVINOSegmenter._compile
    monkeypatch.setattr(
        openvino_backend.OpenVINOSegmenter,
        "_compile",
        lambda self, *key: compiled.append(key) or compile_graph(self, *key),  # type: ignore[func-returns-value]
    )
    with load_segmenter(bundle, "openvino") as segmenter:
        loaded = len(compiled)
        for height in range(40, 60):
            frame = np.full((height, 64, 3), CAMVID.palette[3], np.uint8)
            assert (segmenter.segment([frame])[0].label == 3).all()
        assert len(compiled) == loaded
        for batch in range(1, 9):
            frames = [np.full((40, 64, 3), CAMVID.palette[i % 11], np.uint8) for i in range(batch)]
            results = segmenter.segment(frames)
            assert [int(r.label[0, 0]) for r in results] == [i % 11 for i in range(batch)]
        assert len(compiled) == loaded + openvino_backend.COMPILED_BATCHES - 1


def test_label_values_are_the_ids_of_the_classes(tmp_path: Path) -> None:
    space = LabelSpace("odd", (LabelClass(7, "road", (10, 10, 10)), LabelClass(200, "sky", (250, 250, 250))))
    odd = load_segmenter(make_colour_bundle(tmp_path / "odd", space, SIZE))
    assert set(np.unique(odd.segment([paint(space, SIZE)[0]])[0].label)) == {7, 200}
    street = load_segmenter(make_colour_bundle(tmp_path / "street", CITYSCAPES, SIZE))
    image, label = paint(CITYSCAPES, SIZE)
    np.testing.assert_array_equal(street.segment([image])[0].label, label)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_frame_is_refused(segmenter: Segmenter, frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a frame must be"):
        segmenter.segment([frame])


def test_precision_and_threads_are_what_was_asked_for(bundle: Path) -> None:
    one = load_segmenter(bundle, "openvino", threads=1)
    assert isinstance(one, OpenVINOSegmenter) and one.threads == 1 and one.precision == "f32"
    able = "BF16" in openvino_backend.shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert load_segmenter(bundle, "openvino", precision="bf16", verify=False).precision == ("bf16" if able else "f32")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tpu"}, "unknown backend 'tpu'; expected one of auto, tensorrt, openvino, torch"),
        ({"precision": "f8"}, "unknown precision 'f8'; expected one of f32, bf16"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"backend": "torch"}, "ships without model.safetensors"),
    ],
)
def test_settings_that_cannot_be_had_are_one_line(bundle: Path, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_segmenter(bundle, **settings)
    assert len(str(caught.value).splitlines()) == 1


def test_a_backend_that_is_not_installed_is_named(bundle: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        UserError, match=r"needs openvino, which is not installed: pip install 'mtaclip_ros\[onboard\]'"
    ):
        load_segmenter(bundle, "openvino")


@pytest.mark.parametrize(("backend", "needs"), [("openvino", "openvino"), ("torch", "safetensors")])
def test_a_backend_that_is_only_half_installed_is_one_line(bundle: Path, monkeypatch, backend: str, needs: str) -> None:
    module = f"mtaclip_core.runtime.{backend}_backend"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr(f"mtaclip_core.runtime.{backend}_backend", raising=False)
    broken = ModuleType(needs)
    broken.__spec__ = ModuleSpec(needs, None)

    def fail(name: str) -> object:
        raise ImportError(f"lib{needs}.so: cannot open shared object file ({name})")

    monkeypatch.setattr(broken, "__getattr__", fail, raising=False)
    monkeypatch.setitem(sys.modules, needs, broken)
    with pytest.raises(UserError, match=rf"{backend} is installed but cannot be loaded \(.*\): pip install") as caught:
        load_segmenter(bundle, backend)
    assert len(str(caught.value).splitlines()) == 1


def test_answers_of_another_shape_are_refused(bundle: Path) -> None:
    class Small(Segmenter):
        backend, precision = "small", "f32"

        def segment(self, frames, channel_order="rgb") -> list[Segmentation]:
            return [Segmentation(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)) for _ in frames]

    with pytest.raises(UserError, match=r"is refused: labels and confidences are \(3, 4\) for images of \(48, 64\)"):
        check(Small(), load_bundle(bundle))


def test_labels_of_another_type_are_refused(tmp_path: Path) -> None:
    wide = make_colour_bundle(tmp_path / "wide", CAMVID, SIZE)
    model = onnx.load(wide / "model.onnx")
    next(port for port in model.graph.output if port.name == "label").type.tensor_type.elem_type = TensorProto.INT64
    next(node for node in model.graph.node if node.output[0] == "label").attribute[0].i = TensorProto.INT64
    replace_file(wide, "model.onnx", model.SerializeToString())
    with pytest.raises(UserError, match="lacks an image, label or confidence of uint8"):
        load_segmenter(wide, "openvino")


def test_a_graph_that_fails_when_it_runs_is_one_line(tmp_path: Path) -> None:
    folder = make_colour_bundle(tmp_path / "fails", CAMVID, SIZE)
    model = onnx.load(folder / "model.onnx")
    node = next(node for node in model.graph.node if node.output[0] == "planes")
    node.output[0] = "turned"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 3, 7, 7], np.int64), "seven"))
    where = list(model.graph.node).index(node) + 1
    model.graph.node.insert(where, onnx.helper.make_node("Reshape", ["turned", "seven"], ["planes"]))
    replace_file(folder, "model.onnx", model.SerializeToString())
    with pytest.raises(UserError, match="backend openvino cannot run the graph of bundle 'fails': ") as caught:
        load_segmenter(folder, "openvino")
    assert len(str(caught.value).splitlines()) == 1


def test_the_gate_refuses_a_graph_that_answers_differently(bundle: Path, tmp_path: Path) -> None:
    tampered = make_colour_bundle(tmp_path / "tampered", CAMVID, SIZE)
    model = onnx.load(tampered / "model.onnx")
    bias = next(i for i in model.graph.initializer if i.name == "bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[3] -= 1000  # no road any more
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "bias"))
    replace_file(tampered, "model.onnx", model.SerializeToString())
    with pytest.raises(UserError, match=r"refused: label agreement \d+\.\d+% \(needs 99\.9%\)") as caught:
        load_segmenter(tampered, "openvino")
    assert len(str(caught.value).splitlines()) == 1
    load_segmenter(tampered, "openvino", verify=False)


def test_the_gate_sees_small_differences_in_the_class_maps(bundle: Path, tmp_path: Path) -> None:
    loaded = load_bundle(bundle)
    found = check(OpenVINOSegmenter(loaded), loaded)
    assert found.label_agreement == 1 and found.class_maps_difference is not None
    assert found.class_maps_difference < 0.001
    other = make_colour_bundle(tmp_path / "other", CAMVID, SIZE)
    reference = load_reference(loaded)
    np.savez(tmp_path / "maps.npz", class_maps=reference.class_maps * np.float16(1.01), step=reference.map_step)
    replace_file(other, "reference/class_maps.npz", (tmp_path / "maps.npz").read_bytes())
    with pytest.raises(UserError, match=r"label agreement 100.* class maps differ by 0.9\d+% \(at most 0.2%\)"):
        load_segmenter(other, "openvino")


def test_a_reference_stays_small_and_still_shows_a_wrong_engine(bundle: Path, tmp_path: Path) -> None:
    """Large class maps are kept on a grid, which meets even and odd rows and columns."""
    shape = (4, 11, 136, 184)
    maps = np.random.default_rng(0).random(shape).astype(np.float16)
    plane = np.zeros((4, 10, 10), np.uint8)
    files = reference_files(Reference(np.zeros((4, 10, 10, 3), np.uint8), plane, plane, maps))
    assert len(files["reference/class_maps.npz"]) < 140_000
    folder = make_colour_bundle(tmp_path / "small", CAMVID, SIZE)
    for name, content in files.items():
        replace_file(folder, name, content)
    stored = load_reference(load_bundle(folder))

    class Engine(Segmenter):
        """Gives the right maps but in one row or column out of two."""

        backend, precision = "engine", "f32"

        def __init__(self, rows: slice, columns: slice, factor: float = 0.98) -> None:
            self.frame, self.wrong, self.factor = -1, (slice(None), rows, columns), factor

        def segment(self, frames, channel_order="rgb") -> list[Segmentation]:
            return [Segmentation(plane[0], plane[0]) for _ in frames]

        def segment_with_maps(self, frame: np.ndarray) -> tuple[Segmentation, np.ndarray]:
            self.frame += 1
            found = maps[self.frame].astype(np.float32)
            found[self.wrong] *= self.factor
            return self.segment([frame])[0], found

    nothing, everything = slice(0), slice(None)
    assert check(Engine(nothing, nothing), load_bundle(folder)).class_maps_difference == 0
    assert stored.map_step > 1 and stored.class_maps.shape[1] == 11
    for first in (0, 1):
        for wrong in ((slice(first, None, 2), everything), (everything, slice(first, None, 2))):
            with pytest.raises(UserError, match=r"class maps differ by [01]\.\d+% \(at most"):
                check(Engine(*wrong), load_bundle(folder))
    with pytest.raises(UserError, match="class maps differ by nan%"):
        check(Engine(everything, everything, np.nan), load_bundle(folder))


def test_class_maps_of_an_older_bundle_hold_every_pixel(bundle: Path, tmp_path: Path) -> None:
    older = make_colour_bundle(tmp_path / "older", CAMVID, SIZE)
    maps = np.stack([colour_maps(image, CAMVID) for image in load_reference(load_bundle(bundle)).images])
    np.savez_compressed(tmp_path / "maps.npz", class_maps=maps.astype(np.float16))
    replace_file(older, "reference/class_maps.npz", (tmp_path / "maps.npz").read_bytes())
    loaded = load_bundle(older)
    assert load_reference(loaded).map_step == 1
    assert (check(OpenVINOSegmenter(loaded), loaded).class_maps_difference or 1) < 0.001


def zipped_array(header: dict[str, object], content: bytes = b"") -> bytes:
    """A .npz whose array says of itself what `header` says."""
    array, archive = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f2", "fortran_order": False, **header})
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("class_maps.npy", array.getvalue() + content)
    return archive.getvalue()


def zipped_text(header: str, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A .npz whose array has a header of any text."""
    archive, text = io.BytesIO(), header.encode() + b"\n"
    with zipfile.ZipFile(archive, "w", compression) as file:
        file.writestr("class_maps.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)
    return archive.getvalue()


def zipped_step(step: float) -> bytes:
    archive = io.BytesIO()
    np.savez(archive, class_maps=np.zeros((4, 11, 2, 2), np.float16), step=np.array(step))
    return archive.getvalue()


def changed(archive: bytes, position: int, bits: int) -> bytes:
    """With some bits of one byte turned; at 6 they are flags, which stand in the list at the end too."""
    content = bytearray(archive)
    content[position] ^= bits
    if position == 6:
        content[archive.index(b"PK\x01\x02") + 8] ^= bits
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("reference/class_maps.npz", zipped_array({"shape": (4, 11, 10**6, 10**6)}), "is not what it holds"),
        ("reference/class_maps.npz", zipped_array({"shape": (4, 11, 2, 2)}, b"12"), "is not what it holds"),
        ("reference/class_maps.npz", zipped_array({"shape": (2,)}, b"1234"), "does not hold class maps"),
        ("reference/class_maps.npz", zipped_array({"shape": (1,), "descr": "|O"}, b"cos\nsystem"), "class maps"),
        ("reference/0_image.png", b"no picture", "not a PNG"),
        ("reference/1_label.png", cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes(), "differ in size"),
        ("reference/0_label.png", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, "not a PNG of at most"),
        ("reference/class_maps.npz", b"PK no archive", "does not hold class maps"),
        ("reference/class_maps.npz", b"", "does not hold class maps"),
        ("reference/class_maps.npz", zipped_text("{" + "(" * 500), "does not hold class maps"),
        ("reference/class_maps.npz", zipped_text("{'shape': (" + "9" * 5000 + ",)}"), "does not hold class maps"),
        ("reference/class_maps.npz", changed(zipped_text("{" * 99), 50, 0xFF), "does not hold class maps"),
        ("reference/class_maps.npz", changed(zipped_text("{" * 99), 6, 1), "does not hold class maps"),
        ("reference/class_maps.npz", zipped_text("{}", zipfile.ZIP_LZMA), "packed in an unusual way"),
        ("reference/class_maps.npz", zipped_step(np.inf), "does not hold class maps"),
        ("reference/2_confidence.png", b"", "not a PNG"),
    ],
)
def test_a_broken_reference_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    broken = make_colour_bundle(tmp_path / "broken", CAMVID, SIZE)
    replace_file(broken, name, content)
    with pytest.raises(UserError, match=message) as caught:
        load_reference(load_bundle(broken))
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500


ONBOARD = """
import sys
sys.modules.update(dict.fromkeys(["torch", "safetensors", "onnx", "onnxscript"]))
import numpy as np
from mtaclip_core.runtime.segmenter import load_segmenter
with load_segmenter(sys.argv[1]) as segmenter:
    print(segmenter.backend, segmenter.segment([np.zeros((50, 70, 3), np.uint8)])[0].label.shape)
"""


def test_onboard_nothing_imports_torch(bundle: Path, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONBOARD, str(bundle)], capture_output=True, text=True, cwd=root, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "openvino (50, 70)"
