"""`pneumoq review`: one page on which a person labels the films that most need it."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from db.queue import jobs
from scheduler import errors, session
from scheduler.show import output


@click.command("review")
@click.argument("job", type=session.JOB)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--films", type=click.IntRange(0, 200), default=20, show_default=True,
    help="Films of each kind that a person should label, at most.",
)  # fmt: skip
@click.option(
    "--control", type=click.IntRange(0, 500), default=20, show_default=True,
    help="Films drawn by chance from all that were scored.",
)  # fmt: skip
@click.option(
    "--against", type=session.JOB,
    help="The job in which another model scored the same sources. Default: the newest such job.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@output.json_option
def command(
    job: int, file: Path, films: int, control: int, against: int | None, force: bool, as_json: bool
) -> None:
    """Write a page to FILE.html on which a person labels films of a scoring JOB.

    On it are the most uncertain and the least usual films, films that look acquired like those of
    one class and films that another model calls otherwise, all without a true label yet, and a
    random control, in no order. One key is one class; zoom, window, the evidence, notes and undo
    have keys too. The model's answer is hidden until it is
    asked for. What was labelled is kept in the browser, and saved as a CSV that `labels import`
    and `train --labels` take.

    The films are in the page: keep it as you keep them.

    \b
    Examples:
      pneumoq review 5 review.html
      pneumoq review 5 review.html --films 50 --control 100 --against 4
    """
    from scheduler.pages import review, writing

    writing.check(file, force=force)
    engine = session.database()
    for number in (job, *([against] if against else [])):
        row = jobs.get(engine, number)
        if row["kind"] != "score":
            raise errors.Failure(f"job {number} trains a model; only scoring jobs have films")
        jobs.check_kept(number, row["purged_at"])
    made = review.make(
        engine, job, most=films, control=control, against=against, csv_name=f"{file.stem}.csv"
    )
    page_id = writing.record(engine, "review", file, job_id=job, films=made.films)
    size = writing.write(file, made.page)
    if as_json:
        output.emit(
            {
                "page_id": page_id, "file": str(file), "bytes": size, "films": len(made.films),
                "kinds": made.kinds, "against": made.against, "missing": made.missing,
            },
            as_json=True,
        )  # fmt: skip
        return
    kinds = ", ".join(f"{n} {review.WHY[why]}" for why, n in made.kinds.items())
    click.echo(
        f"{output.printable(str(file))}: {output.size(size)}, {len(made.films)} films: {kinds}"
    )
    if made.missing:
        click.echo(f"{made.missing} of them cannot be shown; the page says why", err=True)
    click.echo(
        "Next: open it in a browser, label, save, and bring the labels in: pneumoq labels import "
        f"{shlex.quote(file.stem + '.csv')} --job {job}"
    )
