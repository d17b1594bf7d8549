from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from tests.trainer import samples
from trainer.checking import preview
from trainer.data import dataset
from trainer.data.patience import Patience


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "labelled"
    samples.fill(folder, patients=4)
    return folder


def test_a_film_that_cannot_be_read_for_a_moment_is_in_the_dataset(root: Path) -> None:
    expected = dataset.read(root)
    with samples.unreadable(root / expected.films[0].path, for_s=0.2):
        assert dataset.read(root) == expected


def test_a_film_that_cannot_be_read_for_a_moment_is_not_found_broken(root: Path) -> None:
    films = dataset.read(root).films
    with samples.unreadable(root / films[0].path, for_s=0.2):
        seen, broken = preview.at(root, films)
    assert not broken
    assert len(seen) == len(films)


def test_files_that_stay_unreadable_are_waited_for_once_and_not_each(tmp_path: Path) -> None:
    film = tmp_path / "film.png"
    film.symlink_to("/proc/self/mem")
    patience = Patience(total_s=0.6)
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(OSError) as caught:
            patience.with_(film.read_bytes)
        assert caught.value.errno == errno.EIO
    assert 0.5 <= time.monotonic() - began < 5


def test_a_file_that_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(FileNotFoundError):
        Patience().with_((tmp_path / "none.png").read_bytes)
    assert time.monotonic() - began < 0.5
