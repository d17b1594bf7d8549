"""No two calls that write lock the same rows in different orders, and wait for each other.

Every pair is run with one of the two stopped behind each of its statements in turn, while the other
goes as far as it comes: what two that run at the same time could do to each other, they do here.
Both are rolled back, so that the next pair finds the same rows.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from db.base import outbox
from db.base.database import write
from db.base.schema import films, runs, shard_totals, shards, sources
from db.base.schema import schedules as schedules_table
from db.base.types import now
from db.nightly import nights, schedules, watched
from db.nightly import runs as run_rows
from db.nightly.watched import Seen
from db.queue import jobs, labels, leases, listings, outages, results, reuse, shares, training
from db.registry import aliases, drift, engine_checks, models, retention
from db.work import claims, control, endings, patience, purge, totals
from tests.db import given
from tests.support import chance, soak
from worker.schedules import promotion

pytestmark = pytest.mark.postgres

Call = Callable[[sa.Connection], object]

#: Of so many calls one is run against all others, by chance; in the full soak each of them.
SHARE = soak.repetitions(quick=20, full=1, part=3)

#: Seconds after which a lock that is waited for counts as one that another has.
BLOCKED_S = 0.03

#: Longest wait for a thread, in seconds.
PATIENCE_S = 60.0

DEADLOCK = "40P01"

PATHS = ["/in/a.jpg", "/in/b.jpg", "/in/c.jpg"]


class Rows(NamedTuple):
    """The rows that the calls are made on."""

    #: Running, with shards that `w` holds, and others that are due.
    running: int
    held: list[leases.Shard]
    #: Of which nothing is left but what nobody can read; `w` held its shards once.
    stalled: int
    stalled_held: list[leases.Shard]
    paused: int
    done: int
    planning: leases.Lease
    #: Of the training schedule.
    training: leases.Lease
    night_run: int
    proving: Mapping[str, Any]
    #: Of the scoring schedules: the run of the one is looked through, that of the other has a job.
    looked_at: int
    inbox: int
    taken: int


def _schedule(database: sa.Engine, name: str, kind: str) -> int:
    return write(
        database,
        lambda c: schedules.add(
            c, name=name, cron="0 2 * * *", tz="UTC", kind=kind, spec={"job": {"data": "/films"}},
            catch_up_s=3600, created_by="tests",
        ),
    )  # fmt: skip


def _run(database: sa.Engine, number: int) -> int:
    def make(connection: sa.Connection) -> int | None:
        row = connection.execute(
            sa.select(schedules_table).where(schedules_table.c.id == number)
        ).one()
        return schedules.make_run(connection, row, row.created_at, "clock")

    run_id = write(database, make)
    assert run_id is not None
    return run_id


def _job_of(database: sa.Engine, run_id: int) -> int:
    return int(given.one(database, runs, runs.c.id == run_id).job_id)


def _take(connection: sa.Connection, run_id: int, number: int) -> int:
    return watched.take(
        connection, run_id, "w", number, PATHS, spec={"sources": ["/in"]},
        submitted_by="schedule", model_id=1,
        source_rows=[{"uri": "/in", "kind": "list", "fingerprint": "1"}],
    )  # fmt: skip


def _looked_at(database: sa.Engine, name: str) -> tuple[int, int]:
    """A scoring schedule, and its run that `w` looks through, with files that were seen."""
    number = _schedule(database, name, "score")
    run_id = _run(database, number)
    assert write(database, lambda c: watched.claim(c, run_id, "w", (), 60.0))
    seen = [Seen(path, 10, 1) for path in PATHS]
    watched.observe(database, run_id, "w", number, seen)
    return number, run_id


@pytest.fixture
def rows(postgres_database: sa.Engine, tmp_path: Path) -> Rows:
    """One of each kind, in the states in which the calls do the most."""
    database = postgres_database
    write(database, lambda c: models.register(c, given.model(tmp_path, "second"), "tests"))

    done = given.running(database, shards=2, items=30)  # enough to be a measure
    for _ in range(2):
        shard = given.claimed(database, "w")
        scored = [
            outcome._replace(content=bytes([outcome.item_no]) * 16)
            for outcome in given.outcomes(shard)
            if isinstance(outcome, results.Prediction)
        ]
        write(database, lambda c, s=shard, o=scored: results.commit(c, s, o))  # type: ignore[misc]
    assert given.close(database, done)
    # Of its first shard only the rows tell what is to be added.
    first = (shards.c.job_id == done, shards.c.shard_no == 0)
    write(database, lambda c: c.execute(sa.update(shards).where(*first).values(summed=None)))
    write(
        database,
        lambda c: c.execute(sa.delete(shard_totals).where(shard_totals.c.shard_no == 0)),
    )

    planning = given.planning(database).lease
    write(database, lambda c: listings.add(c, planning, given.new_shards(1)))
    write(database, lambda c: c.execute(sa.update(shards).values(not_before=now(600))))

    stalled = given.running(database, shards=2, items=2)
    stalled_held = [given.claimed(database, "w") for _ in range(2)]
    write(database, lambda c: outages.note(c, stalled, 0, "w", "away"))
    long_ago = sa.update(sources).where(sources.c.job_id == stalled).values(trouble_at=now(-1e6))
    write(database, lambda c: c.execute(long_ago))
    run_out = sa.update(shards).where(shards.c.job_id == stalled)
    write(database, lambda c: c.execute(run_out.values(lease_until=now(-1), not_before=now(60))))

    paused = given.running(database, shards=2)
    write(database, lambda c: outages.note(c, paused, 0, "w", "away"))
    write(database, lambda c: outages.begin(c, "away", job_id=paused))
    write(database, lambda c: control.pause(c, paused, "tests"))

    number, run_id = _looked_at(database, "inbox")
    other, other_run = _looked_at(database, "other")
    taken = write(database, lambda c: _take(c, other_run, other))
    write(database, lambda c: control.pause(c, taken, "tests"))

    night_run = _run(database, _schedule(database, "nightly", "train"))
    claimed = write(database, lambda c: claims.claim_job(c, "train", "w", given.LEASE_S))
    assert claimed is not None and claimed.lease.job_id == _job_of(database, night_run)

    proving = _run(database, _schedule(database, "second", "train"))
    trained = _job_of(database, proving)
    write(database, lambda c: endings.finish(c, trained, "completed", "w"))
    notes = {"state": "proving", "candidate_id": 2, "reason": "as good", "verdict": {"told": ""}}
    write(database, lambda c: run_rows.note(c, proving, **notes))
    waiting = run_rows.in_state(database, "proving")

    running = given.running(database, shards=6, items=2, priority=5)
    # Whoever claims the first one that is due takes it from who vanished.
    vanished = given.claimed(database, "gone", given.EXPIRED_S)
    held = []
    for number in range(1, 4):
        away = sa.update(shards).where(shards.c.job_id == running, shards.c.shard_no < number)
        write(database, lambda c, u=away: c.execute(u.values(not_before=now(60))))  # type: ignore[misc]
        held.append(given.claimed(database, "w"))
    assert [(shard.job_id, shard.shard_no) for shard in held] == [(running, n) for n in (1, 2, 3)]
    due = sa.update(shards).where(shards.c.job_id == running).values(not_before=None)
    write(database, lambda c: c.execute(due))
    assert given.one(database, shards, shards.c.worker_id == "gone").shard_no == vanished.shard_no
    for _ in range(3):
        write(database, lambda c: outbox.add(c, "failed", job_id=running))
    return Rows(
        running=running, held=held, stalled=stalled, stalled_held=stalled_held, paused=paused,
        done=done, planning=planning, training=claimed.lease, night_run=night_run,
        proving=waiting[0], looked_at=run_id, inbox=number, taken=taken,
    )  # fmt: skip


def calls(at: Rows, folder: Path) -> dict[str, Call]:
    """Every call that writes, on these rows, by name."""
    first, second, third = at.held
    old = at.stalled_held[0]
    halves = given.new_shards(2)
    made = given.model(folder, "third")
    in_a_year = datetime.now(timezone.utc) + timedelta(days=365)

    def commit(connection: sa.Connection, shard: leases.Shard) -> None:
        outcomes = [
            o._replace(content=bytes([o.item_no - shard.first_item]) * 16)
            for o in given.outcomes(shard)
            if isinstance(o, results.Prediction)
        ]
        results.commit(connection, shard, outcomes)
        outages.read(connection, shard.job_id, shard.source_no)

    def give_back(connection: sa.Connection, shard: leases.Shard) -> None:
        leases.hand_back_shard(connection, shard, "x", in_good_order=True)
        outages.note(connection, shard.job_id, shard.source_no, "w", "x")

    def try_again(connection: sa.Connection, shard: leases.Shard) -> None:
        leases.hand_back_shard(connection, shard, "x", in_good_order=True, unread={1: 1})
        outages.read(connection, shard.job_id, shard.source_no)

    def gpu_lost(connection: sa.Connection) -> None:
        leases.hand_back_shard(connection, first, None, in_good_order=False)
        jobs.log(connection, first.job_id, "w", "gpu_lost", "x")

    def register(connection: sa.Connection) -> None:
        leases.fence(connection, at.training)
        number = models.register(connection, made, "w")
        run_rows.note(connection, at.night_run, candidate_id=number)
        endings.complete_training(connection, at.training, number)

    def tick(connection: sa.Connection, number: int) -> None:
        schedules.tick(connection, number, in_a_year, lambda *_: [in_a_year], patience.let_go)

    def frozen(connection: sa.Connection) -> None:
        nights.freeze(
            connection, at.training, at.night_run, digest="x", root="/films", films=1, patients=1,
            classes={"NORMAL": 1}, manifest_csv="",
        )  # fmt: skip

    def add_up(connection: sa.Connection) -> None:
        for _ in range(2):
            totals.add_batch(connection, wait=False)

    def add_up_all(connection: sa.Connection) -> None:
        assert [totals.add_batch(connection, at.done) for _ in range(3)] == [1, 1, 0]

    def gone(connection: sa.Connection) -> None:
        watched.fence(connection, at.looked_at, "w")
        run_rows.finish(connection, at.looked_at, "failed", "x")
        outages.begin(connection, "x", run_id=at.looked_at, schedule_id=at.inbox)

    notice = outbox.Notice(
        id=1, at=in_a_year, payload={}, attempt=0, last_error=None, who="w"
    )  # fmt: skip
    nightly = 3

    return {
        "claim a shard": lambda c: claims.claim_shard(c, "v", 60.0),
        "claim the best": lambda c: claims.claim_best(c, "v", 60.0, planning=True),
        "claim the best, of others": lambda c: claims.claim_best(
            c, "v", 60.0, planning=True, planned={"tests"}
        ),
        "set a weight": lambda c: shares.set_weight(c, "tests", 2.0, "p"),
        "claim a training": lambda c: claims.claim_job(c, "train", "v", 60.0),
        "renew shards": lambda c: leases.renew_shards(c, [third, first, second], 60.0),
        "renew a planning": lambda c: leases.renew(c, at.planning, 60.0),
        "renew a training": lambda c: leases.renew(c, at.training, 60.0),
        "commit": lambda c: commit(c, first),
        "commit another": lambda c: commit(c, second),
        "give up a shard": lambda c: results.give_up(c, first, ["a", "b"], "worker_died", "x"),
        "bisect": lambda c: listings.bisect(c, first, *halves),
        "cut": lambda c: listings.cut(c, first, halves),
        "hand back": lambda c: leases.hand_back_shard(c, first, "x", in_good_order=False),
        "source away": lambda c: give_back(c, first),
        "source away, stalled": lambda c: give_back(c, old),
        "try again": lambda c: try_again(c, first),
        "try again, stalled": lambda c: try_again(c, old),
        "gpu lost": gpu_lost,
        "note a trouble": lambda c: outages.note(c, at.paused, 0, "v", "x"),
        "forget a trouble": lambda c: outages.read(c, at.paused, 0),
        "pause": lambda c: control.pause(c, at.running, "p"),
        "pause, stalled": lambda c: control.pause(c, at.stalled, "p"),
        "resume": lambda c: control.resume(c, at.paused, "p"),
        "resume, of a schedule": lambda c: control.resume(c, at.taken, "p"),
        "cancel": lambda c: control.cancel(c, at.running, "p"),
        "cancel, paused": lambda c: control.cancel(c, at.paused, "p"),
        "cancel, of a schedule": lambda c: control.cancel(c, at.taken, "p"),
        "cancel, training": lambda c: control.cancel(c, at.training.job_id, "p"),
        "retry": lambda c: control.retry(c, at.done, "p"),
        "patience": lambda c: patience.look(c, at.stalled, "s"),
        "close": lambda c: endings.close_if_done(c, at.running, "s"),
        "fail": lambda c: endings.finish(c, at.running, "failed", "s", "x"),
        "plan": lambda c: listings.add(c, at.planning, halves),
        "keep an index": lambda c: listings.set_seek_index(c, at.planning, 0, b"x"),
        "planned": lambda c: listings.complete(c, at.planning, {}),
        "planning away": lambda c: outages.note(c, at.planning.job_id, 0, "w", "x"),
        "planning handed back": lambda c: leases.hand_back(c, at.planning, "x", in_good_order=True),
        "copy": lambda c: reuse.copy_source(c, at.planning, at.done, 0, 0, {}),
        "add up": add_up,
        "add up, of a job": add_up_all,
        "purge: mark": lambda c: purge._mark(c, [at.done]),
        "purge: films": lambda c: purge._forget(c, [films.c.job_id == at.done]),
        "purge: items": lambda c: purge._delete_items(c, at.done, 0),
        "purge: sum up": lambda c: purge._sum_up(c, at.done, "p"),
        "import labels": lambda c: labels.import_rows(c, at.done, [(0, "NORMAL")], "p"),
        "measure": lambda c: drift.use_job(c, 1, at.done, "p"),
        "epoch": lambda c: training.record_checkpoint(c, at.training),
        "freeze": frozen,
        "night": lambda c: nights.note(c, at.training, at.night_run, snapshot={}),
        "register": register,
        "submit": lambda c: jobs.submit(
            c, kind="score", spec={}, submitted_by="p", model_id=1, key="k"
        ),
        "promotion": lambda c: promotion._decide(c, at.proving, set(), False, "w"),
        "engine check": lambda c: engine_checks.claim(c, "cpu", "w", ()),
        "promote": lambda c: aliases.move(c, aliases.CHAMPION, 2, "p", "x"),
        "retire": lambda c: retention.retire(c, 0, "p"),
        "tick, training": lambda c: tick(c, nightly),
        "tick, waiting": lambda c: tick(c, 2),
        "tick, looked at": lambda c: tick(c, at.inbox),
        "remove": lambda c: schedules.remove(c, "inbox"),
        "hold a schedule": lambda c: schedules.set_paused(c, "nightly", True),
        "look": lambda c: watched._keep(
            c, at.looked_at, "w", at.inbox, {watched.key(p): Seen(p, 11, 2) for p in PATHS}
        ),
        "look failed": gone,
        "look again": lambda c: watched.again(c, at.looked_at, "w", 60.0),
        "look, taken": lambda c: _take(c, at.looked_at, at.inbox),
        "send": lambda c: outbox.claim(c, "w"),
        "sent": lambda c: outbox.record_result(c, notice, []),
        "not heard": outbox.mark_undelivered,
    }


class Gate:
    """Stops a thread behind its nth statement, or at its end, until it is let go."""

    def __init__(self, behind: int | None) -> None:
        self._behind = behind
        self._statements = 0
        self.reached = threading.Event()
        self._go = threading.Event()

    def statement(self) -> None:
        self._statements += 1
        if self._statements == self._behind:
            self.wait()

    def wait(self) -> None:
        self.reached.set()
        self._go.wait(PATIENCE_S)

    def open(self) -> None:
        self._go.set()


class Pairs:
    """Runs calls in transactions of their own, which are rolled back."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._here = threading.local()
        event.listen(engine, "after_cursor_execute", self._statement)
        event.listen(engine, "connect", self._connected)
        engine.dispose()
        self._pool = ThreadPoolExecutor(2)

    def close(self) -> None:
        self._pool.shutdown()
        event.remove(self.engine, "after_cursor_execute", self._statement)
        event.remove(self.engine, "connect", self._connected)
        self.engine.dispose()

    def _connected(self, connection: Any, _: Any) -> None:
        # The server looks for deadlocks behind a wait of so long.
        connection.execute("SET deadlock_timeout = '20ms'")
        connection.commit()

    def _statement(self, *_: Any) -> None:
        gate = getattr(self._here, "gate", None)
        if gate is not None:
            gate.statement()

    def alone(self, call: Call, lock_timeout_s: float = 0.0) -> str | None:
        """Run a call: the error class that the server ended it with, if it did."""
        with self.engine.connect() as connection:
            connection.execution_options(pneumoq_write=True)
            with connection.begin() as transaction:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock_timeout_s * 1000:.0f}")
                try:
                    call(connection)
                except DBAPIError as error:
                    return str(getattr(error.orig, "sqlstate", None))
                finally:
                    transaction.rollback()
        return None

    @contextmanager
    def stopped(self, call: Call, behind: int | None) -> Iterator[tuple[Gate, Future[str | None]]]:
        """Run a call in a thread and stop it; it goes on to its end when the block is left."""
        gate = Gate(behind)

        def run() -> str | None:
            def gated(connection: sa.Connection) -> None:
                self._here.gate = gate
                try:
                    call(connection)
                finally:
                    self._here.gate = None
                if behind is None:
                    gate.wait()

            try:
                return self.alone(gated)
            finally:
                gate.reached.set()

        future = self._pool.submit(run)
        assert gate.reached.wait(PATIENCE_S)
        try:
            yield gate, future
        finally:
            gate.open()
            future.result(PATIENCE_S)

    def block(self, first: Call, others: dict[str, Call]) -> set[str]:
        """Those that have to wait for a row that the first one has locked at its end."""
        with self.stopped(first, None):
            return {
                name
                for name, call in others.items()
                if self.alone(call, BLOCKED_S) == "55P03"  # lock not available
            }

    def meet(self, first: Call, second: Call) -> int | None:
        """Behind which statement of the first the two wait for each other, or None."""
        for behind in itertools.count(1):
            with self.stopped(first, behind) as (gate, future):
                if future.done():
                    return None  # it has no more statements
                other = self._pool.submit(self.alone, second)
                # It has come to its end, or to a row that it waits for.
                self._waits(other)
                gate.open()
                ended = {future.result(PATIENCE_S), other.result(PATIENCE_S)}
            if DEADLOCK in ended:
                return behind
        raise AssertionError

    def _waits(self, other: Future[str | None]) -> None:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        with self.engine.connect() as connection:
            while not other.done():
                if connection.exec_driver_sql(waiting).scalar():
                    return


@pytest.fixture
def pairs(postgres_database: sa.Engine) -> Iterator[Pairs]:
    made = Pairs(postgres_database)
    yield made
    made.close()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_no_two_calls_that_write_wait_for_each_other(
    pairs: Pairs, rows: Rows, tmp_path: Path
) -> None:
    every = calls(rows, tmp_path)
    assert {name: pairs.alone(call) for name, call in every.items()} == dict.fromkeys(every)
    moments = chance.moments()
    chosen = {name: call for name, call in every.items() if moments.randrange(SHARE) == 0} | {
        name: every[name] for name in ("pause", "claim a shard")
    }
    blocked = {name: pairs.block(call, every) for name, call in chosen.items()}
    for name, others in list(blocked.items()):
        for other in others - blocked.keys():
            blocked[other] = pairs.block(every[other], {name: every[name]})
    found = {}
    for first, others in blocked.items():
        for second in others:
            if first in blocked[second] and (first in chosen or second in chosen):
                behind = pairs.meet(every[first], every[second])
                if behind is not None:
                    found[first, second] = behind
    assert not found, "each of these pairs waits for the other behind this statement of the first"
