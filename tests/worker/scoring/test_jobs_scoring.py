"""Scoring jobs by real worker processes, over a real broker, on both databases."""

from __future__ import annotations

import shutil
import signal
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.base import database, workers
from db.queue import jobs
from db.work import control
from tests.support import drawn, processes, servers, soak
from tests.support import films as real
from tests.support.paths import SHARED
from tests.support.site import Site, processes_with, site, stop
from tests.worker import samples
from trainer.card import Card

database_url = soak.database_url

#: What was scored before is scored again.
FORCED = {"force": True}

ORIGINALS = SHARED / "data" / "originals"


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of about a hundred films in two class folders, twenty of them real."""
    folder = tmp_path_factory.mktemp("films") / "films"
    drawn.write_folder(folder, 45)
    shutil.copytree(real.FOLDER, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def here(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model_file: Path, card: Card
) -> Iterator[Site]:
    """A site whose model 1 is registered."""
    with site(database_url, valkey, tmp_path / "site") as made:
        assert samples.register(made.engine, model_file, card) == 1
        yield made


def packed(folder: Path, into: Path) -> dict[str, Path]:
    """The same films as zip, tar and tar.gz."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with zipfile.ZipFile(into / "films.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(into / f"films.{suffix}", mode) as tar:
            for file in files:
                tar.add(file, file.relative_to(folder))
    return {suffix: into / f"films.{suffix}" for suffix in ("zip", "tar", "tar.gz")}


def warm_up(here: Site, film: Path) -> None:
    """Score one film again and again until every worker has committed one: decoders are up."""
    alive = len(workers.alive(here.engine, "score"))

    def all_have() -> bool:
        here.ended(here.score(film, model_id=1, spec=FORCED))
        return here.rows("SELECT count(DISTINCT worker_id) AS n FROM shards")[0].n >= alive

    here.wait(all_have, "every worker to have scored something")


def two_workers_give(here: Site, archives: dict[str, Path], expected: dict[str, float]) -> None:
    """Every archive's job gives these probabilities, also when both workers commit two shards."""
    for archive in archives.values():

        def shared(archive: Path = archive) -> bool:
            job_id = here.score(*[archive] * 4, model_id=1, spec=FORCED)
            assert here.ended(job_id) == "completed"
            found = here.rows(
                "SELECT DISTINCT name, probability FROM v_predictions WHERE job_id = :job",
                job=job_id,
            )
            assert len(found) == len(expected)
            assert {row.name: row.probability for row in found} == expected
            by_worker = here.rows(
                "SELECT count(*) AS n FROM shards WHERE job_id = :job GROUP BY worker_id",
                job=job_id,
            )
            return len(by_worker) == 2 and all(row.n >= 2 for row in by_worker)

        # On a busy machine one worker may finish so short a job before the other has woken.
        here.wait(shared, "two workers to share one job")


def test_folder_zip_tar_and_targz_give_the_same_probabilities_with_one_worker_and_with_two(
    here: Site, films: Path, tmp_path: Path
) -> None:
    count = sum(1 for p in films.rglob("*") if p.is_file())
    archives = packed(films, tmp_path)
    here.worker()
    alone = here.score(films, model_id=1)
    assert here.ended(alone) == "completed"
    expected = here.probabilities(alone)
    assert len(expected) == count
    assert len(set(expected.values())) > count // 2

    here.worker()
    warm_up(here, sorted((films / "NORMAL").iterdir())[0])
    two_workers_give(here, archives, expected)


@soak.on_postgresql
def test_a_worker_killed_in_the_middle_costs_nothing_but_time(here: Site, films: Path) -> None:
    count = sum(1 for p in films.rglob("*") if p.is_file())
    first = here.worker()
    job_id = here.score(films, model_id=1)

    def in_the_middle() -> bool:
        row = jobs.progress(here.engine, job_id)
        return 1 <= row["shards_done"] < row["shards"]

    here.wait(in_the_middle, "a first shard to be committed")
    stop(first, signal.SIGKILL)
    left = jobs.progress(here.engine, job_id)
    assert 1 <= left["shards_done"] < left["shards"], "it was killed too late to prove anything"

    here.worker()
    assert here.ended(job_id) == "completed"
    assert len(here.probabilities(job_id)) == count
    here.exactly_one_outcome_each(job_id, count)
    by_worker = here.rows("SELECT DISTINCT worker_id FROM shards WHERE job_id = :job", job=job_id)
    assert len(by_worker) == 2


def test_a_worker_told_to_end_hands_its_shards_back_at_once(here: Site, films: Path) -> None:
    worker = here.worker(lease_s=600.0)
    job_id = here.score(films, model_id=1)
    here.wait(
        lambda: jobs.progress(here.engine, job_id)["shards_done"] >= 1, "a shard to be committed"
    )
    began = time.monotonic()
    stop(worker, signal.SIGTERM)
    assert time.monotonic() - began < 15
    held = here.rows("SELECT count(*) AS n FROM shards WHERE state = 'leased'")
    assert held[0].n == 0
    here.worker(lease_s=600.0)
    assert here.ended(job_id) == "completed"


