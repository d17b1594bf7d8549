"""Completeness, as PostgreSQL has it, is what the view of both databases says of any history."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.completeness import V_COMPLETENESS
from db.base.database import reading, write
from db.base.schema import jobs, schedules, shards, source_totals, sources, watched
from db.base.types import now
from db.base.view import render
from db.registry import models
from tests.db import given

pytestmark = pytest.mark.postgres

#: Two folders that are watched, which may be scored as a whole as well, and an archive.
FOLDERS = ("/in", "/inbox")
SOURCES = (*FOLDERS, "/archive.zip")
#: Of each watched folder, one that comes as a source of its own.
ARCHIVE = "3.zip"


class _Life:
    """A history of jobs over few sources, by chance: most of what there may be meets in it."""

    def __init__(self, connection: sa.Connection, seed: int) -> None:
        self._connection = connection
        self._chance = random.Random(seed)

    def live(self, many: int) -> None:
        """So many jobs, of which some are retries, and files that schedules gave up."""
        for number, _ in enumerate(FOLDERS, 1):
            self._insert(
                schedules, id=number, name=f"s{number}", cron="0 2 * * *", tz="UTC", kind="score",
                spec={}, paused=False, catch_up_s=60, created_at=now(), created_by="tests",
                considered_until=now(),
            )  # fmt: skip
        made: list[dict[str, Any]] = []
        for number in range(1, many + 1):
            job = self._job(number, made)
            made.append(job)
            self._write(job)

    def _job(self, number: int, made: list[dict[str, Any]]) -> dict[str, Any]:
        chance = self._chance
        job: dict[str, Any] = {
            "id": number, "model_id": chance.choice((1, 1, 2)), "spec": {}, "parent_job_id": None,
            "precision": chance.choice((None, "fp32", "int8")), "schedule_id": None,
        }  # fmt: skip
        if made and chance.random() < 0.5:
            above = chance.choice(made[-12:])
            job |= {"parent_job_id": above["id"], "listed": above["listed"]}
            if chance.random() < 0.8:
                job |= {name: above[name] for name in ("model_id", "precision")}
            if chance.random() < 0.6:
                job["spec"] = {"failed_only": True}
        elif chance.random() < 0.6:
            schedule = chance.choice((1, 2))
            folder = FOLDERS[schedule - 1]
            archive = [(f"{folder}/{ARCHIVE}", False)] * (chance.random() < 0.3)
            job |= {"schedule_id": schedule, "listed": [(folder, True), *archive]}
        else:
            job["listed"] = [(uri, False) for uri in SOURCES if chance.random() < 0.5]
        return job

    def _write(self, job: dict[str, Any]) -> None:
        chance = self._chance
        state = chance.choice(("failed", "cancelled", "completed", "running"))
        self._insert(
            jobs, **{k: v for k, v in job.items() if k != "listed"}, kind="score", state=state,
            submitted_by="tests", created_at=now(),
            planned_at=now() if chance.random() < 0.85 else None,
            purged_at=now() if chance.random() < 0.1 else None,
            finished_at=None if state == "running" else now(),
        )  # fmt: skip
        for number, (uri, is_list) in enumerate(job["listed"]):
            key = {"job_id": job["id"], "source_no": number}
            self._insert(
                sources, **key, uri=uri, kind="list" if is_list else "zip", fingerprint="1",
                paths=b"packed" if is_list else None,
            )  # fmt: skip
            if chance.random() < 0.8:
                counts = {name: chance.randrange(9) for name in ("predictions", "reused",
                          "refused", "errors", "positives", "unusual")}  # fmt: skip
                self._insert(source_totals, **key, **counts)
            if chance.random() < 0.4:
                self._insert(
                    shards, **key | {"shard_no": number, "first_item": 9 * number},
                    n_items=1 + chance.randrange(9), state="ready",
                )  # fmt: skip
            if is_list and job["schedule_id"] is not None:
                self._give_up(job, uri)

    def _give_up(self, job: dict[str, Any], folder: str) -> None:
        for name in ("1.png", "2.png", ARCHIVE):
            if self._chance.random() < 0.3:
                # Of an archive there may have been no job at all.
                by = self._chance.choice((job["id"], None)) if name == ARCHIVE else job["id"]
                self._insert(
                    watched, schedule_id=job["schedule_id"], path=f"{folder}/{name}", size=1,
                    path_hash=f"{job['id']:08d}{name:8.8}".encode(), mtime_ns=1,
                    since=now(self._chance.choice((-60, 60))),
                    state=self._chance.choice(("given_up", "seen")), job_id=by, attempts=3,
                )  # fmt: skip

    def _insert(self, table: sa.Table, **values: Any) -> None:
        self._connection.execute(sa.insert(table).values(**values))


@pytest.mark.parametrize("seed", range(4))
def test_both_ways_of_asking_say_the_same_of_any_history(
    postgres_database: sa.Engine, tmp_path: Path, seed: int
) -> None:
    database = postgres_database
    second = given.model(tmp_path, "second")
    write(database, lambda c: models.register(c, second, "tests"))
    write(database, lambda c: _Life(c, seed).live(150))
    common = render(V_COMPLETENESS.select, "postgresql")
    columns = ", ".join(V_COMPLETENESS.columns)

    with reading(database) as connection:
        found, expected = (
            sorted(map(tuple, connection.exec_driver_sql(f"SELECT {columns} FROM {asked}")))
            for asked in ("v_completeness", f"({common}) AS k")
        )

    assert found == expected
    assert {row[4] for row in found} >= {"whole", "new", "given_up"}
    of = {name: [row[n] for row in found] for n, name in enumerate(V_COMPLETENESS.columns)}
    assert all(any(of[name]) for name in ("scored", "reused", "refused", "failed", "missing"))
