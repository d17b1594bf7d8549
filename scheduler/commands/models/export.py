"""`pneumoq models export`: a model's file, for here or for jetson-inference."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from db.registry import aliases, models
from scheduler import session
from scheduler.commands.models import jetson
from scheduler.errors import Failure
from scheduler.show import output


@click.command("export")
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
