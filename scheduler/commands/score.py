"""`pneumoq score`: put a scoring job on the queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db.queue import jobs
from db.registry import aliases
from scheduler import engines, session
from scheduler.submitting import precision, sources, submit
from trainer.film.refusals import REFUSALS


@click.command("score")
@click.argument("sources_", metavar="[SOURCE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--list", "lists", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Also score what a file lists: one path a line, or a CSV with a column path or file.",
)  # fmt: skip
@precision.model_option
@precision.option
@engines.option(
    "Let only workers score that have TensorRT, or only those that compute the ONNX file as it is. "
    "Default: any worker (auto)."
)
@click.option(
    "--keep-cam",
    type=click.Choice(["all", "flagged", "none"]),
    default="flagged",
    show_default=True,
    help="Films whose class-activation map is kept: flagged are the positives.",
)
@click.option(
    "--accept", "accepted", multiple=True, metavar="CODE",
    type=click.Choice(sorted(REFUSALS)),
    help="Score what would be refused for this reason; may be repeated. "
    f"CODE is one of: {', '.join(sorted(REFUSALS))}.",
)  # fmt: skip
@click.option(
    "--hash-names", is_flag=True,
    help="Keep keyed hashes in place of the films' names, as is always done for DICOM.",
)  # fmt: skip
@click.option(
    "--force", is_flag=True,
    help="Score all films, also those that this model has scored before.",
)  # fmt: skip
@click.option(
    "--max-errors", callback=submit.budget, metavar="5%|N",
    help="End the job as failed when more films than this are broken; 0 ends it at the first.",
)  # fmt: skip
@click.option(
    "--source-patience", callback=submit.span, metavar="SPAN",
    help="Pause the job when no worker could read what is left of it for so long. Default: 6h.",
)  # fmt: skip
@submit.share_option
@click.option(
    "--dry-run", is_flag=True,
    help="Submit nothing: count what is there, and estimate refusals, time and disk.",
)  # fmt: skip
@submit.options
@click.pass_context
def command(
    ctx: click.Context,
    sources_: tuple[Path, ...],
    lists: tuple[Path, ...],
    model: str,
    asked: str,
    asked_engine: str | None,
    keep_cam: str,
    accepted: tuple[str, ...],
    hash_names: bool,
    force: bool,
    max_errors: str | None,
    source_patience: int | None,
    share: str | None,
    dry_run: bool,
    wait: bool,
    local: bool,
    later: bool,
    priority: int,
    key: str | None,
    as_json: bool,
) -> None:
    """Score every film in folders, archives (.zip, .tar, .tar.gz, .tar.zst) or single files.

    A SOURCE with wildcards is a pattern (quote it; ** is any folders). Archives are read in place.
    Each item becomes one row of v_predictions, v_refusals or v_item_errors. Films that this model
    has scored before, in this precision, are answered from the database.

    \b
    Examples:
      pneumoq score archive.zip --wait
      pneumoq score /data/2025 "/data/2026/**/*.dcm" --priority 5 --max-errors 5%
      pneumoq score archive.zip --for study-12
      pneumoq score --list films.csv --accept lateral --key monday
      pneumoq score archive.zip --engine tensorrt --precision fp16
      pneumoq score archive.tar.zst --dry-run
    """
    settings, engine = session.settings(), session.database()
    rows = sources.rows(sources_, lists)
    chosen = aliases.resolve(engine, model)
    wanted = engines.stored(asked_engine)
    settings = engines.settings_of(settings, asked_engine)
    machines = engines.this_machine(settings) if local else engines.there(engine, wanted)
    pinned, why = precision.pin(engine, chosen["id"], asked, machines)
    spec: dict[str, Any] = {
        "sources": [row["uri"] for row in rows],
        "model": model,
        "keep_cam": keep_cam,
        "accept": sorted(set(accepted)),
        "hash_names": hash_names,
        "force": force,
    }
    if max_errors is not None:
        spec["max_errors"] = max_errors
    if source_patience is not None:
        spec["source_patience_s"] = source_patience
    if dry_run:
        from scheduler.measure import rehearse

        rehearse.rehearse(
            settings, engine, chosen, pinned, spec, rows, wanted=wanted, as_json=as_json
        )
        return

    def make(connection: sa.Connection) -> int:
        return jobs.submit(
            connection,
            kind="score",
            spec=spec,
            submitted_by=session.who(),
            model_id=chosen["id"],
            precision=pinned,
            engine=wanted,
            priority=priority,
            key=key or submit.once(),
            source_rows=rows,
            share=share,
        )

    same: dict[str, Any] = {"spec": spec, "engine": wanted}
    if asked != "auto":
        same["precision"] = asked
    ctx.exit(
        submit.submit(
            settings, engine, "score", make,
            wanted=wanted, same=same, key=key, wait=wait, local=local, later=later, as_json=as_json,
            changed=lambda job_id: sources.changed(engine, job_id, rows),
            grows=any(row["kind"] in sources.GROWING for row in rows),
            note=f"Model {chosen['id']} ({chosen['name']}) computes in {pinned}, {why}.",
        )
    )  # fmt: skip
