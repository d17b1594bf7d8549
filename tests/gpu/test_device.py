"""PyCUDA on a GPU without any engine: context, pinned memory, streams and release.

The kernel is ours, in PTX, which the driver compiles itself.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from worker.engine.device import ALIGNMENT, Buffer, Device, Stream
from worker.errors import OutOfMemory
from worker.machine.gpu import Gpu, find

#: answers[i] = 3 × films[i] + 1
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry triple(.param .u64 films, .param .u64 answers, .param .u32 count)
{
    .reg .pred %done;
    .reg .b16 %gray;
    .reg .b32 %block, %width, %at, %n;
    .reg .b64 %from, %to, %offset;
    .reg .f32 %value;
    ld.param.u64 %from, [films];
    ld.param.u64 %to, [answers];
    ld.param.u32 %n, [count];
    mov.u32 %block, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mov.u32 %at, %tid.x;
    mad.lo.u32 %at, %block, %width, %at;
    setp.ge.u32 %done, %at, %n;
    @%done bra END;
    cvta.to.global.u64 %from, %from;
    cvta.to.global.u64 %to, %to;
    cvt.u64.u32 %offset, %at;
    add.u64 %from, %from, %offset;
    ld.global.u8 %gray, [%from];
    cvt.rn.f32.u16 %value, %gray;
    fma.rn.f32 %value, %value, 0f40400000, 0f3F800000;
    shl.b64 %offset, %offset, 2;
    add.u64 %to, %to, %offset;
    st.global.f32 [%to], %value;
END:
    ret;
}
\0"""

#: Pixels of one piece, and of the last one of a batch.
PIXELS, TAIL = 1_000_003, 12_345


@pytest.fixture
def device(gpu: Gpu, cuda: Any) -> Iterator[Device]:
    """A context that is given back."""
    made = Device(gpu)
    yield made
    made.close()


class Lane:
    """Films in, answers out, as an engine's lane has them."""

    def __init__(self, cuda: Any, device: Device, pieces: int) -> None:
        self._kernel = cuda.module_from_buffer(PTX).get_function("triple")
        self._stream: Stream = device.stream()
        self._films: Buffer = device.buffer(pieces, PIXELS)
        self._answers: Buffer = device.buffer(pieces, 4 * PIXELS)

    def start(self, pieces: list[np.ndarray[Any, np.dtype[np.uint8]]]) -> None:
        """Enqueue the pieces, one after the other."""
        for number, pixels in enumerate(pieces):
            self._films.view(number, np.uint8, pixels.shape)[:] = pixels
            self._films.to_gpu(number, pixels.size, self._stream)
            self._kernel(
                np.uintp(self._films.address(number)),
                np.uintp(self._answers.address(number)),
                np.uint32(pixels.size),
                block=(256, 1, 1),
                grid=(-(-pixels.size // 256), 1),
                stream=self._stream.of,
            )
            self._answers.to_host(number, 4 * pixels.size, self._stream)
        self._stream.mark()

    def finish(self, sizes: list[int]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """The answers, copied."""
        self._stream.wait()
        return [
            self._answers.view(number, np.float32, (size,)).copy()
            for number, size in enumerate(sizes)
        ]

    def close(self) -> None:
        """Free everything."""
        self._kernel = None
        self._stream.close()
        self._films.close()
        self._answers.close()


def test_pieces_go_through_several_lanes_at_once_and_come_back_right(
    cuda: Any, device: Device
) -> None:
    rng = np.random.default_rng(0)
    sizes = [PIXELS, PIXELS, TAIL]
    lanes = [Lane(cuda, device, len(sizes)) for _ in range(3)]
    try:
        for _ in range(20):
            batches = [[rng.integers(0, 256, n, np.uint8) for n in sizes] for _ in lanes]
            for lane, batch in zip(lanes, batches, strict=True):
                lane.start(batch)
            for lane, batch in zip(lanes, batches, strict=True):
                for found, pixels in zip(lane.finish(sizes), batch, strict=True):
                    assert np.array_equal(found, 3 * pixels.astype(np.float32) + 1)
    finally:
        for lane in lanes:
            lane.close()


def test_the_memory_is_aligned_as_tensorrt_wants_it(device: Device) -> None:
    buffer = device.buffer(3, 8)
    assert [buffer.address(piece) % ALIGNMENT for piece in range(3)] == [0, 0, 0]
    buffer.close()


def test_what_was_taken_comes_back(cuda: Any, device: Device) -> None:
    Lane(cuda, device, 2).close()
    before = cuda.mem_get_info()[0]
    for _ in range(50):
        Lane(cuda, device, 2).close()
    assert before - cuda.mem_get_info()[0] <= 4 << 20


def test_too_much_memory_is_out_of_memory_and_does_no_harm(cuda: Any, device: Device) -> None:
    if device.gpu.integrated:
        pytest.skip("where the GPU shares the machine's memory, taking it all ends processes")
    with pytest.raises(OutOfMemory), device.speaking():
        cuda.mem_alloc(2 * device.gpu.memory_bytes)
    with pytest.raises(OutOfMemory, match="MiB are needed"):
        device.require(2 * device.gpu.memory_bytes)
    lane = Lane(cuda, device, 1)
    lane.start([np.full(TAIL, 7, np.uint8)])
    assert set(lane.finish([TAIL])[0]) == {22.0}
    lane.close()


def test_contexts_that_are_opened_and_closed_again_and_again_work_each_time(
    cuda: Any, gpu: Gpu
) -> None:
    for _ in range(10):
        device = Device(gpu)
        lane = Lane(cuda, device, 1)
        lane.start([np.full(TAIL, 1, np.uint8)])
        assert set(lane.finish([TAIL])[0]) == {4.0}
        lane.close()
        device.close()
        device.close()


def test_a_thread_with_a_context_ends_without_complaint(cuda: Any, gpu: Gpu) -> None:
    right: list[bool] = []

    def work() -> None:
        device = Device(gpu)
        lane = Lane(cuda, device, 1)
        lane.start([np.full(TAIL, 2, np.uint8)])
        right.append(set(lane.finish([TAIL])[0]) == {7.0})
        lane.close()
        device.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        gc.collect()
    assert right == [True] * 3


def test_the_driver_and_pycuda_name_the_same_gpus(cuda: Any, gpu: Gpu) -> None:
    cuda.init()
    found = find()
    assert len(found) == cuda.Device.count()
    for one in found:
        theirs = cuda.Device(one.index)
        assert one.name == theirs.name()
        assert one.compute_capability == theirs.compute_capability()
        assert one.memory_bytes == theirs.total_memory()
        assert one.integrated == bool(theirs.get_attribute(cuda.device_attribute.INTEGRATED))
