"""Batches through a GPU: order, overlap, recording, faults; on a double of CUDA's rules, and on a real GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from double_cudart import DoubleCudart, cudaError_t

from mtaclip_core.cli import UserError
from mtaclip_core.runtime import cuda_runtime
from mtaclip_core.runtime.cuda_runtime import CudaError, find_gpu, load_cudart
from mtaclip_core.runtime.cuda_stager import CudaStager, Port

FRAME, RESULT = Port("frame", (2, 3, 4), np.dtype(np.uint8)), Port("result", (2, 3, 4), np.dtype(np.uint8))


def plus_one(cudart: DoubleCudart, stager: CudaStager) -> Callable[[int], None]:
    """Work that adds one to every byte; as a kernel, it happens when its stream gets there."""
    size = FRAME.nbytes

    def kernel() -> None:
        source = cudart.device_memory(stager.addresses["frame"], size)
        cudart.device_memory(stager.addresses["result"], size)[:] = bytes((b + 1) % 256 for b in source)

    def work(stream: int) -> None:
        (error,) = cudart.enqueue(stream, kernel)
        if error:
            raise RuntimeError(error.name)

    return work


@pytest.fixture()
def cudart() -> DoubleCudart:
    return DoubleCudart()


def make(cudart: DoubleCudart, **options: Any) -> CudaStager:
    stager = CudaStager(cudart, [FRAME], [RESULT], **options)
    stager.set_work(plus_one(cudart, stager))
    return stager


def batches(count: int) -> list[np.ndarray]:
    return [np.full(FRAME.shape, 7 * i, np.uint8) for i in range(count)]


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_every_batch_gets_its_own_answer_while_others_are_under_way(cudart, graph: bool, slots: int) -> None:
    stager = make(cudart, graph=graph, slots=slots)
    found = []
    for i, batch in enumerate(batches(8)):
        if i >= slots:
            found.append(stager.collect()["result"])
        stager.submit({"frame": batch})
        batch[:] = 255  # the caller's memory is his own again at once
    found += [stager.collect()["result"] for _ in range(slots)]
    for i, result in enumerate(found):
        np.testing.assert_array_equal(result, 7 * i + 1)
    assert stager.graph is graph
    assert cudart.launches == (7 if graph else 0)  # all but the first, which warms up


def test_rows_with_any_strides_are_taken(cudart) -> None:
    stager = make(cudart)
    wide = np.arange(48, dtype=np.uint8).reshape(2, 3, 8)
    stager.submit({"frame": [wide[0, :, ::2], wide[1, :, 1::2]]})
    np.testing.assert_array_equal(stager.collect()["result"], np.stack([wide[0, :, ::2], wide[1, :, 1::2]]) + 1)


def test_results_are_the_callers(cudart) -> None:
    stager = make(cudart, slots=1)
    stager.submit({"frame": batches(2)[1]})
    first = stager.collect()["result"]
    stager.submit({"frame": batches(2)[0]})
    stager.collect()
    assert (first == 8).all()


def test_everything_is_freed(cudart) -> None:
    stager = make(cudart)
    for batch in batches(2):
        stager.submit({"frame": batch})
    stager.close()  # with batches under way
    stager.close()
    assert cudart.live == {}


def test_a_work_that_cannot_be_recorded_still_runs(cudart) -> None:
    stager = CudaStager(cudart, [FRAME], [RESULT])
    kernel = plus_one(cudart, stager)

    def synchronises(stream: int) -> None:
        kernel(stream)
        (error,) = cudart.cudaStreamSynchronize(stream)
        if error:
            raise RuntimeError(f"work failed: {error.name}")

    stager.set_work(synchronises)
    for i, batch in enumerate(batches(3)):
        stager.submit({"frame": batch})
        assert (stager.collect()["result"] == 7 * i + 1).all()
    assert stager.graph is False
    assert "StreamCaptureUnsupported" in stager.graph_problem
    stager.close()
    assert cudart.live == {}


def test_a_recording_that_cuda_refuses_is_done_without(cudart) -> None:
    stager = make(cudart)
    cudart.fail_in["cudaGraphInstantiate"] = cudaError_t.cudaErrorMemoryAllocation
    for i, batch in enumerate(batches(3)):
        stager.submit({"frame": batch})
        assert (stager.collect()["result"] == 7 * i + 1).all()
    assert stager.graph is False and "MemoryAllocation" in stager.graph_problem


def test_too_little_memory_leaves_nothing_behind() -> None:
    cudart = DoubleCudart(memory=5 * FRAME.nbytes)
    with pytest.raises(CudaError, match=r"cudaMalloc: .*MemoryAllocation"):
        CudaStager(cudart, [FRAME], [RESULT])
    assert cudart.live == {}


def test_a_fault_on_the_gpu_is_told_and_sticks(cudart) -> None:
    stager = CudaStager(cudart, [FRAME], [RESULT], graph=False)

    def broken() -> None:
        raise RuntimeError("illegal address")

    stager.set_work(lambda stream: cudart.enqueue(stream, broken) and None)
    stager.submit({"frame": batches(1)[0]})
    with pytest.raises(CudaError, match="LaunchFailure"):
        stager.collect()
    with pytest.raises(CudaError, match="LaunchFailure"):
        stager.submit({"frame": batches(1)[0]})
    stager.close()
    assert cudart.live == {}


def test_what_is_under_way_can_be_forgotten(cudart) -> None:
    stager = make(cudart)
    stager.submit({"frame": batches(1)[0]})
    stager.abandon()
    stager.submit({"frame": batches(2)[1]})
    assert (stager.collect()["result"] == 8).all()


def test_misuse_is_told(cudart) -> None:
    stager = make(cudart)
    with pytest.raises(ValueError, match=r"input 'frame' must be uint8 \(2, 3, 4\), got uint8 \(2, 3, 5\)"):
        stager.submit({"frame": np.zeros((2, 3, 5), np.uint8)})
    with pytest.raises(RuntimeError, match="no batch is under way"):
        stager.collect()
    for batch in batches(2):
        stager.submit({"frame": batch})
    with pytest.raises(RuntimeError, match="2 batches are under way"):
        stager.submit({"frame": batches(1)[0]})


def test_the_device_is_chosen_in_every_thread_that_submits() -> None:
    cudart = DoubleCudart(devices=2)
    stager = make(cudart, device=1)
    cudart.device = 0  # as it is in a new thread
    stager.submit({"frame": batches(1)[0]})
    assert cudart.device == 1


def test_a_gpu_says_what_engines_depend_on() -> None:
    gpu = find_gpu(DoubleCudart(devices=2), 1)
    assert (gpu.index, gpu.name, gpu.compute_capability) == (1, "Double GPU", "8.7")
    assert gpu.driver.startswith("CUDA 12.6")


@pytest.mark.parametrize(("devices", "index"), [(1, 1), (1, -1)])
def test_a_gpu_that_is_not_there_is_one_line(devices: int, index: int) -> None:
    with pytest.raises(UserError, match=rf"there is no GPU {index}: CUDA finds 1"):
        find_gpu(DoubleCudart(devices), index)


def test_no_gpu_is_one_line() -> None:
    with pytest.raises(UserError, match="needs an NVIDIA GPU with its driver, and CUDA finds none"):
        find_gpu(DoubleCudart(devices=0))


def test_a_machine_without_driver_is_one_line() -> None:
    """cuda-python 12 raises where the driver's library is missing, 13 returns a code."""

    def missing() -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    with pytest.raises(UserError, match=r"CUDA finds none .*libcuda\.so\.1"):
        find_gpu(SimpleNamespace(cudaGetDeviceCount=missing))


