"""jobs pause, resume, retry and purge: what they change, what they refuse, and what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database, schema
from db.queue import jobs
from scheduler import session
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from worker.machine import privacy


def test_a_paused_job_says_how_to_go_on_and_goes_on(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 10)
    result = run("jobs", "pause", job, "--reason", "the ward needs the machine")
    assert result.exit_code == 0
    assert f"`pneumoq jobs resume {job}`" in result.stdout
    assert jobs.get(engine, job)["state"] == "paused"
    result = run("jobs", "resume", job)
    assert (result.exit_code, result.stdout) == (0, f"job {job} goes on\n")
    assert jobs.get(engine, job)["state"] == "running"
    happened = [(e["event"], e["detail"], e["who"]) for e in jobs.events(engine, job)[-2:]]
    who = session.who()
    assert happened == [
        ("paused", "the ward needs the machine", who), ("resumed", None, who),
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["pause", "resume"])
def test_a_job_that_has_ended_is_neither_paused_nor_resumed(
    engine: sa.Engine, tmp_path: Path, word: str
) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    result = run("jobs", word, job)
    assert result.exit_code == 2
    assert only_line(result.stderr).startswith("Error: ")
    assert jobs.get(engine, job)["state"] == "completed"


def test_a_retry_is_a_new_job_over_what_failed(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=2)
    result = run(
        "jobs", "retry", job, "--failed-only", "--max-errors", "50%", "--later", "--json"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    new = json.loads(result.stdout)
    assert (new["state"], new["parent_job_id"]) == ("queued", job)
    spec = jobs.get(engine, new["job_id"])["spec"]
    assert (spec["failed_only"], spec["max_errors"]) == (True, "50%")
    assert jobs.get(engine, job)["state"] == "completed_with_errors"
    text = run("jobs", "show", new["job_id"]).stdout
    assert ["parent_job_id", str(job)] in [line.split() for line in text.splitlines()]


def test_a_retry_keeps_the_priority_unless_another_is_given(
    engine: sa.Engine, tmp_path: Path
) -> None:
    model = rows.a_model(engine, tmp_path)
    first = rows.a_queued_job(engine, model_id=model, priority=7)
    run("jobs", "cancel", first)
    for words, priority in (((), 7), (("--priority", 0), 0)):
        result = run("jobs", "retry", first, "--later", "--json", *words)
        assert json.loads(result.stdout)["priority"] == priority


def test_what_failed_is_not_retried_under_the_budget_of_all_items(
    engine: sa.Engine, tmp_path: Path
) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=2)
    with database.writing(engine) as connection:
        connection.execute(sa.update(schema.jobs).values(spec={"max_errors": "30%"}))
    for words, budget in ((["--failed-only"], None), ([], "30%")):
        result = run("jobs", "retry", job, "--later", "--json", *words)
        new = json.loads(result.stdout)["job_id"]
        assert jobs.get(engine, new)["spec"].get("max_errors") == budget


def test_retrying_twice_with_one_key_makes_one_job(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=1)
    words = ("jobs", "retry", job, "--failed-only", "--later", "--key", "again")
    assert run(*words).exit_code == 0
    second = run(*words)
    assert second.exit_code == 0
    assert "there is no second one" in second.stderr
    assert len(jobs.recent(engine)) == 2


def test_a_key_does_not_stand_for_a_retry_of_another_job_or_of_more_items(
    engine: sa.Engine, tmp_path: Path
) -> None:
    model = rows.a_model(engine, tmp_path)
    first, second = (rows.a_scored_job(engine, model, broken=1) for _ in range(2))
    words = ("--later", "--key", "again")
    assert run("jobs", "retry", first, "--failed-only", *words).exit_code == 0
    for job, more, named in (
        (second, ("--failed-only",), f"retried job {first}, not {second}"),
        (first, (), "failed_only"),
        (first, ("--failed-only", "--engine", "onnx"), "engine any, not onnx"),
        (first, ("--failed-only", "--max-errors", "7"), "max_errors"),
    ):
        result = run("jobs", "retry", job, *more, *words)
        assert result.exit_code == 2
        assert named in only_line(result.stderr)
    assert len(jobs.recent(engine)) == 3


@pytest.mark.parametrize("failed_only", [True, False])
def test_what_cannot_be_retried_says_why(
    engine: sa.Engine, tmp_path: Path, failed_only: bool
) -> None:
    model = rows.a_model(engine, tmp_path)
    job = rows.a_scored_job(engine, model) if failed_only else rows.a_queued_job(engine)
    words = ["--failed-only"] if failed_only else []
    result = run("jobs", "retry", job, "--later", *words)
    assert result.exit_code == 2
    assert len(only_line(result.stderr)) > len("Error: ")
    assert len(jobs.recent(engine)) == 1


def test_a_retry_without_workers_says_what_to_start(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=1)
    result = run("jobs", "retry", job)
    assert result.exit_code == 2
    assert "pneumoq up" in only_line(result.stderr)
    assert len(jobs.recent(engine)) == 1


def _make_old(engine: sa.Engine, job: int) -> None:
    with database.writing(engine) as connection:
        connection.execute(
            sa.text("UPDATE jobs SET finished_at = '2020-01-01 00:00:00.000' WHERE id = :job"),
            {"job": job},
        )


def test_old_jobs_are_purged_and_their_sums_stay(engine: sa.Engine, tmp_path: Path) -> None:
    model = rows.a_model(engine, tmp_path)
    old, new = (rows.a_scored_job(engine, model, broken=1) for _ in range(2))
    _make_old(engine, old)
    names = session.settings().home / "names"
    for job in (old, new):
        privacy.keep_names(names.parent, job, [(1, "0f", "ward/Mustermann.dcm")])
    looked = run("jobs", "purge", "--older-than", "90d", "--dry-run")
    assert looked.exit_code == 0
    assert "Nothing was removed" in looked.stdout
    unsure = run("jobs", "purge", "--older-than", "90d")
    assert unsure.exit_code == 2
    assert "--yes" in only_line(unsure.stderr)
    done = run("jobs", "purge", "--older-than", "90d", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["jobs"] == [old]
    assert [file.name for file in names.iterdir()] == [f"job-{new}.csv"]
    counts = "SELECT job_id, count(*) AS n FROM v_predictions GROUP BY job_id"
    assert run("query", "--format", "csv", counts).stdout == f"job_id,n\n{new},9\n"
    shown = json.loads(run("jobs", "show", old, "--json").stdout)
    assert (shown["predictions"], shown["errors"]) == (9, 1)
    assert only_line(run("jobs", "purge", "--older-than", "90d").stderr).startswith("no scoring")


@pytest.mark.parametrize("age", ["90", "d", "-1d", "1y", "soon"])
def test_an_age_that_means_nothing_is_refused(engine: sa.Engine, age: str) -> None:
    result = run("jobs", "purge", "--older-than", age)
    assert result.exit_code == 2
    assert "90d, 12h or 8w" in result.stderr


def test_jobs_are_listed_by_state_and_by_who_submitted_them(
    engine: sa.Engine, tmp_path: Path
) -> None:
    model = rows.a_model(engine, tmp_path)
    scored = rows.a_scored_job(engine, model)
    cancelled, queued = rows.a_queued_job(engine), rows.a_queued_job(engine, "train")
    run("jobs", "cancel", cancelled)
    theirs = database.write(
        engine, lambda c: jobs.submit(c, kind="train", spec={}, submitted_by="100%@there")
    )

    def listed(*options: str) -> list[int]:
        found = json.loads(run("jobs", "ls", "--json", *options).stdout)
        return [row["job_id"] for row in found]

    assert listed("--state", "queued") == [theirs, queued]
    assert listed("--state", "cancelled", "--state", "completed") == [cancelled, scored]
    assert listed("--by", "tester@") == [queued, cancelled, scored]
    assert listed("--by", "0%@") == [theirs]
    assert listed("--by", "%") == [theirs]
    assert listed("--by", "tester", "--state", "queued", "--kind", "score") == []
    assert only_line(run("jobs", "ls", "--by", "nobody").stderr) == "no such jobs"
    assert run("jobs", "ls", "--state", "finished").exit_code == 2
