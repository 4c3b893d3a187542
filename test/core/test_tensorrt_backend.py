"""The TensorRT backend from build to answer, on doubles of TensorRT and CUDA that keep their rules."""

from __future__ import annotations

import hashlib
import importlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bundles import make_colour_bundle, paint
from double_cudart import DoubleCudart
from double_tensorrt import forbidden, make_tensorrt

from mtaclip_core import export
from mtaclip_core.bundle import Bundle, load_bundle
from mtaclip_core.cli import UserError
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.deploy.engine_graph import engine_onnx, engine_precision
from mtaclip_core.labels import CAMVID
from mtaclip_core.runtime import segmenter as segmenters
from mtaclip_core.runtime.cuda_runtime import find_gpu, load_cudart
from mtaclip_core.runtime.engine_settings import EngineSettings
from mtaclip_core.runtime.segmenter import load_segmenter, load_tensorrt

BACKEND = tuple(f"mtaclip_core.runtime.{name}" for name in ("tensorrt_engine", "engine_choice", "tensorrt_backend"))
SIZE = (64, 96)


class Machine:
    """A machine with doubles of a GPU and of TensorRT; every method gives what a user would see."""

    def __init__(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = cache
        self.patch = monkeypatch
        monkeypatch.setenv("MTACLIP_ENGINE_CACHE", str(cache))
        self.cudart = DoubleCudart()
        self.trt: Any = None
        self.install()

    def install(self, version: str = "10.14.1.48") -> None:
        self.trt = make_tensorrt(self.cudart, version)
        self.patch.setitem(sys.modules, "tensorrt", self.trt)
        self.patch.setitem(sys.modules, "cuda.bindings.runtime", self.cudart)
        for name in BACKEND:
            self.patch.delitem(sys.modules, name, raising=False)
        for name in BACKEND:
            importlib.import_module(name)

    def load(self, bundle: Path, precision: str = "f32", backend: str = "tensorrt", **settings: str) -> Any:
        with self.patch.context() as patch:
            for name, value in settings.items():
                patch.setenv(f"MTACLIP_{name.upper()}", value)
            return load_segmenter(bundle, backend, precision=precision)

    @property
    def builds(self) -> int:
        return self.trt.knobs.builds

    @property
    def engines(self) -> list[Path]:
        return sorted(self.cache.glob("*.engine"))

    @property
    def left_over(self) -> list[str]:
        return sorted(p.name for p in self.cache.iterdir() if p.suffix not in (".engine", ".json", ".lock"))


@pytest.fixture()
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    yield Machine(tmp_path / "engines", monkeypatch)
    for name in BACKEND:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def colour(tmp_path_factory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", CAMVID, SIZE)


@pytest.fixture()
def lines(capsys) -> Any:
    return lambda: capsys.readouterr().err.splitlines()


def same(first: Any, second: Any) -> float:
    return float(np.mean([np.mean(a.label == b.label) for a, b in zip(first, second, strict=True)]))


def edit_key(engine: Path, **fields: object) -> None:
    entry = json.loads(Path(f"{engine}.json").read_text())
    entry["key"] |= fields
    Path(f"{engine}.json").write_text(json.dumps(entry))


# answers


@pytest.mark.parametrize("mode", ["cuda_graph", "eager"])
def test_answers_are_openvinos_for_all_sizes_batches_and_both_channel_orders(
    machine, colour, monkeypatch, mode
) -> None:
    frames = [paint(CAMVID, size, seed=i)[0] for i, size in enumerate([SIZE, (90, 120), SIZE, SIZE, (48, 70)] * 2)]
    monkeypatch.setenv("MTACLIP_ENGINE_SHAPES", "2x64x96 1x200x200")
    with load_segmenter(colour, "openvino") as reference, load_segmenter(colour, "tensorrt", mode=mode) as model:
        expected = reference.segment(frames)
        for _ in range(3):  # warmed up, recorded, replayed
            found = model.segment(frames)
            assert same(found, expected) > 0.999
            for a, b in zip(found, expected, strict=True):
                assert np.abs(a.confidence.astype(int) - b.confidence).max() <= 1
        turned = model.segment([frame[:, :, ::-1] for frame in frames], "bgr")
        assert same(turned, found) == 1.0
        assert (machine.cudart.launches > 0) is (mode == "cuda_graph")
        assert model.graph_problem == ""
    assert machine.builds == 2
    assert machine.cudart.live == {}


def test_many_sizes_do_not_pile_up_on_the_gpu(machine, colour) -> None:
    with machine.load(colour) as model:
        held = []
        for width in range(40, 120, 8):
            image, label = paint(CAMVID, (60, width))
            assert (model.segment([image])[0].label == label).mean() > 0.8
            held.append(model.gpu_memory_bytes)
        assert max(held[4:]) < 2 * max(held[:4])
    assert machine.cudart.live == {}


def test_a_fault_of_the_gpu_is_an_exception_and_a_new_model_runs(machine, colour) -> None:
    model = machine.load(colour)
    machine.cudart.fail_in["cudaEventSynchronize"] = type(machine.cudart.cudaSetDevice(0)[0])(719)
    image = paint(CAMVID, SIZE)[0]
    with pytest.raises(RuntimeError, match="LaunchFailure"):
        model.segment([image])
    model.close()
    with machine.load(colour) as again:
        again.segment([image])
    assert machine.cudart.live == {}


def test_half_precision_of_a_trained_model_passes_the_gate(machine) -> None:
    with machine.load(Path("street-tiny"), "fp16", engine_shapes="1x96x128") as model:
        assert (model.backend, model.precision) == ("tensorrt", "fp16")
    assert machine.builds == 1
    assert machine.trt.knobs.cleared == ["TF32"]


# cache


def test_an_engine_is_built_once(machine, colour, lines) -> None:
    with machine.load(colour, engine_shapes="1x64x96") as first:
        key = first.engine_key
    told = lines()
    assert any("building an engine of 'colour'" in line for line in told)
    assert any("gives the reference answers: labels agree on 100.0" in line for line in told)
    with machine.load(colour) as second:  # its shape is known from the cache
        assert second.engine_key == key
    assert machine.builds == 1
    assert lines() == []
    assert [path.name for path in machine.engines] == ["colour.f32.1x64x96.Double-GPU.engine"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.cudart, "driver", 12080), "driver 'CUDA 12.6.*' where 'CUDA 12.8.*' is needed"),
        (lambda m: setattr(m.cudart.properties, "minor", 9), "compute capability '8.7' where '8.9' is needed"),
        (lambda m: m.install("11.4.0.106"), "tensorrt '10.14.1.48' where '11.4.0.106' is needed"),
        (lambda m: m.patch.setenv("MTACLIP_ENGINE_WORKSPACE_MB", "64"), "workspace mb '0' where '64' is needed"),
    ],
    ids=["driver", "gpu", "tensorrt", "workspace"],
)
def test_an_engine_for_something_else_is_built_again_and_the_difference_is_told(
    machine, colour, lines, change, said
) -> None:
    machine.load(colour, engine_shapes="1x64x96").close()
    change(machine)
    before = machine.builds
    with pytest.raises(UserError, match=f"was built for {said}.*; delete it, allow a rebuild"):
        machine.load(colour, engine_mismatch="refuse")
    with pytest.raises(UserError, match=f"was built for {said}"):
        machine.load(colour, engine_build="never")
    assert machine.builds == before
    lines()
    machine.load(colour).close()
    assert machine.builds == before + 1
    assert any("is built again: it was built for" in line for line in lines())


