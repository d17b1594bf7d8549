"""`pneumoq score`: put a scoring job on the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db import jobs, models
from scheduler import session, submit


@click.command("score")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    default=models.CHAMPION,
    show_default=True,
    help="Alias, number, name or SHA-256 of the model.",
)
@click.option(
    "--keep-cam",
    type=click.Choice(["all", "flagged", "none"]),
    default="flagged",
    show_default=True,
    help="Films whose class-activation map is kept: flagged are the positives.",
)
@submit.options
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[Path, ...],
    model: str,
    keep_cam: str,
    wait: bool,
    local: bool,
    later: bool,
    priority: int,
    key: str | None,
    as_json: bool,
) -> None:
    """Score every film in folders, archives (.zip, .tar, .tar.gz) or single files.

    Archives are read in place. Each film becomes one row of v_predictions, or of v_item_errors
    with the reason.

    \b
    Examples:
      pneumoq score archive.zip --wait
      pneumoq score /data/2025 /data/2026.tar --priority 5
    """
    from worker import archive

    settings, engine = session.settings(), session.database()
    rows: list[dict[str, Any]] = []
    for path in sources:
        with archive.open_source(submit.readable_path(path)) as source:
            rows.append(
                {"uri": source.uri, "kind": source.kind, "fingerprint": source.fingerprint()}
            )

    chosen = models.resolve(engine, model)

    def make(connection: sa.Connection) -> int:
        return jobs.submit(
            connection,
            kind="score",
            spec={"sources": [r["uri"] for r in rows], "model": model, "keep_cam": keep_cam},
            submitted_by=session.who(),
            model_id=chosen["id"],
            priority=priority,
            key=key or submit.once(),
            source_rows=rows,
        )

    ctx.exit(
        submit.submit(
            settings, engine, "score", make, wait=wait, local=local, later=later, as_json=as_json
        )
    )
