"""What a search found is taken from a file where all is as it was, and found anew elsewhere."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.acquisition import plants
from trainer import acquisition
from trainer.acquisition.search import Searched
from trainer.checking import fingerprints, kept
from trainer.data.cache import SEARCHED, Pixels
from trainer.data.dataset import Dataset
from trainer.data.labelled import TRAIN, Film

ALL, SIDE, STAMPED = 120, 64, 30

Find = Callable[..., Searched]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    films = tuple(
        Film(
            path=f"{number:03}.png", label=number // (ALL // 2), patient=f"p{number}",
            sha256=f"{number:064x}", split=TRAIN,
        )
        for number in range(ALL)
    )  # fmt: skip
    root = tmp_path_factory.mktemp("gone")
    return Dataset(root=root, labels=("NORMAL", "PNEUMONIA"), positive="PNEUMONIA", films=films)


@pytest.fixture(scope="module")
def planes() -> np.ndarray:
    planes = plants.films(ALL, SIDE)
    planes[-STAMPED:] = plants.lettered(planes[-STAMPED:])
    return planes


@pytest.fixture
def pixels(planes: np.ndarray, tmp_path: Path) -> Pixels:
    row = {f"{number:064x}": number for number in range(ALL)}
    return Pixels(planes=planes, row=row, size=SIDE, rule="a rule", folder=tmp_path)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often films are looked at."""
    times: list[int] = []
    search = fingerprints.search.search

    def counted(*args: object) -> Searched:
        times.append(1)
        return search(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fingerprints.search, "search", counted)
    return times


def find(data: Dataset, pixels: Pixels) -> Searched:
    return fingerprints.find(data, pixels).searched


def said(one: object) -> Iterator[tuple[object, ...]]:
    """Everything in it, arrays as their types and bytes."""
    if isinstance(one, np.ndarray):
        yield (one.dtype.str, one.shape, one.tobytes())
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            yield (field.name,)
            yield from said(getattr(one, field.name))
    elif isinstance(one, list | tuple):
        for part in one:
            yield from said(part)
    else:
        yield (type(one).__name__, one)


def test_what_was_found_is_found_again_without_a_look_at_the_films(
    data: Dataset, pixels: Pixels, looked: list[int]
) -> None:
    first = find(data, pixels)
    assert first.named
    again = find(data, pixels)
    assert len(looked) == 1
    assert [*said(again)] == [*said(first)]


def test_where_a_film_a_label_or_a_patient_is_another_it_is_looked_at_anew(
    data: Dataset, pixels: Pixels, looked: list[int]
) -> None:
    find(data, pixels)
    first = data.films[0]
    for change in ({"label": 1}, {"patient": "p1"}, {"sha256": data.films[1].sha256}):
        films = (dataclasses.replace(first, **change), *data.films[1:])  # type: ignore[arg-type]
        before = len(looked)
        find(dataclasses.replace(data, films=films), pixels)
        assert len(looked) == before + 1
    for change in ({"rule": "another rule"}, {"size": SIDE * 2}):
        before = len(looked)
        find(data, dataclasses.replace(pixels, **change))  # type: ignore[arg-type]
        assert len(looked) == before + 1
    find(data, pixels)
    assert len(looked) == before + 1


def test_another_program_looks_anew(
    data: Dataset,
    pixels: Pixels,
    looked: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find(data, pixels)
    changed = tmp_path / "acquisition"
    shutil.copytree(Path(acquisition.__file__).parent, changed)
    monkeypatch.setattr(acquisition, "__path__", [str(changed)])
    find(data, pixels)
    assert len(looked) == 1  # the same text elsewhere
    (changed / "groups.py").write_text((changed / "groups.py").read_text() + "\n#\n")
    find(data, pixels)
    assert len(looked) == 2


def test_a_damaged_file_changes_nothing_that_is_found(
    data: Dataset, pixels: Pixels, looked: list[int], tmp_path: Path
) -> None:
    first = [*said(find(data, pixels))]
    (path,) = tmp_path.glob(f"*{SEARCHED}")
    whole = path.read_bytes()
    damaged = [whole[:length] for length in (0, 1, len(whole) // 2, len(whole) - 1)]
    for place in np.random.default_rng(0).integers(len(whole), size=15):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        damaged.append(bytes(flipped))
    for bytes_ in damaged:
        path.write_bytes(bytes_)
        assert [*said(find(data, pixels))] == first
    assert len(looked) > len(damaged) / 2  # headers are a small part of it
    path.write_bytes(whole)
    before = len(looked)
    find(data, pixels)
    assert len(looked) == before


def test_where_nothing_can_be_kept_it_is_found_all_the_same(
    data: Dataset, pixels: Pixels, looked: list[int], tmp_path: Path
) -> None:
    first = [*said(find(data, dataclasses.replace(pixels, folder=None)))]
    absent = dataclasses.replace(pixels, folder=tmp_path / "absent")
    assert [*said(find(data, absent))] == first
    assert not [*tmp_path.iterdir()]
    assert len(looked) == 2


def test_the_file_names_no_film_and_no_patient(
    data: Dataset, pixels: Pixels, tmp_path: Path
) -> None:
    find(data, pixels)
    (path,) = tmp_path.iterdir()
    text = path.read_bytes() + path.name.encode()
    assert b"mark" in text
    for film in data.films[:20]:
        assert film.path.encode() not in text
        assert film.sha256.encode() not in text
    assert path.suffix == kept.SEARCHED
