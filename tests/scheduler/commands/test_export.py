"""export: every outcome once, in order, in a file that is whole or not there."""

from __future__ import annotations

import csv
import gzip
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database, views
from tests.scheduler import rows
from tests.scheduler.console import ROOT, only_line, run, start

#: Rows of the job that is exported while its memory is watched; at 200 bytes and more each they
#: would not fit into LIMIT_MB.
MANY = 300_000
LIMIT_MB = 60


def test_predictions_are_written_as_csv_in_the_order_of_the_items(
    engine: sa.Engine, tmp_path: Path
) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=1, refused=2)
    result = run("export", job, tmp_path / "out.csv")
    assert (result.exit_code, result.stdout) == (0, f"7 rows written to {tmp_path / 'out.csv'}\n")
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(views.V_PREDICTIONS.columns)
    assert [row["item_no"] for row in found] == [str(n) for n in range(3, 10)]
    assert {row["probability"] for row in found} == {"0.75"}


def test_all_outcomes_stand_in_the_order_of_the_items(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 4, 4)
    for _ in range(2):
        rows.do_shard(engine, broken=1, refused=1)
    result = run("export", job, tmp_path / "out.jsonl.gz", "--all", "--json")
    assert json.loads(result.stdout)["rows"] == 8
    with gzip.open(tmp_path / "out.jsonl.gz", "rt") as file:
        found = [json.loads(line) for line in file]
    assert [row["item_no"] for row in found] == list(range(8))
    assert [row["outcome"] for row in found] == 2 * ["error", "refused", "prediction", "prediction"]
    assert (found[0]["code"], found[0]["probability"]) == ("truncated", None)
    assert (found[2]["code"], found[2]["probability"]) == (None, 0.75)


def test_a_compressed_file_holds_the_same_as_a_plain_one(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    for ending in (".csv", ".jsonl"):
        run("export", job, tmp_path / f"out{ending}")
        run("export", job, tmp_path / f"out{ending}.gz")
        plain = (tmp_path / f"out{ending}").read_bytes()
        assert gzip.decompress((tmp_path / f"out{ending}.gz").read_bytes()) == plain


def test_a_file_that_is_there_is_replaced_only_when_told(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    out = tmp_path / "out.csv"
    out.write_text("the only copy")
    result = run("export", job, out)
    assert result.exit_code == 2
    assert "--force" in only_line(result.stderr)
    assert out.read_text() == "the only copy"
    assert run("export", job, out, "--force").exit_code == 0
    assert out.read_text().startswith("job_id,")


@pytest.mark.parametrize("name", ["out.parquet", "out", "absent/out.csv", "out.csv.zip"])
def test_a_file_that_cannot_be_written_is_one_line_and_leaves_nothing(
    engine: sa.Engine, tmp_path: Path, name: str
) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    before = sorted(tmp_path.iterdir())
    result = run("export", job, tmp_path / name)
    assert result.exit_code == 2
    assert only_line(result.stderr).startswith("Error: ")
    assert sorted(tmp_path.iterdir()) == before


def test_a_training_job_has_no_predictions_to_export(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_queued_job(engine, "train")
    result = run("export", job, tmp_path / "out.csv")
    assert result.exit_code == 2
    assert "only scoring jobs" in only_line(result.stderr)
    assert run("export", 4711, tmp_path / "out.csv").exit_code == 2


def test_an_export_of_a_job_that_ended_early_says_how_many_items_are_not_in_it(
    engine: sa.Engine, tmp_path: Path
) -> None:
    job = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 4, 6)
    rows.do_shard(engine, broken=1)
    running = run("export", job, tmp_path / "1.csv", "--all")
    assert only_line(running.stderr) == (
        f"job {job} goes on: 6 of 10 items have no outcome yet, and are not in it; wait for them "
        f"with `pneumoq jobs watch {job}`"
    )
    run("jobs", "cancel", job)
    for options in ((), ("--all",)):
        result = run("export", job, tmp_path / "2.csv", "--force", *options)
        assert result.exit_code == 0
        assert only_line(result.stderr) == (
            f"job {job} was cancelled: 6 of 10 items have no outcome, and are not in it; "
            f"`pneumoq jobs retry {job} --failed-only` does them"
        )
    found = json.loads(run("export", job, tmp_path / "3.csv", "--json").stdout)
    assert (found["rows"], found["complete"], found["without_outcome"]) == (3, False, 6)


def test_a_job_that_ended_before_all_was_listed_is_not_complete(
    engine: sa.Engine, tmp_path: Path
) -> None:
    job = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 4)
    rows.do_shard(engine)
    with database.writing(engine) as connection:
        connection.execute(sa.text("UPDATE jobs SET state = 'failed', planned_at = NULL"))
    result = run("export", job, tmp_path / "out.csv")
    assert only_line(result.stderr) == (
        f"job {job} has failed before all of it was listed: items that were not, and 0 of 4 that "
        f"were, have no outcome, and are not in it; `pneumoq jobs retry {job}` does them"
    )
    found = json.loads(run("export", job, tmp_path / "out.csv", "--force", "--json").stdout)
    assert (found["rows"], found["complete"]) == (4, False)


def test_an_export_of_a_job_whose_items_all_have_an_outcome_is_complete(
    engine: sa.Engine, tmp_path: Path
) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=2, refused=1)
    result = run("export", job, tmp_path / "out.csv")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(run("export", job, tmp_path / "all.csv", "--all", "--json").stdout)
    assert (found["rows"], found["complete"], found["without_outcome"]) == (10, True, 0)


@pytest.fixture
def large_job(engine: sa.Engine, tmp_path: Path) -> int:
    """A job of many predictions."""
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    with database.writing(engine) as connection:
        connection.execute(
            sa.text(
                "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < :most) "
                "INSERT INTO predictions (job_id, item_no, shard_no, name, model_id, label_no, "
                "probability) SELECT :job, i, 0, 'a film with a long name ' || i, 1, 1, 0.5 FROM n"
            ),
            {"job": job, "most": MANY - 1},
        )
        connection.execute(
            sa.text(
                "UPDATE shards SET n_items = :most, n_predictions = :most - n_refused - n_errors "
                "WHERE job_id = :job AND shard_no = 0"
            ),
            {"job": job, "most": MANY},
        )
    return job


def test_memory_stays_flat_however_many_rows_there_are(large_job: int, tmp_path: Path) -> None:
    probe = (
        "import resource, sys; from scheduler.cli import cli\n"
        "cli(['jobs', 'ls'], standalone_mode=False)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "cli(sys.argv[1:], standalone_mode=False)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    out = tmp_path / "out.csv"
    done = subprocess.run(
        [sys.executable, "-c", probe, "export", str(large_job), str(out), "--all"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    with out.open() as file:
        assert sum(1 for _ in file) == MANY + 1
    assert int(done.stdout.split()[-1]) < LIMIT_MB


def test_an_interrupted_export_leaves_no_half_of_a_file(large_job: int, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    process = start("export", large_job, tmp_path / "out.csv.gz")
    deadline = time.monotonic() + 30
    while not any(p.name.startswith(".out") and p.stat().st_size for p in tmp_path.iterdir()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "Interrupted.\n")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.postgres
def test_export_from_postgresql_is_the_same(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from scheduler import session

    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", postgres_url)
    run("db", "upgrade")
    engine = session.database()
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=1, refused=1)
    engine.dispose()
    assert run("export", job, tmp_path / "out.csv", "--all").exit_code == 0
    found = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["outcome"] for row in found] == ["error", "refused", *["prediction"] * 8]
