"""`pneumoq models`: what was trained or imported, how good it is, and which one is in use."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from db.base import database
from db.registry import aliases, drift, engines, models
from scheduler.commands.models import build, evaluate, jetson, prune, references
from scheduler.errors import Failure
from scheduler.show import output
from scheduler.submitting import session, submit

LIST_COLUMNS = (
    "model", "name", "champion", "since", "state", "origin", "parent", "films", "val_auroc",
    "threshold", "size", "made_by", "created",
)  # fmt: skip


EVALUATION_COLUMNS = (
    "split", "n_films", "accuracy", "auroc", "auprc", "sensitivity", "specificity", "ece",
    "created_at",
)  # fmt: skip

#: What an engine's gate found. The processor's fp32 engine is compared with PyTorch, its others
#: with fp32, and those of a GPU with the processor's of the same precision.
GATE_COLUMNS = (
    "precision", "engine", "device", "passed", "films", "agreement", "delta_p99", "parity_delta",
    "films_per_s", "tried",
)  # fmt: skip


@click.group("models")
def command() -> None:
    """List models; choose the champion, which `score` uses; make them faster; take them away.

    MODEL is a number, a name, an alias such as `champion`, or the start of a file's SHA-256.

    \b
    Examples:
      pneumoq models ls
      pneumoq models promote 3 --reason "better on the portable films"
      pneumoq models rollback
      pneumoq models quantise 3 /data/films
      pneumoq models build champion
      pneumoq models evaluate champion /data/chest_xray
      pneumoq models reference champion --job 7
      pneumoq models import resnet18.onnx --labels labels.txt
      pneumoq models prune --dry-run
      pneumoq models export champion model.onnx --precision int8
    """


command.add_command(build.command)
command.add_command(evaluate.command)
command.add_command(jetson.command)
command.add_command(prune.command)
command.add_command(references.command)


@command.command("ls")
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


@command.command("show")
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
    facts["reference"] = references.described(drift.measured_by(row["reference"]))
    facts["champion"] = champion
    best, there = (engines.best_precision(engine, row["id"], on) for on in ("onnx", "tensorrt"))
    facts["computed_in"] = best if best == there else f"{best}; with TensorRT {there}"
    facts["labels"] = ", ".join(label["name"] for label in detail["labels"])
    output.facts(facts)
    if row["metrics"]:
        _heading("Validation metrics")
        output.facts(evaluate.readable(row["metrics"]))
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


def gates(rows: Sequence[Mapping[Any, Any]]) -> list[dict[str, Any]]:
    """Rows of the engines table with GATE_COLUMNS, by precision and device."""
    from worker.engine.choose import NAMES

    def told(row: Mapping[Any, Any]) -> dict[str, Any]:
        name = NAMES.get(row["backend"], row["backend"])
        at = {"engine": f"{name} {row['backend_version']}", "tried": output.when(row["created_at"])}
        return {**dict.fromkeys(GATE_COLUMNS), **row["options"], **row, **at}

    return sorted(map(told, rows), key=lambda row: (row["precision"], row["device"], row["engine"]))


def _evaluation(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of the evaluations table with its metrics as columns."""
    return {**dict.fromkeys(EVALUATION_COLUMNS), **row["metrics"], **row}


def _heading(title: str) -> None:
    click.echo(f"\n{click.style(title, bold=True)}")


@command.command("promote")
@click.argument("model")
@click.option("--reason", help="Why; kept in the models' history.")
@output.json_option
def promote(model: str, reason: str | None, as_json: bool) -> None:
    """Make a model the champion: jobs submitted from now on use it.

    Jobs that are submitted already keep theirs.

    \b
    Example:
      pneumoq models promote 3 --reason "better on the portable films"
    """
    engine = session.database()
    row = aliases.resolve(engine, model)
    who = session.who()
    why = reason or f"promoted by {who}"
    before = database.write(
        engine,
        lambda connection: aliases.move(connection, aliases.CHAMPION, row["id"], who, why),
    )
    if as_json:
        changed = {"model_id": row["id"], "name": row["name"], "champion": True}
        output.emit({**changed, "champion_before": before}, as_json=True)
    else:
        instead = f" instead of model {before}" if before not in (None, row["id"]) else ""
        click.echo(f"model {row['id']} ({row['name']}) is now the champion{instead}")


