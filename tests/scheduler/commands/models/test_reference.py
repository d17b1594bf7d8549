"""models reference, and how drift is told by models show, jobs show and jobs watch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.scheduler import rows
from tests.scheduler.console import only_line, run

#: Of 200 validation films, most of them surely healthy; the jobs here call every film 0.75.
REFERENCE: dict[str, Any] = {
    "of": "validation",
    "n": 200,
    "histogram": [150, *[0] * 18, 50],
    "unusual": 6,
    "golden": {"scores": [[0.9, 0.1]]},
}


@pytest.fixture
def model(engine: sa.Engine, tmp_path: Path) -> int:
    """A model that was validated."""
    return rows.a_model(engine, tmp_path, reference=REFERENCE)


def a_job(engine: sa.Engine, model: int, films: int = 60) -> int:
    """A job that has ended, over so many films."""
    job = rows.a_planned_job(engine, model, films)
    rows.do_shard(engine)
    return job


def test_a_models_measure_is_shown_with_its_histogram_and_its_jobs(
    engine: sa.Engine, model: int
) -> None:
    job = a_job(engine, model)
    text = run("models", "reference", model).stdout
    head, first, *more = text.splitlines()
    assert head == (
        f"jobs of model {model} (first) are held against 200 validation films, "
        "6 of them unusual:"
    )  # fmt: skip
    assert first == f"  0.00 to 0.05  150  {'#' * 40}"
    assert more[0] == "  0.05 to 0.10    0"
    assert more[18] == f"  0.95 to 1.00   50  {'#' * 14}"
    words = text.splitlines()[-1].split()
    assert (words[0], words[1], words[2]) == (str(job), "validation", "60")
    assert "warned" in words
    said = json.loads(run("models", "reference", model, "--json").stdout)
    assert (said["of"], said["n"], said["unusual"]) == ("validation", 200, 6)
    assert [row["job_id"] for row in said["jobs"]] == [job]
    assert "golden" not in said


def test_a_job_that_drifted_says_so_where_it_is_followed_and_where_it_is_shown(
    engine: sa.Engine, model: int
) -> None:
    job = a_job(engine, model)
    line = f"these 60 films are not scored as the 200 validation films that model {model} is"
    watched = run("jobs", "watch", job)
    assert watched.exit_code == 0
    assert f"Drift: {line}" in watched.stdout
    assert f"`pneumoq models reference {model} --job {job}` makes it the measure." in watched.stdout
    assert json.loads(run("jobs", "watch", job, "--json").stdout)["drift"]["warned"] is True
    assert f"warning: {line}" in run("jobs", "show", job).stdout
    shown = json.loads(run("jobs", "show", job, "--json").stdout)
    assert shown["drift"]["n"] == 60
    assert json.loads(run("jobs", "events", job, "--json").stdout)[-1]["event"] == "drift"


def test_a_job_made_the_measure_is_what_later_ones_are_held_against(
    engine: sa.Engine, model: int
) -> None:
    job = a_job(engine, model)
    result = run("models", "reference", model, "--job", job)
    assert result.exit_code == 0, result.stderr
    assert only_line(result.stdout) == (
        f"jobs of model {model} (first) are held against 60 films of job {job}, 0 of them unusual "
        "from now on"
    )
    later = a_job(engine, model)
    assert "Drift:" not in run("jobs", "watch", later).stdout
    assert f"none seen: 60 films against 60 of job {job}: PSI 0.00" in run(
        "jobs", "show", later
    ).stdout  # fmt: skip
    assert ["reference", "60", "films", "of", "job", f"{job},", "0", "of", "them", "unusual"] in [
        line.split() for line in run("models", "show", model).stdout.splitlines()
    ]
    back = run("models", "reference", model, "--validation", "--json")
    assert json.loads(back.stdout)["of"] == "validation"


def test_a_model_without_a_measure_says_how_it_gets_one(engine: sa.Engine, tmp_path: Path) -> None:
    model = rows.a_model(engine, tmp_path)
    job = a_job(engine, model)
    said = only_line(run("models", "reference", "champion").stdout)
    assert said == (
        f"model {model} (first) has nothing that its jobs are held against; "
        f"`pneumoq models reference {model} --job N` makes a scoring job its measure"
    )
    assert json.loads(run("jobs", "show", job, "--json").stdout)["drift"] is None
    assert json.loads(run("jobs", "watch", job, "--json").stdout)["drift"] is None


def test_what_cannot_be_a_measure_is_bad_input(engine: sa.Engine, model: int) -> None:
    small = a_job(engine, model, films=10)
    for options, why in (
        (("--job", 4711), "there is no job 4711; `pneumoq jobs ls` lists them"),
        (("--job", small), f"job {small} has 10 predictions; a measure takes 50 or more"),
        (("--job", small, "--validation"), "--job and --validation cannot both be the measure"),
    ):
        result = run("models", "reference", model, *options)
        assert result.exit_code == 2
        assert why in only_line(result.stderr)
