"""Previews of films that come quicker than they can be looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.acquisition.looks import Looks
from trainer.checking import preview
from trainer.data.decoding import Decoded, Stored, Wanted
from trainer.data.labelled import Film

COUNT = preview.PART * 4 * preview.AHEAD


def test_films_that_wait_to_be_looked_at_are_few_however_quickly_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_look, came = threading.Event(), []
    look = preview.acquired.of

    def slow(*given: Any, **named: Any) -> Looks:
        may_look.wait(60)
        return look(*given, **named)

    monkeypatch.setattr(preview.acquired, "of", slow)

    def decoder(
        films: Iterable[Wanted], *, size: int, rule: str, stored: bool = False
    ) -> Generator[Decoded | None, None, None]:
        chance = np.random.default_rng(0)
        for number, _ in enumerate(films):
            came.append(number)
            pixels = chance.integers(0, 256, (size, size), np.uint8)
            yield Decoded(
                number=number, outcome=pixels, stored=Stored(kind="PNG", width=size, height=size)
            )

    films = [
        Film(path=f"{n}.png", label=0, patient=str(n), sha256=f"{n:064x}", split="train")
        for n in range(COUNT)
    ]
    looks: list[Looks] = []
    with ThreadPoolExecutor(1) as pool:
        previews = pool.submit(preview.at, tmp_path, films, decoder=decoder, looks=looks)
        seen = -1
        while seen != len(came):
            seen = len(came)
            time.sleep(0.5)
        may_look.set()
        found, left_out = previews.result()

    # As many parts as may wait, and the one that is full.
    assert 0 < seen <= (preview.AHEAD + 1) * preview.PART
    assert (len(found), left_out, len(came)) == (COUNT, [], COUNT)