def test_an_engine_of_another_graph_is_built_again(machine, colour, tmp_path, lines) -> None:
    machine.load(colour, engine_shapes="1x64x96").close()
    other = make_colour_bundle(tmp_path / "colour", CAMVID, (96, 64))
    lines()
    machine.load(other, engine_shapes="1x64x96").close()
    assert any("model hash '" in line and "is needed" in line for line in lines())
    assert machine.builds == 2


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda e: e.write_bytes(e.read_bytes()[:-9]), "truncated, or another file"),
        (lambda e: e.write_bytes(b""), "it has 0 bytes"),
        (lambda e: e.write_bytes(b"x" * e.stat().st_size), "its content is not what was written"),
        (lambda e: Path(f"{e}.json").unlink(), "is missing or not readable"),
        (lambda e: Path(f"{e}.json").write_text("{"), "is missing or not readable"),
        (lambda e: Path(f"{e}.json").write_text("[" * 9000), "is missing or not readable"),
        (lambda e: Path(f"{e}.json").write_text('{"format": 1, "key": {"model": 1}}'), "is missing or not readable"),
        (lambda e: edit_key(e, shapes="any"), "is missing or not readable"),
        (lambda e: edit_key(e, driver=7), "is missing or not readable"),
    ],
    ids=["truncated", "empty", "foreign", "no-json", "cut-json", "deep-json", "other-json", "no-shapes", "no-text"],
)
def test_a_damaged_engine_never_reaches_tensorrt(machine, colour, lines, damage, said) -> None:
    machine.load(colour, engine_shapes="1x64x96").close()
    (engine,) = machine.engines
    damage(engine)
    with pytest.raises(UserError, match=f"engine '.*' cannot be used: .*{said}"):
        machine.load(colour, engine_shapes="1x64x96", engine_build="never")
    lines()
    machine.load(colour, engine_shapes="1x64x96").close()
    assert any(said in line for line in lines())
    assert machine.builds == 2
    damage(engine)
    with machine.load(colour, backend="auto", engine_build="never") as model:
        assert model.backend == "openvino"


