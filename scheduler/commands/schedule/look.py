"""`pneumoq schedule ls`, `show` and `runs`: when schedules run, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import sqlalchemy as sa

from db.base import database
from db.nightly import runs, schedules, unpromoted, watched
from db.registry import aliases
from scheduler import session
from scheduler.commands.schedule import zones
from scheduler.show import output
from worker.schedules import timetable

COLUMNS = ("name", "kind", "cron", "zone", "next", "next_utc", "last_run", "outcome", "state")
RUN_COLUMNS = (
    "run", "schedule", "scheduled_for", "cause", "outcome", "job", "champion", "candidate",
    "reason",
)  # fmt: skip


@click.command("ls", short_help="List schedules, with the next and the last run of each.")
@output.json_option
def ls(as_json: bool) -> None:
    """List schedules: when each runs next, and what came of the last time.

    \b
    Example:
      pneumoq schedule ls
    """
    engine = session.database()
    at = schedules.database_clock(engine)
    rows = [{**row, "next": zones.next_(row, at)} for row in schedules.listing(engine)]
    behind = schedules.clock_behind(engine, at)
    if behind is not None:
        click.echo(f"No schedule runs: {timetable.behind_text(at, behind)}.", err=True)
    if as_json:
        output.emit(rows, as_json=True)
        return
    output.emit(
        [
            {
                "name": row["name"],
                "kind": row["kind"],
                "cron": row["cron"],
                "zone": row["tz"],
                "next": "" if row["next"] is None else zones.there(row["next"], row["tz"]),
                "next_utc": output.when(row["next"]),
                "last_run": output.when(row["run_for"]),
                "outcome": row["outcome"] or row["run_state"],
                "state": "paused" if row["paused"] else "on",
            }
            for row in rows
        ],
        as_json=False,
        columns=COLUMNS,
        nothing="no schedules yet; `pneumoq schedule add --help` shows how",
    )


@click.command("show", short_help="Show a schedule and its last runs, with reasons.")
@click.argument("name")
@output.json_option
def show(name: str, as_json: bool) -> None:
    """Show what a schedule does, and its last runs with the reason for each outcome.

    \b
    Example:
      pneumoq schedule show nightly
    """
    engine = session.database()
    row = schedules.get(engine, name)
    last = runs.of_schedule(engine, row["id"], 10)
    following = zones.next_(row, schedules.database_clock(engine))
    given_up = len(watched.given_up(engine, row["id"]))
    in_a_row = None
    if row["kind"] == "train":
        with database.reading(engine) as connection:
            in_a_row = unpromoted.in_a_row(connection, row["id"], row["spec"])
    if as_json:
        nights = None if in_a_row is None else {"nights": in_a_row.nights, **in_a_row._asdict()}
        output.emit(
            {
                **row, "next": following, "without_promotion": nights, "given_up": given_up,
                "runs": last,
            },
            as_json=True,
        )  # fmt: skip
        return
    output.facts(
        {
            "name": name,
            "kind": row["kind"],
            "cron": f"{row['cron']} in {row['tz']}",
            "next": "paused" if row["paused"] else zones.both(following, row["tz"]),
            "catch_up": output.seconds(row["catch_up_s"]),
            "frozen_films": row["evaluation_id"] and f"dataset {row['evaluation_id']}",
            **_anchor(engine, row["kind"]),
            "added": f"{output.when(row['created_at'])} by {row['created_by']}",
            **_rules(row["spec"].get("night", {})),
            **row["spec"].get("watch", {}),
            **_come_to_nothing(in_a_row),
            **_given_up(given_up),
        }
    )
    click.echo(f"\n{click.style('Job', bold=True)}")
    output.facts(row["spec"]["job"])
    for one in last:
        click.echo(
            f"\n{click.style(output.when(one['scheduled_for']), bold=True)}  "
            f"{one['outcome'] or one['state']}"
            + (f"  job {one['job_id']}" if one["job_id"] else "")
            + (f"  model {one['candidate_id']}" if one["candidate_id"] else "")
        )
        if one["reason"]:
            click.echo(f"  {output.printable(one['reason'])}")


def _rules(night: Mapping[str, Any]) -> dict[str, Any]:
    """How a night is judged, as it is asked for."""
    floors = ", ".join(f"{name}={share:g}" for name, share in (night.get("floor") or {}).items())
    return {**night, "floor": floors} if "floor" in night else dict(night)


def _anchor(engine: sa.Engine, kind: str) -> dict[str, str]:
    """What new models are compared with besides the champion."""
    if kind != "train":
        return {}
    with database.reading(engine) as connection:
        anchor, why = aliases.anchor(connection), aliases.why_anchor(connection)
    return {} if anchor is None else {"anchor": f"model {anchor}, {why}"}


def _come_to_nothing(found: unpromoted.InARow | None) -> dict[str, str]:
    """How many nights in a row promoted nothing, or made nothing; empty for none."""
    if found is None or not found.nights:
        return {}
    told = f"; hooks got the notice at {output.when(found.notice_at)}" if found.notice_at else ""
    name = "without_promotion" if found.promotes else "without_a_model"
    return {name: f"{found.nights} nights in a row ({found}){told}"}


def _given_up(files: int) -> dict[str, str]:
    """How many files of its folders are given up; empty for none."""
    if not files:
        return {}
    text = f"{files} files, after {watched.MAX_ATTEMPTS} attempts each; copied again they are new"
    return {"given_up": text}


@click.command("runs", short_help="List runs of one schedule, or of all.")
@click.argument("name", required=False)
@click.option("--limit", type=session.ROWS, default=20, show_default=True, help="At most.")
@output.json_option
def runs_(name: str | None, limit: int, as_json: bool) -> None:
    """List runs of one schedule, or of all, newest first; `v_runs` has them in SQL.

    \b
    Example:
      pneumoq schedule runs nightly
    """
    engine = session.database()
    which = schedules.listing(engine) if name is None else [schedules.get(engine, name)]
    found = [
        {**run, "schedule": row["name"]}
        for row in which
        for run in runs.of_schedule(engine, row["id"], limit)
    ]
    found = sorted(found, key=lambda run: (run["scheduled_for"], run["id"]), reverse=True)[:limit]
    if as_json:
        output.emit(found, as_json=True)
        return
    output.emit(
        [
            {
                "run": run["id"],
                "schedule": run["schedule"],
                "scheduled_for": output.when(run["scheduled_for"]),
                "cause": run["cause"],
                "outcome": run["outcome"] or run["state"],
                "job": run["job_id"],
                "champion": run["champion_id"],
                "candidate": run["candidate_id"],
                "reason": run["reason"],
            }
            for run in found
        ],
        as_json=False,
        columns=RUN_COLUMNS,
        nothing="no runs yet",
    )
