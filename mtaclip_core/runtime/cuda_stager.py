"""Batches on their way to a GPU, through its work, and back: pinned memory, three streams, a CUDA graph."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mtaclip_core.runtime.cuda_runtime import CudaError, call


@dataclass(frozen=True)
class Port:
    """One array that goes in or comes out, always of this shape."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class CudaStager:
    """Feeds some work on a GPU with batches of one shape; knows nothing of what the work is.

    A batch takes the path pinned memory -> (upload stream) device -> (compute stream) the work's own buffers -> work
    -> device -> (download stream) pinned memory. There are `slots` places on that path, so the next batch is copied
    while one is computed; the work always sees the same addresses, so that it can be recorded as one CUDA graph and
    replayed by a single call from then on.

    Not thread-safe. Results come in the order of the submissions:

        stager.submit({"image": frames})    # returns at once
        stager.submit({"image": more})      # at most `slots` before a collect
        first = stager.collect()

    Attributes:
        addresses: device addresses of the work's inputs and outputs by name, fixed for the stager's life.
        compute: handle of the stream that the work must be put on.
        graph: whether the work is replayed from a CUDA graph; None before the second batch.
        graph_problem: why it could not be recorded, then the work is put on the stream each time; empty if it could.
    """

    def __init__(
        self,
        cudart: Any,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        *,
        device: int = 0,
        slots: int = 2,
        graph: bool = True,
    ) -> None:
        """
        Args:
            cudart: the CUDA runtime, `cuda_runtime.load_cudart()`.
            inputs, outputs: what the work reads and writes.
            slots: batches that may be under way.
            graph: record the work. It must then put the same kernels on the stream each time and not synchronise.

        Raises:
            CudaError: no such device, or not enough memory on it or on the host; nothing is left allocated.
        """
        self._cudart = cudart
        self._device = device
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._wants_graph = graph
        self.graph: bool | None = None if graph else False
        self.graph_problem = ""
        self.addresses: dict[str, int] = {}
        self._work: Callable[[int], None] | None = None
        self._warm = False
        self._recorded: Any = None
        self._free: list[tuple[str, Any]] = []  # (function that frees, handle), freed from the end
        self._waiting: list[tuple[_Slot, tuple[str, ...]]] = []
        self._next = 0
        try:
            self._use_device()
            self._upload, self._compute, self._download = (
                self._own("cudaStreamDestroy", "cudaStreamCreateWithFlags", cudart.cudaStreamNonBlocking)
                for _ in range(3)
            )
            for port in (*self._inputs, *self._outputs):
                self.addresses[port.name] = self._device_memory(port)
            self._slots = [self._slot() for _ in range(slots)]
        except CudaError:
            self.close()
            raise

    @property
    def compute(self) -> int:
        return int(self._compute)

    @property
    def device_bytes(self) -> int:
        """Device memory that this object holds."""
        return (1 + len(self._slots)) * sum(port.nbytes for port in (*self._inputs, *self._outputs))

    def set_work(self, work: Callable[[int], None]) -> None:
        """Say what to do between the inputs and the outputs: called with the compute stream, puts its kernels on it.

        It is called for the first batch, once more to be recorded, and never again; or for each batch, unrecorded.
        """
        self._work = work

    def submit(self, arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]], fetch: Sequence[str] = ()) -> None:
        """Copy a batch into pinned memory and send it on its way; returns before it is computed.

        Args:
            arrays: every input by name: an array of its shape, or the rows of its first axis, any strides. They may be
                changed as soon as this returns.
            fetch: outputs that `collect` shall bring, all by default.

        Raises:
            ValueError: an array of another shape or type.
            RuntimeError: all slots are under way, or there is no work.
            CudaError: the GPU failed.
        """
        if self._work is None:
            raise RuntimeError("set_work has not been called")
        if len(self._waiting) == len(self._slots):
            raise RuntimeError(f"{len(self._slots)} batches are under way; collect one first")
        names = tuple(fetch) or tuple(port.name for port in self._outputs)
        slot = self._slots[self._next]
        for port in self._inputs:
            _fill(slot.pinned[port.name], arrays[port.name], port)
        self._use_device()
        to_device = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        between = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        to_host = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for port in self._inputs:
            self._copy(slot.device[port.name], slot.pinned[port.name].ctypes.data, port, to_device, self._upload)
        self._then(slot.uploaded, self._upload, self._compute)
        for port in self._inputs:
            self._copy(self.addresses[port.name], slot.device[port.name], port, between, self._compute)
        self._launch()
        wanted = [port for port in self._outputs if port.name in names]
        for port in wanted:
            self._copy(slot.device[port.name], self.addresses[port.name], port, between, self._compute)
        self._then(slot.computed, self._compute, self._download)
        for port in wanted:
            self._copy(slot.pinned[port.name].ctypes.data, slot.device[port.name], port, to_host, self._download)
        call(self._cudart, "cudaEventRecord", slot.done, self._download)
        self._waiting.append((slot, names))
        self._next = (self._next + 1) % len(self._slots)

    def collect(self) -> dict[str, np.ndarray]:
        """Wait for the oldest batch under way; its fetched outputs by name, copies that are the caller's.

        Raises:
            RuntimeError: none is under way.
            CudaError: the GPU failed.
        """
        if not self._waiting:
            raise RuntimeError("no batch is under way")
        self._use_device()
        slot, names = self._waiting.pop(0)
        call(self._cudart, "cudaEventSynchronize", slot.done)
        return {name: slot.pinned[name].copy() for name in names}

    def abandon(self) -> None:
        """Wait for all batches under way and forget them. Never raises: what failed there is of no interest."""
        self._cudart.cudaSetDevice(self._device)
        for stream in [handle for free, handle in self._free if free == "cudaStreamDestroy"]:
            self._cudart.cudaStreamSynchronize(stream)
        self._waiting.clear()

    def close(self) -> None:
        """Wait for the GPU and free everything; a second call does nothing. Never raises: a lost GPU cannot free."""
        if self._free:
            self.abandon()
        while self._free:
            free, handle = self._free.pop()
            getattr(self._cudart, free)(handle)
        self._recorded = self._work = None

    def _launch(self) -> None:
        assert self._work is not None
        if self._recorded is not None:
            call(self._cudart, "cudaGraphLaunch", self._recorded, self._compute)
            return
        if self._warm and self._wants_graph and self.graph is None:
            self._record()
            self._launch()
            return
        # The first run takes memory and chooses kernels, which a recording must not see.
        self._work(self.compute)
        self._warm = True

    def _record(self) -> None:
        assert self._work is not None
        cudart = self._cudart
        # Recording forbids calls that synchronise to this thread alone: other models may run beside it.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            call(cudart, "cudaStreamBeginCapture", self._compute, mode)
            try:
                self._work(self.compute)
            except RuntimeError:
                cudart.cudaStreamEndCapture(self._compute)  # its error says no more than what is raised
                raise
            graph = call(cudart, "cudaStreamEndCapture", self._compute)
            try:
                self._recorded = self._own("cudaGraphExecDestroy", "cudaGraphInstantiate", graph, 0)
            finally:
                cudart.cudaGraphDestroy(graph)
        except RuntimeError as error:
            cudart.cudaGetLastError()  # a refused recording is no fault of the next call
            self.graph_problem = str(error)
        self.graph = self._recorded is not None

    def _slot(self) -> _Slot:
        no_timing = self._cudart.cudaEventDisableTiming
        ports = (*self._inputs, *self._outputs)
        return _Slot(
            pinned={port.name: self._pinned_memory(port) for port in ports},
            device={port.name: self._device_memory(port) for port in ports},
            uploaded=self._own("cudaEventDestroy", "cudaEventCreateWithFlags", no_timing),
            computed=self._own("cudaEventDestroy", "cudaEventCreateWithFlags", no_timing),
            done=self._own("cudaEventDestroy", "cudaEventCreateWithFlags", no_timing),
        )

    def _device_memory(self, port: Port) -> int:
        return int(self._own("cudaFree", "cudaMalloc", port.nbytes))

    def _pinned_memory(self, port: Port) -> np.ndarray:
        address = self._own("cudaFreeHost", "cudaHostAlloc", port.nbytes, self._cudart.cudaHostAllocDefault)
        memory = (ctypes.c_uint8 * port.nbytes).from_address(int(address))
        return np.ctypeslib.as_array(memory).view(port.dtype).reshape(port.shape)

    def _own(self, free: str, make: str, *args: object) -> Any:
        handle = call(self._cudart, make, *args)
        self._free.append((free, handle))
        return handle

    def _then(self, event: Any, first: Any, second: Any) -> None:
        """What is put on stream `second` from now on waits for all that is on `first` now."""
        call(self._cudart, "cudaEventRecord", event, first)
        call(self._cudart, "cudaStreamWaitEvent", second, event, 0)

    def _copy(self, target: int, source: int, port: Port, kind: Any, stream: Any) -> None:
        call(self._cudart, "cudaMemcpyAsync", target, source, port.nbytes, kind, stream)

    def _use_device(self) -> None:
        call(self._cudart, "cudaSetDevice", self._device)  # CUDA keeps it per thread


@dataclass(frozen=True)
class _Slot:
    pinned: dict[str, np.ndarray]
    device: dict[str, int]
    uploaded: Any
    computed: Any
    done: Any


def _fill(target: np.ndarray, given: np.ndarray | Sequence[np.ndarray], port: Port) -> None:
    rows = (given,) if isinstance(given, np.ndarray) else given
    places = (target,) if isinstance(given, np.ndarray) else target
    if len(rows) != len(places) or any(
        r.shape != p.shape or r.dtype != p.dtype for r, p in zip(rows, places, strict=True)
    ):
        found = ", ".join(f"{row.dtype} {row.shape}" for row in rows)
        raise ValueError(f"input '{port.name}' must be {port.dtype} {port.shape}, got {found}")
    for place, row in zip(places, rows, strict=True):
        np.copyto(place, row)
