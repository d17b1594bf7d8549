"""A GPU in one thread, through PyCUDA: its context, and the memory and streams that live in it.

The context is the GPU's primary one, which CUDA's own libraries use too. It belongs to the thread
that opened it: PyCUDA frees nothing in another one, and ends the process where a thread ends with
its context still there. So whoever opens a Device closes it in the same thread, whatever happens,
and what was made in it before that; or, where the GPU is lost, lets that thread stay for as long as
the process (`worker.scoring.engine_thread`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine import lost
from worker.errors import EngineError, OutOfMemory
from worker.machine import gpu as gpus
from worker.machine.gpu import Gpu

#: Addresses that TensorRT is given are multiples of this (IExecutionContext::setTensorAddress).
ALIGNMENT = 256

#: Bytes of the machine's memory that stay free on a board whose GPU shares it: the kernel would end
#: processes before CUDA would refuse.
SPARE = 256 << 20

#: CU_STREAM_NON_BLOCKING, which PyCUDA has no name for: the stream waits for nobody else's work in
#: the same context.
_NON_BLOCKING = 1


def pycuda() -> Any:
    """PyCUDA's driver module. Raises EngineError where it cannot be loaded."""
    try:
        import pycuda.driver
    except (ImportError, OSError) as error:
        raise EngineError(
            f"PyCUDA cannot be loaded ({' '.join(str(error).split())}); pip install pycuda, with "
            "nvcc in the PATH and for the Python that runs this"
        ) from error
    return pycuda.driver


class Device:
    """One GPU's context, current in this thread from now to `close`."""

    def __init__(self, gpu: Gpu) -> None:
        """Raises EngineError where the GPU cannot be had, and OutOfMemory."""
        self.gpu = gpu
        self._cuda = cuda = pycuda()
        self._process = os.getpid()
        try:
            cuda.init()
            context = cuda.Device(gpu.index).retain_primary_context()
            context.push()
        except cuda.MemoryError as error:
            raise OutOfMemory(f"{gpu.device} has no memory left for a context: {error}") from error
        except cuda.Error as error:
            raise EngineError(f"{gpu.device} cannot be used: {error}") from error
        self._context = context

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Whatever speaks to the GPU does so in here: CUDA's errors become ours.

        Raises OutOfMemory, GpuLost where it is, EngineError of one call that failed, and in a child
        that was forked, where no context works.
        """
        if os.getpid() != self._process:
            raise EngineError(f"{self.gpu.device} was opened before this process was forked")
        try:
            yield
        except self._cuda.MemoryError as error:
            raise OutOfMemory(f"{self.gpu.device}: {error}") from error
        except self._cuda.Error as error:
            raise lost.failure(self.gpu, f"{self.gpu.device}: {error}") from error

    def free_bytes(self) -> int:
        """Bytes that can still be taken."""
        with self.speaking():
            free, _ = self._cuda.mem_get_info()
            return gpus.free_bytes(self.gpu, free)

    def require(self, needed: int) -> None:
        """Raise OutOfMemory unless so many bytes can be taken and the machine lives on."""
        free = self.free_bytes() - (SPARE if self.gpu.integrated else 0)
        if needed > free:
            raise OutOfMemory(
                f"{self.gpu.device}: {needed >> 20} MiB are needed, and {max(free, 0) >> 20} MiB "
                "can be had"
            )

    def buffer(self, pieces: int, piece_bytes: int) -> Buffer:
        """Memory for so many pieces of a batch. Raises OutOfMemory."""
        with self.speaking():
            return Buffer(self._cuda, pieces, piece_bytes, shared=self.gpu.integrated)

    def stream(self) -> Stream:
        """A stream of its own."""
        with self.speaking():
            return Stream(self._cuda)

    def synchronize(self) -> None:
        """Wait for everything that was begun in this context."""
        with self.speaking():
            self._cuda.Context.synchronize()

    def close(self) -> None:
        """Give the context back. What was made in it is closed before."""
        if self._context is not None and os.getpid() == self._process:
            context, self._context = self._context, None
            # PyCUDA gives a primary context back without taking it off the thread's stack, where
            # the next library that looks would find a context that is gone.
            gpus.leave_context()
            context.detach()


class Buffer:
    """Pinned memory of the host, and where the GPU finds it: there, or in a copy of one piece.

    Where the GPU shares the host's memory there is nothing to copy. Elsewhere the pieces take turns
    in the GPU's memory, one after the other in the order of a stream.
    """

    def __init__(self, cuda: Any, pieces: int, piece_bytes: int, *, shared: bool) -> None:
        self._cuda = cuda
        stride = -(-piece_bytes // ALIGNMENT) * ALIGNMENT
        self._stride = stride if shared else 0
        flags = cuda.host_alloc_flags.DEVICEMAP if shared else 0
        # `uint8 [pieces, stride]`; what is beyond a piece's bytes aligns the next one.
        self._host: Any = cuda.pagelocked_empty((pieces, stride), np.uint8, mem_flags=flags)
        self._pinned = self._host.base
        self._copy: Any = None
        try:
            if shared:
                self._address = int(self._pinned.get_device_pointer())
            else:
                self._copy = cuda.mem_alloc(stride)
                self._address = int(self._copy)
        except BaseException:
            self.close()
            raise

    def address(self, piece: int) -> int:
        """Where the GPU finds a piece."""
        return self._address + piece * self._stride

    def view(self, piece: int, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """The beginning of a piece on the host as an array, not a copy."""
        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        found: NDArray[Any] = self._host[piece, :size].view(dtype).reshape(shape)
        return found

    def to_gpu(self, piece: int, nbytes: int, stream: Stream) -> None:
        """Enqueue the copy of a piece's first bytes to where the GPU finds it."""
        if self._copy is not None:
            self._cuda.memcpy_htod_async(self._copy, self._host[piece, :nbytes], stream.of)

    def to_host(self, piece: int, nbytes: int, stream: Stream) -> None:
        """Enqueue the copy of a piece's first bytes back."""
        if self._copy is not None:
            self._cuda.memcpy_dtoh_async(self._host[piece, :nbytes], self._copy, stream.of)

    def close(self) -> None:
        """Free it. No work that uses it may be pending, and no view may be used again."""
        if self._host is not None:
            self._host = None
            self._pinned.free()
            if self._copy is not None:
                self._copy.free()


class Stream:
    """An order of work on the GPU, and a mark in it that can be waited for."""

    def __init__(self, cuda: Any) -> None:
        #: PyCUDA's stream.
        self.of: Any = cuda.Stream(_NON_BLOCKING)
        flags = cuda.event_flags
        # Who waits sleeps: its core decodes films meanwhile.
        self._mark: Any = cuda.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)

    @property
    def handle(self) -> int:
        """The stream as CUDA's libraries want it, a cudaStream_t."""
        return int(self.of.handle)

    def mark(self) -> None:
        """Mark the end of what has been enqueued so far."""
        self._mark.record(self.of)

    def wait(self) -> None:
        """Wait until the mark is reached."""
        self._mark.synchronize()

    def close(self) -> None:
        """Give it back."""
        self._mark = self.of = None
