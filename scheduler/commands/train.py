"""`pneumoq train`: put a training job on the queue."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from click.core import ParameterSource

from db.base.errors import NotFound
from db.queue import jobs
from db.registry import aliases
from scheduler import errors, numbers, session
from scheduler.show import output
from scheduler.submitting import submit
from trainer.data import classes, gathering
from trainer.data.labelled import NAMING
from trainer.errors import DatasetError

#: What --resume does not take from the job: that is about the submission.
_WITH_RESUME = ("resume", "wait", "local", "later", "priority", "key", "as_json")

#: What has an effect beside --evaluate.
_WITH_EVALUATE = ("data", "evaluate", "as_json")


@click.command("train")
@click.argument("data", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV of corrected labels: path (or sha256) and label.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Passes over the training films.",
)
@click.option(
    "--batch-size",
    "-b",
    type=click.IntRange(2),
    default=32,
    show_default=True,
    help="Films per step.",
)
@click.option(
    "--lr",
    "--learning-rate",
    type=numbers.Real(0, min_open=True),
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
    help="Initial weights: imagenet, scratch, a file of ResNet18 weights, or a model file (.onnx).",
)
@click.option(
    "--warm-start",
    is_flag=True,
    help="Begin from the weights of the champion of this moment, not from --init.",
)
@click.option(
    "--workers",
    "-j",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Processes that decode films, once.",
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
    type=numbers.Real(0, 0.5, min_open=True),
    default=0.12,
    show_default=True,
    help="Share of each class held out for validation, by patient.",
)
@click.option(
    "--weight-decay",
    "--wd",
    type=numbers.Real(0),
    default=0.05,
    show_default=True,
    help="AdamW's weight decay.",
)
@click.option(
    "--label-smoothing",
    type=numbers.Real(0, 0.5),
    default=0.05,
    show_default=True,
    help="Share of each label spread over all classes.",
)
@click.option(
    "--ema",
    type=numbers.Real(0, 1, max_open=True),
    default=0.998,
    show_default=True,
    help="What the moving average of the weights, which is kept, keeps of itself per step; 0: off.",
)
@click.option(
    "--balance",
    type=click.Choice(["weights", "sampling", "none"]),
    default="weights",
    show_default=True,
    help="How a rare class counts as much: by weight, or by as many films in each batch.",
)
@click.option(
    "--patience",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="End after so many epochs without a better validation; 0: never.",
)
@click.option(
    "--augment",
    type=numbers.Real(0, 1),
    help="How far films are changed at random, 0 (not) to 1. Default: 1, or 0.5 from scratch.",
)
@click.option(
    "--defend/--no-defend",
    default=True,
    show_default=True,
    help="Keep the network from learning how films were acquired: letters and tones that say "
    "nothing, and groups of one class that count less.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Arithmetic of training; auto is bf16 where it is fast, fp16 on a GPU with only that.",
)
@click.option(
    "--operating-point",
    default="youden",
    show_default=True,
    help="How the threshold is chosen on validation: youden, sensitivity=0.95, specificity=0.95, "
    "or cost=5 where a missed disease costs as much as 5 false alarms. A goal holds on the "
    "films that choose, and is no promise for others: the job says what others have.",
)
@click.option(
    "--positive",
    help="Class that is the disease. Default: of two classes the one whose name does not say "
    "healthy, and with --warm-start the champion's.",
)
@click.option(
    "--patient-pattern",
    help="Regular expression whose first group is the patient in a file's path below its class "
    "folder. Default: DICOM's PatientID, names that are known, folders.",
)
@click.option(
    "--hash-names",
    is_flag=True,
    help="Keep keyed hashes in place of films' names and patients, as always for DICOM.",
)
@click.option(
    "--name", callback=submit.short, help="Name of the model. Default: resnet18-job<number>."
)
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder where the model's files, labels.txt and TensorBoard's curves go too.",
)
@click.option(
    "--resume",
    type=click.IntRange(1),
    metavar="JOB",
    help="Continue this cancelled or failed training job, with its data and options.",
)
@click.option(
    "--evaluate",
    "-e",
    metavar="MODEL",
    help="Train nothing; measure this model on DATA, as `models evaluate` does. Of the options "
    "only --json goes with it.",
)
@submit.options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    data: tuple[Path, ...],
    resume: int | None,
    evaluate: str | None,
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
      pneumoq train /data/chest_xray /data/new --warm-start --epochs 3
      pneumoq train --resume 7
    """  # fmt: skip
    if evaluate is not None:
        if len(data) != 1:
            raise click.UsageError("--evaluate measures on one DATA")
        if without := _given(ctx, _WITH_EVALUATE):
            raise click.UsageError(
                f"--evaluate trains nothing, and measures MODEL as it is on DATA as it is; leave "
                f"out {', '.join(without)}"
            )
        from scheduler.commands.models import evaluate as evaluating

        ctx.exit(evaluating.run(evaluate, data[0], as_json=as_json))
    settings, engine = session.settings(), session.database()
    note = ""
    if resume is not None:
        spec = _of_job(ctx, engine, resume)
    elif not data:
        raise click.UsageError("give DATA, a labelled folder or manifest, or --resume JOB")
    else:
        spec = of_options(data, spec)
        if spec.get("warm_start"):
            _pin(ctx, engine, spec)
        spec["positive"], note = disease(data, spec["positive"])
    if local and importlib.util.find_spec("torch") is None:
        raise errors.Failure("training needs PyTorch: pip install 'pneumoq[train]'")
    if spec.get("name") is not None:
        check_name(engine, spec["name"])

    def make(connection: sa.Connection) -> int:
        return jobs.submit(
            connection,
            kind="train",
            spec=spec,
            submitted_by=session.who(),
            parent_job_id=resume,
            priority=priority,
            key=key or submit.once(),
        )

    ctx.exit(
        submit.submit(
            settings, engine, "train", make,
            same={"spec": spec}, key=key, wait=wait, local=local, later=later, as_json=as_json,
            note=note,
        )
    )  # fmt: skip


