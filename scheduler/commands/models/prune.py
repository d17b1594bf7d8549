"""`pneumoq models prune`: retire what is not in use, and free what it took."""

from __future__ import annotations

from typing import Any

import click

from db.base import database
from db.registry import retention
from db.registry.retention import Bytes, Judged
from scheduler import session
from scheduler.show import output

COLUMNS = ("what", "name", "size", "becomes", "why")


@click.command("prune")
@click.option(
    "--keep", type=click.IntRange(1), default=5, show_default=True,
    help="The newest N models stay.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Change nothing: say what would go, what stays, why.")
@output.json_option
def command(keep: int, dry_run: bool, as_json: bool) -> None:
    """Retire models that are neither new nor in use, and remove their files.

    What an alias stands for stays, what the champion began from, what a rollback would go back to,
    and what open jobs, runs or schedules need. A retired model's row, card and history stay for
    good; its bytes stay in the database too until the jobs that it scored are purged (`pneumoq jobs
    purge`). On this machine its files and engines go, what training jobs left that made no model
    and ended more than a week ago, old caches of decoded films, and what was never finished.

    Workers do the same every hour on their machine, and keep of each schedule as many models as it
    says.

    \b
    Examples:
      pneumoq models prune --dry-run
      pneumoq models prune --keep 10
    """
    settings, engine, who = session.settings(), session.database(), session.who()
    if dry_run:
        with database.reading(engine) as connection:
            judged = retention.judge(connection, keep)
            retired = retention.bytes_of_retired(connection)
            coming = retention.bytes_of(connection, [j.id for j in judged if not j.stays])
        freed = [entry for entry in [*retired, *coming] if entry.held_by is None]
        held = [entry for entry in [*retired, *coming] if entry.held_by is not None]
    else:
        judged = database.write(engine, lambda c: retention.retire(c, keep, who))
        freed = retention.free(engine, who)
        with database.reading(engine) as connection:
            held = [e for e in retention.bytes_of_retired(connection) if e.held_by is not None]
    from worker.service import retention as tidying

    retiring = [model.id for model in judged if not model.stays]
    files = tidying.tidy(settings, engine, dry_run=dry_run, retiring=retiring)
    rows = [
        *map(_model, judged),
        *(_bytes(entry) for entry in [*freed, *held]),
        *(
            {"what": "file", "name": str(file.path), "size_bytes": file.size_bytes,
             "becomes": "removed", "why": file.why}
            for file in files
        ),
    ]  # fmt: skip
    if as_json:
        output.emit({"dry_run": dry_run, "changes": rows}, as_json=True)
        return
    if rows:
        output.table([{**row, "size": _size(row["size_bytes"])} for row in rows], COLUMNS)
    there, here = (sum(entry.size_bytes for entry in found) for found in (freed, files))
    count = sum(not model.stays for model in judged)
    verb = "would be" if dry_run else "were" if count != 1 else "was"
    models = "1 model" if count == 1 else f"{count} models"
    click.echo(
        f"{models} {verb} retired; {_size(there)} {'would be ' if dry_run else ''}freed in the "
        f"database and {_size(here)} on this machine"
    )


def _model(judged: Judged) -> dict[str, Any]:
    return {
        "what": f"model {judged.id}", "name": judged.name, "size_bytes": None,
        "becomes": "stays" if judged.stays else "retired", "why": judged.why,
    }  # fmt: skip


def _bytes(entry: Bytes) -> dict[str, Any]:
    why = (
        "retired, and no kept prediction is its"
        if entry.held_by is None
        else f"job {entry.held_by} was scored with it, or will be; `jobs purge` lets go"
    )
    return {
        "what": f"bytes of model {entry.id}", "name": entry.name, "size_bytes": entry.size_bytes,
        "becomes": "removed" if entry.held_by is None else "stays", "why": why,
    }  # fmt: skip


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"