def test_either_module_of_cuda_python_is_found(monkeypatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"cuda-python, which is not installed: pip install 'mtaclip_ros\[gpu\]'"):
        load_cudart()
    older = ModuleType("cuda.cudart")
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.cudart", older)
    assert load_cudart() is older


def test_the_double_has_no_function_that_cuda_python_lacks() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    for name in [name for name in vars(DoubleCudart) if name.startswith("cuda")]:
        assert hasattr(runtime, name), name
    for ours, theirs in (
        (cudaError_t, runtime.cudaError_t),
        (DoubleCudart.cudaMemcpyKind, runtime.cudaMemcpyKind),
        (DoubleCudart.cudaStreamCaptureMode, runtime.cudaStreamCaptureMode),
    ):
        for member in ours:
            assert int(getattr(theirs, member.name)) == member.value
    for name in ("cudaStreamNonBlocking", "cudaEventDisableTiming", "cudaHostAllocDefault"):
        assert int(getattr(runtime, name)) == getattr(DoubleCudart, name)


def test_on_a_gpu() -> None:
    """Real memory, streams and recording: the work is a copy on the device."""
    try:
        cudart = load_cudart()
        find_gpu(cudart)
    except UserError as error:
        pytest.skip(str(error))
    with_graph = CudaStager(cudart, [FRAME], [RESULT])

    def copy(stream: int) -> None:
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        source, target = with_graph.addresses["frame"], with_graph.addresses["result"]
        cuda_runtime.call(cudart, "cudaMemcpyAsync", target, source, FRAME.nbytes, kind, stream)

    with_graph.set_work(copy)
    for i, batch in enumerate(batches(6)):
        if i >= 2:
            assert (with_graph.collect()["result"] == 7 * (i - 2)).all()
        with_graph.submit({"frame": batch})
    assert with_graph.graph is True, with_graph.graph_problem
    with_graph.close()
