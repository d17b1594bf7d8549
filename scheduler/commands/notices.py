"""`pneumoq notices`: what hooks were told of runs, models and drift, and whether it arrived."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click
import sqlalchemy as sa

from db.base import database, outbox, workers
from scheduler import errors, session
from scheduler.errors import Failure
from scheduler.show import output

COLUMNS = ("notice", "at", "event", "state", "attempts", "text", "last_error")

STATES = ("waiting", "delivered", "given_up", "unheard")

#: How long a worker is waited for, in seconds: a sweep's distance, and what hooks may take.
PATIENCE_S = 75.0


@click.group("notices")
def command() -> None:
    """See what the hooks were told, and try them.

    Failures and errors, skipped and missed runs, sources that no worker can read, verdicts on new
    models, many nights without a promotion, and drift are POSTed as JSON to PNEUMOQ_HOOK_URL, and
    handed to the command line PNEUMOQ_HOOK_COMMAND on its standard input (and as variables:
    PNEUMOQ_EVENT, PNEUMOQ_TEXT, PNEUMOQ_SCHEDULE, PNEUMOQ_JOB, ...). They hold figures and names
    that you gave, never a path or a film's name. A notice that does not arrive is sent again after
    10 s, 1 min, 10 min, 1 h and 6 h; the same `id` again is the same notice.

    \b
    Examples:
      pneumoq notices test
      pneumoq notices ls --state given_up
    """


@command.command("ls")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option(
    "-n", "--limit", type=session.ROWS, default=20, show_default=True, help="The newest N."
)
@output.json_option
def ls(state: str | None, limit: int, as_json: bool) -> None:
    """List notices, newest first.

    \b
    Example:
      pneumoq notices ls --json
    """
    rows = outbox.recent(session.database(), limit, state)
    if as_json:
        output.emit(rows, as_json=True)
        return
    output.emit(
        [_told(row) for row in rows],
        as_json=False,
        columns=COLUMNS,
        nothing="no notices" if state is None else f"no notice is {state}",
    )


def _told(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        **row,
        "notice": row["id"],
        "at": output.when(row["at"]),
        "text": row["payload"].get("text", ""),
        "last_error": "; ".join((row["last_error"] or "").splitlines()),
    }


@command.command("test")
@output.json_option
@click.pass_context
def test(ctx: click.Context, as_json: bool) -> None:
    """Send a notice that says that it is a test, and see whether it arrives.

    By the hooks that are set here; where none is, by a worker's.

    \b
    Example:
      PNEUMOQ_HOOK_URL=https://chat.example/hooks/abc pneumoq notices test
    """
    settings, engine = session.settings(), session.database()
    from worker.service import hooks

    who = session.who()
    text = f"a test of PneumoQ's hooks by {who}"
    found = hooks.of(settings)
    if found:

        def make(connection: sa.Connection) -> outbox.Notice:
            claimed = outbox.claim(connection, who, outbox.add(connection, "test", text=text))
            assert claimed is not None
            return claimed

        notice = database.write(engine, make)
        hooks.send(engine, notice, found)
        number = notice.id
    elif any(outbox.SENDS in worker["versions"] for worker in workers.alive(engine)):
        number = database.write(engine, lambda c: outbox.add(c, "test", text=text))
        _wait(engine, number)
    else:
        raise Failure(
            "no hook is set, here or at a worker that runs: set PNEUMOQ_HOOK_URL or "
            "PNEUMOQ_HOOK_COMMAND where the workers start, and start them again"
        )
    row = outbox.get(engine, number)
    if as_json:
        output.emit(row, as_json=True)
    elif row["state"] == "delivered":
        click.echo(f"notice {number} was delivered by {row['worker_id']}")
    else:
        why = _told(row)["last_error"] or f"no worker sent it within {PATIENCE_S:.0f} s"
        click.echo(f"notice {number} did not arrive: {why}", err=True)
    ctx.exit(errors.DONE if row["state"] == "delivered" else errors.JOB_FAILED)


def _wait(engine: sa.Engine, number: int) -> None:
    """Wait until a notice was sent once, or nobody did for long."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        row = outbox.get(engine, number)
        if row["state"] != "waiting" or row["last_error"]:
            return
        time.sleep(0.2)
