"""A source's or a machine's trouble costs time, and no film; a film's own costs that film."""

from __future__ import annotations

import errno
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import item_errors, predictions, shard_listings, shards, sources
from db.queue import jobs, leases
from db.work import claims
from tests.support import soak
from tests.support.broken import disk, mounts
from tests.worker import samples
from worker import archive, config
from worker.archive import apart, stall
from worker.decoding import handle
from worker.machine.heartbeat import Heartbeat
from worker.machine.privacy import Privacy
from worker.scoring import away, cutting
from worker.scoring.loop import Scorer
from worker.scoring.planning import Planner

# A decoder that waits for a share that does not answer cannot be killed before that answers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*Popen:pytest.PytestUnraisableExceptionWarning",
    "ignore:subprocess .* is still running:ResourceWarning",
)

database_url = soak.database_url

FILMS = 12

#: Seconds for which a source or a film is left alone.
AGAIN_S = 0.3

#: Seconds in which a film must be read.
DEADLINE_S = 3.0


class Scoring:
    """A scorer that looks again soon, and its database."""

    def __init__(self, engine: sa.Engine, model_id: int, home: Path) -> None:
        settings = config.load(
            {
                "PNEUMOQ_HOME": str(home),
                "PNEUMOQ_DECODERS": "2",
                "PNEUMOQ_ENGINE_THREADS": "1",
                "PNEUMOQ_FILM_DEADLINE_S": str(DEADLINE_S),
            }
        )
        self.engine = engine
        self.model_id = model_id
        self.heartbeat = Heartbeat(engine, "w", lease_s=60)
        self.heartbeat.start()
        self.scorer = Scorer(
            settings, engine, "w", self.heartbeat, threading.Event(), lambda times: None
        )

    def close(self) -> None:
        """End the scorer, and let its heart rest."""
        self.scorer.close()
        self.heartbeat.end()

    def submit(self, *uris: Path) -> int:
        """A job over these sources in which everything is scored."""
        spec = {"keep_cam": "none", "force": True}
        return samples.submit_score(self.engine, self.model_id, *uris, spec=spec)

    def planned(self, *uris: Path) -> int:
        """The same, listed already."""
        job_id = self.submit(*uris)
        claimed = connecting.write(
            self.engine, lambda c: claims.claim_job(c, "score", "planner", lease_s=60)
        )
        assert claimed is not None and claimed.lease.job_id == job_id
        stop = threading.Event()
        Planner(
            self.engine, claimed, self.heartbeat, stop, lambda times: None, lambda: None,
            Privacy(b"the key of a site"),
        ).join()  # fmt: skip
        assert self.state(job_id) == "running"
        return job_id

    def drain(self) -> None:
        """Work until nothing is due here."""
        self.scorer.drain()

    def meets(self, *job_ids: int, others: Callable[[], bool] = lambda: True) -> None:
        """Work until each of these jobs has met a source that cannot be read, and `others`."""

        def have() -> bool:
            return all(map(self.reasons, job_ids)) and others()

        while not have():
            self.scorer.drain(have)
            time.sleep(0.02)
        samples.wait(lambda: not any(self.leased(j) for j in job_ids), "all to be handed back")

    def finds_unread(self, job_id: int) -> None:
        """Work until films could not be read that are to be tried again."""

        def has() -> bool:
            return any(row["unread"] for row in self.rows(shards, job_id))

        while not has():
            self.scorer.drain(has)

    def leased(self, job_id: int) -> bool:
        """Whether a shard of the job is in hand."""
        return any(row["state"] == "leased" for row in self.rows(shards, job_id))

    def until(self, job_id: int, state: str) -> None:
        """Work until a job is in a state."""

        def is_so() -> bool:
            self.drain()
            return self.state(job_id) == state

        samples.wait(is_so, f"job {job_id} to be {state}")

    def state(self, job_id: int) -> str:
        return str(jobs.get(self.engine, job_id)["state"])

    def rows(self, table: sa.Table, job_id: int) -> list[sa.RowMapping]:
        with connecting.reading(self.engine) as connection:
            return list(
                connection.execute(sa.select(table).where(table.c.job_id == job_id)).mappings()
            )

    def nothing_is_booked(self, job_id: int) -> None:
        """The job is open, no film is in error, no attempt is counted, and it is said why."""
        assert self.state(job_id) in ("planning", "running")
        assert self.rows(item_errors, job_id) == []
        assert self.attempts(job_id) <= {0}
        assert [bool(row["trouble"]) for row in self.rows(sources, job_id)] == [True]

    def attempts(self, job_id: int) -> set[int]:
        """The attempts at shards that are open."""
        return {row["attempts"] for row in self.rows(shards, job_id) if row["state"] != "done"}

    def all_are_scored(self, job_id: int) -> None:
        """The job completed, with a prediction for each film."""
        self.until(job_id, "completed")
        assert len(self.rows(predictions, job_id)) == FILMS
        assert [row["trouble"] for row in self.rows(sources, job_id)] == [None]

    def reasons(self, job_id: int) -> list[str]:
        """What its history says of sources that are away."""
        return [
            str(row["detail"])
            for row in jobs.events(self.engine, job_id)
            if row["event"] == "source_away"
        ]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes minutes takes moments."""
    monkeypatch.setattr(leases, "TRY_AGAIN_S", AGAIN_S)
    monkeypatch.setattr(handle, "REAP_S", 0.2)
    monkeypatch.setattr(away, "FIRST_S", AGAIN_S)
    monkeypatch.setattr(away, "LONGEST_S", AGAIN_S)


@pytest.fixture
def scoring(database: sa.Engine, model_id: int, tmp_path: Path) -> Iterator[Scoring]:
    """A scorer with a beating heart."""
    made = Scoring(database, model_id, tmp_path / "home")
    yield made
    made.close()


def fill(folder: Path) -> list[Path]:
    """Some films in a folder."""
    folder.mkdir(exist_ok=True)
    for name, data in samples.films(FILMS)[:FILMS]:
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def pack(films: list[Path], into: Path) -> list[Path]:
    """The same films as zip, tar and tar.gz."""
    with zipfile.ZipFile(into / "films.zip", "w") as archive:
        for film in films:
            archive.write(film, film.name)
    for kind, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(into / f"films.{kind}", mode) as tar:
            for film in films:
                tar.add(film, film.name)
    return [into / "films.zip", into / "films.tar", into / "films.tar.gz"]


@pytest.fixture
def share(tmp_path: Path) -> Iterator[mounts.Share]:
    """A share with a folder of films, and the same as archives."""
    real = tmp_path / "real"
    real.mkdir()
    pack(fill(real / "films"), real)
    with mounts.share(real, tmp_path / "share") as made:
        yield made


@soak.on_postgresql
def test_while_a_share_is_not_mounted_its_jobs_wait_and_then_every_film_is_scored(
    scoring: Scoring, share: mounts.Share
) -> None:
    names = ("films", "films.zip", "films.tar", "films.tar.gz")
    job_ids = [scoring.planned(share.at / name) for name in names]
    later = scoring.submit(share.at / "films")
    share.unmount()
    scoring.meets(*job_ids, later)
    for job_id in (*job_ids, later):
        scoring.nothing_is_booked(job_id)
        assert str(share.at) in scoring.reasons(job_id)[0]
    share.mount()
    for job_id in (*job_ids, later):
        scoring.all_are_scored(job_id)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE])
def test_where_no_film_of_a_source_can_be_read_it_is_the_sources_trouble_whatever_the_errno(
    scoring: Scoring, share: mounts.Share, number: int
) -> None:
    job_ids = [scoring.planned(share.at / name) for name in ("films", "films.tar")]
    # The root of both opens; a folder is not opened as a file is.
    share.errs(number, names="films*", on=["read"])
    scoring.meets(*job_ids)
    for job_id in job_ids:
        scoring.nothing_is_booked(job_id)
    share.recovers()
    for job_id in job_ids:
        scoring.all_are_scored(job_id)


@soak.on_postgresql
def test_a_film_that_cannot_be_read_while_others_are_is_in_error_after_three_tries(
    scoring: Scoring, share: mounts.Share
) -> None:
    films = sorted(path.name for path in (share.folder / "films").iterdir())
    job_id = scoring.planned(share.at / "films")
    share.errs(names=f"films/{films[2]}", on=["read"])
    scoring.finds_unread(job_id)
    assert scoring.rows(item_errors, job_id) == []
    left = [row for row in scoring.rows(shards, job_id) if row["unread"]]
    assert [(row["first_item"], row["n_items"], row["unread"]) for row in left] == [
        (2, 1, {"2": 1})
    ]
    scoring.until(job_id, "completed_with_errors")
    (error,) = scoring.rows(item_errors, job_id)
    assert (error["name"], error["code"]) == (films[2], "unreadable")
    assert "3 times" in error["detail"]
    assert len(scoring.rows(predictions, job_id)) == FILMS - 1
    assert scoring.reasons(job_id) == []


@soak.on_postgresql
def test_where_any_film_may_fail_at_any_time_what_was_read_is_kept(
    scoring: Scoring, share: mounts.Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 2 * FILMS)  # one shard
    films = sorted((share.folder / "films").iterdir())
    for film in films:
        film.with_name(f"z{film.name}").write_bytes(film.read_bytes())
    job_id = scoring.planned(share.at / "films")
    # Of all films a third cannot be read whenever they are, each time others.
    share.errs(names="films/*", on=["open"], every=3)
    scoring.finds_unread(job_id)
    assert 0 < len(scoring.rows(predictions, job_id)) < 2 * FILMS
    scoring.until(job_id, "completed")
    assert len(scoring.rows(predictions, job_id)) == 2 * FILMS
    assert scoring.rows(item_errors, job_id) == []


def test_a_listing_that_cannot_be_read_costs_its_shard_where_others_ask_for_witnesses(
    scoring: Scoring, share: mounts.Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 1)  # each film is a shard
    job_id = scoring.planned(share.at / "films")
    first = min(path.name for path in (share.folder / "films").iterdir())
    share.errs(names=f"films/{first}", on=["read"])
    with connecting.writing(scoring.engine) as connection:
        connection.execute(
            sa.update(shard_listings).where(shard_listings.c.shard_no > 0).values(listing=b"x")
        )

    def why() -> str:
        return str(scoring.rows(shards, job_id)[0]["last_error"])

    scoring.drain()
    samples.wait(lambda: why() != "None", "the shard to be handed back")
    assert why().startswith("scoring the shard failed")


def test_a_film_that_can_be_read_again_is_scored(scoring: Scoring, share: mounts.Share) -> None:
    job_id = scoring.planned(share.at / "films")
    films = sorted(path.name for path in (share.folder / "films").iterdir())
    share.errs(names=f"films/{films[9]}", on=["read"])
    scoring.finds_unread(job_id)
    share.recovers()
    scoring.all_are_scored(job_id)


def test_a_share_that_does_not_answer_holds_up_its_own_films_and_costs_none(
    scoring: Scoring, share: mounts.Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "here")
    job_id = scoring.planned(share.at / "films")
    here = scoring.planned(tmp_path / "here")
    for name in ("FIRST_S", "LONGEST_S"):
        monkeypatch.setattr(away, name, 2 * DEADLINE_S)
    share.hangs(names="films/*")
    scoring.meets(job_id, others=lambda: scoring.state(here) == "completed")
    scoring.nothing_is_booked(job_id)
    share.recovers()
    scoring.all_are_scored(job_id)


@pytest.mark.parametrize("at", ["listing", "inflating"])
def test_a_share_that_falls_silent_in_the_middle_of_an_archive_holds_up_nothing_else(
    scoring: Scoring,
    share: mounts.Share,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    monkeypatch.setattr(stall, "STALL_S", DEADLINE_S)
    fill(tmp_path / "here")
    given = scoring.submit if at == "listing" else scoring.planned
    job_id = given(share.at / "films.tar.gz")
    here = scoring.submit(tmp_path / "here")
    # That it answers at all is tried first, in another process.
    share.hangs(names="films.tar.gz", on=["read"], after=1)
    scoring.meets(job_id, others=lambda: scoring.state(here) == "completed")
    scoring.nothing_is_booked(job_id)
    assert apart.left_behind() == 1
    share.recovers()
    scoring.all_are_scored(job_id)
    samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")


def test_one_film_that_never_answers_costs_that_film(scoring: Scoring, share: mounts.Share) -> None:
    films = sorted(path.name for path in (share.folder / "films").iterdir())
    job_id = scoring.planned(share.at / "films")
    share.hangs(names=f"films/{films[9]}", on=["read"])
    scoring.until(job_id, "completed_with_errors")
    (error,) = scoring.rows(item_errors, job_id)
    assert (error["name"], error["code"]) == (films[9], "decoder_timeout")
    assert len(scoring.rows(predictions, job_id)) == FILMS - 1


def test_what_a_machine_has_run_out_of_costs_no_film_even_if_only_one_meets_it(
    scoring: Scoring, share: mounts.Share
) -> None:
    films = sorted(path.name for path in (share.folder / "films").iterdir())
    job_id = scoring.planned(share.at / "films")
    share.errs(errno.EMFILE, names=f"films/{films[2]}", on=["read"])
    scoring.meets(job_id)
    for _ in range(leases.TRIES):
        time.sleep(2 * AGAIN_S)
        scoring.drain()
    assert scoring.rows(item_errors, job_id) == []
    assert scoring.attempts(job_id) == {0}
    share.recovers()
    scoring.all_are_scored(job_id)


def test_an_archive_that_is_honestly_dirty_completes_with_errors_at_once(
    scoring: Scoring, tmp_path: Path
) -> None:
    films = fill(tmp_path / "films")
    for film in films[:5]:
        film.write_bytes(film.read_bytes()[:3000])
    films[5].write_text("no film")
    job_id = scoring.submit(tmp_path / "films")
    scoring.drain()
    assert scoring.state(job_id) == "completed_with_errors"
    assert len(scoring.rows(item_errors, job_id)) == 6


def test_a_job_is_not_failed_by_a_planner_that_sees_an_empty_mount_point(
    scoring: Scoring, tmp_path: Path
) -> None:
    with mounts.disk(tmp_path / "disk") as disk:
        fill(disk.at)
        job_id = scoring.submit(disk.at)
        fill(tmp_path / "here")
        both = scoring.submit(disk.at, tmp_path / "here")
        disk.unmount()
        scoring.meets(job_id, both, others=lambda: len(scoring.rows(predictions, both)) == FILMS)
        scoring.nothing_is_booked(job_id)
        assert scoring.state(both) == "planning", "and what is there of it is scored"
        disk.mount()
        scoring.all_are_scored(job_id)
        scoring.until(both, "completed")


def test_a_disk_that_goes_in_the_middle_of_a_shard_costs_no_film(
    scoring: Scoring, share: mounts.Share
) -> None:
    job_id = scoring.planned(share.at / "films")
    share.errs(errno.ENODEV, names="films/*", on=["read"], after=3)
    scoring.meets(job_id)
    scoring.nothing_is_booked(job_id)
    share.recovers()
    scoring.all_are_scored(job_id)


def test_a_machine_that_is_short_of_memory_when_it_opens_a_shard_costs_no_attempt(
    scoring: Scoring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "films")
    job_id = scoring.planned(tmp_path / "films")

    def short(listing: bytes) -> list[archive.Member]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(archive, "unpack", short)
        scoring.meets(job_id)
    scoring.nothing_is_booked(job_id)
    assert "this machine has run out of something" in scoring.reasons(job_id)[0]
    scoring.all_are_scored(job_id)


def test_a_machine_that_is_short_of_memory_when_it_lists_a_source_costs_no_attempt(
    scoring: Scoring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "films")
    job_id = scoring.submit(tmp_path / "films")

    def short(members: list[archive.Member]) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(archive, "pack", short)
        scoring.meets(job_id)
    scoring.nothing_is_booked(job_id)
    assert jobs.get(scoring.engine, job_id)["attempts"] == 0
    scoring.all_are_scored(job_id)


def test_a_machine_without_room_for_the_models_file_costs_no_film(
    database: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    with disk.small_disk(1) as home:
        scoring = Scoring(database, model_id, home)
        ballast = disk.fill(home)
        try:
            fill(tmp_path / "films")
            job_id = scoring.planned(tmp_path / "films")
            scoring.meets(job_id)
            scoring.nothing_is_booked(job_id)
            assert "this machine has run out of something" in scoring.reasons(job_id)[0]
            ballast.unlink()
            scoring.all_are_scored(job_id)
        finally:
            scoring.close()


def test_a_folder_that_a_machine_out_of_files_cannot_list_is_listed_later(
    scoring: Scoring, share: mounts.Share
) -> None:
    (share.folder / "films" / "below").mkdir()
    for film in [path for path in (share.folder / "films").iterdir() if path.is_file()][:4]:
        film.rename(film.parent / "below" / film.name)
    job_id = scoring.submit(share.at / "films")
    share.errs(errno.EMFILE, names="films/below", on=["list"])
    scoring.meets(job_id)
    scoring.nothing_is_booked(job_id)
    share.recovers()
    scoring.all_are_scored(job_id)