def test_a_plan_that_tensorrt_refuses_is_one_line(machine, colour) -> None:
    machine.load(colour, engine_shapes="1x64x96").close()
    (engine,) = machine.engines
    engine.write_bytes(b"not an engine")
    entry = json.loads(Path(f"{engine}.json").read_text())
    entry |= {"sha256": hashlib.sha256(b"not an engine").hexdigest(), "bytes": 13}
    Path(f"{engine}.json").write_text(json.dumps(entry))
    with pytest.raises(UserError, match=r"does not take this engine: .*MAGIC_TAG.*export engine colour .*--again") as e:
        machine.load(colour, engine_shapes="1x64x96")
    assert len(str(e.value).splitlines()) == 1
    export.main(["engine", str(colour), "--precision", "f32", "--shape", "1x64x96", "--again"])
    machine.load(colour, engine_shapes="1x64x96").close()


def test_an_int8_engine_of_other_frames_is_built_again(machine, colour, lines) -> None:
    settings = EngineSettings(machine.cache, shapes=((1, *SIZE),))
    frames = [paint(CAMVID, SIZE, seed)[0] for seed in range(2)]
    with pytest.raises(UserError, match="no product that could read int8; take precision fp16"):
        load_tensorrt(load_bundle(colour), "int8", settings, calibration=frames)
    # What stands for int8 here: the frames decide about the engine, not about its graph.
    machine.patch.setattr(sys.modules[BACKEND[2]], "engine_onnx", lambda bundle, *_: engine_onnx(bundle, "fp16"))

    def load(calibration: list[np.ndarray] | None) -> int:
        load_tensorrt(load_bundle(colour), "int8", settings, calibration=calibration).close()
        return machine.builds

    assert load(frames) == load(frames) == load(None) == 1  # whoever has no frames takes what is there
    lines()
    assert load(frames[:1]) == 2
    assert any("is built again: it was built for calibration '" in line for line in lines())


def test_an_engine_that_fails_the_reference_is_refused_set_aside_and_built_anew(machine, colour) -> None:
    machine.trt.knobs.wrong_answers = True
    with pytest.raises(UserError, match=r"refused: label agreement \d+\.\d+% \(needs 99.9%\).*the engine lies at '.*'"):
        machine.load(colour, engine_shapes="1x64x96")
    assert machine.engines == []
    assert machine.left_over == ["colour.f32.1x64x96.Double-GPU.refused"]
    assert machine.cudart.live == {}
    machine.trt.knobs.wrong_answers = False
    machine.load(colour, engine_shapes="1x64x96").close()
    assert machine.builds == 2


