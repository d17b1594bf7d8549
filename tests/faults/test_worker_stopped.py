"""A worker is stopped past its lease, as by a laptop's lid, and then goes on as if nothing was."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database
from tests.faults import harm
from tests.support import processes, soak
from tests.support.site import Site, stop

#: A worker that neither ran nor wanted to for this long waits for something, in seconds.
QUIET_S = 0.5

#: How often one of the two is stopped.
TURNS = soak.repetitions(quick=4, full=6)


def _decoders(of: subprocess.Popen[bytes]) -> list[int]:
    """The processes that decode films for a worker."""
    return processes.children(of.pid, "worker.decoding.child")


def _rests(sleeper: subprocess.Popen[bytes]) -> bool:
    """Whether the worker and its decoders wait for something."""
    every = [sleeper.pid, *_decoders(sleeper)]
    before = sum(map(harm.worked_s, every))
    time.sleep(QUIET_S)
    # Less than before is no rest either: a thread that ended took its time along.
    return abs(sum(map(harm.worked_s, every)) - before) < QUIET_S / 10


def _finished(here: Site, job_id: int) -> sa.Row[tuple[str, int]] | None:
    """Who finished the job's only shard, with which token."""
    rows = here.rows(
        """SELECT worker_id, lease_token FROM shards
           WHERE job_id = :job AND finished_at IS NOT NULL""",
        job=job_id,
    )
    return rows[0] if rows else None


@contextmanager
def _held(here: Site, job_id: int) -> Iterator[None]:
    """No outcome of the job can be written."""
    if here.engine.dialect.name == "sqlite":
        with harm.locked(here):
            yield
        return
    # Only the row that a commit wants: everything else must find its way around a stopped worker.
    with database.writing(here.engine) as holder:
        row = sa.text("SELECT id FROM jobs WHERE id = :job FOR UPDATE")
        holder.execute(row, {"job": job_id})
        yield


@soak.on_postgresql
def test_a_stopped_workers_late_write_is_refused_and_the_outcomes_are_the_others(
    here: Site, few: Path
) -> None:
    film = sorted((few / "NORMAL").iterdir())[0]
    # It takes no second wake-up and makes no sweep: what it does after its sleep is old work.
    sleeper = here.begin_worker(lease_s=2.0, sweep_s=600.0)
    sleeper_id = here.hello(sleeper)
    harm.completed(here, harm.submit(here, film), 1)  # its model and its decoders are there
    # All but decoding and writing is done before the lock is held; then the film is decoded, its
    # outcomes are ready and their write waits: there the worker is stopped.
    decoders = _decoders(sleeper)
    assert decoders
    for decoder in decoders:
        os.kill(decoder, signal.SIGSTOP)
    job_id = harm.submit(here, film)
    leased = "SELECT 1 FROM shards WHERE job_id = :job AND state = 'leased'"
    here.wait(lambda: here.rows(leased, job=job_id) and _rests(sleeper), "it to wait for its film")
    with _held(here, job_id):
        for decoder in decoders:
            os.kill(decoder, signal.SIGCONT)
        here.wait(lambda: _rests(sleeper), "its write to wait")
        harm.freeze(sleeper)

    other = here.worker(lease_s=2.0, sweep_s=0.5)
    other_id = here.hello(other)
    here.wait(lambda: _finished(here, job_id), "the other to finish the shard")
    assert _finished(here, job_id) == (other_id, 2)
    harm.thaw(sleeper)
    here.wait(lambda: here.says(sleeper, "not committed: shard 0 "), "its late write")
    harm.completed(here, job_id, 1)
    assert _finished(here, job_id) == (other_id, 2)

    # It is as good as before.
    assert stop(other, signal.SIGTERM) == 0
    again = harm.submit(here, film)
    harm.completed(here, again, 1)
    finished = _finished(here, again)
    assert finished is not None
    assert finished.worker_id == sleeper_id
    harm.calm(here)


def test_workers_stopped_and_continued_in_turns_do_nothing_twice(here: Site, few: Path) -> None:
    limits = {"lease_s": 1.0, "sweep_s": 0.5}
    pair = [here.begin_worker(**limits) for _ in range(2)]
    for worker in pair:
        here.hello(worker)
    job_id = harm.submit(here, *[few] * 25)
    harm.in_the_middle(here, job_id)
    for turn in range(TURNS):
        one = pair[turn % 2]
        harm.freeze(one)
        time.sleep(1.2)  # longer than its lease
        harm.thaw(one)
    harm.completed(here, job_id, 25 * harm.count(few))
    harm.alive(*pair)
    harm.calm(here)


@pytest.mark.soak
@pytest.mark.postgres
def test_a_stopped_writer_does_not_lock_others_out_for_ever(postgres_url: str) -> None:
    engine = database.connect(postgres_url)
    setting = "SHOW idle_in_transaction_session_timeout"
    with database.writing(engine) as connection:
        assert connection.exec_driver_sql(setting).scalar_one() == "1min"
    with database.reading(engine) as connection:
        assert connection.exec_driver_sql(setting).scalar_one() == "0"
    engine.dispose()
