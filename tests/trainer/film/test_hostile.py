"""Every hostile file comes to its one outcome, and every good form of a film to the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support import hostile
from trainer.errors import FilmError, FilmRefused
from trainer.film import rules

BAD = hostile.bad_files()
GOOD = hostile.good_variants()


def test_there_are_many_distinct_ones() -> None:
    assert len({bad.data for bad in BAD}) == len({bad.name for bad in BAD}) == len(BAD) >= 40


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_hostile_file_comes_to_its_outcome(
    bad: hostile.Bad, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FilmError) as raised:
        rules.decode(bad.data, 64)
    error = raised.value
    assert (error.code, isinstance(error, FilmRefused)) == (bad.code, bad.outcome == "refused"), (
        error
    )
    message = str(error)
    assert not any(
        secret in message for secret in (*hostile.PATIENT.values(), "Zebedee", "7781234")
    )
    assert len(message) < 400
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.name)
def test_every_form_of_a_film_gives_the_same_pixels(
    good: hostile.Good, capfd: pytest.CaptureFixture[str]
) -> None:
    shrunk = Image.fromarray(hostile.picture()).resize((64, 64), Image.Resampling.BILINEAR)
    pixels = rules.decode(good.data, 64).astype(int)
    assert np.abs(pixels - np.asarray(shrunk, int)).mean() <= good.tolerance
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "bad", [b for b in BAD if b.code in rules.REFUSALS], ids=lambda bad: bad.name
)
def test_an_accepted_refusal_is_scored(bad: hostile.Bad) -> None:
    with pytest.raises(FilmRefused):
        rules.decode(bad.data, 64, accept=[code for code in rules.REFUSALS if code != bad.code])
    assert rules.decode(bad.data, 64, accept=[*rules.REFUSALS]).shape == (64, 64)
