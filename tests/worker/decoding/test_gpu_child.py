"""The GPU's decoder: what it makes and says is what the others do, and whatever ends it costs time.

Its device here is the CPU, on which every line of it runs but nvJPEG's; tests/gpu has the rest.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import drawn, hostile, soak
from tests.support import processes as running
from tests.worker import samples
from tests.worker.decoding.test_pool import (
    SIDE,
    given,
    members,
    never_opening,
    pixels,
    place,
    processes,
    through,
)
from trainer.film import gpu, rules
from worker.decoding import gpu_trial
from worker.decoding.pool import Decoded, Decoders, OnGpu

#: It is measured before it serves, and on a CPU it is far too slow.
HERE = OnGpu(device="cpu", at_least=0.0)

#: Longest wait for it to have loaded torch and to have measured itself, in seconds.
START_S = 200.0

#: Content at which decoding in torch, or by the film rule as well, ends the process.
CRASH_TORCH, CRASH_ALL = b"crash the GPU here", b"crash everything here"

_SABOTAGE = f"""
import os, signal, sys

def crashing(decode, *contents):
    def sabotaged(data, *arguments, **options):
        films = [data] if isinstance(data, bytes) else data
        if any(content in one for content in contents for one in films):
            os.kill(os.getpid(), signal.SIGSEGV)
        return decode(data, *arguments, **options)
    return sabotaged

if "worker.decoding" in " ".join(sys.orig_argv):
    from trainer.film import gpu, rules

    rules.decode = crashing(rules.decode, {CRASH_ALL!r})
    gpu.decode = crashing(gpu.decode, {CRASH_TORCH!r}, {CRASH_ALL!r})
"""

Pool = Callable[..., Decoders]


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Makes pools whose decoder on the GPU serves, with room for 600 films, and closes them."""
    made: list[Decoders] = []

    def make(count: int = 0, deadline_s: float = 60.0, limit_mb: int = 2048) -> Decoders:
        decoders = Decoders(count, 600 * SIDE, deadline_s=deadline_s, limit_mb=limit_mb, gpu=HERE)
        made.append(decoders)
        serving(decoders)
        return decoders

    yield make
    for decoders in made:
        decoders.close()


def serving(decoders: Decoders, state: str = "serving") -> None:
    """Wait for the GPU's decoder to be in a state."""
    deadline = time.monotonic() + START_S
    while not decoders.gpu_state.startswith(state):
        assert time.monotonic() < deadline, decoders.gpu_state
        assert list(decoders.collect(0.1)) == []


def gpu_process() -> int:
    """The decoder of this process that is on the GPU."""
    (found,) = running.children(os.getpid(), "worker.decoding.gpu_child")
    return found


def write(folder: Path, films: dict[str, bytes]) -> Path:
    """A folder of files."""
    folder.mkdir()
    for name, data in films.items():
        (folder / name).write_bytes(data)
    return folder


def jpegs(count: int) -> dict[str, bytes]:
    """Synthetic films by name, JPEG all of them."""
    made = (f for f in drawn.films(count, 0) if f.name.endswith("jpeg"))
    return {f.name: f.data for _, f in zip(range(count), made, strict=False)}


def with_comment(data: bytes, comment: bytes) -> bytes:
    """A JPEG with a comment in it."""
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def by_name(done: list[Decoded]) -> dict[str, Decoded]:
    return {d.film.member.name: d for d in done}


def test_every_outcome_is_that_of_the_other_decoders(pool: Pool, tmp_path: Path) -> None:
    films = {f"{n:03}.bad": bad.data for n, bad in enumerate(hostile.bad_files())}
    films |= {f"{n:03}.good": good.data for n, good in enumerate(hostile.good_variants())}
    films |= jpegs(60)
    folder = write(tmp_path / "films", films)
    refused = 0
    for data in films.values():
        taken = gpu.takes(data)
        if taken is not None:
            try:
                gpu.decode([data], [taken[1]], 64, rules.DEFAULT_RULE, "cpu")
            except RuntimeError:
                refused += 1
    assert refused  # there are films that it is given, and refuses

    on_gpu = pool()
    on_cpu = Decoders(2, 600 * SIDE, deadline_s=60, limit_mb=2048)
    found = []
    for decoders in (on_gpu, on_cpu):
        decoders.give(given(place(folder), members(folder)))
        found.append(by_name(through(decoders, len(films))))
    assert not [d for d in found[0].values() if d.failure and d.failure[0] == "decoder_died"]
    for name, data in films.items():
        ours, theirs = found[0][name], found[1][name]
        assert (ours.failure, ours.content, ours.tags) == (
            theirs.failure, theirs.content, theirs.tags
        ), name  # fmt: skip
        if ours.failure is None:
            at = ours.film.token
            apart = np.abs(pixels(on_gpu, at).astype(int) - pixels(on_cpu, at))
            if gpu.takes(data) is None:
                assert not apart.any(), name
            else:
                assert apart.mean() <= gpu.MEAN_BOUND, name
                assert apart.max() <= gpu.MAX_BOUND, name
    on_cpu.close()


def test_answers_come_in_the_order_of_the_films_and_only_the_content_where_only_that_is_wanted(
    pool: Pool, tmp_path: Path
) -> None:
    folder = write(tmp_path / "films", jpegs(20) | {"z.png": hostile.good_variants()[0].data})
    decoders = pool()
    films = given(place(folder), members(folder))
    for unplaced in films[::2]:
        unplaced.offset = -1
    decoders.give(films)
    done = through(decoders, len(films))
    assert [d.film for d in done] == films
    assert all(d.failure is None and d.content is not None for d in done)
    assert not pixels(decoders, 0).any()
    assert pixels(decoders, 1).any()


