"""models prune: what it says, what it does, and what is said of a model whose files are gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.schema import jobs as job_table
from db.base.schema import model_chunks
from db.registry import models
from scheduler import session
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from worker.engine import store

#: An archive to be scored: nothing is read of it here.
ZIP = b"PK\x05\x06" + bytes(18)


@pytest.fixture
def made(engine: sa.Engine, tmp_path: Path) -> list[int]:
    """Four models: the champion, one that has scored, one that nobody uses, and the newest."""
    made = [rows.a_model(engine, tmp_path, name) for name in ("a", "b", "c", "d")]
    rows.a_scored_job(engine, made[1])
    for number in made:
        store.fetch(engine, session.settings().home, number)
    return made


def chunks(engine: sa.Engine) -> int:
    with reading(engine) as connection:
        return int(
            connection.execute(sa.select(sa.func.count()).select_from(model_chunks)).scalar_one()
        )


def test_a_dry_run_says_what_would_go_with_reasons_and_changes_nothing(
    engine: sa.Engine, made: list[int]
) -> None:
    result = run("models", "prune", "--keep", 1, "--dry-run")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "model 4 d stays the newest" in lines
    assert "model 3 c retired it is not the newest, and nothing uses it" in lines
    assert "model 1 a stays it is champion" in lines
    assert any(
        line.startswith("bytes of model 2 b 0.0 MB stays job 1 was scored") for line in lines
    )
    assert any(line.startswith("bytes of model 3 c 0.0 MB removed") for line in lines)
    assert sum(line.endswith("removed of a retired model") for line in lines) == 2
    assert lines[-1].startswith("2 models would be retired; 0.0 MB would be freed in the database")
    assert [models.get(engine, n)["state"] for n in made] == ["candidate"] * 4
    assert len(list((session.settings().home / "models").iterdir())) == 4
    assert chunks(engine) == 4


def test_pruning_does_what_the_dry_run_said(engine: sa.Engine, made: list[int]) -> None:
    said = json.loads(run("models", "prune", "--keep", 1, "--dry-run", "--json").stdout)
    done = json.loads(run("models", "prune", "--keep", 1, "--json").stdout)
    assert (said.pop("dry_run"), done.pop("dry_run")) == (True, False)

    def order(changes: list[dict[str, str]]) -> list[dict[str, str]]:
        return sorted(changes, key=lambda change: (change["what"], change["name"]))

    assert order(done["changes"]) == order(said["changes"])
    states = ["candidate", "retired", "retired", "candidate"]
    assert [models.get(engine, n)["state"] for n in made] == states
    assert len(list((session.settings().home / "models").iterdir())) == 2
    assert chunks(engine) == 3  # model 2's predictions are there yet
    again = run("models", "prune", "--keep", 1)
    assert again.stdout.splitlines()[-1].startswith("0 models were retired; 0.0 MB freed")


def test_a_pruned_model_is_refused_by_name_wherever_it_is_wanted(
    engine: sa.Engine, made: list[int], tmp_path: Path
) -> None:
    run("models", "prune", "--keep", 1)
    archive = tmp_path / "films.zip"
    archive.write_bytes(ZIP)
    gone = "model 3 (c) is retired, and its files were removed by `pneumoq models prune`"
    for command in (
        ("score", archive, "--model", 3, "--later"),
        ("models", "export", 3, tmp_path / "out.onnx"),
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert gone in only_line(result.stderr), command
    promoted = run("models", "promote", 3)
    assert promoted.exit_code == 2 and "model 3 is retired" in only_line(promoted.stderr)
    with reading(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(job_table)).scalar() == 1


def test_a_retired_model_whose_bytes_are_there_can_still_be_looked_into(
    engine: sa.Engine, made: list[int], tmp_path: Path
) -> None:
    run("models", "prune", "--keep", 1)
    out = tmp_path / "out.onnx"
    assert run("models", "export", 2, out).exit_code == 0
    assert out.read_bytes() == b"b" * 100
    write(
        engine, lambda c: c.execute(sa.update(job_table).values(purged_at=job_table.c.finished_at))
    )
    assert "0.0 MB freed in the database" in run("models", "prune").stdout
    assert run("models", "show", 2).exit_code == 0
