"""A double of cuda-python's runtime module: not CUDA, but its rules.

Device memory is host memory under made-up addresses. Streams are queues: nothing that is put on one runs before
somebody waits for it, in an order that the events allow but that is otherwise the least convenient one, so a missing
wait shows. As in CUDA, every function returns an error code first; a wrong handle, address or size, a call that is not
allowed while a stream is being recorded, and too much memory are such errors, and an error of the work sticks.
"""

# ruff: noqa: N801, N802, N815 - the names of CUDA
from __future__ import annotations

import ctypes
import enum
import itertools
import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Operation = Callable[[], None]


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


_E = cudaError_t
_OK = (_E.cudaSuccess,)


class Stream:
    def __init__(self) -> None:
        self.queue: deque[tuple[str, Any]] = deque()  # ("run", operation), ("record", event, turn), ("wait", ...)
        self.recording: list[tuple[str, Any]] | None = None
        self.invalidated = False


class Event:
    def __init__(self) -> None:
        self.recorded = self.reached = 0


class DoubleCudart:
    """Pass an object of this where the module is expected.

    Attributes:
        live: handles that were made and not yet freed, with what they are; a leak is what is left at the end.
        launches: how often a graph was launched.
        fail_in: name of a function -> the error code of its next call.
    """

    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(self, devices: int = 1, memory: int = 1 << 32) -> None:
        self.devices = devices
        self.memory = memory
        self.live: dict[int, tuple[str, Any]] = {}
        self.launches = 0
        self.fail_in: dict[str, cudaError_t] = {}
        self._thread = threading.local()
        self.properties = SimpleNamespace(name=b"Double GPU", major=8, minor=7, totalGlobalMem=memory)
        self.driver = 12060
        self._handles = itertools.count(0x7000_0000_0000, 1 << 32)
        self._stuck: cudaError_t | None = None

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("cuda") and callable(found) and not isinstance(found, type) and name in self.fail_in:
            return lambda *_: (self.fail_in.pop(name), None)
        return found

    # devices

    @property
    def device(self) -> int:
        """The one that this thread has chosen, the first where it has not."""
        return getattr(self._thread, "device", 0)

    @device.setter
    def device(self, device: int) -> None:
        self._thread.device = device

    def cudaGetErrorString(self, error: cudaError_t) -> Any:
        return *_OK, f"double: {_E(error).name.removeprefix('cudaError')}".encode()

    def cudaGetLastError(self) -> Any:
        return (self._stuck or _E.cudaSuccess,)

    def cudaGetDeviceCount(self) -> Any:
        return (*_OK, self.devices) if self.devices else (_E.cudaErrorNoDevice, 0)

    def cudaSetDevice(self, device: int) -> Any:
        if not 0 <= device < self.devices:
            return (_E.cudaErrorInvalidDevice,)
        self.device = device
        return (self._stuck or _E.cudaSuccess,)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        return *_OK, self.properties

    def cudaDriverGetVersion(self) -> Any:
        return *_OK, self.driver

    # memory

    def cudaMalloc(self, size: int) -> Any:
        return self._allocate("device", size)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        memory = (ctypes.c_uint8 * size)(*b"\xee" * size)
        address = ctypes.addressof(memory)
        self.live[address] = ("pinned", memory)
        return *_OK, address

    def cudaFree(self, address: int) -> Any:
        return self._release("device", address)

    def cudaFreeHost(self, address: int) -> Any:
        return self._release("pinned", address)

    def cudaMemcpyAsync(self, target: int, source: int, count: int, kind: cudaMemcpyKind, stream: int) -> Any:
        places = {
            cudaMemcpyKind.cudaMemcpyHostToDevice: ("device", "pinned"),
            cudaMemcpyKind.cudaMemcpyDeviceToHost: ("pinned", "device"),
            cudaMemcpyKind.cudaMemcpyDeviceToDevice: ("device", "device"),
        }[kind]
        # CUDA takes pageable host memory too, but then waits: not what anybody here wants.
        memories = [self._memory(a, count, place) for a, place in zip((target, source), places, strict=True)]
        if None in memories:
            return (_E.cudaErrorInvalidValue,)
        to, from_ = memories

        def copy() -> None:
            to[:] = from_[:]

        return self.enqueue(stream, copy)

    # streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        return self._new("stream", Stream())

    def cudaStreamDestroy(self, stream: int) -> Any:
        return self._release("stream", stream)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        found = self._get("stream", stream)
        if found is None:
            return (_E.cudaErrorInvalidResourceHandle,)
        if self._recording_somewhere():
            return (_E.cudaErrorStreamCaptureUnsupported,)
        self._progress(found, None)
        return (self._stuck or _E.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        return self._new("event", Event())

    def cudaEventDestroy(self, event: int) -> Any:
        return self._release("event", event)

    def cudaEventRecord(self, event: int, stream: int) -> Any:
        found, on = self._get("event", event), self._get("stream", stream)
        if found is None or on is None:
            return (_E.cudaErrorInvalidResourceHandle,)
        found.recorded += 1
        on.queue.append(("record", (found, found.recorded)))
        return _OK

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        found, on = self._get("event", event), self._get("stream", stream)
        if found is None or on is None:
            return (_E.cudaErrorInvalidResourceHandle,)
        on.queue.append(("wait", (found, found.recorded)))
        return _OK

    def cudaEventSynchronize(self, event: int) -> Any:
        found = self._get("event", event)
        if found is None:
            return (_E.cudaErrorInvalidResourceHandle,)
        self._reach(found, found.recorded)
        return (self._stuck or _E.cudaSuccess,)

    # recorded graphs

    def cudaStreamBeginCapture(self, stream: int, mode: cudaStreamCaptureMode) -> Any:
        found = self._get("stream", stream)
        if found is None or found.recording is not None:
            return (_E.cudaErrorInvalidResourceHandle,)
        found.recording, found.invalidated = [], False
        return _OK

    def cudaStreamEndCapture(self, stream: int) -> Any:
        found = self._get("stream", stream)
        if found is None or found.recording is None:
            return _E.cudaErrorInvalidResourceHandle, None
        recorded, found.recording = found.recording, None
        if found.invalidated:
            return _E.cudaErrorStreamCaptureInvalidated, None
        return self._new("graph", recorded)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        found = self._get("graph", graph)
        return (_E.cudaErrorInvalidResourceHandle, None) if found is None else self._new("executable", list(found))

    def cudaGraphDestroy(self, graph: int) -> Any:
        return self._release("graph", graph)

    def cudaGraphExecDestroy(self, executable: int) -> Any:
        return self._release("executable", executable)

    def cudaGraphLaunch(self, executable: int, stream: int) -> Any:
        found, on = self._get("executable", executable), self._get("stream", stream)
        if found is None or on is None:
            return (_E.cudaErrorInvalidResourceHandle,)
        self.launches += 1
        on.queue.extend(found)
        return _OK

    # what the doubles of libraries use

    def enqueue(self, stream: int, operation: Operation) -> Any:
        """Put something on a stream, or into what is recorded from it."""
        on = self._get("stream", stream)
        if on is None:
            return (_E.cudaErrorInvalidResourceHandle,)
        (on.queue if on.recording is None else on.recording).append(("run", operation))
        return (self._stuck or _E.cudaSuccess,)

    def device_memory(self, address: int, size: int) -> Any:
        """The bytes at a device address, writeable; None where that is not allocated."""
        return self._memory(address, size, "device")

    def _allocate(self, kind: str, size: int) -> Any:
        used = sum(len(memory) for what, memory in self.live.values() if what == "device")
        if used + size > self.memory:
            return _E.cudaErrorMemoryAllocation, None
        return self._new(kind, (ctypes.c_uint8 * size)(*b"\xdd" * size))

    def _memory(self, address: int, size: int, kind: str) -> Any:
        for start, (what, memory) in self.live.items():
            if what == kind and start <= address and address + size <= start + len(memory):
                return memoryview(memory).cast("B")[address - start : address - start + size]
        return None

    def _new(self, kind: str, thing: Any) -> Any:
        handle = next(self._handles)
        self.live[handle] = (kind, thing)
        return *_OK, handle

    def _get(self, kind: str, handle: int) -> Any:
        what, thing = self.live.get(int(handle), ("", None))
        return thing if what == kind else None

    def _release(self, kind: str, handle: int) -> Any:
        if self._get(kind, handle) is None:
            return (_E.cudaErrorInvalidValue,)
        del self.live[int(handle)]
        return _OK

    def _recording_somewhere(self) -> bool:
        found = False
        for kind, thing in self.live.values():
            if kind == "stream" and thing.recording is not None:
                thing.invalidated = found = True
        return found

    def _reach(self, event: Event, turn: int) -> None:
        if event.reached >= turn:
            return
        for kind, stream in list(self.live.values()):
            if kind == "stream" and ("record", (event, turn)) in stream.queue:
                self._progress(stream, (event, turn))
                return

    def _progress(self, stream: Stream, until: tuple[Event, int] | None) -> None:
        while stream.queue:
            what, thing = stream.queue.popleft()
            if what == "run":
                try:
                    if self._stuck is None:
                        thing()
                except RuntimeError:
                    self._stuck = _E.cudaErrorLaunchFailure
            elif what == "wait":
                self._reach(*thing)
            else:
                thing[0].reached = max(thing[0].reached, thing[1])
                if thing == until:
                    return
