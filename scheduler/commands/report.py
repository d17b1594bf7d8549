"""`pneumoq report`: one page, for people who ask no database, of a job."""

from __future__ import annotations

from pathlib import Path

import click

from db.queue import jobs
from scheduler import errors, session
from scheduler.show import output


@click.command("report")
@click.argument("job", type=session.JOB)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--films", type=click.IntRange(0, 100), default=12, show_default=True,
    help="Films of each kind that are shown.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@output.json_option
def command(job: int, file: Path, films: int, force: bool, as_json: bool) -> None:
    """Write a page about a scoring JOB to FILE.html: which films to look at first, and why.

    The page is one file that needs no network. It has the most suspicious, the most uncertain and
    the least usual films with the evidence drawn on them, the scores with the operating point and
    drift, what was refused or is in error, and throughput; under each chart are its numbers.

    The films are in the page: keep it as you keep them. v_pages has each page that was written.

    \b
    Examples:
      pneumoq report 5 job5.html
      pneumoq report 5 job5.html --films 30
    """
    from scheduler.pages import job as job_page
    from scheduler.pages import writing

    writing.check(file, force=force)
    engine = session.database()
    if jobs.get(engine, job)["kind"] != "score":
        raise errors.Failure(f"job {job} trains a model; give a scoring job")
    made = job_page.make(engine, job, films)
    page_id = writing.record(engine, "report", file, job_id=job, films=made.films)
    size = writing.write(file, made.page)
    if as_json:
        output.emit(
            {
                "page_id": page_id, "file": str(file), "bytes": size, "films": len(made.films),
                "missing": made.missing,
            },
            as_json=True,
        )  # fmt: skip
        return
    click.echo(f"{output.printable(str(file))}: {size / 1e6:.1f} MB, {len(made.films)} films")
    if made.missing:
        click.echo(f"{made.missing} of them cannot be shown; the page says why", err=True)
