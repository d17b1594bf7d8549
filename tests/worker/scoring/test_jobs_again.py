"""Scoring again: answered from the store, after mending, by force, and what kills its workers."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from blake3 import blake3

from db.base import database, schema
from db.queue import jobs
from db.work import control
from tests.support import drawn, servers, soak
from tests.support.site import Site, site
from tests.worker import samples
from trainer.card import Card

database_url = soak.database_url

PATIENTS = 12


@pytest.fixture
def here(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model_file: Path, card: Card
) -> Iterator[Site]:
    """A site with one worker, whose model 1 is registered."""
    with site(database_url, valkey, tmp_path / "site") as made:
        assert samples.register(made.engine, model_file, card) == 1
        made.worker()
        yield made


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """Some films in a folder."""
    folder = tmp_path / "films"
    drawn.write_folder(folder, PATIENTS)
    return sorted(p for p in folder.rglob("*") if p.is_file())


def zipped(path: Path, files: list[Path]) -> Path:
    """The films in a zip, stored."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def reused(here: Site, job_id: int) -> int:
    """How many predictions of a job repeat another's."""
    rows = here.rows(
        "SELECT count(*) AS n FROM v_predictions WHERE job_id = :job AND reused_from_job > 0",
        job=job_id,
    )
    return int(rows[0].n)


def test_films_that_were_scored_are_answered_from_the_store_whatever_they_are_packed_in(
    here: Site, films: list[Path], tmp_path: Path
) -> None:
    first = here.score(zipped(tmp_path / "some.zip", films[:10]), model_id=1)
    assert here.ended(first) == "completed"
    assert reused(here, first) == 0
    second = here.score(tmp_path / "films", model_id=1)
    assert here.ended(second) == "completed"
    assert reused(here, second) == 10
    names = {Path(n).name: p for n, p in here.probabilities(second).items()}
    assert len(names) == len(films)
    assert {n: names[n] for n in here.probabilities(first)} == here.probabilities(first)
    here.exactly_one_outcome_each(second, len(films))
    # A row that was answered is never the origin of another answer.
    third = here.score(tmp_path / "films", model_id=1)
    here.ended(third)
    assert reused(here, third) == len(films)
    origins = here.rows(
        "SELECT DISTINCT reused_from_job AS job FROM v_predictions WHERE job_id = :job", job=third
    )
    assert {row.job for row in origins} == {first, second}


@pytest.mark.parametrize("kind", ["blake3", "blake2b"])
def test_films_are_known_by_the_hash_that_their_database_began_with(
    kind: str, here: Site, films: list[Path], tmp_path: Path
) -> None:
    assert here.rows("SELECT content_hash FROM site") == [("blake3",)]
    if kind != "blake3":
        other = sa.update(schema.site).values(content_hash=kind)
        database.write(here.engine, lambda c: c.execute(other))
    job_id = here.score(tmp_path / "films", model_id=1)
    assert here.ended(job_id) == "completed"
    computed = {
        "blake3": lambda data: blake3(data).digest(16),
        "blake2b": lambda data: hashlib.blake2b(data, digest_size=16).digest(),
    }[kind]
    rows = here.rows("SELECT content, content_hash FROM v_latest_by_content")
    assert {row.content_hash for row in rows} == {kind}
    assert {bytes(row.content) for row in rows} == {computed(p.read_bytes()) for p in films}
    again = here.score(zipped(tmp_path / "all.zip", films), model_id=1)
    assert here.ended(again) == "completed"
    assert reused(here, again) == len(films)


def test_maps_that_are_asked_for_are_there_though_the_films_were_scored_without(
    here: Site, films: list[Path], tmp_path: Path
) -> None:
    def maps(spec: dict[str, str]) -> tuple[int, int]:
        """Maps of a job, and how many of its films were answered from the store."""
        job_id = here.score(tmp_path / "films", model_id=1, spec=spec)
        assert here.ended(job_id) == "completed"
        found = here.rows("SELECT count(*) AS n FROM cams WHERE job_id = :job", job=job_id)[0].n
        return int(found), reused(here, job_id)

    n = len(films)
    assert maps({"keep_cam": "none"}) == (0, 0)
    label = "PNEUMONIA"
    positive = here.rows("SELECT count(*) AS n FROM v_predictions WHERE label = :l", l=label)[0].n
    assert 0 < positive < n
    assert maps({}) == (positive, n - positive)
    assert maps({"keep_cam": "all"}) == (n, positive)
    assert maps({"keep_cam": "all"}) == (n, n)
    assert maps({"keep_cam": "none"}) == (0, n)


def test_by_force_every_film_is_scored_anew(here: Site, films: list[Path], tmp_path: Path) -> None:
    for _ in range(2):
        job_id = here.score(tmp_path / "films", model_id=1, spec={"force": True})
        assert here.ended(job_id) == "completed"
        assert reused(here, job_id) == 0


@soak.on_postgresql
def test_an_unchanged_archive_is_answered_without_reading_its_members(
    here: Site, films: list[Path], tmp_path: Path
) -> None:
    path = zipped(tmp_path / "films.zip", films)
    first = here.score(path, model_id=1)
    assert here.ended(first) == "completed"
    # Whoever read a member now would notice: only the directory at the end is as it was.
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2")
    data[:directory] = b"\xee" * directory
    path.write_bytes(data)
    second = here.score(path, model_id=1)
    assert here.ended(second) == "completed"
    assert here.probabilities(second) == here.probabilities(first)
    assert reused(here, second) == len(films)
    here.exactly_one_outcome_each(second, len(films))
    # By force it is read.
    third = here.score(path, model_id=1, spec={"force": True})
    assert here.ended(third) == "completed_with_errors"
    assert jobs.progress(here.engine, third)["errors"] == len(films)


