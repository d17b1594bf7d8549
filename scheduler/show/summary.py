"""What a job that has ended came to: its figures, and the lines that say them to a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import sqlalchemy as sa

from db.base import database
from db.queue import jobs, overview, training
from db.registry import drift, models
from scheduler import errors
from scheduler.show import output
from trainer.learning import epoch as epochs

#: Final state → exit status.
STATUS = {
    "completed": errors.DONE,
    "completed_with_errors": errors.ITEM_ERRORS,
    "failed": errors.JOB_FAILED,
    "cancelled": errors.JOB_FAILED,
}


def summarise(engine: sa.Engine, row: sa.RowMapping) -> dict[str, Any]:
    """What a job that has ended came to; `status` is its exit status."""
    taken_s = _between(row["started_at"], row["finished_at"])
    summary: dict[str, Any] = {
        "job_id": row["job_id"],
        "kind": row["kind"],
        "state": row["state"],
        "status": STATUS[row["state"]],
        "reason": row["reason"],
        "seconds": taken_s,
    }
    if row["kind"] == "score":
        for name in ("items", "predictions", "positives", "unusual", "looks", "refused", "errors"):
            summary[name] = int(row[name])
        summary["purged_at"] = row["purged_at"]
        kept = row["purged_at"] is None
        summary["from_store"] = from_store(engine, row["job_id"]) if kept else None
        summary["archives"] = _archives(engine, row["job_id"]) if kept else None
        summary["films_per_s"] = round(int(row["done"]) / taken_s, 1) if taken_s else None
        summary["model_id"] = row["model_id"]
        summary["drift"] = drift.of_job(engine, row["job_id"])
        return summary
    rows = training.epoch_rows(engine, row["job_id"])
    best = [r for r in rows if r["best"]]
    summary["epochs"] = len(rows)
    summary["best_epoch"] = best[-1]["epoch"] if best else None
    summary["val_auroc"] = best[-1]["val_auroc"] if best else None
    summary["verdict"] = _verdict(rows, asked(engine, row["job_id"])) if rows else None
    summary["model_id"] = row["model_id"]
    registered = [m for m in models.listing(engine) if m["model_id"] == row["model_id"]]
    if registered:
        summary["model"] = registered[0]["name"]
        summary["champion"] = bool(registered[0]["champion"])
        card = models.get(engine, row["model_id"])["card"]
        summary["patients"] = card.get("patients") or None
        summary["shift"] = card.get("shift")
        summary["metrics"] = card.get("metrics") or {}
        summary["basis"] = card.get("basis") or None
    return summary


def asked(engine: sa.Engine, job_id: int) -> int:
    """How many epochs a training job is to make."""
    return int(jobs.get(engine, job_id)["spec"].get("epochs") or 1)


def _verdict(rows: Sequence[sa.RowMapping], of: int) -> str:
    """Whether a training job learned its films by heart, in a sentence."""
    history = [
        epochs.Epoch(
            epoch=row["epoch"],
            epochs=of,
            train_loss=row["train_loss"],
            train_accuracy=_number(row["train_accuracy"]),
            train_auroc=_number(row["train_auroc"]),
            val_loss=row["val_loss"],
            val_accuracy=_number(row["val_accuracy"]),
            val_auroc=_number(row["val_auroc"]),
            lr=row["learning_rate"],
            seconds=row["seconds"],
            films_per_s=row["films_per_s"],
            best=row["best"],
        )
        for row in rows
    ]
    return epochs.verdict(history)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def from_store(engine: sa.Engine, job_id: int) -> int:
    """How many of a scoring job's predictions were made before, and only answered again."""
    statement = sa.text("SELECT count(reused_from_job) FROM predictions WHERE job_id = :job")
    with database.reading(engine) as connection:
        return int(connection.execute(statement, {"job": job_id}).scalar_one())


def _archives(engine: sa.Engine, job_id: int) -> int:
    """How many of a scoring job's items are archives, which are not opened inside of another."""
    with database.reading(engine) as connection:
        found = overview.codes(connection, job_id, refused=True)
    return sum(many for code, many, _ in found if code == "nested_archive")


def _between(started: datetime | str | None, finished: datetime | str | None) -> float | None:
    """Seconds; views give text on SQLite."""
    if started is None or finished is None:
        return None
    return (_instant(finished) - _instant(started)).total_seconds()


