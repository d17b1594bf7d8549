"""`pneumoq models build`: engines for this machine's GPU, proved before a job wants one."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from db.base import database as connecting
from db.registry import aliases, engines, models, rates
from scheduler import errors, session
from scheduler.show import display as displays
from scheduler.show import output
from scheduler.show.display import Display
from scheduler.submitting import submit
from worker.config import Settings

if TYPE_CHECKING:
    from worker.engine import EngineChoice
    from worker.engine.gate import Films

#: Precisions whose files TensorRT is given.
PRECISIONS = ("fp32", "fp16", "int8")

COLUMNS = (
    "precision", "engine", "device", "seconds", "films", "agreement", "parity_delta",
    "films_per_s", "passed",
)  # fmt: skip

#: An engine's rate is measured for about this many seconds.
TIMED_S = 2.0

#: Films that are taken from a folder for each one that is compared, for they are chosen among.
CHOICE = 4

#: Seconds between two looks at whether the GPU is free.
LOOK_S = 1.0


@click.command("build")
@click.argument("model")
@click.option(
    "--precision", "asked", type=click.Choice(("all", *PRECISIONS)), default="all",
    show_default=True, help="all: each precision that the model has a file in.",
)  # fmt: skip
@click.option(
    "--films", "folder", type=click.Path(path_type=Path, exists=True),
    help="Compare on films of this folder or archive, in place of drawn ones.",
)  # fmt: skip
@output.json_option
@click.pass_context
def command(ctx: click.Context, model: str, asked: str, folder: Path | None, as_json: bool) -> None:
    """Build a model's TensorRT engines for this machine's GPU, and let them pass their gate.

    A worker does so itself the first time that a job wants one, which takes seconds to minutes;
    this does it ahead of time. Each engine is compared with the processor's of the same file, on
    drawn films unless you give some; one that does not agree is not used. The engines are kept in
    PNEUMOQ_HOME/engines and what came of each in the database (`models show`). Workers of other
    users or homes build their own. The exit status is 1 where one could not be built or did not
    pass.

    \b
    Examples:
      pneumoq models build champion
      pneumoq models build 3 --precision fp16 --films /data/films
    """
    settings, database = session.settings(), session.database()
    row = aliases.resolve(database, model)
    wanted = _wanted(database, row["id"], asked)
    from worker.engine import choose
    from worker.errors import EngineError
    from worker.machine.gpu_lease import GpuLease

    try:
        choice = choose(replace(settings, engine="tensorrt"))
    except EngineError as error:
        raise EngineError(f"an engine is built on the machine that will use it: {error}") from error
    assert choice.gpu is not None
    films = None if folder is None else _films(folder, row, settings)
    display = displays.opened(silent=as_json)
    board = GpuLease(choice.gpu.uuid, "models build")
    try:
        wait(board, display)
        made = [
            _build(settings, database, row["id"], precision, choice, films, display)
            for precision in wanted
        ]
    finally:
        board.release()
        display.close()
    if as_json:
        output.emit(made, as_json=True)
    else:
        output.table(made, COLUMNS)
        for one in made:
            if not one["passed"]:
                click.echo(f"{one['precision']} is not used: {one['text']}", err=True)
    ctx.exit(errors.DONE if all(one["passed"] for one in made) else errors.JOB_FAILED)


def _wanted(database: sa.Engine, model_id: int, asked: str) -> list[str]:
    """The precisions to build; NotFound where the model has no file in the one asked for."""
    if asked != "all":
        models.file_of(database, model_id, asked)
        return [asked]
    have = {file["precision"] for file in models.detail(database, model_id)["files"]}
    return [precision for precision in PRECISIONS if precision in have]


def _films(folder: Path, row: sa.RowMapping, settings: Settings) -> Films:
    """Films of a person's own to compare on, as the model wants them."""
    import json

    from trainer.card import Card
    from worker.decoding.labelled import Limits
    from worker.engine import gate
    from worker.training import precisions

    card = Card.from_json(json.dumps(row["card"]))
    found, broken = precisions.pick(
        submit.readable_path(folder), card, CHOICE * gate.FILMS, Limits.of(settings)
    )
    if broken:
        click.echo(f"{broken} of the files chosen are no films that can be read", err=True)
    if not len(found):
        raise errors.Failure(f"{folder} holds no film that can be read; give a folder of a hundred")
    return found


def wait(board: Any, display: Display) -> None:
    """Have the GPU to oneself."""
    if board.take():
        return
    display.line(f"waiting for the GPU, which is in use by {board.holder()}")
    while not board.take():
        time.sleep(LOOK_S)


def _build(
    settings: Settings,
    database: sa.Engine,
    model_id: int,
    precision: str,
    choice: EngineChoice,
    films: Films | None,
    display: Display,
) -> dict[str, Any]:
    """One engine: built or found, compared, timed and recorded. What is shown of it."""
    from worker.engine import gate, open_on, speed, store
    from worker.engine.choose import NAMES
    from worker.errors import EngineError, GpuLost
    from worker.scoring import serving

    def report(phase: str, step: int, steps: int) -> None:
        display.show(precision, phase, step, steps or None)

    result: dict[str, Any] = {
        **dict.fromkeys(COLUMNS),
        "precision": precision,
        "engine": f"{NAMES[choice.backend]} {choice.version}".rstrip(),
        "device": choice.gpu.device if choice.gpu else None,
        "passed": False,
    }
    path = store.fetch(database, settings.home, model_id, precision)
    started = time.monotonic()
    try:
        engine = open_on(
            choice, path, precision=precision, home=settings.home,
            workspace_mb=settings.gpu_workspace_mb, report=report,
        )  # fmt: skip
        result["seconds"] = round(time.monotonic() - started, 1)
        try:
            report("comparing with the processor", 0, 0)
            verdict = gate.against_processor(settings, path, engine, films)
            kept = serving.columns(engine, verdict)
            report("measuring", 0, 0)
            rate = speed.rate(engine, TIMED_S)
        finally:
            engine.close()
    except GpuLost:
        raise
    except EngineError as error:
        return {**result, "text": str(error)}
    kept["options"]["films_per_s"] = round(rate, 1)

    def keep(connection: sa.Connection) -> None:
        engines.record(connection, path.stem, kept)
        rates.forget(connection, model_id)

    connecting.write(database, keep)
    shown = {name: value for name, value in kept.items() if name != "options"}
    return {**result, **kept["options"], **shown, "text": verdict.text}
