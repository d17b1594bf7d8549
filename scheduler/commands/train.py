"""`pneumoq train`: put a training job on the queue."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db import jobs, models
from db.errors import NotFound
from scheduler import errors, session, submit


@click.command("train")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV of corrected labels: path (or sha256) and label.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Passes over the training films.",
)
@click.option(
    "--batch-size", type=click.IntRange(2), default=32, show_default=True, help="Films per step."
)
@click.option(
    "--lr",
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    help="Highest learning rate. Default: 3e-4, or 1e-3 from scratch.",
)
@click.option(
    "--size",
    "--resolution",
    type=click.IntRange(32, 1024),
    default=224,
    show_default=True,
    help="Films are made S × S pixels.",
)
@click.option(
    "--init",
    default="imagenet",
    show_default=True,
    help="Initial weights: imagenet, scratch, or a file of ResNet18 weights.",
)
@click.option(
    "--workers",
    "-j",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Threads that decode films, once.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Everything random follows from it.",
)
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.12,
    show_default=True,
    help="Share of each class held out for validation, by patient.",
)
@click.option(
    "--weight-decay",
    type=click.FloatRange(0),
    default=0.05,
    show_default=True,
    help="AdamW's weight decay.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 0.5),
    default=0.05,
    show_default=True,
    help="Share of each label spread over all classes.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of training; auto is bf16 where it is fast.",
)
@click.option(
    "--operating-point",
    default="youden",
    show_default=True,
    help="How the threshold is chosen on validation: youden or sensitivity=0.95.",
)
@click.option("--positive", help="Class that is the disease. Default: PNEUMONIA, or the last.")
@click.option(
    "--patient-pattern",
    help="Regular expression whose first group is the patient in a file's name.",
)
@click.option(
    "--name", callback=submit.short, help="Name of the model. Default: resnet18-job<number>."
)
@click.option(
    "--evaluate",
    "-e",
    metavar="MODEL",
    help="Train nothing; measure this model on DATA, as `models evaluate` does.",
)
@submit.options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    evaluate: str | None,
    data: tuple[Path, ...],
    labels: Path | None,
    wait: bool,
    local: bool,
    later: bool,
    priority: int,
    key: str | None,
    as_json: bool,
    **spec: Any,
) -> None:
    """Train a ResNet18 on labelled films and register it.

    DATA has one folder per class, or train/, val/ and test/ with one folder per class in each; or
    it is a manifest (.csv). Of several, a later one corrects and adds to those before it. Films of
    one patient are never split between training and validation; test/ is not touched.

    \b
    Examples:
      pneumoq train /data/chest_xray --epochs 5 --wait
      pneumoq train /data/chest_xray /data/reviewed --labels corrections.csv
      pneumoq train films --init scratch --size 128
    """  # fmt: skip
    if evaluate is not None:
        if len(data) != 1:
            raise click.UsageError("--evaluate measures on one DATA")
        from scheduler.commands import evaluate as evaluating

        ctx.exit(evaluating.run(evaluate, data[0], as_json=as_json))
    _check_operating_point(spec["operating_point"])
    _check_pattern(spec["patient_pattern"])
    if spec["init"] not in ("imagenet", "scratch"):
        weights = Path(spec["init"])
        if not weights.is_file():
            raise errors.Failure(
                f"--init {spec['init']}: no such file; give imagenet, scratch, or a file of weights"
            )
        spec["init"] = submit.readable_path(weights)
    if local and importlib.util.find_spec("torch") is None:
        raise errors.Failure("training needs PyTorch: pip install 'pneumoq[train]'")
    if spec["lr"] is None:
        spec["lr"] = 1e-3 if spec["init"] == "scratch" else 3e-4
    for source in data:
        _check_source(source)
    paths = [submit.readable_path(source) for source in data]
    spec["data"] = paths[0] if len(paths) == 1 else paths
    if labels is not None:
        spec["corrections"] = submit.readable_path(labels)
    settings, engine = session.settings(), session.database()
    if spec["name"] is not None:
        _check_name(engine, spec["name"])

    def make(connection: sa.Connection) -> int:
        return jobs.submit(
            connection,
            kind="train",
            spec=spec,
            submitted_by=session.who(),
            priority=priority,
            key=key or submit.once(),
        )

    ctx.exit(
        submit.submit(
            settings, engine, "train", make,
            spec=spec, key=key, wait=wait, local=local, later=later, as_json=as_json,
        )
    )  # fmt: skip


def _check_source(source: Path) -> None:
    if source.is_file() and source.suffix.lower() != ".csv":
        raise click.BadParameter(
            f"{source} is neither a folder nor a manifest (.csv)", param_hint="DATA"
        )


def _check_operating_point(rule: str) -> None:
    goal = re.fullmatch(r"(?:sensitivity|specificity)=(\d*\.?\d+|1\.)", rule)
    if rule != "youden" and not (goal and 0 < float(goal[1]) <= 1):
        raise click.BadParameter(
            "give youden, or one like sensitivity=0.95", param_hint="--operating-point"
        )


def _check_pattern(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise click.BadParameter(
            f"this is no regular expression: {error}", param_hint="--patient-pattern"
        ) from error


def _check_name(engine: sa.Engine, name: str) -> None:
    """Refuse a name that means a model already: after hours of training it would be too late."""
    if name.isdecimal() or name == models.CHAMPION:
        raise click.BadParameter("this would be taken for another model", param_hint="--name")
    with contextlib.suppress(NotFound):
        taken = models.resolve(engine, name)
        raise click.BadParameter(f"model {taken['id']} is called so", param_hint="--name")
