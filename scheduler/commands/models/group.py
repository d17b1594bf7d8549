"""`pneumoq models`: what was trained or imported, how good it is, and which one is in use."""

from __future__ import annotations

import click

from scheduler.commands.models import (
    build,
    calibrate,
    champion,
    evaluate,
    export,
    jetson,
    look,
    measure,
    prune,
    quantise,
    references,
)


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
      pneumoq models measure champion
      pneumoq models evaluate champion /data/chest_xray
      pneumoq models calibrate champion --data /data/ours --target sensitivity=0.95
      pneumoq models reference champion --job 7
      pneumoq models import resnet18.onnx --labels labels.txt
      pneumoq models prune --dry-run
      pneumoq models export champion model.onnx --precision int8
    """


for _command in (
    look.ls, look.show, champion.promote, champion.rollback, export.export, quantise.quantise,
    build.command, measure.command, evaluate.command, calibrate.command, jetson.command,
    prune.command, references.command,
):  # fmt: skip
    command.add_command(_command)
