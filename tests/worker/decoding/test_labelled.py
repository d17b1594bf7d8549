"""Labelled films by processes: a film that ends its decoder costs itself, wherever it is wanted."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support import processes as running
from tests.support.broken import mounts
from tests.worker import samples
from tests.worker.decoding.sabotage import CRASH, EAT, HANG, SITE
from trainer.card import Card
from trainer.checking import checkup, preview
from trainer.data import cache, dataset, decoding
from trainer.data.decoding import Decoder, Unread, Wanted
from trainer.errors import FilmError
from trainer.film import rules
from worker import archive
from worker.archive import Member
from worker.decoding import labelled
from worker.decoding.film import Place
from worker.decoding.labelled import Limits
from worker.engine import open_engine
from worker.training import evaluation, precisions

CODES = {"crash": "decoder_died", "hang": "decoder_timeout", "eat": "too_large"}


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders that can be made to crash, to hang and to eat memory."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")


@pytest.fixture
def decoder() -> Decoder:
    return labelled.processes(Limits(decoders=2, deadline_s=2.0, limit_mb=1024))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A labelled folder of 80 films."""
    folder = tmp_path / "labelled"
    made = [data for _, data in samples.films(40) if data[:2] == b"\xff\xd8"]
    for n in range(80):
        data = made[n % len(made)]
        name = ("NORMAL", "PNEUMONIA")[n % 2]
        file = folder / name / f"person{n // 4}_{n}.jpeg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg_with(data, b"%d" % n))
    return folder


def jpeg_with(data: bytes, comment: bytes) -> bytes:
    """A film with a comment in it, so that it has a content of its own."""
    assert data[:2] == b"\xff\xd8"
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def spoil(root: Path) -> dict[str, str]:
    """Put three films there that end decoders; path → code."""
    good = sorted((root / "NORMAL").iterdir())[0].read_bytes()
    for name, content in (("crash", CRASH), ("hang", HANG), ("eat", EAT)):
        (root / "NORMAL" / f"{name}_1.jpeg").write_bytes(jpeg_with(good, content))
    return {f"NORMAL/{name}_1.jpeg": code for name, code in CODES.items()}


def wanted(paths: Sequence[Path]) -> list[Wanted]:
    return [Wanted(file=p, sha256=hashlib.sha256(p.read_bytes()).hexdigest()) for p in paths]


def test_films_are_decoded_once_each_as_threads_decode_them(root: Path, decoder: Decoder) -> None:
    paths = sorted(p for p in root.rglob("*.jpeg"))
    films = [
        *wanted(paths),
        Wanted(file=root / "gone.jpeg"),
        Wanted(file=paths[0], sha256="0" * 64),
    ]
    expected = {}
    for one in decoding.threads(2)(films, size=40, rule=rules.DEFAULT_RULE, stored=True):
        assert one is not None
        expected[one.number] = (one.outcome, one.stored)
    seen = set()
    for one in decoder(films, size=40, rule=rules.DEFAULT_RULE, stored=True):
        if one is None:
            continue
        assert one.number not in seen
        seen.add(one.number)
        outcome, stored = expected[one.number]
        assert one.stored == stored
        if isinstance(outcome, FilmError):
            assert isinstance(one.outcome, Unread)
        else:
            assert np.array_equal(one.outcome, outcome)
    assert seen == set(range(len(films)))


def test_no_process_is_started_for_no_film_and_none_is_left(root: Path, decoder: Decoder) -> None:
    command = "worker.decoding.child"
    before = set(running.children(os.getpid(), command))
    assert not list(decoder([], size=32, rule=rules.DEFAULT_RULE))
    films = wanted(sorted(root.rglob("*.jpeg")))
    through = decoder(films, size=32, rule=rules.DEFAULT_RULE)
    next(one for one in through if one is not None)
    assert len(set(running.children(os.getpid(), command)) - before) == 2
    through.close()
    assert set(running.children(os.getpid(), command)) == before


