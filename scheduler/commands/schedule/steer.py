"""`pneumoq schedule run`, `pause`, `resume` and `rm`: what a person does to a schedule."""

from __future__ import annotations

import click
import sqlalchemy as sa

from db.base import database
from db.nightly import ends, forgetting, runs, schedules
from db.work import control
from scheduler import session
from scheduler.commands.schedule import zones
from scheduler.show import follow, output
from scheduler.submitting import submit
from worker.schedules import timetable


@click.command("run", short_help="Run a schedule now, beside its times.")
@click.argument("name")
@click.option("--wait", is_flag=True, help="Follow its job to the end.")
@output.json_option
@click.pass_context
def run(ctx: click.Context, name: str, wait: bool, as_json: bool) -> None:
    """Run a schedule now, beside its times; it trains also where nothing changed.

    A training that was put aside at the end of its night goes on.

    \b
    Example:
      pneumoq schedule run nightly --wait
    """
    settings, engine = session.settings(), session.database()
    row = schedules.get(engine, name)
    who = session.who()
    run_id = database.write(engine, lambda c: schedules.run_now(c, name, timetable.times, who))
    submit.notify(settings, row["kind"])
    made = runs.get(engine, run_id)
    if wait and made["job_id"] is not None:
        ctx.exit(follow.follow(engine, made["job_id"], as_json=as_json, goes_on=True))
    if as_json:
        output.emit(dict(made), as_json=True)
    elif made["job_id"] is not None:
        click.echo(f"Job {made['job_id']} is on the queue: pneumoq jobs watch {made['job_id']}")
    else:
        click.echo(f"A worker looks through the folder: pneumoq schedule show {name}")


@click.command("pause", short_help="Hold a schedule: its times pass without a run.")
@click.argument("name")
@output.json_option
def pause(name: str, as_json: bool) -> None:
    """Hold a schedule: its times pass without a run, and are not made up for.

    \b
    Example:
      pneumoq schedule pause nightly
    """
    engine = session.database()
    database.write(engine, lambda c: schedules.set_paused(c, name, True))
    if as_json:
        output.emit({**schedules.get(engine, name), "next": None}, as_json=True)
        return
    click.echo(f"{name} is paused; `pneumoq schedule resume {name}` lets it go on")


@click.command("resume")
@click.argument("name")
@output.json_option
def resume(name: str, as_json: bool) -> None:
    """Let a paused schedule go on.

    \b
    Example:
      pneumoq schedule resume nightly
    """
    engine = session.database()
    database.write(engine, lambda c: schedules.set_paused(c, name, False))
    row = schedules.get(engine, name)
    first = zones.next_(row, schedules.database_clock(engine))
    if as_json:
        output.emit({**row, "next": first}, as_json=True)
        return
    click.echo(f"{name} runs next at {zones.both(first, row['tz'])}")


@click.command("rm", short_help="Remove a schedule; what it made stays.")
@click.argument("name")
@output.json_option
def rm(name: str, as_json: bool) -> None:
    """Remove a schedule. Its runs, jobs and models stay; a job that runs goes on.

    A training that was put aside at the end of its night is cancelled. Which files of a watched
    folder it took is forgotten.

    \b
    Example:
      pneumoq schedule rm nightly
    """
    from worker.service import retention

    settings, engine = session.settings(), session.database()
    row = schedules.get(engine, name)
    who = session.who()

    def remove(connection: sa.Connection) -> None:
        schedules.remove(connection, name)
        aside = ends.waiting(connection, row["id"])
        if aside is not None:
            control.cancel(connection, aside, who, f"its schedule {name} was removed")

    database.write(engine, remove)
    forgetting.forget_schedule(engine, row["id"])
    retention.forget_names(settings, engine)
    if as_json:
        output.emit({"id": row["id"], "name": name, "removed": True}, as_json=True)
        return
    click.echo(f"{name} is removed; what it made stays")
