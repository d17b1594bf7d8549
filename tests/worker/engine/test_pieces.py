"""Batches cut for a GPU, computed by the processor: the same bits, and no more than is wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.worker import samples
from worker.engine import gate, open_engine
from worker.engine.pieces import InPieces


@pytest.mark.parametrize("threads", [1, 2])
def test_answers_are_those_of_the_small_batches_to_the_last_bit(
    model_file: Path, threads: int
) -> None:
    films = samples.pixels([data for _, data in samples.films(14, seed=7)][:22])
    alone = open_engine(model_file, batch=4, threads=1)
    pieces = InPieces(open_engine(model_file, batch=4, threads=threads), 10)
    expected, found = gate.answers(alone, films), gate.answers(pieces, films)
    assert found.cam is not None and expected.cam is not None
    assert found.ood is not None and expected.ood is not None
    assert len(found.scores) == len(films)
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert found.cam.tobytes() == expected.cam.tobytes()
    assert found.ood.tobytes() == expected.ood.tobytes()
    for engine in (alone, pieces):
        engine.close()


def test_pieces_without_a_wanted_film_are_not_computed(model_file: Path) -> None:
    pieces = InPieces(open_engine(model_file, batch=4, threads=1), 64)
    pixels = np.zeros((64, 1, samples.SIZE, samples.SIZE), np.uint8)
    assert len(pieces.submit(pixels, 5).result().scores) == 8
    assert len(pieces.submit(pixels).result().scores) == 64
    pieces.close()
