"""A model's faster precisions: made, measured beside fp32, and kept only where they pass."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.worker import samples
from trainer import card as cards
from trainer.card import Card
from trainer.errors import Stopped
from trainer.judging import parity
from worker.decoding.labelled import Limits
from worker.engine import open_engine
from worker.errors import ArchiveError
from worker.training import precisions
from worker.training.precisions import Derived

LIMITS = Limits(decoders=2, deadline_s=30.0, limit_mb=2048)


@pytest.fixture(scope="module")
def model(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model file, in a folder of its own."""
    return Path(shutil.copy(model_file, tmp_path_factory.mktemp("derived") / "model.onnx"))


@pytest.fixture(scope="module")
def films() -> NDArray[np.uint8]:
    """`uint8 [N, 1, S, S]`."""
    return samples.pixels([data for _, data in samples.films(16 + parity.LEAST, seed=5)])


@pytest.fixture(scope="module")
def derived(model: Path, films: NDArray[np.uint8]) -> Derived:
    return precisions.derive(model, films[:16], films[16:], batch=4, threads=1)


def test_each_precision_is_measured_beside_fp32(derived: Derived, films: NDArray[np.uint8]) -> None:
    tried = {row["precision"]: row for row in derived.engines}
    assert {"fp16", "int8"} <= tried.keys() <= {"bf16", "fp16", "int8"}
    for row in tried.values():
        gate = row["options"]
        assert gate["films"] == len(films) - 16
        assert gate["films_per_s"] > 0
        assert 0 <= gate["delta_p99"] <= row["parity_delta"]
        assert row["passed"] == (gate["agreement"] >= 0.995 and gate["delta_p99"] <= 0.02)
    assert len(derived.notes) == 3
    assert derived.films_per_s > 0


def by_precision(notes: Sequence[str]) -> dict[str, str]:
    """The notes by the precision that each begins with; not every processor has all of them."""
    return {note.split()[0]: note for note in notes}


def test_only_what_passed_is_kept(derived: Derived) -> None:
    passed = {row["precision"] for row in derived.engines if row["passed"]}
    assert "fp16" in passed  # it can hardly fail
    assert derived.files.keys() == passed - {"bf16"}
    for precision, path in derived.files.items():
        assert cards.read(path).precision == precision
    told = by_precision(derived.notes)
    for row in derived.engines:
        word = "passed" if row["passed"] else "failed its gate and is not used"
        assert told[row["precision"]].startswith(f"{row['precision']} {word}: ")


def test_of_too_few_films_nothing_passes(model: Path, films: NDArray[np.uint8]) -> None:
    result = precisions.derive(model, films[:4], films[4:6], batch=4, threads=1)
    assert result.engines
    assert not any(row["passed"] for row in result.engines)
    assert result.files == {}
    for note in result.notes:
        assert "2 films are too few (60 needed)" in note


def test_a_precision_that_decides_otherwise_fails_its_gate(
    model_file: Path, films: NDArray[np.uint8], tmp_path: Path
) -> None:
    # The operating point between two films that are next to each other: nothing may move them.
    engine = open_engine(model_file, batch=4, threads=1)
    found, _ = precisions.scores(engine, films[16:])
    engine.close()
    between = float(np.sort(found[:, 1])[len(found) // 2])
    path = tmp_path / "edge.onnx"
    samples.write_model(
        path, ("NORMAL", "PNEUMONIA"), seed=1, width=samples.WIDE, threshold=between
    )
    result = precisions.derive(path, films[:16], films[16:], batch=4, threads=1)
    told = by_precision(result.notes)
    for row in result.engines:
        if row["options"]["agreement"] < 1:  # fewer than 200 films
            assert not row["passed"]
            said = told[row["precision"]]
            assert re.search(r"failed its gate and is not used: [1-9]\d* of \d+ decisions", said)
            assert row["precision"] not in result.files


def test_all_films_are_scored_whatever_the_batch(
    model_file: Path, films: NDArray[np.uint8]
) -> None:
    answers = []
    for batch, threads in ((4, 1), (4, 2), (64, 1)):
        engine = open_engine(model_file, batch=batch, threads=threads)
        found, rate = precisions.scores(engine, films[:7])
        engine.close()
        assert rate > 0
        answers.append(found)
    assert answers[0].shape == (7, 2)
    assert answers[0].tobytes() == answers[1].tobytes()
    assert np.allclose(answers[0], answers[2], atol=1e-5)


def test_what_passed_is_told_of_drawn_films_too_and_nothing_else(
    model: Path, films: NDArray[np.uint8], derived: Derived
) -> None:
    assert derived.of_drawn == {}, "none were given"
    result = precisions.derive(model, films[:16], films[16:], batch=4, threads=1, drawn=films[:5])
    passed = [str(row["precision"]) for row in result.engines if row["passed"]]
    assert "fp16" in passed
    assert list(result.of_drawn) == passed
    engine = open_engine(result.files["fp16"], batch=4, threads=1, precision="fp16")
    expected, _ = precisions.scores(engine, films[:5])
    engine.close()
    assert np.array_equal(result.of_drawn["fp16"], expected)


def test_it_stops_when_told_to(model_file: Path, films: NDArray[np.uint8]) -> None:
    with pytest.raises(Stopped):
        precisions.derive(model_file, films[:4], films[4:8], batch=4, threads=1, stop=lambda: True)


@pytest.mark.parametrize(("total", "most", "expected"), [
    (5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (0, 3, []),
])  # fmt: skip
def test_few_of_many_are_spread_evenly(total: int, most: int, expected: list[int]) -> None:
    assert precisions.spread(total, most).tolist() == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, and two files that are none."""
    root = tmp_path_factory.mktemp("films")
    for name, data in samples.films(12, seed=6):
        (root / Path(name).name).write_bytes(data)
    (root / "notes.txt").write_text("no film")
    (root / "cut.jpeg").write_bytes(samples.films(1)[0][1][:100])
    return root


def test_films_are_picked_from_a_folder_and_what_is_none_is_counted(
    folder: Path, card: Card
) -> None:
    films, broken = precisions.pick(str(folder), card, 1000, LIMITS)
    assert films.shape == (len(list(folder.iterdir())) - 2, 1, card.size, card.size)
    assert broken == 2
    assert len(np.unique(films.reshape(len(films), -1), axis=0)) == len(films)


def test_as_many_films_are_picked_as_asked_for_and_always_the_same(
    folder: Path, card: Card
) -> None:
    first, _ = precisions.pick(str(folder), card, 5, LIMITS)
    again, _ = precisions.pick(str(folder), card, 5, dataclasses.replace(LIMITS, decoders=1))
    assert len(first) == 5
    assert np.array_equal(first, again)


def test_an_archive_that_is_only_read_from_its_start_is_refused(
    folder: Path, card: Card, tmp_path: Path
) -> None:
    path = shutil.make_archive(str(tmp_path / "films"), "gztar", folder)
    with pytest.raises(ArchiveError, match="can only be read from its start; unpack it"):
        precisions.pick(path, card, 5, LIMITS)
