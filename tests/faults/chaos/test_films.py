"""What is known of the made-up films is so: their pixels are exact, and bad ones fail as they must.

The service is not asked: it is what the films are to be held against.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.faults.chaos import films
from trainer.errors import FilmError, FilmRefused
from trainer.film import rules

#: Each way to be bad several times.
COUNT = 15 * films.ONE_BAD_IN


def test_a_made_up_films_pixels_are_those_that_it_was_drawn_with() -> None:
    for film in films.make(COUNT, seed=1):
        if film.outcome.kind == "prediction":
            pixels = rules.decode(film.data, films.SIZE)
            squares = pixels[:: films.SIDE, :: films.SIDE]
            assert (pixels == films.drawn(squares)).all(), film.name
            assert films.probability(squares.ravel()) == film.outcome.probability, film.name


def test_each_bad_film_fails_by_its_code() -> None:
    codes = set()
    for film in films.make(COUNT, seed=1):
        if film.outcome.kind != "prediction":
            with pytest.raises(FilmError) as raised:
                rules.decode(film.data, films.SIZE)
            assert raised.value.code == film.outcome.code, film.name
            assert isinstance(raised.value, FilmRefused) == (film.outcome.kind == "refusal")
            codes.add(film.outcome.code)
    assert len(codes) == 6


def test_no_two_films_are_alike_and_both_labels_are_common() -> None:
    made = list(films.make(COUNT, seed=1))
    assert len({film.name for film in made}) == COUNT
    good = [film.outcome for film in made if film.outcome.kind == "prediction"]
    assert len({film.data for film in made if film.data}) >= len(good) + 1
    assert len({outcome.probability for outcome in good}) == len(good)
    assert 0.3 < np.mean([outcome.label == "PNEUMONIA" for outcome in good]) < 0.7


def test_the_model_file_computes_the_formula(tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "known.onnx"
    films.write_model(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    squares = np.random.default_rng(1).integers(0, 256, (50, 16)).astype(np.uint8)
    pixels = np.stack([films.drawn(one)[None] for one in squares])
    (scores,) = session.run(["scores"], {"image": pixels})
    expected = [films.probability(one) for one in squares]
    assert np.abs(scores[:, 1] - expected).max() < films.TOLERANCE / 10