def test_films_at_which_the_gpus_decoder_dies_are_decoded_by_the_others(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_SABOTAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    films = jpegs(40)
    crashing, ending, *_ = films
    films[crashing] = with_comment(films[crashing], CRASH_TORCH)
    films[ending] = with_comment(films[ending], CRASH_ALL)
    folder = write(tmp_path / "films", films)
    decoders = pool(1)
    everything = given(place(folder), members(folder))
    # The decoder on the CPU is kept busy, so that the two are the GPU's to find out.
    decoders.give([*everything[2:], *everything[:2]])
    done = by_name(through(decoders, len(films)))
    failures = {name: d.failure for name, d in done.items() if d.failure}
    assert failures.keys() == {ending}
    assert failures[ending] is not None
    assert failures[ending][0] == "decoder_died"
    expected = rules.decode(films[crashing], samples.SIZE)
    apart = pixels(decoders, done[crashing].film.token).astype(int) - expected
    assert np.abs(apart).max() <= gpu.MAX_BOUND


def test_being_killed_costs_no_film_and_the_third_time_it_is_not_started_again(
    pool: Pool, tmp_path: Path
) -> None:
    films = jpegs(60)
    folder = write(tmp_path / "films", films)
    decoders = pool(1)
    for _ in range(3):
        serving(decoders)
        decoders.give(given(place(folder), members(folder)))
        os.kill(gpu_process(), signal.SIGKILL)
        done = through(decoders, len(films))
        assert not [d.failure for d in done if d.failure]
    assert decoders.gpu_state == "off: it ended (signal 9) at work"
    decoders.give(given(place(folder), members(folder)))
    assert not [d.failure for d in through(decoders, len(films)) if d.failure]
    assert len(processes()) == 1


@soak.ONLY
def test_a_film_that_never_ends_is_the_other_decoders_to_name(pool: Pool, tmp_path: Path) -> None:
    folder = write(tmp_path / "films", jpegs(8))
    _, blocking = never_opening(tmp_path, folder)
    decoders = pool(1, deadline_s=3.0)
    others = given(place(folder), members(folder))
    decoders.give([*others, *blocking])
    done = through(decoders, len(others) + 1)
    assert {d.film.token: d.failure[0] for d in done if d.failure} == {500: "decoder_timeout"}


@soak.ONLY
def test_a_film_that_hangs_the_gpus_decoder_goes_to_the_others_alone(
    pool: Pool, tmp_path: Path
) -> None:
    _, blocking = never_opening(tmp_path, write(tmp_path / "films", jpegs(2)))
    decoders = pool(0, deadline_s=1.0)  # without others it waits for them
    decoders.give(blocking)
    deadline = time.monotonic() + samples.PATIENCE_S
    while decoders.gpu_state.startswith("serving"):
        assert time.monotonic() < deadline
        assert list(decoders.collect(0.1)) == []
    serving(decoders)
    assert [(f.suspect, f.strikes) for f in decoders.forget(lambda f: True)] == [(True, 0)]


@soak.ONLY
def test_a_film_that_takes_more_memory_than_allowed_costs_that_film_only(
    pool: Pool, tmp_path: Path
) -> None:
    folder = write(tmp_path / "films", jpegs(20))
    Image.linear_gradient("L").resize((9000, 9000)).save(folder / "big.png", compress_level=1)
    decoders = pool(limit_mb=64)
    before = gpu_process()
    films = given(place(folder), members(folder))
    decoders.give(films)
    done = through(decoders, len(films))
    failures = {d.film.member.name: d.failure for d in done if d.failure}
    assert failures.keys() == {"big.png"}
    assert failures["big.png"] is not None
    assert failures["big.png"][0] == "too_large"
    assert gpu_process() == before


def test_where_nothing_is_gained_it_is_not_offered_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "films", jpegs(8))
    slow = OnGpu(device="cpu", at_least=1000.0)
    decoders = Decoders(1, 600 * SIDE, deadline_s=60, limit_mb=2048, gpu=slow)
    decoders.give(given(place(folder), members(folder)))
    assert all(d.failure is None for d in through(decoders, len(members(folder))))
    serving(decoders, "off")
    decoders.close()
    assert "there is nothing to be gained by it" in decoders.gpu_state
    assert [r.message for r in caplog.records if "GPU" in r.message] == [
        f"films are decoded on the CPU alone, and not on the GPU: {decoders.gpu_state[5:]}"
    ]


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("torch", r"takes torch and torchvision .* pip install 'pneumoq\[train\]'"),
        ("torchvision", "takes torch and torchvision"),
    ],
)
def test_what_it_lacks_is_reported(missing: str, reason: str) -> None:
    script = (
        f"import re, sys; sys.modules[{missing!r}] = None\n"
        "from worker.decoding import gpu_trial\n"
        "try: gpu_trial.offered('cuda', 1.0)\n"
        f"except gpu_trial.NotOffered as why: assert re.search({reason!r}, str(why)), why\n"
        "else: sys.exit('it was offered')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_pixels_out_of_bounds_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MEAN_BOUND", 0.0)
    with pytest.raises(gpu_trial.NotOffered, match="differ from the CPU's by 0"):
        gpu_trial.offered("cpu", 0.0)
