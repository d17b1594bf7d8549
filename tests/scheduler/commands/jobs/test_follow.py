"""Following a job: live progress, the closing summary, the exit status, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database
from db.base.schema import models as models_table
from db.queue import jobs, training
from db.work import control, endings
from scheduler.show import display, follow
from scheduler.show.follow import Silence
from tests.scheduler import rows
from tests.scheduler.console import run, start


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line of progress, as soon as it is there."""
    assert process.stderr is not None
    return process.stderr.readline()


def test_a_completed_job_is_summed_up_and_gives_status_0(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), refused=1)
    result = run("jobs", "watch", job)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"job {job} completed")
    for line in ("predictions  9  (9 positive)", "refused      1", "errors       0"):
        assert f"  {line}" in result.stdout
    assert "Research software, not a medical device." in result.stdout
    statement = result.stdout.splitlines()[-1].removeprefix("Next: pneumoq query ").strip('"')
    assert run("query", statement).stdout.count("PNEUMONIA") == 9


def test_archives_inside_of_a_source_are_counted_with_what_to_do(
    engine: sa.Engine, tmp_path: Path
) -> None:
    model = rows.a_model(engine, tmp_path)
    plain = run("jobs", "watch", rows.a_scored_job(engine, model, refused=1))
    assert "Archives" not in plain.stdout
    job = rows.a_planned_job(engine, model, 10)
    rows.do_shard(engine, refused=3, code="nested_archive")
    result = run("jobs", "watch", job)
    assert result.exit_code == 0, "a refusal is no error"
    assert "Archives inside, which were not opened: 3. Give each by its own path" in result.stdout
    assert json.loads(run("jobs", "watch", job, "--json").stdout)["archives"] == 3


def test_item_errors_give_status_3(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=2)
    result = run("jobs", "watch", job)
    assert result.exit_code == 3
    assert f"errors       2  (pneumoq jobs errors {job})" in result.stdout


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_did_not_complete_gives_status_1(engine: sa.Engine, state: str) -> None:
    job = rows.a_queued_job(engine)
    database.write(engine, lambda c: endings.finish(c, job, state, "w1", "the archive is gone"))
    result = run("jobs", "watch", job)
    assert result.exit_code == 1
    assert f"job {job} {state}: the archive is gone" in result.stdout
    assert f"pneumoq jobs events {job}" in result.stdout


def test_json_is_one_object_with_the_status(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=1, refused=2)
    result = run("jobs", "watch", job, "--json")
    assert (result.exit_code, result.stderr) == (3, "")
    summary = json.loads(result.stdout)
    assert (summary["status"], summary["state"]) == (3, "completed_with_errors")
    assert (summary["predictions"], summary["errors"], summary["refused"]) == (7, 1, 2)


def test_a_trained_job_names_its_best_epoch_and_its_model(
    engine: sa.Engine, tmp_path: Path
) -> None:
    first, second = (rows.a_trained_job(engine, tmp_path, name) for name in ("one", "two"))
    result = run("jobs", "watch", first)
    assert result.exit_code == 0
    assert "best epoch   2 of 3, validation AUROC 0.9700" in result.stdout
    assert "1 (one), the champion" in result.stdout
    assert "pneumoq models promote 2" in run("jobs", "watch", second).stdout
    summary = json.loads(run("jobs", "watch", second, "--json").stdout)
    assert (summary["best_epoch"], summary["model_id"], summary["champion"]) == (2, 2, False)


def test_a_trained_job_says_what_is_left_where_films_look_otherwise(
    engine: sa.Engine, tmp_path: Path
) -> None:
    job = rows.a_trained_job(engine, tmp_path)
    with database.writing(engine) as connection:
        card = {"labels": ["NORMAL", "PNEUMONIA"], "shift": rows.SHIFT}
        connection.execute(sa.update(models_table).values(card=card))
    told = run("jobs", "watch", job).stdout
    assert (
        "  dressed      AUROC 0.990 as they are, 0.910 (0.880 to 0.940) at worst: NORMAL films "
        "dressed as group 1 (PNEUMONIA, the same mark at the upper left)\n"
        "               25.0% of decisions change there (15.0% to 35.0%)\n"
    ) in told
    assert json.loads(run("jobs", "watch", job, "--json").stdout)["shift"] == rows.SHIFT
    shown = run("models", "show", 1).stdout
    assert "dressed as group 1" in shown
    assert "NORMAL 0.050 → 0.300" in shown


