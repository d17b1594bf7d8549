"""`pneumoq schedule add`: what the clock is to make, and when."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa
from click.core import ParameterSource

from db.base import database
from db.nightly import ends, schedules, unpromoted
from scheduler import numbers, session
from scheduler.commands.schedule import zones
from scheduler.show import output
from scheduler.submitting import judging, submit
from worker.errors import ConfigError
from worker.schedules import timetable

#: What a schedule may make, and the command whose options it takes.
KINDS = ("train", "score")

#: Options of `train` and `score` that say nothing where the clock submits.
NOT_HERE = {
    "train": ("resume", "evaluate", "wait", "local", "later", "key", "as_json", "name"),
    "score": ("lists", "dry_run", "wait", "local", "later", "key", "as_json"),
}

#: Options that are about judging a new model, and the ones about a watched folder.
OF_NIGHT = (
    "evaluate_on", *judging.RULES, "max_shrink", "max_relabelled", "keep", "promote", "until",
    "if_late", "notice_after",
)  # fmt: skip
OF_WATCH = ("settle",)

_SHARE = numbers.Real(0, 1)


def _clock(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A time of day such as 06:00."""
    if value is not None and re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", value) is None:
        raise click.BadParameter(f"{value!r} is no time of day; give one like 06:00")
    return value


