"""The sweep: what is wrong with one job is that job's, and the others are closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import jobs as jobs_table
from db.base.schema import models as models_table
from db.queue import jobs
from db.registry import models
from db.work import endings
from tests.db import given
from worker import config
from worker.service import sweep


def done(database: sa.Engine, model_id: int) -> int:
    """A job that has nothing left to do and that nobody closed."""
    job_id = given.running(database, model_id=model_id)
    given.commit(database, given.claimed(database))
    return job_id


@pytest.fixture
def model_ids(database: sa.Engine, tmp_path: Path) -> list[int]:
    """Two models."""
    new = [given.model(tmp_path, name) for name in ("one", "two")]
    return [
        connecting.write(database, lambda c, m=one: models.register(c, m, "tests"))  # type: ignore[misc]
        for one in new
    ]


def swept(database: sa.Engine, tmp_path: Path) -> None:
    """Sweep once."""
    sweep.run(config.load({"PNEUMOQ_HOME": str(tmp_path / "home")}), database, "w")


@pytest.mark.parametrize("reference", [{"histogram": [1] * 20}, {"histogram": "x" * 20}, [1, 2]])
def test_a_malformed_reference_costs_its_comparison_and_no_job(
    reference: Any, database: sa.Engine, model_ids: list[int], tmp_path: Path
) -> None:
    with connecting.writing(database) as connection:
        malformed = models_table.c.id == model_ids[0]
        connection.execute(sa.update(models_table).where(malformed).values(reference=reference))
    job_ids = [done(database, model_id) for model_id in model_ids]
    swept(database, tmp_path)
    assert [jobs.get(database, job_id)["state"] for job_id in job_ids] == ["completed"] * 2
    (warned,) = [e["detail"] for e in jobs.events(database, job_ids[0]) if e["event"] == "drift"]
    assert warned.startswith("comparing the scores with the model's reference failed (")


def test_a_job_that_cannot_be_judged_fails_and_the_others_are_closed(
    database: sa.Engine, model_ids: list[int], tmp_path: Path
) -> None:
    job_ids = [done(database, model_id) for model_id in model_ids]
    with connecting.writing(database) as connection:
        malformed = jobs_table.c.id == job_ids[0]
        connection.execute(
            sa.update(jobs_table).where(malformed).values(spec={"max_errors": "lots"})
        )
    swept(database, tmp_path)
    bad, good = [jobs.get(database, job_id) for job_id in job_ids]
    assert (bad["state"], good["state"]) == ("failed", "completed")
    assert bad["reason"].startswith("closing the job failed (ValueError: … is no error budget")


def test_a_machine_that_is_short_of_memory_fails_no_job_that_is_done(
    database: sa.Engine, model_ids: list[int], tmp_path: Path
) -> None:
    job_id = done(database, model_ids[0])

    def short(*_: Any) -> None:
        raise MemoryError

    sa.event.listen(database, "before_cursor_execute", short, once=True)
    with pytest.raises(MemoryError):
        endings.close(database, job_id, "w")
    assert jobs.get(database, job_id)["state"] == "running"
    swept(database, tmp_path)
    assert jobs.get(database, job_id)["state"] == "completed"
