"""What was decoded before an interruption is not decoded again, whatever ended the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.broken.disk import fill, small_disk
from tests.trainer import samples
from trainer.data import cache, dataset, decoding, journal
from trainer.data.cache import Pixels
from trainer.data.dataset import Dataset
from trainer.errors import Stopped
from trainer.film import content, rules

#: Films of `root`, and those that threads may have in hand when a run ends.
FILMS, IN_HAND = 32, 2 * decoding.IN_FLIGHT

#: Decodes a folder at 32 pixels, and appends a byte to a file per film that it begins.
DECODING = """
import os, sys, time
from pathlib import Path
from trainer.data import cache, dataset
from trainer.film import rules
root, folder, begun = map(Path, sys.argv[1:])
log = os.open(begun, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
real = rules.decode
def decode(*given):
    os.write(log, b".")
    time.sleep(0.01)
    return real(*given)
rules.decode = decode
cache.decode(dataset.read(root), folder, size=32)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "labelled"
    samples.fill(folder, patients=8)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Each film that is begun to be decoded."""
    found: list[bytes] = []
    real = rules.decode

    def decode(data: bytes, *given: Any) -> Any:
        found.append(data)
        return real(data, *given)

    monkeypatch.setattr(rules, "decode", decode)
    return found


def after(films: int) -> Callable[[], bool]:
    """Says stop when it was asked about so many films."""
    answers = iter([False] * (films - 1))
    return lambda: next(answers, True)


def interrupted(data: Dataset, folder: Path, films: int) -> None:
    with pytest.raises(Stopped, match=f"stopped after decoding {films} of {FILMS} films"):
        cache.decode(data, folder, size=32, stop=after(films))


def entries(folder: Path) -> Path:
    (found,) = folder.glob(f".*{journal.ENTRIES}")
    return found


def right(root: Path, data: Dataset, films: Pixels) -> bool:
    """Whether the planes of all films are what the film rule makes of them."""
    planes = films.take(films.rows(data.films))
    return all(
        np.array_equal(plane[0], rules.decode((root / one.path).read_bytes(), 32))
        for one, plane in zip(data.films, planes, strict=True)
    )


def test_a_run_that_was_stopped_goes_on_with_what_it_had_decoded(
    root: Path, folder: Path, begun: list[bytes]
) -> None:
    data = dataset.read(root)
    interrupted(data, folder, 10)
    first = len(begun)
    assert first <= 10 + IN_HAND
    heard: list[str] = []
    _, films = cache.decode(data, folder, size=32, report=heard.append)
    assert heard[0].startswith(f"going on with 10 of {FILMS} films")
    assert len(begun) == first + FILMS - 10
    assert len(films.planes) == len(data.films) == FILMS
    assert right(root, data, films)
    assert sorted(p.suffix for p in folder.iterdir()) == [".json", ".npy"]


def test_a_broken_film_is_decoded_once_too(root: Path, folder: Path, begun: list[bytes]) -> None:
    (root / "NORMAL" / "page.jpeg").write_bytes(b"<html>not found</html>")
    data = dataset.read(root)
    with pytest.raises(Stopped):
        cache.decode(data, folder, size=32, stop=after(FILMS + 1))
    begun.clear()
    found, _ = cache.decode(data, folder, size=32)
    assert not begun
    assert [(f.path, f.code) for f in found.left_out] == [("NORMAL/page.jpeg", "not_an_image")]


def test_what_a_killed_process_did_not_finish_is_cut_off(
    root: Path, folder: Path, begun: list[bytes]
) -> None:
    data = dataset.read(root)
    interrupted(data, folder, 12)
    path = entries(folder)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    # The last line torn, then one bit of it turned, then one in the middle, and half of the head.
    flipped = bytes([lines[-1][-3] ^ 1])
    for left, there in (
        (whole[:-5], 11),
        (whole[:-3] + flipped + whole[-2:], 11),
        (whole.replace(lines[6], lines[6][:-4] + b"x" + lines[6][-3:]), 5),
        (whole[: len(lines[0]) // 2], 0),
    ):
        path.write_bytes(left)
        begun.clear()
        heard: list[str] = []
        with pytest.raises(Stopped):
            cache.decode(data, folder, size=32, report=heard.append, stop=after(1))
        assert heard[:1] == ([] if not there else [
            f"going on with {there} of {FILMS} films, which an earlier run decoded"
        ])  # fmt: skip
        assert len(path.read_bytes().splitlines()) == 1 + there + 1
    _, films = cache.decode(data, folder, size=32)
    assert right(root, data, films)


def test_a_plane_that_did_not_reach_the_disk_is_made_again(root: Path, folder: Path) -> None:
    data = dataset.read(root)
    interrupted(data, folder, 20)
    planes = entries(folder).with_suffix(journal.PLANES)
    with planes.open("r+b") as file:
        file.seek(128 + 3 * 32 * 32)
        file.write(bytes(2 * 32 * 32))
    heard: list[str] = []
    _, films = cache.decode(data, folder, size=32, report=heard.append)
    assert heard[0].startswith(f"going on with 18 of {FILMS} films")
    assert right(root, data, films)
    interrupted(dataset.read(root), folder.with_name("other"), 20)
    entries(folder.with_name("other")).with_suffix(journal.PLANES).unlink()
    _, films = cache.decode(data, folder.with_name("other"), size=32)
    assert right(root, data, films)


def test_of_a_changed_folder_what_an_interrupted_run_had_decoded_is_not_decoded_again(
    root: Path, folder: Path, begun: list[bytes]
) -> None:
    interrupted(dataset.read(root), folder, 30)
    begun.clear()
    changed = root / dataset.read(root).films[0].path
    changed.write_bytes(samples.film(555))
    data, films = cache.decode(dataset.read(root), folder, size=32)
    assert len(begun) <= 1 + 2
    assert right(root, data, films)


def test_another_rule_size_or_reader_decodes_all_anew(
    root: Path, folder: Path, begun: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset.read(root)
    interrupted(data, folder, 30)
    for rule, size, version in (
        ("gray-nearest-1", 32, 1), (rules.DEFAULT_RULE, 33, 1), (rules.DEFAULT_RULE, 32, 2)
    ):  # fmt: skip
        monkeypatch.setitem(content.READERS, "JPEG", version)
        begun.clear()
        cache.decode(data, folder, size=size, rule=rule)
        assert len(begun) == FILMS


def test_a_disk_that_is_too_full_is_told_of_before_the_first_film_is_decoded(
    root: Path, begun: list[bytes]
) -> None:
    data = dataset.read(root)
    with small_disk(1) as disk:
        ballast = fill(disk)
        with pytest.raises(OSError, match="No space left on device") as caught:
            cache.decode(data, disk, size=64)
        assert str(disk) in str(caught.value.filename)
        assert not begun
        assert not list(disk.glob(".*")), "what little room there was is free again"
        ballast.unlink()
        interrupted(data, disk, 20)
        # The room of all planes is taken: what fills the disk now costs no film.
        ballast = fill(disk)
        before = len(begun)
        with pytest.raises(OSError, match="No space left on device"):
            cache.decode(data, disk, size=32)
        assert len(begun) == before + FILMS - 20
        ballast.unlink()
        _, films = cache.decode(data, disk, size=32)
        assert len(begun) == before + FILMS - 20
        assert right(root, data, films)


def test_of_two_processes_with_the_same_films_one_decodes_and_the_other_waits(
    root: Path, folder: Path, begun: list[bytes]
) -> None:
    data = dataset.read(root)
    held, go = threading.Event(), threading.Event()

    def stop() -> bool:
        held.set()
        go.wait(20)
        return False

    first = threading.Thread(target=lambda: cache.decode(data, folder, size=32, stop=stop))
    first.start()
    assert held.wait(20)
    heard: list[str] = []

    def told(note: str) -> None:
        heard.append(note)
        go.set()

    _, films = cache.decode(data, folder, size=32, report=told)
    first.join()
    assert heard == ["another process of this machine decodes the same films; waiting for it"]
    assert len(begun) == FILMS
    assert right(root, data, films)


def test_who_waits_for_another_process_goes_on_where_that_is_killed_or_stops_when_told(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    data = dataset.read(root)
    with decoding_process(root, folder, tmp_path / "begun") as process:
        wait_for(lambda: lines(folder) > 5)
        with pytest.raises(Stopped, match="another process"):
            cache.decode(data, folder, size=32, stop=lambda: True)
        os.kill(process.pid, signal.SIGSTOP)
        heard: list[str] = []

        def told(note: str) -> None:
            heard.append(note)
            process.kill()

        _, films = cache.decode(data, folder, size=32, report=told)
    assert [note.split()[0] for note in heard[:2]] == ["another", "going"]
    assert right(root, data, films)


def test_a_process_that_is_killed_again_and_again_decodes_hardly_a_film_twice(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    kills = 3
    for kill in range(1, kills + 1):
        with decoding_process(root, folder, begun) as process:
            wait_for(lambda k=kill: lines(folder) > FILMS * k // (kills + 1))
            process.kill()
    with decoding_process(root, folder, begun) as process:
        assert process.wait(60) == 0
    assert FILMS <= begun.stat().st_size <= FILMS + kills * IN_HAND
    data, films = cache.decode(dataset.read(root), folder, size=32)
    assert right(root, data, films)


def decoding_process(root: Path, folder: Path, begun: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DECODING, str(root), str(folder), str(begun)]
    return subprocess.Popen(command)


def lines(folder: Path) -> int:
    """Films in the journal there."""
    found = list(folder.glob(f".*{journal.ENTRIES}"))
    return len(found[0].read_bytes().splitlines()) - 1 if found else 0


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)