class Adding(click.Command):
    """Takes its own options up to the word `train` or `score`, and leaves the rest alone."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag
            for name in param.opts
        }
        named = is_value = False
        for number, word in enumerate(args):
            if is_value or (word.startswith("-") and word != "-"):
                is_value = not is_value and word in takes_value
            elif not named:
                named = True
            elif word in KINDS:
                ctx.meta["what"] = args[number:]
                return super().parse_args(ctx, args[:number])
            else:
                raise click.UsageError(f"after NAME comes train or score, not {word!r}", ctx)
        ctx.meta["what"] = []
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "train DATA... | score FOLDER..."]


@click.command("add", cls=Adding, short_help="Add a schedule that trains, or scores what arrives.")
@click.argument("name")
@click.option("--cron", required=True, help="Five fields: minute hour day month weekday.")
@click.option(
    "--tz", help="Time zone that they are read in, as Europe/Paris. Default: this machine's."
)
@click.option(
    "--catch-up", default="6h", show_default=True, callback=submit.span, metavar="SPAN",
    help="A time that passed while no worker ran is made up for within so long, once.",
)  # fmt: skip
@click.option(
    "--evaluate-on", type=click.Path(path_type=Path, exists=True), metavar="DATA",
    help="train: labelled films that models are compared on; never trained on. Default: test/ of "
    "DATA, else some of its patients, chosen on the first night.",
)  # fmt: skip
@judging.options("train: ")
@click.option(
    "--max-shrink", type=_SHARE, default=0.2, show_default=True,
    help="train: no training where a class lost more than this share of its films.",
)  # fmt: skip
@click.option(
    "--max-relabelled", type=_SHARE, default=0.2, show_default=True,
    help="train: no training where more than this share of the films changed class.",
)  # fmt: skip
@click.option(
    "--keep", type=click.IntRange(2), default=10, show_default=True,
    help="train: of the models that it makes, the newest so many are kept; others are pruned.",
)  # fmt: skip
@click.option(
    "--promote/--no-promote", default=True,
    help="train: whether a model that is not worse becomes the champion. Default: it does.",
)  # fmt: skip
@click.option(
    "--until", callback=_clock, metavar="HH:MM",
    help="train: the end of the night, in the schedule's zone: a training that is not done by then "
    "stops at a checkpoint. Default: it takes as long as it takes.",
)  # fmt: skip
@click.option(
    "--if-late", type=click.Choice([ends.CONTINUE, ends.GIVE_UP]), default=ends.CONTINUE,
    show_default=True,
    help="train: whether such a training goes on at the schedule's next time, or is given up.",
)  # fmt: skip
@click.option(
    "--notice-after", type=click.IntRange(0), default=unpromoted.NOTICE_AFTER, show_default=True,
    metavar="N",
    help="train: hooks get a notice after N nights in a row without a new champion, once until a "
    "model is promoted; 0: never.",
)  # fmt: skip
@click.option(
    "--settle", default="60s", show_default=True, callback=submit.span, metavar="SPAN",
    help="score: a file is taken once it has not changed for so long.",
)  # fmt: skip
@output.json_option
@click.pass_context
def add(
    ctx: click.Context, /, name: str, cron: str, tz: str | None, catch_up: int, as_json: bool,
    **rules: Any,
) -> None:  # fmt: skip
    """Add a schedule NAME that trains, or that scores what is new in folders.

    After the word train or score come the arguments and options of that command; see `pneumoq train
    --help` and `pneumoq score --help`.

    `train` makes a model at each time. Nothing is trained where no film changed since; films that
    do not pass `dataset check` are not trained on. The new model is compared on the same films with
    the champion, and with the anchor, the last model that a person promoted, so that many nights
    lose no more than one may. Only one that is not worse, that reaches every --floor, and that
    every kind of worker computes alike, becomes the champion. Otherwise the champion stays, and
    `schedule show` says why, and how many films would decide it. With --until
    a training ends with the night: at a checkpoint, from which it goes on at the next time.

    `score` takes the files and archives that are new in FOLDER and have stopped growing, each once,
    whatever it is called.

    \b
    Examples:
      pneumoq schedule add nightly --cron "0 2 * * *" --tz Europe/Paris train /data/chest_xray
      pneumoq schedule add nightly --cron "0 2 * * 1-5" --evaluate-on /data/judge \\
          train /data/chest_xray --warm-start --epochs 3
      pneumoq schedule add nightly --cron "0 22 * * *" --until 06:00 train /data/chest_xray
      pneumoq schedule add inbox --cron "*/10 * * * *" --settle 5m score /data/inbox
    """
    what = ctx.meta["what"]
    if (
        rules["until"] is None
        and ctx.get_parameter_source("if_late") == ParameterSource.COMMANDLINE
    ):
        raise click.UsageError("--if-late is about nights with an end; give --until too")
    if not what:
        raise click.UsageError("say what it is to do: … train DATA, or … score FOLDER")
    if (fault := schedules.name_fault(name)) is not None:
        raise click.BadParameter(fault, param_hint="NAME")
    kind, cron = what[0], " ".join(cron.split())
    _check_rules(ctx, kind)
    if len(cron) > schedules.LONGEST_CRON:
        raise click.BadParameter(
            f"give at most {schedules.LONGEST_CRON} characters", param_hint="--cron"
        )
    engine = session.database()
    at = schedules.database_clock(engine)
    try:
        zone = tz or zones.local_zone()
        first = timetable.check(cron, zone, at)
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--cron or --tz") from error
    spec = _train(ctx, what[1:]) if kind == "train" else _score(ctx, engine, what[1:])
    if kind == "train":
        from scheduler.commands import train

        if (judge := rules["evaluate_on"]) is not None:
            train.check_source(judge, "--evaluate-on")
            rules["evaluate_on"] = submit.readable_path(judge)
        spec["night"] = {rule: rules[rule] for rule in OF_NIGHT}
        note = _disease(engine, spec["job"]["data"], spec["job"]["positive"])
    else:
        spec["watch"], note = {"settle_s": rules["settle"]}, ""
    database.write(
        engine,
        lambda c: schedules.add(
            c, name=name, cron=cron, tz=zone, kind=kind, spec=spec, catch_up_s=catch_up,
            created_by=session.who(),
        ),
    )  # fmt: skip
    row = schedules.get(engine, name)
    if as_json:
        output.emit({**row, "next": first}, as_json=True)
        return
    click.echo(f"{name} runs for the first time at {zones.both(first, zone)}.")
    if note:
        click.echo(note, err=True)
    from db.base import workers

    if not workers.alive(engine, kind):
        click.echo(
            f"No worker listens to the {kind} queue: schedules run while `pneumoq up` does.",
            err=True,
        )


def _check_rules(ctx: click.Context, kind: str) -> None:
    """Refuse rules that are for the other kind."""
    for rule in OF_WATCH if kind == "train" else OF_NIGHT:
        if ctx.get_parameter_source(rule) == ParameterSource.COMMANDLINE:
            other = "score" if kind == "train" else "train"
            raise click.UsageError(f"--{rule.replace('_', '-')} is for {other}, not for {kind}")


def _parsed(kind: str, ctx: click.Context, args: list[str]) -> click.Context:
    """The context of the real command, given these arguments."""
    from importlib import import_module

    real = import_module(f"scheduler.commands.{kind}").command
    own = {name for param in ctx.command.params for name in param.opts if name[0] == "-"}
    try:
        parsed: click.Context = real.make_context(kind, list(args), parent=ctx.find_root())
    except click.NoSuchOption as error:
        if error.option_name in own:
            raise click.UsageError(f"{error.option_name} goes before the word {kind}") from error
        raise
    for name in NOT_HERE[kind]:
        if parsed.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            option = next(p for p in real.params if p.name == name).opts[0]
            if option in own:
                raise click.UsageError(f"{option} goes before the word {kind}")
            raise click.UsageError(f"{option} says nothing where the clock submits")
    return parsed


def _train(ctx: click.Context, args: list[str]) -> dict[str, Any]:
    from scheduler.commands import train

    parsed = _parsed("train", ctx, args)
    params = dict(parsed.params)
    data, priority = params.pop("data"), params.pop("priority")
    if not data:
        raise click.UsageError("train needs DATA: labelled folders or manifests")
    if params["warm_start"]:
        train.check_init(parsed)
    for name in NOT_HERE["train"]:
        params.pop(name)
    return {"job": train.of_options(data, {**params, "name": None}), "priority": priority}


def _disease(engine: sa.Engine, data: str | list[str], positive: str | None) -> str:
    """A sentence about the class that is the disease: the champion's, once there is one.

    Raises DatasetError where nothing says which it is.
    """
    from db.registry import aliases
    from scheduler.commands import train

    with database.reading(engine) as connection:
        champion = aliases.model_of(connection, aliases.CHAMPION)
    if champion is not None and positive is None:
        positive = aliases.resolve(engine, aliases.CHAMPION)["positive"]
    sources = [data] if isinstance(data, str) else data
    return train.disease(tuple(map(Path, sources)), positive)[1]


def _score(ctx: click.Context, engine: sa.Engine, args: list[str]) -> dict[str, Any]:
    from db.registry import aliases
    from scheduler import engines

    params = _parsed("score", ctx, args).params
    folders = params["sources_"]
    if not folders:
        raise click.UsageError("score needs FOLDERs to watch")
    for folder in folders:
        if not folder.is_dir():
            raise click.BadParameter(f"{folder} is no folder", param_hint="FOLDER")
    if params["model"] != aliases.CHAMPION:  # which there may come to be before the first run
        aliases.resolve(engine, params["model"])
    job: dict[str, Any] = {
        "sources": [submit.readable_path(folder) for folder in folders],
        "model": params["model"],
        "keep_cam": params["keep_cam"],
        "accept": sorted(set(params["accepted"])),
        "hash_names": params["hash_names"],
        "force": params["force"],
    }
    if params["max_errors"] is not None:
        job["max_errors"] = params["max_errors"]
    if params["source_patience"] is not None:
        job["source_patience_s"] = params["source_patience"]
    share = {} if params["share"] is None else {"share": params["share"]}
    return {
        "job": job,
        "precision": params["asked"],
        "engine": engines.stored(params["asked_engine"]),
        "priority": params["priority"],
        **share,
    }