@pytest.mark.usefixtures("hostile")
def test_a_film_that_ends_its_decoder_is_left_out_of_training_by_name_and_tried_again(
    root: Path, decoder: Decoder, tmp_path: Path
) -> None:
    bad = spoil(root)
    read = dataset.read(root)
    for _ in range(2):
        data, films = cache.decode(read, tmp_path / "cache", size=32, decoder=decoder)
        assert {f.path: f.code for f in data.left_out} == bad
        assert len(data.films) == len(read.films) - 3
        for one, plane in zip(data.films, films.take(films.rows(data.films)), strict=True):
            assert np.array_equal(plane[0], rules.decode((root / one.path).read_bytes(), 32))
    # It was the decoder, or the limit, and not the film: that is found out when it is better.
    data, _ = cache.decode(read, tmp_path / "cache", size=32)
    assert not data.left_out


@pytest.mark.usefixtures("hostile")
def test_a_check_of_films_goes_on_after_one_that_ends_its_decoder(
    root: Path, decoder: Decoder
) -> None:
    bad = spoil(root)
    films = dataset.read(root).films
    seen, broken = preview.at(root, films, decoder=decoder)
    assert {one.path: one.code for one in broken} == bad
    assert len(seen) == len(films) - 3
    expected, _ = preview.at(root, films)
    for sha256, one in seen.items():
        other = expected[sha256]
        assert (one.kind, one.width, one.height) == (other.kind, other.width, other.height)
        assert np.array_equal(one.print, other.print)
    assert set(checkup.check([root], decoder=decoder).unreadable) == set(bad)


@pytest.mark.usefixtures("hostile")
def test_an_evaluation_names_a_film_that_ends_its_decoder_and_scores_the_others(
    root: Path, decoder: Decoder, model_file: Path, card: Card
) -> None:
    bad = spoil(root)
    _, entries = evaluation.choose(root, card, None)
    engine = open_engine(model_file, batch=4, threads=1)
    try:
        expected = list(evaluation.score(engine, entries, decoding.threads(2)))
        found = list(evaluation.score(engine, entries, decoder))
    finally:
        engine.close()
    assert [one.file for one in found] == [entry.file for entry in entries]
    for one, other in zip(found, expected, strict=True):
        path = one.file.relative_to(root).as_posix()
        assert one.code == bad.get(path, "")
        if path in bad:
            assert one.reason
        else:
            assert one == other


@pytest.mark.usefixtures("hostile")
def test_films_chosen_of_a_folder_are_others_where_one_ends_its_decoder(
    root: Path, card: Card
) -> None:
    spoil(root)
    limits = Limits(decoders=2, deadline_s=2.0, limit_mb=1024)
    found, broken = precisions.pick(str(root), card, 1000, limits)
    assert (len(found), broken) == (80, 3)


def test_members_of_an_archive_are_decoded_where_they_lie(root: Path) -> None:
    with archive.open_source(str(root)) as source:
        listing: list[Member] = list(source.members())
    place = Place(kind="folder", uri=str(root), edition="")
    limits = Limits(decoders=1, deadline_s=30.0, limit_mb=1024)
    found = {}
    for one in labelled.members(place, listing, size=32, rule=rules.DEFAULT_RULE, limits=limits):
        if one is not None and not isinstance(one.outcome, FilmError):
            found[one.number] = one.outcome.copy()
    for number, member in enumerate(listing):
        assert np.array_equal(found[number], rules.decode((root / member.name).read_bytes(), 32))


def test_a_share_that_errs_for_a_moment_costs_no_film(
    root: Path, decoder: Decoder, tmp_path: Path
) -> None:
    with mounts.share(root, tmp_path / "share") as share:
        paths = sorted((tmp_path / "share").rglob("*.jpeg"))
        films = wanted(paths)
        share.errs(names=f"*{paths[3].name}", on=("open",))
        found: dict[int, bool] = {}
        waited = False
        for one in decoder(films, size=32, rule=rules.DEFAULT_RULE):
            if one is None:  # nothing else is left to be done
                assert len(found) < 80
                waited = True
                share.recovers()
            else:
                found[one.number] = isinstance(one.outcome, FilmError)
        assert waited
        assert found == dict.fromkeys(range(80), False)
