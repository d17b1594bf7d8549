"""pneumoq notices: what was told, and a test of the hooks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import outbox, workers
from db.base.database import write
from tests.scheduler.console import only_line, run


def test_notices_are_listed_newest_first_with_what_became_of_them(engine: sa.Engine) -> None:
    assert run("notices", "ls").stderr == "no notices\n"
    write(engine, lambda c: outbox.add(c, "kept", text="the champion stays"))
    write(engine, lambda c: outbox.mark_undelivered(c))
    write(engine, lambda c: outbox.add(c, "drift", text="scores moved", psi=0.31))
    listed = [" ".join(line.split()[2:]) for line in run("notices", "ls").stdout.splitlines()[1:]]
    assert [line.partition("Z ")[2] or line for line in listed] == [
        "drift waiting 0 scores moved",
        "kept unheard 0 the champion stays",
    ]
    (row,) = json.loads(run("notices", "ls", "--state", "waiting", "--json").stdout)
    assert (row["event"], row["payload"]["psi"]) == ("drift", 0.31)


def test_a_test_without_any_hook_says_what_to_set(engine: sa.Engine) -> None:
    result = run("notices", "test")
    assert result.exit_code == 2
    assert "set PNEUMOQ_HOOK_URL or PNEUMOQ_HOOK_COMMAND" in only_line(result.stderr)
    assert outbox.recent(engine) == []


def test_a_test_is_sent_by_the_hooks_that_are_set_here(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told.json"
    monkeypatch.setenv("PNEUMOQ_HOOK_COMMAND", f"sh -c 'cat > {told}'")
    result = run("notices", "test")
    assert result.exit_code == 0
    assert only_line(result.stdout).startswith("notice 1 was delivered by ")
    heard = json.loads(told.read_text())
    assert (heard["id"], heard["event"]) == (1, "test")
    assert heard["text"].startswith("a test of PneumoQ's hooks by ")


def test_a_test_that_fails_says_why(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOQ_HOOK_COMMAND", "false")
    result = run("notices", "test")
    assert result.exit_code == 1
    assert only_line(result.stderr) == ("notice 1 did not arrive: command: it ended with status 1")
    assert json.loads(run("notices", "test", "--json").stdout)["state"] == "waiting"


def test_where_no_hook_is_set_here_a_worker_s_is_tested(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        engine,
        lambda c: workers.register(
            c, "w1", host="gpu1", pid=1, queues="score", engine=None, versions={"hooks": "yes"}
        ),
    )
    from scheduler.commands import notices as command

    monkeypatch.setattr(command, "PATIENCE_S", 0.3)  # that worker is only a row
    result = run("notices", "test")
    assert result.exit_code == 1
    assert "notice 1 did not arrive: no worker sent it within" in only_line(result.stderr)
