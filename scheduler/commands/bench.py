"""`pneumoq bench`: how fast this machine is, and how much of that scoring makes use of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from db.registry import aliases
from scheduler import engines, session
from scheduler.show import output
from scheduler.submitting import precision, sources

#: Films that a repetition measures with, unless told.
FILMS = 1000


@click.command("bench")
@click.argument("source", type=click.Path(path_type=Path))
@precision.model_option
@precision.option
@click.option(
    "--films", type=click.IntRange(8, 10**6), default=FILMS, show_default=True,
    help="Films to measure with: a sample of a larger source, a smaller one several times over.",
)  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(1, 99), default=3, show_default=True,
    help="How often everything is measured, in turns; medians are printed.",
)  # fmt: skip
@engines.here
@output.json_option
def command(
    source: Path,
    model: str,
    asked: str,
    films: int,
    repeats: int,
    asked_engine: str | None,
    as_json: bool,
) -> None:
    """Measure this machine with your own films: each stage alone, and a whole job.

    Decoding, inference and writing run alone with all cores, decoding and inference at once, and
    then a real job with broker and worker in a database of its own. What is printed last is how
    much of the machine's limit the job reaches, and before that where a film's time goes, the
    machine's whole time divided by its films. With the film rule at D films/s and inference at I,
    each on all cores, the limit is D·I / (D + I), with a GPU the lesser of the two, or what both at
    once came to if that is more. Nothing else should run meanwhile: stop `pneumoq up`.

    \b
    Example:
      pneumoq bench archive.zip --films 5000
    """
    from scheduler.measure import bench

    settings = engines.settings_of(session.settings(), asked_engine)
    engine = session.database()
    (row,) = sources.rows([source], [])
    chosen = aliases.resolve(engine, model)
    pinned = precision.pin(engine, chosen["id"], asked, engines.this_machine(settings)).precision

    def report(text: str) -> None:
        click.echo(f"{text} …", err=True)

    figures = bench.run(
        settings, engine, model_id=chosen["id"], precision=pinned, row=row, films=films,
        repeats=repeats, report=report,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "model_id": chosen["id"],
        "model": chosen["name"],
        "precision": figures.precision,
        "engine": figures.engine,
        "decoders": settings.decoders,
        "engine_threads": settings.engine_threads,
        "batch": figures.batch,
        "films": figures.films,
        "repeats": repeats,
    }
    stages, spent = figures.rows(), figures.spent()
    if as_json:
        found = {"stages": stages, "ms_per_film": spent, "share_of_limit": figures.share}
        output.emit({**facts, **found}, as_json=True)
        return
    output.facts(facts)
    click.echo()
    output.table(
        [
            {
                "stage": stage["stage"],
                "per second": f"{stage['per_s']:,.1f}",
                "least": f"{stage['least']:,.1f}",
                "greatest": f"{stage['greatest']:,.1f}",
            }
            for stage in stages
        ],
        ["stage", "per second", "least", "greatest"],
    )
    click.echo()
    output.table(
        [
            {"a film's time": name, "ms": f"{ms:.2f}", "share": f"{ms / spent['in all']:.1%}"}
            for name, ms in spent.items()
        ],
        ["a film's time", "ms", "share"],
    )
    click.echo(f"\nA whole job reaches {figures.share:.0%} of this machine's limit.")
