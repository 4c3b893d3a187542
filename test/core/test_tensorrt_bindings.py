"""Our code against the real Python bindings of TensorRT and CUDA: every name, enum and signature that it uses is there.

The bindings load over libraries that hold nothing but the names of the entry points, which is enough to read their API.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from double_cudart import DoubleCudart
from double_tensorrt import make_tensorrt
from helpers_package import ROOT, clean_environment

RUNTIME = ROOT / "mtaclip_core" / "runtime"
ENGINE = RUNTIME / "tensorrt_engine.py"
VERSIONS = ("10.3.0", "11.4.0.106")  # of JetPack 6, and the newest
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRY_POINTS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getPluginRegistry", "getBuilderPluginRegistry", "initLibNvInferPlugins", "getInferLibVersion", "getLogger"),
)


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request, tmp_path_factory) -> dict[str, str]:
    """Environment of a Python that can import tensorrt_bindings."""
    folder = Path(sys.prefix) / "tensorrt-bindings" / request.param
    if not folder.is_dir():
        pytest.skip(f"no TensorRT {request.param} bindings in {folder}; `make test` installs them on x86-64")
    if shutil.which("gcc") is None:
        pytest.skip("no gcc, which makes the libraries that the bindings load over")
    libraries = tmp_path_factory.mktemp(f"libraries-{request.param}")
    major = request.param.partition(".")[0]
    source = libraries / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    for name in LIBRARIES:
        file = f"lib{name}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", "-o", str(libraries / file), f"-Wl,-soname,{file}", str(source)]
        subprocess.run(command, check=True)
    return clean_environment(LD_LIBRARY_PATH=str(libraries), PYTHONPATH=str(folder))


@pytest.fixture(scope="module")
def stubs(bindings, tmp_path_factory) -> Path:
    """A folder that holds the type stubs of these bindings as package `tensorrt`."""
    script = Path(__file__).parent / "tensorrt_stubs.py"
    done = subprocess.run([sys.executable, str(script)], env=bindings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path_factory.mktemp("stubs")
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.pyi").write_text(done.stdout)
    return folder


def type_errors(file: Path, stubs: Path) -> list[str]:
    """What mypy says of a file, everything but TensorRT being unknown to it."""
    stub = stubs / "tensorrt" / "__init__.pyi"
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=skip", "--check-untyped-defs"]
    command += ["--cache-dir", str(stubs / "cache"), str(stub), str(file)]
    environment = {**os.environ, "MYPYPATH": str(stubs)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if Path(line.split(":")[0]).name == file.name and "error" in line]


def used_of(module: str, file: Path) -> set[str]:
    """Dotted names below `module` that a file uses: `trt.BuilderFlag.TF32` -> "BuilderFlag.TF32"."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith(f"{module}."):
                found.add(text.removeprefix(f"{module}."))
    return found


MISSING = """
import functools, sys, tensorrt_bindings
for name in sys.argv[1:]:
    try:
        functools.reduce(getattr, name.split("."), tensorrt_bindings)
    except AttributeError:
        print(name)
"""