def _instant(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if isinstance(value, str) else value


def close(summary: dict[str, Any]) -> None:
    """Print the summary for a person, and what to type next."""
    job_id, state = summary["job_id"], str(summary["state"]).replace("_", " ")
    taken = f" after {output.seconds(summary['seconds'])}" if summary["seconds"] else ""
    reason = f": {output.printable(summary['reason'])}" if summary["reason"] else ""
    click.echo(f"job {job_id} {state}{taken}{reason}")
    if summary["kind"] == "score":
        _close_scoring(summary)
    else:
        _close_training(summary)
    if summary["status"] == errors.JOB_FAILED:
        click.echo(f"Its history: pneumoq jobs events {job_id}")


def _close_scoring(summary: dict[str, Any]) -> None:
    job_id = summary["job_id"]
    if not summary["items"]:
        return
    rate, kept = summary["films_per_s"], summary["purged_at"] is None
    lines = {
        "films": f"{summary['items']:,}" + (f"  ({rate:,.1f} films/s)" if rate else ""),
        "predictions": f"{summary['predictions']:,}  ({summary['positives']:,} positive)",
        "unusual": f"{summary['unusual']:,}  (unlike the training films: do not trust the label)",
        "looks": f"{summary['looks']:,}  (acquired like training films of one class: do not trust "
        "the label)",
        "refused": f"{summary['refused']:,}  (intact, but no films to be scored)",
        "errors": f"{summary['errors']:,}"
        + (f"  (pneumoq jobs errors {job_id})" if summary["errors"] and kept else ""),
    }
    if summary["from_store"]:
        lines["from store"] = f"{summary['from_store']:,}  (scored before; --force scores anew)"
    for name, text in lines.items():
        click.echo(f"  {name:<11}  {text}")
    if summary["archives"]:
        click.echo(
            f"Archives inside, which were not opened: {summary['archives']:,}. Give each by its "
            f"own path, or unpack it; pneumoq jobs errors {job_id} --refused names them."
        )
    if summary["drift"] and summary["drift"]["warned"]:
        click.echo(f"Drift: {summary['drift']['detail']}.")
    click.echo("Research software, not a medical device.")
    if not kept:
        click.echo(
            f"job {job_id} was purged on {str(summary['purged_at'])[:10]}: only these sums are left"
        )
    elif summary["predictions"]:
        click.echo(
            f"Which films to look at first, and why: pneumoq report {job_id} job{job_id}.html"
        )
        click.echo(
            'Next: pneumoq query "SELECT name, label, probability FROM v_predictions '  # noqa: S608
            f'WHERE job_id = {job_id} ORDER BY probability DESC LIMIT 20"'
        )


def _close_figures(found: dict[str, float], basis: str) -> None:
    """Print what may be expected on new films like these."""
    parts = [
        f"{name if name != 'auroc' else 'AUROC'} {found[name]:.3f} "
        f"({found[f'{name}_low']:.3f} to {found[f'{name}_high']:.3f})"
        for name in ("auroc", "sensitivity", "specificity")
        if name in found
    ]
    click.echo(f"  figures      {', '.join(parts)}; {basis}")


def _close_training(summary: dict[str, Any]) -> None:
    if summary["best_epoch"] is not None:
        click.echo(
            f"  best epoch   {summary['best_epoch']} of {summary['epochs']}, "
            f"validation AUROC {summary['val_auroc']:.4f} (of films that chose it)"
        )
    if summary["verdict"]:
        click.echo(f"  verdict      {summary['verdict']}")
    if summary.get("model") is None:
        return
    if summary["patients"] == "unknown":
        click.echo(
            "  patients     unknown: figures may be too good and intervals too narrow; see "
            "--patient-pattern"
        )
    if summary["basis"]:
        _close_figures(summary["metrics"], summary["basis"])
    if summary["shift"]:
        from trainer.shift import words

        for name, sentence in zip(("dressed", ""), words.sentences(summary["shift"]), strict=True):
            click.echo(f"  {name:<11}  {sentence}")
    number = summary["model_id"]
    if summary["champion"]:
        click.echo(f"  model        {number} ({summary['model']}), the champion: `score` uses it")
    else:
        click.echo(f"  model        {number} ({summary['model']}), a candidate")
        click.echo(f"Next: pneumoq models show {number}; pneumoq models promote {number}")
