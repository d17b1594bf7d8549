"""Workers are known while they answer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from db.base import workers
from db.base.database import reading, write
from db.base.schema import workers as workers_table
from db.base.types import now
from tests.db import given


def _hello(
    database: sa.Engine, worker_id: str, queues: str, *, engines: str = "", **options: Any
) -> None:
    versions = {"db": "1", **({"engines": engines} if engines else {})}
    write(
        database,
        lambda c: workers.register(
            c, worker_id, host="jetson", pid=7, queues=queues, engine="cpu", versions=versions,
            **options,
        ),
    )  # fmt: skip


def _alive(database: sa.Engine, queue: str | None = None) -> list[str]:
    return [row["id"] for row in workers.alive(database, queue)]


def test_a_worker_is_alive_from_hello_to_goodbye(database: sa.Engine) -> None:
    _hello(database, "a", "score")
    assert _alive(database) == ["a"]

    write(database, lambda c: workers.deregister(c, "a"))

    assert _alive(database) == []
    assert given.one(database, workers_table).stopped_at is not None


def test_a_worker_that_was_not_seen_lately_is_gone_until_it_is_seen(database: sa.Engine) -> None:
    _hello(database, "a", "score")
    past = sa.update(workers_table).values(seen_at=now(-workers.GONE_AFTER_S - 1))
    write(database, lambda c: c.execute(past))
    assert _alive(database) == []

    write(database, lambda c: workers.seen(c, "a"))

    assert _alive(database) == ["a"]


def test_workers_are_told_apart_by_the_queues_they_listen_to(database: sa.Engine) -> None:
    _hello(database, "both", "score,train")
    _hello(database, "scorer", "score")

    assert set(_alive(database, "score")) == {"both", "scorer"}
    assert _alive(database, "train") == ["both"]
    assert _alive(database, "tra") == []


def test_the_health_of_a_machine_is_kept_until_it_is_read_again(database: sa.Engine) -> None:
    _hello(database, "a", "score")
    with reading(database) as connection:
        is_null = sa.select(workers_table.c.health.is_(sa.null()))
        assert connection.execute(is_null).scalar_one()

    write(database, lambda c: workers.seen(c, "a", {"gpu_c": 61.5, "throttled": "thermal"}))
    write(database, lambda c: workers.seen(c, "a"))

    (row,) = workers.alive(database)
    assert row["health"] == {"gpu_c": 61.5, "throttled": "thermal"}


def test_a_worker_begins_with_the_health_that_it_tells(database: sa.Engine) -> None:
    _hello(database, "a", "score", health={"power_mode": "MAXN"})

    (row,) = workers.alive(database)
    assert row["health"] == {"power_mode": "MAXN"}


def test_workers_are_told_apart_by_the_engines_they_serve(database: sa.Engine) -> None:
    _hello(database, "gpu", "score", engines="auto,tensorrt")
    _hello(database, "cpu", "score,train", engines="auto,onnx")
    _hello(database, "trainer", "train", engines="auto,tensorrt")
    _hello(database, "silent", "score")

    def serving(asked: str | None) -> set[str]:
        return {row["id"] for row in workers.serving(database, asked)}

    assert serving("tensorrt") == {"gpu"}
    assert serving("onnx") == {"cpu"}
    assert serving(None) == {"gpu", "cpu", "silent"}
    assert serving("tensor") == set()
    assert {row["id"]: workers.kinds(row) for row in workers.alive(database)}["silent"] == {"auto"}