def test_one_unreadable_file_costs_that_file_and_is_told(here: Site, films: Path) -> None:
    bad = films.parent / "with_bad"
    bad.mkdir(exist_ok=True)
    good = sorted((films / "NORMAL").iterdir())[:20]
    for file in good:
        (bad / file.name).write_bytes(file.read_bytes())
    (bad / "cut short.jpeg").write_bytes(good[0].read_bytes()[:2000])
    (bad / "notes.txt").write_text("not a film")
    here.worker()
    answer = here.run("score", str(bad), "--wait")
    assert answer.returncode == 3, answer.stderr
    assert "Traceback" not in answer.stderr
    assert here.state(1) == "completed_with_errors"
    assert len(here.probabilities(1)) == len(good)
    wrong = {row.name: row for row in here.rows("SELECT * FROM v_item_errors WHERE job_id = 1")}
    assert wrong.keys() == {"cut short.jpeg", "notes.txt"}
    assert wrong["cut short.jpeg"].code == "truncated"
    assert wrong["notes.txt"].code == "not_an_image"
    assert "text" in wrong["notes.txt"].detail


@soak.on_postgresql
def test_a_bell_that_never_rang_is_made_up_for_by_a_sweep(here: Site, films: Path) -> None:
    here.worker()
    job_id = here.score(films, model_id=1, notify=False)
    assert here.ended(job_id) == "completed"


@soak.on_postgresql
def test_the_broker_may_lose_everything_in_the_middle(
    here: Site, films: Path, valkey: servers.Valkey
) -> None:
    here.worker()
    job_id = here.score(films, model_id=1)
    here.wait(lambda: jobs.progress(here.engine, job_id)["done"] > 0, "the first outcomes")
    valkey.kill()
    valkey.start(keep_data=False)
    assert here.ended(job_id) == "completed"
    # The worker found its way back to the empty broker: a second job reaches it.
    assert here.ended(here.score(films, model_id=1, notify=False)) == "completed"


@soak.on_postgresql
def test_a_cancelled_job_ends_now_and_keeps_what_is_committed(here: Site, films: Path) -> None:
    here.worker()
    job_id = here.score(*[films] * 20, model_id=1, spec=FORCED)
    here.wait(lambda: jobs.progress(here.engine, job_id)["shards_done"] >= 1, "a shard")
    answer = here.run("jobs", "cancel", str(job_id))
    assert answer.returncode == 0, answer.stderr
    assert here.state(job_id) == "cancelled"
    done = jobs.progress(here.engine, job_id)["done"]
    # The worker drops what it holds and goes on with other work.
    assert here.ended(here.score(films, model_id=1)) == "completed"
    assert jobs.progress(here.engine, job_id)["done"] == done


def test_a_more_urgent_job_overtakes_within_a_shard(
    here: Site, films: Path, tmp_path: Path
) -> None:
    # A shard of a small network is through in the time that it takes to submit a job.
    file, labels = tmp_path / "wide.onnx", ("NORMAL", "PNEUMONIA")
    card = samples.write_model(file, labels, seed=1, width=samples.WIDE)
    model_id = samples.register(here.engine, file, card)
    here.worker()
    slow = here.score(*[films] * 20, model_id=model_id, spec=FORCED)
    here.wait(lambda: jobs.progress(here.engine, slow)["shards_done"] >= 1, "a shard")
    one = sorted((films / "NORMAL").iterdir())[0]
    urgent = here.score(one, model_id=model_id, priority=5, spec=FORCED)
    assert here.ended(urgent) == "completed"
    assert here.state(slow) in ("planning", "running")
    done_before = here.rows(
        """SELECT count(*) AS n FROM shards WHERE job_id = :slow AND finished_at IS NOT NULL
           AND finished_at BETWEEN (SELECT planned_at FROM jobs WHERE id = :urgent)
                               AND (SELECT finished_at FROM jobs WHERE id = :urgent)""",
        slow=slow,
        urgent=urgent,
    )
    # From when it can be claimed: how long its planning takes, beside which others are scored, is
    # the machine's. What was in hand is finished: three small shards, and one being claimed then.
    assert done_before[0].n <= 4
    database.write(here.engine, lambda c: control.cancel(c, slow, "tester@here"))


def test_nothing_outlives_a_killed_worker(here: Site, films: Path) -> None:
    worker = here.worker()
    job_id = here.score(films, model_id=1)
    here.wait(lambda: jobs.progress(here.engine, job_id)["done"] > 0, "the first outcomes")
    started = processes_with(f"PNEUMOQ_HOME={here.settings.home}")
    assert len(started) >= 3  # the worker, its decoder, and who opens files for that
    stop(worker, signal.SIGKILL)
    here.wait(lambda: not processes.alive(started), "its decoders to end")


@soak.ONLY  # twenty real films and the drawn ones say the same above
@pytest.mark.skipif(not ORIGINALS.is_dir(), reason=f"{ORIGINALS} is not here")
def test_the_94_original_films_give_94_equal_predictions_from_every_kind_of_archive(
    here: Site, tmp_path: Path
) -> None:
    archives = packed(ORIGINALS, tmp_path)
    here.worker()
    job_id = here.score(ORIGINALS, model_id=1)
    assert here.ended(job_id) == "completed"
    expected = here.probabilities(job_id)
    assert len(expected) == 94
    here.worker()
    warm_up(here, sorted((ORIGINALS / "NORMAL").iterdir())[0])
    two_workers_give(here, archives, expected)
