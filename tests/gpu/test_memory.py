"""GPU memory: all of it comes back, and where it is short a batch is computed in halves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.gpu import agreement
from tests.gpu.conftest import BATCH, Open
from worker.engine import Outputs
from worker.engine.device import Device
from worker.machine.gpu import Gpu

#: Bytes that libraries may keep of what they loaded in passing.
SLACK = 16 << 20


@pytest.fixture
def held(gpu: Gpu, cuda: Any) -> Iterator[Device]:
    """A context that stays, so that what others took of the memory can be seen."""
    device = Device(gpu)
    yield device
    device.close()


def free(cuda: Any) -> int:
    """Bytes that CUDA says are free."""
    return int(cuda.mem_get_info()[0])


def test_engines_that_are_opened_and_closed_again_and_again_leave_nothing(
    held: Device, cuda: Any, opened: Open, films: NDArray[np.uint8]
) -> None:
    def once() -> None:
        engine = opened()
        engine.submit(films[:BATCH]).result()
        engine.close()

    once()
    once()
    before = free(cuda)
    for _ in range(20):
        once()
    assert before - free(cuda) <= SLACK


def test_an_engine_that_fails_to_open_leaves_nothing(
    held: Device, cuda: Any, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().close()
    before = free(cuda)
    made = Device.stream

    streams: list[Device] = []

    def third_fails(device: Device) -> Any:
        streams.append(device)
        if len(streams) == 3:
            raise KeyboardInterrupt
        return made(device)

    monkeypatch.setattr(Device, "stream", third_fails)
    for _ in range(5):
        streams.clear()
        with pytest.raises(KeyboardInterrupt):
            opened()
    assert before - free(cuda) <= SLACK


def test_batches_do_not_take_more_and_more(
    held: Device, cuda: Any, opened: Open, films: NDArray[np.uint8]
) -> None:
    engine = opened()
    before = free(cuda)
    for number in range(500):
        start = number % 16 * BATCH
        engine.submit(films[start : start + BATCH], 1 + number % BATCH).result()
    assert before - free(cuda) <= SLACK


def test_where_memory_is_short_a_batch_is_computed_in_halves(
    held: Device,
    gpu: Gpu,
    cuda: Any,
    opened: Open,
    films: NDArray[np.uint8],
    on_cpu: dict[str, Outputs],
) -> None:
    if gpu.integrated:
        pytest.skip("where the GPU shares the machine's memory, taking it all ends processes")
    taken = {}
    for batch in (len(films), len(films) // 2, len(films) // 4):  # built while there is room
        before = free(cuda)
        engine = opened(batch=batch, lanes=1)
        taken[batch] = before - free(cuda)
        engine.close()
    room = (taken[len(films)] + taken[len(films) // 2]) // 2
    if taken[len(films)] - taken[len(films) // 2] < 16 << 20:
        pytest.skip(f"batches hardly differ in what they take: {taken}")
    hog = cuda.mem_alloc(free(cuda) - room)
    try:
        engine = opened(batch=len(films), lanes=1)
        assert engine.batch == len(films)
        assert engine.options["max_batch"] < len(films)
        for wanted in (len(films), len(films) // 2 + 1, 1):
            ours = engine.submit(films, wanted).result()
            theirs = agreement.rows(on_cpu["fp32"], 0, wanted)
            assert agreement.delta(ours, theirs) <= agreement.DELTA["fp32"]
    finally:
        hog.free()


def test_where_memory_is_short_there_are_fewer_lanes_before_the_batch_is_halved(
    held: Device, gpu: Gpu, cuda: Any, opened: Open, films: NDArray[np.uint8]
) -> None:
    if gpu.integrated:
        pytest.skip("where the GPU shares the machine's memory, taking it all ends processes")
    taken = {}
    for lanes in (2, 8):
        before = free(cuda)
        opened(batch=len(films), lanes=lanes).close()
        engine = opened(batch=len(films), lanes=lanes)
        taken[lanes] = before - free(cuda)
        engine.close()
    hog = cuda.mem_alloc(free(cuda) - (taken[2] + taken[8]) // 2)
    try:
        engine = opened(batch=len(films), lanes=8)
        assert 1 <= engine.depth < 8
        assert engine.options["max_batch"] == len(films)
        assert engine.options["lanes"] == engine.depth
        engine.submit(films).result()
    finally:
        hog.free()
