"""`pneumoq models ls` and `show`: what was trained or imported, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
import sqlalchemy as sa

from db.registry import aliases, drift, models, rates
from scheduler import session
from scheduler.commands.models import evaluate, measure, references
from scheduler.show import output

LIST_COLUMNS = (
    "model", "name", "champion", "since", "state", "origin", "parent", "films", "val_auroc",
    "threshold", "size", "made_by", "created",
)  # fmt: skip


EVALUATION_COLUMNS = (
    "split", "n_films", "accuracy", "auroc", "auprc", "sensitivity", "specificity", "ece",
    "shift_worst_auroc", "basis", "created_at",
)  # fmt: skip

#: What an engine's gate found. The processor's fp32 engine is compared with PyTorch, its others
#: with fp32, and those of a GPU with the processor's of the same precision.
GATE_COLUMNS = (
    "precision", "engine", "device", "passed", "films", "agreement", "delta_p99", "parity_delta",
    "films_per_s", "tried",
)  # fmt: skip


@click.command("ls")
@output.json_option
def ls(as_json: bool) -> None:
    """List models, newest first, each with what it came from.

    `parent` is the model whose weights it started from, `films` how many it was trained on, and
    `made_by` the job, or the schedule and its run. `since` is when the champion became it.

    \b
    Example:
      pneumoq models ls --json
    """
    rows = models.listing(session.database())
    if as_json:
        output.emit(rows, as_json=True)
        return
    output.emit(
        [
            {
                "model": row["model_id"],
                "name": row["name"],
                "champion": "champion" if row["champion"] else "",
                "since": output.when(row["champion_since"]),
                "state": row["state"],
                "origin": row["origin"],
                "parent": row["parent_id"],
                "films": row["films"],
                "val_auroc": row["metrics"].get("auroc"),
                "threshold": row["threshold"],
                "size": row["size"],
                "made_by": row["made_by"],
                "created": output.when(row["created_at"]),
            }
            for row in rows
        ],
        as_json=False,
        columns=LIST_COLUMNS,
        nothing="no models yet; `pneumoq train FOLDER` makes one",
    )


@click.command("show")
@click.argument("model")
@output.json_option
def show(model: str, as_json: bool) -> None:
    """Show all that is known of a model: provenance, metrics, files, engines, history.

    \b
    Example:
      pneumoq models show champion
    """
    engine = session.database()
    row = aliases.resolve(engine, model)
    detail = models.detail(engine, row["id"])
    (listed,) = [m for m in models.listing(engine) if m["model_id"] == row["id"]]
    champion = bool(listed["champion"])
    if as_json:
        output.emit({**row, "champion": champion, **detail}, as_json=True)
        return
    apart = ("metrics", "card", "reference")
    facts: dict[str, Any] = {k: v for k, v in row.items() if k not in apart}
    facts["reference"] = references.described(
        drift.measured_by(row["reference"]), row["calibrated_on"]
    )
    facts["champion"] = champion
    facts["computed_in"] = _computed_in(engine, row["id"])
    facts["labels"] = ", ".join(label["name"] for label in detail["labels"])
    output.facts(facts)
    if row["metrics"]:
        _heading("Calibration metrics" if row["calibrated_on"] else "Validation metrics")
        basis = {"basis": row["card"]["basis"]} if row["card"].get("basis") else {}
        output.facts(evaluate.readable(row["metrics"]) | basis)
    if row["card"].get("shift"):
        _heading("Validation films")
        evaluate.print_shift(row["card"]["shift"])
    if looks := row["card"].get("looks"):
        _heading("Training films that look acquired alike and are of one class")
        output.table(
            [{**look, "films": ", ".join(f"{n} {of}" for of, n in look["films"].items())}
             for look in looks],
            ["label", "what", "films", "patients", "found", "false"],
        )  # fmt: skip
    if detail["evaluations"]:
        _heading("Evaluations")
        output.table(
            [_evaluation(evaluation) for evaluation in detail["evaluations"]], EVALUATION_COLUMNS
        )
    for title, key, columns in (
        ("Files", "files", ["precision", "size_bytes", "sha256"]),
        ("History", "events", ["at", "who", "event", "detail"]),
    ):  # fmt: skip
        if detail[key]:
            _heading(title)
            output.table(detail[key], columns)
        if key == "files" and detail["engines"]:
            _heading("Engines")
            output.table(gates(detail["engines"]), GATE_COLUMNS)
    if measured := rates.of_model(engine, row["id"]):
        _heading("Measured")
        output.table(measure.shown(measured), ["kind", *measure.COLUMNS])


def _computed_in(engine: sa.Engine, model_id: int) -> str:
    """What a job would be computed in, by workers that are there or of either kind; and why."""
    from worker.schedules import fleet

    there = fleet.there(engine, None)
    kinds = [there] if there.kinds else [fleet.Machines(on) for on in ("onnx", "tensorrt")]
    best, *others = dict.fromkeys(fleet.pin(engine, model_id, "auto", kind) for kind in kinds)
    more = "".join(f"; with TensorRT {other.precision}" for other in others)
    whys = dict.fromkeys(one.why for one in (best, *others))
    return f"{best.precision}{more}, {'; '.join(whys)}"


def gates(rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """Rows of the engines table with GATE_COLUMNS, by precision and device."""
    from worker.engine.choose import NAMES

    def columns(row: Mapping[Any, Any]) -> dict[str, Any]:
        name = NAMES.get(row["backend"], row["backend"])
        at = {"engine": f"{name} {row['backend_version']}", "tried": output.when(row["created_at"])}
        return {**dict.fromkeys(GATE_COLUMNS), **row["options"], **row, **at}

    return sorted(
        map(columns, rows), key=lambda gate: (gate["precision"], gate["device"], gate["engine"])
    )


def _evaluation(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of the evaluations table with its metrics as columns."""
    return {**dict.fromkeys(EVALUATION_COLUMNS), **row["metrics"], **row}


def _heading(title: str) -> None:
    click.echo(f"\n{click.style(title, bold=True)}")
