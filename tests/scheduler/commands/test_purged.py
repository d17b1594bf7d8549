"""A purged job has sums: no command takes what is gone for what never was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database
from tests.scheduler import rows
from tests.scheduler.console import only_line, run


@pytest.fixture
def job(engine: sa.Engine, tmp_path: Path) -> int:
    """A job of five predictions, two refusals and three errors that was purged."""
    number = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=3, refused=2)
    with database.writing(engine) as connection:
        connection.execute(sa.text("UPDATE jobs SET finished_at = '2020-01-01T00:00:00.000Z'"))
    assert run("jobs", "purge", "--older-than", "30d", "--yes").exit_code == 0
    return number


@pytest.mark.parametrize(
    "words",
    [
        "jobs errors JOB",
        "jobs errors JOB --refused --json",
        "export JOB out.csv",
        "export JOB out.jsonl --all --json",
        "export JOB out --uncertain 5",
        "export JOB out --to-folders",
        "review JOB out.html",
        "labels show JOB",
        "labels import truth.csv --job JOB",
    ],
)
def test_what_asks_for_the_items_of_a_purged_job_says_that_they_are_gone(
    job: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truth.csv").write_text("item_no,label\n7,NORMAL\n")
    result = run(*words.replace("JOB", str(job)).split())
    assert (result.exit_code, result.stdout) == (2, "")
    line = only_line(result.stderr)
    assert line.startswith(f"Error: job {job} was purged on 2")
    assert line.endswith(f"`pneumoq jobs show {job}` prints the sums that are left")
    assert not list(tmp_path.glob("out*"))


def test_a_purged_job_is_no_other_model_of_a_review(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    other = rows.a_scored_job(engine, 1)
    result = run("review", other, tmp_path / "out.html", "--against", job)
    assert result.exit_code == 2
    assert f"job {job} was purged on 2" in only_line(result.stderr)


def test_a_purged_job_is_shown_with_the_sums_that_are_left(job: int) -> None:
    shown = dict(
        line.split(maxsplit=1) for line in run("jobs", "show", job).stdout.splitlines() if line
    )
    assert shown["refused"] == "2 (not known any more of what kind)"
    assert shown["errors"] == "3 (not known any more of what kind)"
    assert "purged_at" in shown and "from_store" not in shown
    found = json.loads(run("jobs", "show", job, "--json").stdout)
    assert (found["predictions"], found["refused"], found["errors"]) == (5, 2, 3)
    for name in ("refused_by_code", "errors_by_code", "from_store"):
        assert found[name] is None


def test_who_follows_a_purged_job_is_sent_to_nothing_that_is_gone(job: int) -> None:
    result = run("jobs", "watch", job)
    assert result.exit_code == 3
    assert "errors       3\n" in result.stdout
    assert "jobs errors" not in result.stdout and "pneumoq query" not in result.stdout
    assert f"job {job} was purged on 2" in result.stdout
    found = json.loads(run("jobs", "watch", job, "--json").stdout)
    assert (found["errors"], found["from_store"]) == (3, None)
    assert found["purged_at"].endswith("Z")


def test_a_purged_jobs_error_budget_is_told_by_its_sums(engine: sa.Engine, job: int) -> None:
    with database.writing(engine) as connection:
        connection.execute(sa.text("""UPDATE jobs SET spec = '{"max_errors": "50%"}'"""))
    assert "50% (3 of 10 items, 30.00% so far)" in run("jobs", "show", job).stdout
