"""A real night in the small: `pneumoq up`, a schedule, new films, and hands off until morning."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.scheduler import terminal as terminals
from tests.scheduler.terminal import Terminal, wait
from tests.support import soak
from tests.worker import spots

#: What a small network learns the films' spots by, in seconds.
SMALL = (
    "--init", "scratch", "--size", "64", "--batch-size", "8", "--lr", "1e-3", "--ema", "0.9",
    "--augment", "0.25", "--val-fraction", "0.2", "--operating-point", "sensitivity=0.95",
)  # fmt: skip
MARGINS = (
    "--margin-auroc", "0.5", "--margin-sensitivity", "0.6", "--margin-specificity", "0.6",
)  # fmt: skip


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path / "home")
    yield made
    made.end()


def asked(terminal: Terminal, *words: str) -> Any:
    """What a command says, as JSON."""
    said = terminal.type(*words, "--json")
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def probabilities(terminal: Terminal, films: Path) -> tuple[int, dict[str, float]]:
    """Score films by the champion: its number, and film → probability."""
    job = asked(terminal, "score", str(films), "--force", "--wait")
    question = (
        f"SELECT name, model_id, probability FROM v_predictions WHERE job_id = {job['job_id']}"
    )
    said = terminal.type("query", question, "--format", "json")
    rows = json.loads(said.stdout)
    (model,) = {row["model_id"] for row in rows}
    return model, {row["name"]: row["probability"] for row in rows}


@soak.ONLY
@pytest.mark.timeout(900)
def test_films_dropped_in_make_a_new_champion_overnight_and_a_rollback_brings_the_old_one_back(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "PATIENCE_S", 600.0)
    data = spots.write(tmp_path / "chest", 40, 1)
    judge = spots.write(tmp_path / "judge", 50, 2)
    archive = spots.write(tmp_path / "archive", 10, 3)
    terminal.up()
    first = terminal.type("train", str(data), *SMALL, "--epochs", "1", "--wait")
    assert first.returncode == 0, first.stderr
    assert probabilities(terminal, archive)[0] == 1
    before = probabilities(terminal, archive)

    added = terminal.type(
        "schedule", "add", "nightly", "--cron", "* * * * *", *MARGINS,
        "--evaluate-on", str(judge), "train", str(data), *SMALL, "--epochs", "4",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    for film in spots.write(tmp_path / "new", 60, 4).rglob("*.png"):
        shutil.copy(film, data / film.parent.name)

    # Looked at in the database: a command every moment would leave the workers no processor.
    database = sqlite3.connect(f"file:{terminal.home}/pneumoq.db?mode=ro", uri=True)
    with closing(database):
        over = "SELECT 1 FROM runs WHERE outcome IN ('promoted', 'kept', 'failed')"
        wait(lambda: database.execute(over).fetchall(), "the night to be over")
    (run,) = [r for r in asked(terminal, "schedule", "runs") if r["outcome"] != "skipped"]
    assert run["outcome"] == "promoted", run["reason"]
    assert (run["champion_id"], run["candidate_id"]) == (1, 2)
    assert run["snapshot"]["films"] == 200
    # The scoring worker that is there has computed it as training did.
    assert "proved on OpenVINO" in run["reason"], run["reason"]
    shown = terminal.type("schedule", "show", "nightly").stdout
    assert f"promoted  job {run['job_id']}  model 2" in shown
    after = probabilities(terminal, archive)
    assert after[0] == 2
    assert after[1] != before[1]

    back = terminal.type("models", "rollback", "--reason", "for the test")
    assert back.stdout.startswith("model 1 (resnet18-job1) is the champion again"), back.stderr
    assert probabilities(terminal, archive) == before
    # Nothing changed since, so that no later minute trains again.
    outcomes = {r["outcome"] for r in asked(terminal, "schedule", "runs") if r["id"] != run["id"]}
    assert outcomes <= {"skipped", None}
