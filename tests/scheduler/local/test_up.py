"""`pneumoq up`, `--local` and the journey from a folder to an answer, as a person types them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.scheduler.terminal import PATIENCE_S, Terminal, wait
from tests.support import drawn
from tests.worker import samples
from tests.worker.training import narrow_child
from trainer import phantom


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path / "home")
    yield made
    made.end()


@pytest.fixture
def narrow(terminal: Terminal, tmp_path: Path) -> None:
    """Workers here train narrow networks: what is asked is what becomes of processes."""
    terminal.environment |= narrow_child.environment(samples.NARROW, tmp_path / "narrow")


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder of a few dozen films."""
    folder = tmp_path_factory.mktemp("labelled") / "films"
    drawn.write_folder(folder, 24)
    return folder


def test_from_a_labelled_folder_to_an_answer_in_sql(
    terminal: Terminal, labelled: Path, tmp_path: Path
) -> None:
    count = phantom.write_zip(tmp_path / "archive.zip", 12, first_patient=500)
    process = terminal.up()
    small = ("--init", "scratch", "--size", "32", "--epochs", "2", "--lr", "1e-3")
    trained = terminal.type("train", str(labelled), *small, "--wait", "--json")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout)
    assert (summary["state"], summary["epochs"], summary["champion"]) == ("completed", 2, True)

    scored = terminal.type("score", str(tmp_path / "archive.zip"), "--wait", "--json")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["predictions"] == count

    question = "SELECT count(*) AS n, min(probability) >= 0 AS ok FROM v_predictions"
    asked = terminal.type("query", question, "--format", "json")
    assert [row["n"] for row in json.loads(asked.stdout)] == [count]
    epochs = terminal.type("query", "SELECT epoch FROM v_epochs ORDER BY epoch", "--format", "csv")
    assert epochs.stdout.split() == ["epoch", "1", "2"]

    # One film alone gets the probability that it got among the others, to the last bit.
    film = next(phantom.films(1, first_patient=500))
    (tmp_path / film.name).write_bytes(film.data)
    out = tmp_path / "annotated.png"
    one = terminal.type("classify", str(tmp_path / film.name), str(out), "--json")
    assert one.returncode == 0, one.stderr
    stored = terminal.type(
        "query",
        f"SELECT probability FROM v_predictions WHERE name LIKE '%/{film.name}'",
        "--format",
        "json",
    )
    assert json.loads(one.stdout)["probability"] == json.loads(stored.stdout)[0]["probability"]
    assert out.stat().st_size > 1000

    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    wait(lambda: not terminal.processes(), "everything to end")


@pytest.mark.usefixtures("narrow")
def test_ctrl_c_in_the_middle_of_training_ends_everything_and_the_job_goes_on_at_the_next_start(
    terminal: Terminal, labelled: Path
) -> None:
    process = terminal.up()
    small = ("--init", "scratch", "--size", "32", "--epochs", "5", "--patience", "0")
    submitted = terminal.type("train", str(labelled), *small)
    assert submitted.returncode == 0, submitted.stderr

    def epochs() -> int:
        # Not by a command: starting one again and again would take what training needs.
        with closing(sqlite3.connect(terminal.home / "pneumoq.db")) as connection:
            (count,) = connection.execute("SELECT count(*) FROM v_epochs").fetchone()
            return int(count)

    wait(lambda: epochs() >= 1, "a first epoch")
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    assert not terminal.processes()
    state = json.loads(terminal.type("jobs", "ls", "--json").stdout)[0]["state"]
    assert state == "queued"

    terminal.up()
    watched = terminal.type("jobs", "watch", "1", "--json")
    assert watched.returncode == 0, watched.stderr
    assert epochs() == 5


def test_everything_that_up_started_dies_with_it_even_by_kill_9(terminal: Terminal) -> None:
    process = terminal.up()
    assert len(terminal.processes()) >= 4  # itself, broker, two workers, beat
    process.kill()
    process.wait()
    wait(lambda: not terminal.processes(), "its processes to end")


def test_what_ends_by_itself_is_started_again(terminal: Terminal) -> None:
    process = terminal.up()
    (before,) = terminal.workers("score")
    os.kill(before, signal.SIGKILL)
    wait(lambda: terminal.workers("score") not in ([], [before]), "a new scoring worker")
    assert process.poll() is None


def test_a_second_up_in_the_same_home_says_that_one_runs(terminal: Terminal) -> None:
    first = terminal.up()
    second = terminal.type("up")
    assert second.returncode == 2
    assert str(first.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_with_nothing_running_a_submission_says_what_to_start_and_submits_nothing(
    terminal: Terminal, labelled: Path
) -> None:
    answer = terminal.type("train", str(labelled), "--init", "scratch")
    assert answer.returncode == 2
    assert "pneumoq up" in answer.stderr
    assert "--local" in answer.stderr
    assert json.loads(terminal.type("jobs", "ls", "--json").stdout) == []


@pytest.mark.usefixtures("narrow")
def test_local_brings_its_own_stack_and_takes_it_away(
    terminal: Terminal, labelled: Path, tmp_path: Path
) -> None:
    small = ("--init", "scratch", "--size", "32", "--epochs", "1")
    trained = terminal.type("train", str(labelled), *small, "--local")
    assert trained.returncode == 0, trained.stderr
    scored = terminal.type("score", str(labelled / "NORMAL"), "--local", "--json")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["predictions"] == len(list((labelled / "NORMAL").iterdir()))
    assert not terminal.processes()


@pytest.mark.usefixtures("narrow")
def test_local_starts_its_worker_again_when_that_is_killed(
    terminal: Terminal, labelled: Path
) -> None:
    small = ("--init", "scratch", "--size", "32", "--epochs", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler", "train", str(labelled), *small, "--local"],
        env=terminal.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "job 1 running" in line:
            break
    os.kill(*terminal.workers("train"), signal.SIGKILL)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert "train-1 ended (signal 9); starting it again" in said
    assert "job 1 completed" in said


@pytest.mark.parametrize("path", ["nowhere", "nowhere.zip", "empty", "page.zip"])
def test_a_source_that_cannot_be_scored_is_one_clear_line(
    terminal: Terminal, tmp_path: Path, path: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "page.zip").write_text("<html><body>404 not found</body></html>")
    answer = terminal.type("score", str(tmp_path / path))
    assert answer.returncode == 2
    assert len(answer.stderr.strip().splitlines()) == 1
    assert str(tmp_path / path) in answer.stderr
    assert "Traceback" not in answer.stderr
