"""What workers ask again and again looks through nothing that has ended, however much there is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from db.base import database as connecting
from db.base import outbox
from db.base.database import write
from db.base.schema import jobs as jobs_table
from db.base.schema import metadata
from db.nightly import runs, schedules, watched
from db.queue import jobs, leases, outages, results
from db.work import claims, endings, patience
from tests.db import given, large

#: They grow for years.
GROWING = {
    "jobs", "shards", "shard_listings", "sources", "predictions", "refusals", "item_errors",
    "films", "rollups", "watched", "runs", "job_events", "notices",
}  # fmt: skip

#: Indexes that have only what is open, waits or is in trouble.
SMALL = {
    str(index.name)
    for table in metadata.tables.values()
    for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None
    and index.name not in ("ix_shards_share", "ix_shards_starts", "ix_sources_content_id")
}


@pytest.fixture
def engine(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> sa.Engine:
    """Three hundred jobs that have ended, and two that are open."""
    found = connecting.connect(database_url)
    request.addfinalizer(found.dispose)
    large.fill(found, tmp_path, large.SIZE.of(0.003))
    for key in ("ann", "bob"):
        given.running(found, shards=4, items=2, submitted_by=f"{key}@a")
    return found


def calls(engine: sa.Engine) -> dict[str, Callable[[], object]]:
    """What workers do all the time, by name."""
    shard = given.claimed(engine, "w")
    seen = [watched.Seen(f"/inbox/1/film-{n}.png", n, n) for n in range(20)]
    run_id = write(
        engine,
        lambda c: runs.begin(
            c, 1, c.execute(sa.select(sa.func.max(jobs_table.c.finished_at))).scalar_one(),
            "hand", "due", worker_id="w",
        ),
    )  # fmt: skip
    assert run_id is not None

    def claim(planning: bool) -> Callable[[], object]:
        return lambda: write(
            engine, lambda c: claims.claim_best(c, "w", given.LEASE_S, planning=planning)
        )

    def commit(connection: sa.Connection) -> None:
        results.commit(connection, shard, given.outcomes(shard), seconds=1.0)
        outages.read(connection, shard.job_id, shard.source_no)

    return {
        "claim": claim(True),
        "claim a shard": claim(False),
        "claim a training": lambda: write(
            engine, lambda c: claims.claim_job(c, "train", "w", given.LEASE_S)
        ),
        "is anything due": lambda: [
            claims.anything_due(engine, queue) for queue in ("score", "train")
        ],
        "urgent": lambda: claims.urgent(engine),
        "renew": lambda: write(engine, lambda c: leases.renew_shards(c, [shard], given.LEASE_S)),
        "commit": lambda: write(engine, commit),
        "close": lambda: given.close(engine, shard.job_id),
        "sweep: what is to be closed": lambda: endings.waiting_to_close(engine),
        "sweep: what waits for sources": lambda: patience.waiting(engine),
        "look: what is due": lambda: runs.in_state(engine, "due"),
        "look: the folder": lambda: watched.observe(engine, run_id, "w", 1, seen),
        "look: what waits": lambda: watched.waiting(engine, 1),
        "look: what is not done": lambda: watched.unfinished(engine, 1),
        "look: a content": lambda: watched.taken_before(engine, 1, "f" * 64),
        "look: a job ends": lambda: write(engine, lambda c: watched.job_ended(c, 3, "completed")),
        "look: a job fails": lambda: write(engine, lambda c: watched.job_ended(c, 3, "failed")),
        "tick": lambda: write(engine, lambda c: schedules._open_run(c, 1)),
        "notices": lambda: write(engine, lambda c: outbox.claim(c, "w")),
        "jobs ls --open": lambda: jobs.recent(engine, only_open=True),
        "jobs ls": lambda: jobs.recent(engine),
    }


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[tuple[str, Any]]]:
    """What is sent meanwhile, with its values."""
    sent: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if re.match(r"\s*(SELECT|WITH|UPDATE|DELETE)\b", statement):
            sent.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def looked_through(engine: sa.Engine, statement: str, values: Any) -> list[str]:
    """Tables that grow of which a statement reads all rows."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            raw: Any = connection.connection.driver_connection
            plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            return [step for step in plan if _scans(engine, step, statement)]
        # Tables of a test are small, and would be read as they are.
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        found = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values)
        answer = found.scalar_one()
        plan = json.loads(answer) if isinstance(answer, str) else answer
        return list(_scanned(plan[0]["Plan"], under_limit=False))


def _scans(engine: sa.Engine, step: str, statement: str) -> bool:
    """Whether a step of SQLite's plan reads all of a table that grows."""
    found = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step)
    if found is None or found[2] in SMALL:
        return False
    # By its number, and from the newest on: the listing of jobs ends after a few.
    if "LIMIT" in statement and found[1] == "j" and found[2] is None:
        return False
    tables = {found[1]} | set(re.findall(rf"\b(\w+)(?: AS)? {found[1]}\b", statement))
    return bool(tables & GROWING)


def _scanned(node: dict[str, Any], *, under_limit: bool) -> Iterator[str]:
    """Steps of PostgreSQL's plan that read all of a table that grows."""
    table = re.sub(r"_p\d+$", "", node.get("Relation Name", ""))
    if table in GROWING and node["Node Type"] != "ModifyTable":
        by_index = node.get("Index Cond") or node.get("Recheck Cond") or node.get("TID Cond")
        small = node.get("Index Name") in SMALL
        newest = under_limit and node.get("Scan Direction") == "Backward"
        if not (by_index or small or newest):
            yield f"{node['Node Type']} of {table} by {node.get('Index Name')}"
    limited = node["Node Type"] == "Limit" or (under_limit and node["Node Type"] == "Nested Loop")
    for child in node.get("Plans", ()):
        yield from _scanned(child, under_limit=limited)


def test_nothing_that_workers_ask_all_the_time_looks_through_what_has_ended(
    engine: sa.Engine,
) -> None:
    found: dict[str, list[str]] = {}
    for name, call in calls(engine).items():
        with statements(engine) as sent:
            call()
        assert sent, name
        steps = [step for one in sent for step in looked_through(engine, *one)]
        if steps:
            found[name] = steps
    assert found == {}


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id FROM jobs WHERE state = 'running'",
        "SELECT count(*) FROM shards WHERE worker_id = 'w'",
        "UPDATE watched SET state = 'done' WHERE job_id = 3",
        "SELECT f.job_id FROM films f WHERE reader = 1",
    ],
)
def test_a_look_through_all_of_a_table_is_noticed(database: sa.Engine, statement: str) -> None:
    assert looked_through(database, statement, ()) != []