def test_two_that_want_the_same_engine_build_it_once(machine, colour, lines) -> None:
    machine.trt.knobs.seconds_per_step = 0.2
    machine.patch.setenv("MTACLIP_ENGINE_SHAPES", "1x64x96")
    models: list[Any] = []
    threads = [threading.Thread(target=lambda: models.append(load_segmenter(colour, "tensorrt"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(models) == 2 and machine.builds == 1
    assert any("waiting for another process that builds" in line for line in lines())
    for model in models:
        model.close()


def test_a_cache_that_cannot_be_written_is_one_line(machine, colour, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="set MTACLIP_ENGINE_CACHE to a folder that can"):
        machine.load(colour, engine_cache=str(tmp_path / "file" / "engines"))


# building


def test_a_build_tells_how_far_it_is(machine, colour, lines) -> None:
    machine.patch.setattr(sys.modules[BACKEND[0]], "PROGRESS_SECONDS", 0.05)
    machine.trt.knobs.seconds_per_step = 0.2
    machine.load(colour, engine_shapes="1x64x96").close()
    assert any("building the engine: 0 s, Building Engine 1/3" in line for line in lines())


def test_ctrl_c_ends_a_build_and_leaves_nothing(machine, colour) -> None:
    machine.trt.knobs.seconds_per_step = 0.2
    machine.trt.knobs.steps = 300
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.7, signal.pthread_kill, (main, signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        machine.load(colour, engine_shapes="1x64x96")
    assert time.monotonic() - began < 30  # the build would take 60 s
    assert machine.engines == [] and machine.left_over == []
    assert not any(thread.name == "tensorrt-build" for thread in threading.enumerate())
    machine.trt.knobs.steps = 1
    machine.load(colour, engine_shapes="1x64x96").close()  # the lock is free


def test_too_little_workspace_is_one_line(machine, colour) -> None:
    machine.trt.knobs.workspace = 100 << 20
    with pytest.raises(UserError, match=r"could not build .*limited to 64 MiB: allow more\): Could not find any impl"):
        machine.load(colour, engine_workspace_mb="64")
    assert machine.engines == []


def test_frames_larger_than_all_engines_get_one_where_that_is_allowed(machine, colour, lines) -> None:
    large, label = paint(CAMVID, (300, 400))
    with machine.load(colour, engine_shapes="1x64x96") as model:
        lines()
        found = model.segment([large, large[:64, :96]])
        assert (found[0].label == label).mean() > 0.8
        assert any("no engine takes frames of 300x400" in line for line in lines())
    assert machine.builds == 2
    with machine.load(colour, engine_shapes="1x64x96", engine_build="never") as model:
        with pytest.raises(UserError, match=r"there is no engine .*1x500x500.* none may be built"):
            model.segment([np.zeros((500, 500, 3), np.uint8)])
        model.segment([large[:64, :96]])  # the model goes on


def test_export_engine_builds_and_names_the_files(machine, colour, capsys) -> None:
    arguments = ["engine", str(colour), "--precision", "f32", "--shape", "1x64x96", "2x90x120", "--workspace", "512"]
    assert not export.main(arguments)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and all(".engine: " in line and "labels agree on 100.0" in line for line in printed)
    assert machine.builds == 2
    export.main(arguments)
    assert machine.builds == 2
    export.main([*arguments, "--again"])
    assert machine.builds == 4


def test_int8_needs_calibration_frames(machine, colour) -> None:
    with pytest.raises(SystemExit):
        export.main(["engine", str(colour), "--precision", "int8"])
    with pytest.raises(UserError, match="int8 needs calibration frames"):
        machine.load(colour, "int8")
    assert machine.engines == []


@pytest.mark.parametrize("shape", ["1024x2048", "0x64x64", "1x4x64", "65x64x64", "1x64x99999"])
def test_a_wrong_shape_is_one_line(machine, colour, shape, capsys) -> None:
    with pytest.raises(SystemExit):
        export.main(["engine", str(colour), "--shape", shape])
    assert shape in capsys.readouterr().err


# which backend


def test_auto_takes_tensorrt_where_there_are_a_gpu_and_an_engine_or_a_way_to_build_one(
    machine, colour, monkeypatch
) -> None:
    def chosen(precision: str = "f32", **settings: str) -> str:
        with machine.load(colour, precision, backend="auto", **settings) as model:
            return model.backend

    never = {"engine_build": "never"}
    assert chosen(**never) == "openvino"
    machine.cudart.devices = 0
    assert chosen() == "openvino"
    machine.cudart.devices = 1
    assert machine.builds == 0
    assert chosen(engine_shapes="1x64x96") == "tensorrt"
    assert machine.builds == 1
    assert chosen(**never) == "tensorrt"
    assert chosen("bf16") == "openvino"
    assert chosen(engine_shapes="1x80x80", **never) == "openvino"
    machine.cudart.driver = 12080
    assert chosen(**never) == "openvino"
    monkeypatch.setitem(sys.modules, "onnx", None)  # building needs it
    assert chosen() == "openvino"
    assert machine.builds == 1


def test_auto_with_an_old_tensorrt_takes_openvino(machine, colour) -> None:
    machine.install("8.6.1")
    with machine.load(colour, backend="auto") as model:
        assert model.backend == "openvino"


def test_no_gpu_is_one_line(machine, colour) -> None:
    machine.cudart.devices = 0
    with pytest.raises(UserError, match="backend tensorrt needs an NVIDIA GPU with its driver, and CUDA finds none"):
        machine.load(colour)


def test_a_device_that_is_not_there_is_one_line(machine, colour) -> None:
    with pytest.raises(UserError, match="there is no GPU 3: CUDA finds 1"):
        machine.load(colour, cuda_device="3")


def test_all_threads_work_on_the_chosen_gpu(machine, colour) -> None:
    machine.cudart.devices = 2
    with machine.load(colour, engine_shapes="1x64x96", cuda_device="1") as model:
        images = [paint(CAMVID, size)[0] for size in (SIZE, (48, 70))]
        threads = [threading.Thread(target=lambda image=image: model.segment([image])) for image in images]
        for thread in threads:
            thread.start()
            thread.join(60)
    assert machine.builds == 1 and machine.trt.knobs.devices == {1}


def test_what_is_not_installed_is_one_line(machine, colour, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    with pytest.raises(UserError, match="needs cuda-python, which is not installed"):
        machine.load(colour)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UserError, match=r"needs tensorrt, which is not installed: pip install 'mtaclip_ros\[gpu\]'"):
        machine.load(colour)


def test_a_tensorrt_without_its_libraries_is_one_line(machine, colour, monkeypatch) -> None:
    for name in BACKEND:
        monkeypatch.delitem(sys.modules, name)
    broken = ModuleType("tensorrt")
    broken.__spec__ = machine.trt.__spec__
    monkeypatch.setitem(sys.modules, "tensorrt", broken)

    def fail(name: str) -> Any:
        raise ImportError(f"libnvinfer.so.10: cannot open shared object file ({name})")

    monkeypatch.setattr(broken, "__getattr__", fail, raising=False)
    with pytest.raises(UserError, match=r"TensorRT is installed but cannot be loaded .*libnvinfer\.so\.10"):
        machine.load(colour)
    with machine.load(colour, backend="auto") as model:
        assert model.backend == "openvino"


def test_an_old_tensorrt_is_one_line(machine, colour) -> None:
    machine.install("8.6.1")
    with pytest.raises(UserError, match=r"TensorRT 8.6.1 is too old; backend tensorrt needs 10.3"):
        machine.load(colour)


def test_tensorrt_runs_no_mode_or_precision_that_it_has_not(machine, colour) -> None:
    with pytest.raises(UserError, match="backend tensorrt has no mode 'latency'; expected one of cuda_graph, eager"):
        load_segmenter(colour, "tensorrt", mode="latency")
    with pytest.raises(UserError, match="backend tensorrt has no precision 'bf16'"):
        machine.load(colour, "bf16")


def test_export_checks_no_engine_by_itself(machine) -> None:
    assert "tensorrt" not in segmenters.installed_backends()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("engine_build", "maybe", "expected one of auto, never"),
        ("engine_mismatch", "ignore", "expected one of rebuild, refuse"),
        ("cuda_device", "first", "is not a whole number"),
        ("engine_workspace_mb", "0", "is not a whole number from 1 on"),
        ("engine_workspace_mb", "\u00b2", "is not a whole number from 1 on"),
        ("engine_workspace_mb", "9" * 30, "is not a whole number from 1 on"),
        ("engine_shapes", "1x\u00b2x64", "is not a shape"),
        ("engine_shapes", "1x2", "is not a shape"),
    ],
)
def test_a_wrong_setting_is_one_line(machine, colour, name, value, said) -> None:
    with pytest.raises(UserError, match=said):
        machine.load(colour, **{name: value})


# the graph


@pytest.fixture(scope="module")
def street() -> Bundle:
    return load_bundle("street-tiny")


@pytest.mark.parametrize("precision", ["f32", "fp16"])
def test_the_graph_of_an_engine_keeps_to_tensorrts_rules(street, precision) -> None:
    """The bundle's own graph turns integers into uint8, which TensorRT does not."""
    assert forbidden(engine_onnx(street, precision)) == []
    assert any("uint8 is only converted" in line for line in forbidden(street.onnx_path.read_bytes()))


def test_a_graph_that_carries_half_precision_is_not_made_exact_again(street) -> None:
    half = Bundle(**{**vars(street), "precision": "fp16"})
    assert engine_precision(half, "f32") == engine_precision(half, "fp16") == "fp16"
    with pytest.raises(UserError, match="no precision 'int8' for a bundle in fp16"):
        engine_precision(half, "int8")


def test_building_without_onnx_is_one_line(street, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("mtaclip_core.deploy.precision", "mtaclip_core.deploy.onnx_graph"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("mtaclip_core.deploy.precision", raising=False)
    with pytest.raises(UserError, match="building an engine needs the package onnx: pip install onnx"):
        engine_onnx(street, "f32")


def test_the_json_says_what_an_engine_was_built_from(machine, colour) -> None:
    machine.load(colour, engine_shapes="2x64x96").close()
    entry = json.loads(Path(f"{machine.engines[0]}.json").read_text())
    assert entry["key"]["shapes"] == "1x32x32x3 2x64x96x3 2x64x96x3"
    assert entry["key"]["gpu"] == "Double GPU"
    assert entry["bytes"] == machine.engines[0].stat().st_size


def test_on_a_gpu_with_tensorrt(tmp_path, monkeypatch) -> None:
    """The real thing: an engine is built, meets the reference, and gives OpenVINO's labels within half precision."""
    pytest.importorskip("tensorrt")
    try:
        find_gpu(load_cudart())
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("MTACLIP_ENGINE_CACHE", str(tmp_path))
    monkeypatch.setenv("MTACLIP_ENGINE_SHAPES", "2x360x480")
    frames = [StreetDrive((360, 480), 7).frame(i).image for i in range(3)]
    with load_segmenter("street-tiny", "openvino") as reference:
        expected = reference.segment(frames)
    for precision, least in (("f32", 0.999), ("fp16", 0.99)):
        with load_segmenter("street-tiny", "tensorrt", precision=precision) as model:
            for _ in range(3):
                assert same(model.segment(frames), expected) >= least
            turned = model.segment([frame[:, :, ::-1] for frame in frames], "bgr")
            assert same(turned, expected) >= least
            assert model.graph_problem == ""  # type: ignore[attr-defined]
