"""pneumoq shares, and what says whose share a job takes."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.nightly import schedules
from db.queue import jobs
from tests.scheduler import rows
from tests.scheduler.console import only_line, run


@pytest.fixture
def films(engine: sa.Engine, tmp_path: Path) -> Path:
    """A folder of a film, and a model that is the champion."""
    rows.a_model(engine, tmp_path)
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a film")
    return folder


def test_a_job_takes_the_share_that_is_said_or_that_of_its_user(
    engine: sa.Engine, films: Path
) -> None:
    assert run("score", films, "--later").exit_code == 0
    assert run("score", films, "--later", "--for", "study 12").exit_code == 0

    assert [jobs.get(engine, n)["share"] for n in (1, 2)] == [getpass.getuser(), "study 12"]


@pytest.mark.parametrize("key", ["", " ann", "x" * 65])
def test_a_key_that_could_not_be_told_from_others_is_refused(
    engine: sa.Engine, films: Path, key: str
) -> None:
    result = run("score", films, "--later", "--for", key)

    assert result.exit_code == 2
    assert "give 1 to 64 characters" in result.stderr
    assert jobs.recent(engine) == []


def test_a_schedules_jobs_take_the_share_that_it_says(engine: sa.Engine, films: Path) -> None:
    said = run("schedule", "add", "inbox", "--cron", "* * * * *", "score", films, "--for", "icu")

    assert said.exit_code == 0
    assert schedules.get(engine, "inbox")["spec"]["share"] == "icu"


def test_weights_are_set_and_shown_with_what_is_open(engine: sa.Engine, films: Path) -> None:
    assert "nobody has open scoring jobs" in run("shares", "ls").stderr
    run("score", films, "--later", "--for", "icu")
    assert only_line(run("shares", "set", "icu", 4).stdout) == "icu has weight 4."
    run("shares", "set", "study", "0.5")

    listed = json.loads(run("shares", "ls", "--json").stdout)

    assert [(row["key"], row["weight"], row["jobs"]) for row in listed] == [
        ("icu", 4.0, 1),
        ("study", 0.5, 0),
    ]
    for no_weight in (0, "nan", "inf"):
        assert run("shares", "set", "icu", no_weight).exit_code == 2