def missing(names: set[str], environment: dict[str, str]) -> set[str]:
    command = [sys.executable, "-c", MISSING, *sorted(names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_every_name_of_tensorrt_is_there(bindings) -> None:
    names = used_of("trt", ENGINE)
    assert {"BuilderFlag.TF32", "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "IProgressMonitor"} <= names
    assert missing(names, bindings) == set()
    assert missing({"Builder.no_such_thing"}, bindings) == {"Builder.no_such_thing"}


def test_only_one_module_uses_tensorrt() -> None:
    users = {
        file.name
        for folder in ("mtaclip_core", "mtaclip_ros")
        for file in (ROOT / folder).rglob("*.py")
        if "import tensorrt as" in file.read_text(encoding="utf-8")
    }
    assert users == {ENGINE.name}


def test_types_agree_with_the_signatures(stubs, tmp_path) -> None:
    assert type_errors(ENGINE, stubs) == []
    wrong = tmp_path / "wrong.py"
    text = ENGINE.read_text(encoding="utf-8")
    text = text.replace("parser.parse(onnx_bytes)", "parser.parse(5)").replace("infer_shapes()", "infer_shape()")
    wrong.write_text(text.replace("set_tensor_address(name, address)", "set_tensor_address(name)"))
    assert len(type_errors(wrong, stubs)) == 3


def test_constructors_fail_as_the_double_does(bindings) -> None:
    code = "import tensorrt_bindings as t\ntry: t.Builder(t.Logger())\nexcept TypeError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], env=bindings, capture_output=True, text=True, check=False)
    assert "nullptr" in done.stdout
    with pytest.raises(TypeError, match="nullptr"):
        make_tensorrt(DoubleCudart(devices=0)).Runtime(None)


def test_the_double_has_no_name_that_tensorrt_lacks(bindings) -> None:
    double = make_tensorrt(DoubleCudart(), "11.4" if "11.4" in bindings["PYTHONPATH"] else "10.3")
    names = set()
    for name, thing in vars(double).items():
        if isinstance(thing, type):
            public = [member for member in vars(thing) if not member.startswith("_")]
            inner = [
                m for m in public if callable(getattr(thing, m)) or isinstance(getattr(thing, m), (type, property))
            ]
            members = list(getattr(thing, "__members__", {}))
            names |= {f"{name}.{member}" for member in {*inner, *members}} | {name}
    names -= {"ICudaEngine.port"}
    assert len(names) > 40
    assert missing(names, bindings) == set()


PROPERTIES = ("name", "major", "minor", "totalGlobalMem")
SIGNATURES = """
import functools, json, sys
import cuda.bindings.runtime as runtime
found = {}
for name in sys.argv[1:]:
    try:
        thing = functools.reduce(getattr, name.split("."), runtime)
    except AttributeError:
        continue
    found[name] = (getattr(thing, "__doc__", "") or "").partition("\\n")[0]
print(json.dumps([runtime.__file__, found]))
"""


@pytest.fixture(scope="module", params=["installed", "12.9.10"])
def cuda(request) -> Path | None:
    """Where the package lies: None for the one that is installed here; the other is of the CUDA 12 of JetPack 6."""
    if request.param == "installed":
        pytest.importorskip("cuda.bindings.runtime")
        return None
    folder = Path(sys.prefix) / "cuda-bindings" / request.param
    if not folder.is_dir():
        pytest.skip(f"no CUDA bindings in {folder}; `make test` installs them on x86-64")
    return folder


def functions_of_cuda() -> set[str]:
    files = [RUNTIME / name for name in ("cuda_runtime.py", "cuda_stager.py", "tensorrt_backend.py")]
    return {name for file in files for name, _ in calls_of_cuda(file)}


REPLAY = """
import json
import numpy as np
import cuda.bindings.runtime as real
from double_cudart import DoubleCudart, cudaError_t
from test_cuda_stager import FRAME, RESULT, plus_one
from mtaclip_core.runtime.cuda_runtime import CudaError, call, find_gpu
from mtaclip_core.runtime.cuda_stager import CudaStager

assert int(real.cudaGetDeviceCount()[0]) != 0, "a GPU would take made-up addresses seriously"
HANDLES = {
    "cudaStreamCreateWithFlags": real.cudaStream_t,
    "cudaEventCreateWithFlags": real.cudaEvent_t,
    "cudaStreamEndCapture": real.cudaGraph_t,
    "cudaGraphInstantiate": real.cudaGraphExec_t,
}
called = set()

class Both:
    def __init__(self):
        self.double = DoubleCudart()
    def __getattr__(self, name):
        theirs = getattr(real, name)
        if isinstance(theirs, type) or not callable(theirs):
            return theirs
        def function(*args):
            answer, result = theirs(*args), getattr(self.double, name)(*args)
            assert isinstance(answer[0], real.cudaError_t) and len(answer) == len(result), name
            called.add(name)
            error, *rest = result
            if name in HANDLES and int(error) == 0:
                rest = [HANDLES[name](int(rest[0]))]
            return real.cudaError_t(int(error)), *rest
        return function

both = Both()
assert find_gpu(both).name == "Double GPU"
for fails in (None, "cudaGraphInstantiate"):
    stager = CudaStager(both, [FRAME], [RESULT])
    stager.set_work(plus_one(both.double, stager))
    if fails:
        both.double.fail_in[fails] = cudaError_t.cudaErrorMemoryAllocation
    for i in range(4):
        stager.submit({"frame": np.full(FRAME.shape, i, np.uint8)})
        assert (stager.collect()["result"] == i + 1).all()
    assert stager.graph is (fails is None), stager.graph_problem
    stager.close()
assert both.double.live == {}
try:
    call(both, "cudaSetDevice", 7)
except CudaError:
    print(json.dumps([real.__file__, sorted(called)]))
"""


def test_cuda_takes_the_arguments_that_the_stager_really_gives(cuda) -> None:
    """The real functions look at the types of their arguments before they find that there is no driver."""
    runtime: Any = pytest.importorskip("cuda.bindings.runtime")
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU, where the stager is tested by itself")
    paths = [str(path) for path in (cuda, Path(__file__).parent, ROOT) if path]
    environment = clean_environment(PYTHONPATH=os.pathsep.join(paths))
    done = subprocess.run([sys.executable, "-c", REPLAY], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where, called = json.loads(done.stdout)
    assert cuda is None or where.startswith(str(cuda))
    assert functions_of_cuda() <= set(called)


def test_every_function_of_cuda_is_there_and_takes_our_arguments(cuda) -> None:
    files = [RUNTIME / name for name in ("cuda_runtime.py", "cuda_stager.py", "tensorrt_backend.py")]
    calls = {call for file in files for call in calls_of_cuda(file)}
    used = {name for file in files for name in used_of("cudart", file) | used_of("self._cudart", file)}
    names = used | {name for name, _ in calls} | {f"cudaDeviceProp.{n}" for n in PROPERTIES}
    assert len(calls) > 15
    environment = clean_environment(**({"PYTHONPATH": str(cuda)} if cuda else {}))
    command = [sys.executable, "-c", SIGNATURES, *sorted(names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where, signatures = json.loads(done.stdout)
    assert cuda is None or where.startswith(str(cuda))
    assert {name for name in names if name not in signatures} == set()
    for name, count in calls:
        text = signatures[name]
        inside = text[text.index("(") + 1 : text.rindex(")")]
        assert len([part for part in inside.split(",") if part.strip()]) == count, text


def calls_of_cuda(file: Path) -> list[tuple[str, int]]:
    """(function, number of arguments) of every call in a file, through our helpers or not."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        texts = [arg.value if isinstance(arg, ast.Constant) else None for arg in node.args]
        function = ast.unparse(node.func)
        if function == "call" and isinstance(texts[1], str):
            found.append((texts[1], len(node.args) - 2))
        elif function == "self._own":
            found += [(str(texts[0]), 1), (str(texts[1]), len(node.args) - 2)]
        elif function.rpartition(".")[0] in ("cudart", "self._cudart"):
            found.append((function.rpartition(".")[2], len(node.args)))
    return found


def test_cuda_functions_return_as_the_double_does() -> None:
    """An error code first, whatever else follows; on a machine without a driver too."""
    runtime: Any = pytest.importorskip("cuda.bindings.runtime")
    error, *_ = runtime.cudaGetDeviceCount()
    assert isinstance(error, runtime.cudaError_t)
    code, text = runtime.cudaGetErrorString(runtime.cudaError_t(2))
    assert int(code) == 0 and text == b"out of memory"
    parameters = inspect.signature(DoubleCudart.cudaMemcpyAsync).parameters
    assert len(parameters) - 1 == 5