def of_options(data: tuple[Path, ...], spec: dict[str, Any]) -> dict[str, Any]:
    """The job's spec by the command line; paths are those of this machine, made absolute."""
    check_operating_point(spec["operating_point"])
    _check_pattern(spec["patient_pattern"])
    if spec["init"] not in ("imagenet", "scratch"):
        weights = Path(spec["init"])
        if not weights.is_file():
            raise errors.Failure(
                f"--init {spec['init']}: no such file; give imagenet, scratch, or a file of weights"
            )
        spec["init"] = submit.readable_path(weights)
    if not spec.get("warm_start"):
        spec.pop("warm_start", None)
    scratch = spec["init"] == "scratch" and "warm_start" not in spec
    if spec["lr"] is None:
        spec["lr"] = 1e-3 if scratch else 3e-4
    if spec["augment"] is None:
        spec["augment"] = 0.5 if scratch else 1.0
    if spec["model_dir"] is not None:
        spec["model_dir"] = submit.readable_path(spec["model_dir"])
    for source in data:
        check_source(source)
    paths = [submit.readable_path(source) for source in data]
    spec["data"] = paths[0] if len(paths) == 1 else paths
    spec["naming"] = NAMING
    if (labels := spec.pop("labels")) is not None:
        spec["corrections"] = submit.readable_path(labels)
    return spec


def disease(data: tuple[Path, ...], positive: str | None) -> tuple[str | None, str]:
    """The class that is the disease, and a sentence for a person.

    Where the classes cannot be read here, both are left to the worker, which says why. Raises
    DatasetError where they do not say which it is.
    """
    try:
        labels = gathering.classes(data[0])
    except (DatasetError, OSError):
        return positive, ""
    positive = classes.disease(labels, positive)
    return positive, output.printable(classes.meaning(labels, positive))


def _pin(ctx: click.Context, engine: sa.Engine, spec: dict[str, Any]) -> None:
    """Settle which model a warm start begins from, whatever is promoted until the job runs.

    The disease is that model's, where nobody says another.
    """
    check_init(ctx)
    champion = aliases.resolve(engine, aliases.CHAMPION)
    spec["warm_start"] = champion["id"]
    spec["positive"] = spec["positive"] or champion["positive"]


def check_init(ctx: click.Context) -> None:
    """Refuse initial weights beside a warm start."""
    if ctx.get_parameter_source("init") == ParameterSource.COMMANDLINE:
        raise click.UsageError("--warm-start begins from the champion; leave out --init")


def _of_job(ctx: click.Context, engine: sa.Engine, job_id: int) -> dict[str, Any]:
    """The spec of a job that is to be continued; Failure where it cannot be."""
    if given := _given(ctx, _WITH_RESUME):
        raise click.UsageError(
            f"--resume takes data and options from the job; leave out {', '.join(given)}"
        )
    row = jobs.get(engine, job_id)
    if row["kind"] != "train":
        raise errors.Failure(f"job {job_id} is no training job; `jobs retry` is for scoring")
    if row["state"] not in ("cancelled", "failed"):
        raise errors.Failure(
            f"job {job_id} is {row['state'].replace('_', ' ')}; --resume continues a training job "
            "that was cancelled or has failed"
        )
    return dict(row["spec"])


def _given(ctx: click.Context, but: Collection[str]) -> list[str]:
    """What stands on the command line besides some, as it is written there, sorted."""
    return sorted(
        "DATA"
        if isinstance(param, click.Argument)
        else (param.secondary_opts if ctx.params[param.name] is False else param.opts)[0]
        for param in ctx.command.params
        if param.name in ctx.params
        and param.name not in but
        and ctx.params[param.name] != ()
        and ctx.get_parameter_source(param.name) == ParameterSource.COMMANDLINE
    )


def check_source(source: Path, hint: str = "DATA") -> None:
    """Refuse a file that is no manifest."""
    if source.is_file() and source.suffix.lower() != ".csv":
        raise click.BadParameter(
            f"{source} is neither a folder nor a manifest (.csv)", param_hint=hint
        )


def check_operating_point(rule: str) -> None:
    """Refuse a rule for the operating point that means nothing."""
    share = re.fullmatch(r"(?:sensitivity|specificity)=(\d*\.?\d+|1\.)", rule)
    cost = re.fullmatch(r"cost=(\d+\.?\d*|\.\d+)", rule)
    good = (share and 0 < float(share[1]) <= 1) or (cost and float(cost[1]) > 0)
    if rule != "youden" and not good:
        raise click.BadParameter(
            "give youden, or one like sensitivity=0.95 or cost=5", param_hint="--operating-point"
        )


def _check_pattern(pattern: str | None) -> None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise click.BadParameter(
            f"this is no regular expression: {error}", param_hint="--patient-pattern"
        ) from error


def check_name(engine: sa.Engine, name: str) -> None:
    """Refuse a name that means a model already: after hours of training it would be too late."""
    if name.isdecimal() or name == aliases.CHAMPION:
        raise click.BadParameter("this would be taken for another model", param_hint="--name")
    with contextlib.suppress(NotFound):
        taken = aliases.resolve(engine, name)
        raise click.BadParameter(f"model {taken['id']} is called so", param_hint="--name")