def test_epochs_are_printed_as_they_land(engine: sa.Engine, tmp_path: Path) -> None:
    lease = rows.a_claimed_training(engine)
    rows.do_epoch(engine, lease, 1, val_auroc=0.9, best=True)
    process = start("jobs", "watch", lease.job_id)
    assert first_line(process).split()[:3] == ["epoch", "train", "loss"]
    assert first_line(process).split()[-1] == "best"
    rows.do_epoch(engine, lease, 2, val_auroc=0.8, best=False)
    text = first_line(process)
    while not text.startswith("    2 "):
        text = first_line(process)
    # A second attempt makes the second epoch again.
    rows.do_epoch(engine, lease, 2, val_auroc=0.95, best=True)
    assert "0.9500" in first_line(process)
    model = rows.a_model(engine, tmp_path)
    database.write(engine, lambda c: endings.complete_training(c, lease, model))
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "best epoch   2 of 2" in out


def test_progress_without_a_terminal_is_whole_lines(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 10, 10)
    process = start("jobs", "watch", job)
    assert first_line(process) == f"job {job} running: 0/20 films\n"
    rows.do_shard(engine)
    rows.do_shard(engine, broken=1)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert f"job {job} completed_with_errors: 20/20 films" in err
    assert not {"\r", "\x1b"} & set(out + err)


def test_what_is_soon_over_is_looked_at_soon_and_what_takes_long_seldom() -> None:
    assert follow.pause_s(0.0, 0.0) == follow.LEAST_POLL_S <= 0.02
    followed_s, looks = 0.0, 0
    while followed_s < 10.0:
        # Whenever it ends, that is told when a tenth of its time more has passed.
        assert follow.pause_s(followed_s, 0.0) <= max(0.1 * followed_s, follow.LEAST_POLL_S)
        followed_s += follow.pause_s(followed_s, 0.0)
        looks += 1
    assert looks < 60
    assert follow.pause_s(3600.0, 0.0) == follow.POLL_S
    assert follow.pause_s(0.0, 0.1) == pytest.approx(follow.POLL_SHARE * 0.1)


class Shown(display.Silent):
    """A display that keeps what it is to show."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, int, int | None]] = []

    def show(self, title: str, text: str, done: int, total: int | None) -> None:
        self.texts.append((f"{title}: {text}", done, total))


def test_after_the_epochs_it_says_what_is_done_and_no_epoch_again(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = rows.a_claimed_training(engine)
    progress = {"epoch": 2, "films_done": 40, "films_total": 40, "films_per_s": 9.0, "loss": 0.5}
    for epoch in (1, 2):
        rows.do_epoch(engine, lease, epoch, val_auroc=0.9, best=True)
    database.write(engine, lambda c: training.record_progress(c, lease, progress))
    text = "calibrating, and dressing held-out films as others look"
    database.write(engine, lambda c: jobs.log(c, lease.job_id, "w1", "note", text))
    shown = Shown()
    monkeypatch.setattr(display, "opened", lambda silent: shown)

    def end() -> None:
        model = rows.a_model(engine, tmp_path)
        database.write(engine, lambda c: endings.complete_training(c, lease, model))

    follow.to_the_end(engine, lease.job_id, tick=end)
    assert shown.texts == [
        (f"job {lease.job_id} running: {text}", 120, 120),
        (f"job {lease.job_id} completed: epoch 3/3, loss 0.500", 80, 120),
    ]


def test_progress_on_a_terminal_is_a_bar(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 10, 10)
    ours, theirs = pty.openpty()
    process = start("jobs", "watch", job, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"0/20 films" not in shown:
        shown += os.read(ours, 4096)
    rows.do_shard(engine)
    while b"10/20 films" not in shown:
        shown += os.read(ours, 4096)
    rows.do_shard(engine)
    out, _ = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in shown and "━".encode() in shown
    assert out.startswith(f"job {job} completed")


def test_ctrl_c_leaves_the_job_running(engine: sa.Engine) -> None:
    job = rows.a_queued_job(engine)
    process = start("jobs", "watch", job)
    assert first_line(process) == f"job {job} queued\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert f"`pneumoq jobs watch {job}` follows it again" in err
    assert f"`pneumoq jobs cancel {job}` ends it" in err
    assert jobs.get(engine, job)["state"] == "queued"


def test_that_no_worker_answers_is_said_once_after_a_minute() -> None:
    silence = Silence(answered_at=0.0, looked_at=0.0)
    assert not silence.due(4.0) and silence.due(5.0)
    assert not silence.note(5.0, alive=True)
    assert not silence.note(60.0, alive=False)
    assert silence.note(65.0, alive=False)
    assert not silence.note(130.0, alive=False)


def test_a_write_lock_does_not_end_the_following(engine: sa.Engine) -> None:
    job = rows.a_queued_job(engine)
    process = start("jobs", "watch", job)
    first_line(process)
    with database.writing(engine) as connection:
        control.cancel(connection, job, "tester@here")
        time.sleep(1.0)
        assert process.poll() is None
    process.communicate(timeout=30)
    assert process.returncode == 1
