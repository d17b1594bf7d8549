"""Rows of older schemas are there after an upgrade, and are worked on as before."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.base import migrate, workers
from db.base.database import reading, write
from db.base.schema import PARTITIONED, films, metadata, site
from db.queue import jobs, leases, listings, results, reuse
from db.registry import aliases
from tests.db import given

#: What the first version of the program kept of a job that is half done.
FIRST = (
    "INSERT INTO models (id, name, state, origin, arch, positive, size, film_rule, temperature, "
    "threshold, threshold_rule, metrics, card, created_at) VALUES (1, 'm', 'candidate', "
    "'imported', 'resnet18', 'PNEUMONIA', 224, 'film-1', 1, 0.5, 'as given', '{}', '{}', "
    "CURRENT_TIMESTAMP)",
    "INSERT INTO jobs (id, kind, state, spec, model_id, submitted_by, created_at, planned_at, "
    "planned_items, planned_shards) VALUES (1, 'score', 'running', '{}', 1, 'kim@ward', "
    "CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 4, 2)",
    "INSERT INTO jobs (id, kind, state, spec, submitted_by, created_at) "
    "VALUES (2, 'train', 'queued', '{}', 'kim@ward', CURRENT_TIMESTAMP)",
    "INSERT INTO sources (job_id, source_no, uri, kind, fingerprint, seek_index) "
    "VALUES (1, 0, '/a.zip', 'zip', '1', {index})",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, listing, state, "
    "n_predictions, finished_at) VALUES (1, 0, 0, 0, 2, {first}, 'done', 2, CURRENT_TIMESTAMP)",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, listing, state) "
    "VALUES (1, 1, 0, 2, 2, {second}, 'ready')",
    "INSERT INTO predictions (job_id, item_no, shard_no, name, model_id, label_no, probability) "
    "VALUES (1, 0, 0, 'a', 1, 1, 0.75), (1, 1, 0, 'b', 1, 0, 0.25)",
    "INSERT INTO evaluations (id, model_id, split, n_films, metrics, created_at) "
    "VALUES (1, 1, 'validation', 5, '{}', CURRENT_TIMESTAMP)",
)


def test_a_database_that_had_jobs_goes_on_with_the_hash_of_their_films(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0018")
    write(empty, lambda c: c.exec_driver_sql(FIRST[2]))
    migrate.upgrade(empty)
    assert reuse.content_hash(empty) == "blake2b"


def test_a_database_that_goes_back_and_comes_again_has_no_films_by_another_hash(
    empty: sa.Engine,
) -> None:
    migrate.upgrade(empty)
    write(empty, lambda c: c.exec_driver_sql(FIRST[0]))
    write(
        empty,
        lambda c: c.execute(
            sa.insert(films).values(
                model_id=1, precision="fp32", content=b"c" * 16, job_id=1, item_no=0
            )
        ),
    )
    migrate.downgrade(empty, "0018")
    write(empty, lambda c: c.exec_driver_sql(FIRST[2]))
    migrate.upgrade(empty)
    assert reuse.content_hash(empty) == "blake2b"
    with reading(empty) as connection:
        assert connection.execute(sa.select(films)).all() == []


def test_a_database_knows_films_by_one_hash(empty: sa.Engine) -> None:
    migrate.upgrade(empty)
    for number in (1, 2):
        other = sa.insert(site).values(id=number, content_hash="blake2b")
        with pytest.raises(IntegrityError):
            write(empty, lambda c, other=other: c.execute(other))


def test_a_database_without_a_job_begins_with_the_faster_hash(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0018")
    migrate.upgrade(empty)
    assert reuse.content_hash(empty) == "blake3"


def test_a_database_of_the_first_version_keeps_what_is_in_it(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0001")
    postgresql = empty.dialect.name == "postgresql"
    blobs = {
        name: f"'\\x{value.hex()}'" if postgresql else f"x'{value.hex()}'"
        for name, value in {"index": b"I", "first": b"1" * 9000, "second": b"\0\xff"}.items()
    }

    def fill(connection: sa.Connection) -> None:
        if postgresql:
            for table in ("predictions", "cams", "refusals", "item_errors", "labels"):
                connection.exec_driver_sql(
                    f"CREATE TABLE {table}_p0 PARTITION OF {table} FOR VALUES FROM (0) TO (1000)"
                )
        for statement in FIRST:
            for name, value in blobs.items():
                statement = statement.replace(f"{{{name}}}", value)
            connection.exec_driver_sql(statement)

    write(empty, fill)

    migrate.upgrade(empty)

    with reading(empty) as connection:
        packed = connection.exec_driver_sql(
            "SELECT shard_no, listing FROM shard_listings ORDER BY shard_no"
        ).all()
        assert [(n, bytes(b)) for n, b in packed] == [(0, b"1" * 9000), (1, b"\0\xff")]
        pinned = connection.exec_driver_sql("SELECT id, precision FROM jobs ORDER BY id").all()
        assert [tuple(row) for row in pinned] == [(1, "fp32"), (2, None)]
        assert listings.seek_index(connection, 1, 0) == b"I"
        assert connection.exec_driver_sql("SELECT split FROM evaluations").scalars().all() == [
            "validation"
        ]
        done = connection.exec_driver_sql(
            "SELECT done, items FROM v_job_progress WHERE job_id = 1"
        ).first()
        assert done is not None
        assert tuple(done) == (2, 4)
    shard = given.claimed(empty)
    assert (shard.shard_no, shard.listing, shard.precision) == (1, b"\0\xff", "fp32")
    made = given.outcomes(shard)
    made[0] = made[0]._replace(identity=results.Identity("p", "s", "a"))
    write(empty, lambda c: results.commit(c, shard, made))
    assert given.count(empty, metadata.tables["identities"]) == 1

    migrate.downgrade(empty, "0001")

    with reading(empty) as connection:
        old = connection.exec_driver_sql("SELECT listing FROM shards ORDER BY shard_no").scalars()
        assert [bytes(b) for b in old] == [b"1" * 9000, b"\0\xff"]
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM predictions").scalar() == 4
    migrate.upgrade(empty)
    with reading(empty) as connection:
        assert [s.listing for s in listings.after(connection, 1)] == [b"1" * 9000, b"\0\xff"]


#: What the third version kept of a job whose shards are being scored.
THIRD = (
    *(
        statement
        for statement in FIRST
        if not statement.startswith(("INSERT INTO s", "INSERT INTO e"))
    ),
    "UPDATE jobs SET precision = 'int8' WHERE id = 1",
    "INSERT INTO sources (job_id, source_no, uri, kind, fingerprint) "
    "VALUES (1, 0, '/a.zip', 'zip', '1')",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, state, n_predictions, "
    "finished_at) VALUES (1, 0, 0, 0, 2, 'done', 2, CURRENT_TIMESTAMP)",
    "INSERT INTO shards (job_id, shard_no, source_no, first_item, n_items, state, lease_token, "
    "lease_until, worker_id, attempts) VALUES (1, 1, 0, 2, 2, 'leased', 3, {later}, 'w', 1)",
    "INSERT INTO shard_listings (job_id, shard_no, listing) VALUES (1, 1, {listing})",
    "INSERT INTO workers (id, host, pid, queues, engine, versions, started_at, seen_at) "
    "VALUES ('w', 'ward', 7, 'score', 'CPU', '{}', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
)


def test_a_job_that_runs_is_scored_on_after_the_upgrade_to_engines(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0003")
    postgresql = empty.dialect.name == "postgresql"

    def fill(connection: sa.Connection) -> None:
        if postgresql:
            for table in metadata.tables.values():
                if table.name in PARTITIONED:
                    connection.exec_driver_sql(
                        f"CREATE TABLE {table.name}_p0 PARTITION OF {table.name} "
                        "FOR VALUES FROM (0) TO (1000)"
                    )
        later = "CURRENT_TIMESTAMP + interval '1 hour'" if postgresql else "'2999-01-01 00:00:00'"
        listing = "'\\x0102'" if postgresql else "x'0102'"
        for statement in THIRD:
            connection.exec_driver_sql(
                statement.replace("{later}", later).replace("{listing}", listing)
            )
        if postgresql:
            connection.exec_driver_sql("SELECT setval(pg_get_serial_sequence('jobs', 'id'), 2)")

    def kept() -> list[tuple[Any, ...]]:
        with reading(empty) as connection:
            return [
                tuple(row)
                for query in (
                    "SELECT id, kind, state, precision, planned_items, created_at FROM jobs "
                    "ORDER BY id",
                    "SELECT shard_no, state, lease_token, lease_until, worker_id, attempts "
                    "FROM shards ORDER BY shard_no",
                    "SELECT item_no, probability FROM predictions ORDER BY item_no",
                    "SELECT id, engine, seen_at FROM workers",
                )
                for row in connection.exec_driver_sql(query)
            ]

    write(empty, fill)
    before = kept()

    migrate.upgrade(empty)

    assert kept() == before
    assert jobs.get(empty, 1)["engine"] is None
    assert jobs.progress(empty, 1)["engine"] is None
    # Who held the shard before the upgrade commits it after.
    shard = leases.Shard(
        job_id=1, shard_no=1, token=3, worker_id="w", attempt=1, source_no=0, first_item=2,
        n_items=2, listing=b"\1\2", model_id=1, priority=0, spec={}, precision="int8",
    )  # fmt: skip
    assert write(empty, lambda c: leases.renew_shards(c, [shard], given.LEASE_S)) == []
    given.commit(empty, shard)
    assert jobs.progress(empty, 1)["done"] == 4

    # Down again, with a job that asks for an engine: the job stays, and what it asked for goes.
    asked = given.queued(empty, engine="tensorrt")
    write(empty, lambda c: workers.seen(c, "w", {"gpu_c": 48.5}))
    migrate.downgrade(empty, "0003")
    with reading(empty) as connection:
        ids = connection.exec_driver_sql("SELECT id FROM jobs ORDER BY id").scalars().all()
        assert ids == [1, 2, asked]
    migrate.upgrade(empty)
    assert jobs.get(empty, asked)["engine"] is None
    assert jobs.get(empty, asked)["state"] == "queued"


#: What the fourth version kept of three models, of which one was promoted again in vain.
FOURTH = (
    *(FIRST[0].replace("VALUES (1, 'm'", f"VALUES ({number}, 'm{number}'") for number in (1, 2, 3)),
    "INSERT INTO aliases (name, model_id, moved_at, moved_by, reason) "
    "VALUES ('champion', 2, CURRENT_TIMESTAMP, 'kim@ward', 'better')",
    "INSERT INTO model_events (model_id, at, who, event, detail) VALUES "
    "(1, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion: the first model there is'), "
    "(3, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion-of-wards: for a trial'), "
    "(1, CURRENT_TIMESTAMP, 'kim@ward', 'replaced', 'as champion by model 2: better'), "
    "(2, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion: better'), "
    "(2, CURRENT_TIMESTAMP, 'kim@ward', 'promoted', 'to champion: better still')",
)


def test_champions_of_before_are_gone_back_to_after_the_upgrade(empty: sa.Engine) -> None:
    migrate.upgrade(empty, "0004")
    write(empty, lambda c: [c.exec_driver_sql(statement) for statement in FOURTH])

    migrate.upgrade(empty)

    with reading(empty) as connection:
        moves = connection.exec_driver_sql(
            "SELECT alias, how, model_id, previous_id, who, reason FROM promotions ORDER BY id"
        ).all()
    assert [tuple(move) for move in moves] == [
        ("champion", "first", 1, None, "kim@ward", "to champion: the first model there is"),
        ("champion", "promote", 2, 1, "kim@ward", "to champion: better"),
    ]
    back = write(empty, lambda c: aliases.rollback(c, aliases.CHAMPION, "kim@ward", "worse"))
    assert back == (1, 2)


#: What release 0.2.0 kept of a champion that a night promoted over the one that a person chose.
EIGHTH = (
    FIRST[0],
    FIRST[0].replace("(1, 'm'", "(2, 'n'"),
    "INSERT INTO schedules (id, name, cron, tz, kind, spec, paused, catch_up_s, created_at, "
    "created_by) VALUES (1, 'nightly', '0 2 * * *', 'UTC', 'train', '{}', {false}, 60, "
    "CURRENT_TIMESTAMP, 'kim')",
    "INSERT INTO runs (id, schedule_id, scheduled_for, cause, state, outcome, candidate_id, "
    "champion_id, created_at, finished_at) VALUES (1, 1, CURRENT_TIMESTAMP, 'clock', 'done', "
    "'promoted', 2, 1, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)",
    "INSERT INTO aliases (name, model_id, moved_at, moved_by, reason) VALUES ('champion', 2, "
    "CURRENT_TIMESTAMP, 'w', 'as good')",
    "INSERT INTO promotions (id, alias, model_id, how, at, who, reason) VALUES (1, 'champion', 1, "
    "'first', CURRENT_TIMESTAMP, 'kim', 'the first')",
    "INSERT INTO promotions (id, alias, model_id, previous_id, how, run_id, at, who, reason) "
    "VALUES (2, 'champion', 2, 1, 'promote', 1, CURRENT_TIMESTAMP, 'w', 'as good')",
)


def test_the_champion_of_the_upgrade_is_the_anchor_until_a_person_chooses_another(
    empty: sa.Engine,
) -> None:
    migrate.upgrade(empty, "0008")

    def do(statement: str) -> None:
        false = "false" if empty.dialect.name == "postgresql" else "0"
        write(empty, lambda c: c.exec_driver_sql(statement.replace("{false}", false)))

    def anchor() -> int | None:
        with reading(empty) as connection:
            return aliases.anchor(connection)

    for statement in EIGHTH:
        do(statement)
    migrate.upgrade(empty)
    assert anchor() == 2
    with reading(empty) as connection:
        run = connection.exec_driver_sql("SELECT outcome, anchor_id FROM v_runs").one()
        assert tuple(run) == ("promoted", None)
    # An older release beside this one: a person goes back, and a night promotes.
    do(EIGHTH[-2].replace("(1, 'champion', 1, 'first'", "(3, 'champion', 1, 'rollback'"))
    assert anchor() == 1
    do(EIGHTH[-1].replace("(2, 'champion'", "(4, 'champion'"))
    assert anchor() == 1
    migrate.downgrade(empty, "0008")
    migrate.upgrade(empty)
    assert anchor() == 2
