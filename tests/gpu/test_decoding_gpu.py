"""Decoding on a GPU: nvJPEG's pixels are within bounds, and its decoder serves beside others."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.paths import SHARED
from tests.worker.decoding.test_gpu_child import gpu_process, jpegs, serving, write
from tests.worker.decoding.test_pool import SIDE, given, members, pixels, place, through
from trainer.film import gpu, rules
from worker.decoding import gpu_trial
from worker.decoding.pool import Decoders, OnGpu

pytestmark = pytest.mark.gpu

#: Whether it is worth having is a question of the card and the processor, and not of these tests.
ANYHOW = OnGpu(device="cuda", at_least=0.0)

ORIGINALS = SHARED / "data" / "originals"


@pytest.fixture(scope="module")
def torch() -> Any:
    """Torch where it has the GPU and torchvision has nvJPEG."""
    found = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    if not found.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return found


def test_it_is_offered_and_says_how_quick_it_is(torch: Any) -> None:
    assert "films/s on cuda" in gpu_trial.offered("cuda", 0.0)


def test_pixels_are_within_the_bounds_for_every_rule(torch: Any) -> None:
    films = list(jpegs(40).values())
    if ORIGINALS.is_dir():
        films += [file.read_bytes() for file in sorted(ORIGINALS.glob("*/*"))[::4]]
    components = [taken[1] for data in films if (taken := gpu.takes(data))]
    assert set(components) == {1, 3}
    for rule in rules.RULES:
        made, certain = gpu.decode(films, components, 224, rule, "cuda")
        assert bool(certain.all())
        for ours, data in zip(made.cpu().numpy(), films, strict=True):
            apart = np.abs(ours.astype(int) - rules.decode(data, 224, rule))
            assert apart.mean() <= gpu.MEAN_BOUND
            assert apart.max() <= gpu.MAX_BOUND


def test_a_refused_film_costs_itself_and_the_gpu_works_on(torch: Any) -> None:
    good = next(iter(jpegs(4).values()))
    broken = good[:200] + bytes(len(good) - 202) + good[-2:]
    with pytest.raises(RuntimeError):
        gpu.decode([good, broken], [1, 1], 224, rules.DEFAULT_RULE, "cuda")
    gpu.decode([good], [1], 224, rules.DEFAULT_RULE, "cuda")


def test_films_come_through_with_and_without_the_process_on_the_gpu(
    torch: Any, tmp_path: Path
) -> None:
    films = jpegs(60)
    folder = write(tmp_path / "films", films)
    decoders = Decoders(1, 600 * SIDE, deadline_s=60, limit_mb=1024, gpu=ANYHOW)
    serving(decoders)
    for kill in (False, True):
        decoders.give(given(place(folder), members(folder)))
        if kill:
            os.kill(gpu_process(), signal.SIGKILL)
        done = through(decoders, len(films))
        assert not [d.failure for d in done if d.failure]
        for one in done:
            expected = rules.decode(films[one.film.member.name], 64)
            apart = np.abs(pixels(decoders, one.film.token).astype(int) - expected)
            assert apart.max() <= gpu.MAX_BOUND
    decoders.close()


def test_the_memory_limit_holds_beside_cuda(torch: Any, tmp_path: Path) -> None:
    from PIL import Image

    folder = write(tmp_path / "films", jpegs(8))
    Image.linear_gradient("L").resize((9000, 9000)).save(folder / "big.png", compress_level=1)
    decoders = Decoders(0, 600 * SIDE, deadline_s=60, limit_mb=64, gpu=ANYHOW)
    serving(decoders)
    decoders.give(given(place(folder), members(folder)))
    failures = {
        d.film.member.name: d.failure[0]
        for d in through(decoders, len(members(folder)))
        if d.failure
    }
    decoders.close()
    assert failures == {"big.png": "too_large"}


def test_gpu_memory_kept_in_store_is_given_back_when_nothing_is_left_to_do(
    torch: Any, tmp_path: Path
) -> None:
    folder = write(tmp_path / "films", jpegs(60))
    decoders = Decoders(0, 600 * SIDE, deadline_s=60, limit_mb=1024, gpu=ANYHOW)
    serving(decoders)
    decoders.give(given(place(folder), members(folder)))
    through(decoders, len(members(folder)))
    busy = torch.cuda.mem_get_info()[0]
    deadline = time.monotonic() + 30
    while torch.cuda.mem_get_info()[0] <= busy:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    decoders.close()