@soak.on_postgresql
def test_what_failed_is_done_again_after_mending_and_nothing_else(
    here: Site, films: list[Path], tmp_path: Path
) -> None:
    broken = films[3]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    gone = films[7]
    away = gone.rename(tmp_path / gone.name)
    gone.symlink_to(tmp_path / "nowhere")
    first = here.score(tmp_path / "films", model_id=1)
    assert here.ended(first, hurry=True) == "completed_with_errors"
    assert jobs.progress(here.engine, first)["errors"] == 2

    broken.write_bytes(whole)
    gone.unlink()
    away.rename(gone)
    second = database.write(
        here.engine, lambda c: control.retry(c, first, "tests", failed_only=True)
    )
    assert here.ended(second) == "completed"
    assert {Path(n).name for n in here.probabilities(second)} == {broken.name, gone.name}
    assert jobs.get(here.engine, second)["parent_job_id"] == first
    here.exactly_one_outcome_each(second, 2)


def test_an_archive_that_was_mended_may_be_retried_though_it_is_another_file_now(
    here: Site, films: list[Path], tmp_path: Path
) -> None:
    path = zipped(tmp_path / "films.zip", films)
    data = bytearray(path.read_bytes())
    at = data.index(films[2].name.encode()) + len(films[2].name) + 50
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    first = here.score(path, model_id=1)
    assert here.ended(first) == "completed_with_errors"
    zipped(path, [*films[5:], *films[:5]])  # whole, and in another order
    second = database.write(
        here.engine, lambda c: control.retry(c, first, "tests", failed_only=True)
    )
    assert here.ended(second) == "completed"
    assert set(here.probabilities(second)) == {films[2].name}
    # What a retry scored of an archive is not the whole of it.
    third = here.score(path, model_id=1)
    assert here.ended(third) == "completed"
    assert set(here.probabilities(third)) == {f.name for f in films}


@soak.on_postgresql
def test_a_paused_job_waits_and_goes_on_where_it_was(
    here: Site, films: list[Path], tmp_path: Path
) -> None:
    job_id = here.score(*[tmp_path / "films"] * 4, model_id=1, spec={"force": True})
    here.wait(lambda: here.done(job_id) >= 1, "a shard")
    database.write(here.engine, lambda c: control.pause(c, job_id, "tests"))
    done = jobs.progress(here.engine, job_id)["done"]
    # The worker is free: another job is done meanwhile, and this one has not moved.
    other = here.score(films[0], model_id=1)
    assert here.ended(other) == "completed"
    assert here.state(job_id) == "paused"
    assert jobs.progress(here.engine, job_id)["done"] == done
    database.write(here.engine, lambda c: control.resume(c, job_id, "tests"))
    assert here.ended(job_id) == "completed"
    here.exactly_one_outcome_each(job_id, 4 * len(films))
    worst = here.rows("SELECT max(attempts) AS n FROM shards WHERE job_id = :job", job=job_id)
    assert worst[0].n == 1


@soak.on_postgresql
def test_a_job_over_its_error_budget_is_ended_with_the_numbers(
    here: Site, films: list[Path], tmp_path: Path
) -> None:
    for file in films[:8]:
        file.write_bytes(b"broken")
    within = here.score(tmp_path / "films", model_id=1, spec={"max_errors": "8"})
    assert here.ended(within) == "completed_with_errors"
    over = here.score(tmp_path / "films", model_id=1, spec={"max_errors": "7"})
    assert here.ended(over) == "failed"
    reason = jobs.get(here.engine, over)["reason"]
    assert "8" in reason and "7" in reason and "--max-errors" in reason


def test_a_shard_that_kills_its_workers_is_cut_in_two_until_one_item_is_left(
    sqlite_url: str,
    valkey: servers.Valkey,
    tmp_path: Path,
    films: list[Path],
    model_file: Path,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poison = films[5].name
    (tmp_path / "sitecustomize.py").write_text(_POISON.format(poison=poison))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with site(sqlite_url, valkey, tmp_path / "poisoned", lease_s=1.0) as here:
        assert samples.register(here.engine, model_file, card) == 1
        here.worker()
        job_id = here.score(zipped(tmp_path / "films.zip", films), model_id=1)
        deaths = 0

        def ended() -> bool:
            return jobs.get(here.engine, job_id)["finished_at"] is not None

        while not ended():
            here.wait(lambda: here.started[-1].poll() is not None or ended(), "a death or the end")
            if here.started[-1].poll() is not None:
                deaths += 1
                assert deaths < 40
                with here.engine.begin() as connection:  # as if many had died of it already
                    connection.execute(
                        sa.text("UPDATE shards SET attempts = 5 WHERE attempts > 1 AND n_items > 1")
                    )
                here.worker()
        assert here.state(job_id) == "completed_with_errors"
        assert deaths >= 3
        errors = here.rows("SELECT name, code FROM v_item_errors WHERE job_id = :job", job=job_id)
        assert [(e.name, e.code) for e in errors] == [(poison, "worker_died")]
        here.exactly_one_outcome_each(job_id, len(films))


#: Whatever opens a shard with this member is killed, as by a machine that runs out of memory.
_POISON = """
import os, signal, sys

if "worker.app" in " ".join(sys.orig_argv):
    from worker.scoring import opening

    def open(self, claimed, *rest, _open=opening.Opener.open):
        run = _open(self, claimed, *rest)
        if any(m.name == {poison!r} for m in run.members):
            os.kill(os.getpid(), signal.SIGKILL)
        return run

    opening.Opener.open = open
"""