@command.command("rollback")
@click.option("--reason", help="Why; kept in the models' history.")
@output.json_option
def rollback(reason: str | None, as_json: bool) -> None:
    """Make the champion before this one the champion again; given twice it goes back two.

    Jobs that are submitted already keep theirs. Nothing is computed: the same file as before gives
    the same probabilities as before.

    \b
    Example:
      pneumoq models rollback --reason "too many false alarms since Monday"
    """
    engine, who = session.database(), session.who()
    why = reason or f"rolled back by {who}"
    now, before = database.write(
        engine, lambda connection: aliases.rollback(connection, aliases.CHAMPION, who, why)
    )
    row = models.get(engine, now)
    if as_json:
        changed = {"model_id": now, "name": row["name"], "champion": True}
        output.emit({**changed, "champion_before": before}, as_json=True)
    else:
        click.echo(f"model {now} ({row['name']}) is the champion again, instead of model {before}")


@command.command("export")
@click.argument("model")
@click.argument("out", metavar="FILE|DIR", type=click.Path(path_type=Path))
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8"]),
    help="Which of the model's files. Default: fp32.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(["pneumoq", *jetson.FORMATS]), default="pneumoq",
    show_default=True, help="Whose file: ours, imagenet.py's, or train.py's checkpoint.",
)  # fmt: skip
@output.json_option
def export(model: str, out: Path, precision: str | None, form: str, as_json: bool) -> None:
    """Write a model's ONNX file, verified by its SHA-256; it holds all that is needed to use it.

    With --format jetson-inference, DIR gets resnet18.onnx and labels.txt, as imagenet.py loads
    them; with --format pytorch, model_best.pth.tar and labels.txt.

    \b
    Examples:
      pneumoq models export champion model.onnx --precision int8
      pneumoq models export champion /data/jetson --format jetson-inference
    """
    settings, engine = session.settings(), session.database()
    row = aliases.resolve(engine, model)
    from worker.engine import store

    if form != "pneumoq":
        if precision not in (None, "fp32"):
            raise Failure(f"--format {form} is written in fp32 only; leave --precision out")
        jetson.export(row, store.fetch(engine, settings.home, row["id"]), out, form, as_json)
        return
    precision = precision or "fp32"
    path = store.fetch(engine, settings.home, row["id"], precision)
    try:
        shutil.copyfile(path, out)
    except OSError as error:
        raise Failure(f"{out} cannot be written: {error.strerror}") from error
    kept = models.file_of(engine, row["id"], precision)
    if as_json:
        fields = {key: kept[key] for key in ("precision", "size_bytes", "sha256")}
        output.emit({"model_id": row["id"], "file": str(out), **fields}, as_json=True)
    else:
        click.echo(
            f"{out}: model {row['id']} ({row['name']}) in {precision}, "
            f"{kept['size_bytes'] / 1e6:.1f} MB, SHA-256 {kept['sha256']}"
        )


@command.command("quantise")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@output.json_option
def quantise(model: str, folder: Path, as_json: bool) -> None:
    """Make a model's int8 and fp16 files, and let those that pass their gate be used.

    For a model that was registered without them. FOLDER holds films like those to be scored, no
    labels needed: a third of them, at most 256, show what the network's activations look like; on
    the others, at most 2000, each precision is compared with fp32. Less than 200 of those prove
    little: one film that is decided differently is then too many.

    \b
    Example:
      pneumoq models quantise champion /data/films
    """
    settings, engine = session.settings(), session.database()
    row = aliases.resolve(engine, model)
    have = {file["precision"] for file in models.detail(engine, row["id"])["files"]}
    if "int8" in have:
        raise Failure(
            f"model {row['id']} has an int8 file already; see `pneumoq models show {row['id']}`"
        )
    from trainer import card as cards
    from trainer.judging import parity
    from trainer.modelfile import quantise as making
    from worker.engine import store
    from worker.training import precisions

    path = store.fetch(engine, settings.home, row["id"])
    card = cards.read(path)
    threads = settings.engine_threads
    films, broken = precisions.pick(
        submit.readable_path(folder), card, making.FILMS + parity.FILMS, workers=threads
    )
    if broken:
        click.echo(f"{broken} of the files chosen are no films that can be read", err=True)
    shown = min(making.FILMS, len(films) // 3)
    if shown == 0:
        raise Failure(f"{folder} holds {len(films)} films; give a folder of a few hundred")
    with tempfile.TemporaryDirectory(prefix="pneumoq-") as work:
        copy = Path(shutil.copyfile(path, Path(work, "model.onnx")))
        derived = precisions.derive(
            copy, films[:shown], films[shown:], batch=settings.batch, threads=threads
        )
        files = {name: file for name, file in derived.files.items() if name not in have}
        tried = [e for e in derived.engines if e["precision"] not in have]
        database.write(
            engine,
            lambda c: models.add_precisions(c, row["id"], files, tried, session.who()),
        )
    if as_json:
        output.emit([{**e["options"], **e} for e in tried], as_json=True)
        return
    for note in derived.notes:
        click.echo(note)
    best = engines.best_precision(engine, row["id"])
    click.echo(f"model {row['id']} ({row['name']}) is computed in {best} from now on")
