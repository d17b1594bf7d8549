"""`pneumoq report`: one page, for people who ask no database, of a job, model, night or dataset."""

from __future__ import annotations

import collections
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import sqlalchemy as sa

from db.base.errors import NotFound
from db.nightly import runs, schedules
from db.queue import jobs
from db.registry import aliases, models
from scheduler import errors, session
from scheduler.show import output

if TYPE_CHECKING:
    from scheduler.pages.dressed import Dressed
    from scheduler.pages.job import Made
    from scheduler.pages.judged import Judged
    from trainer.data.whose import Patient

#: What may stand before a name to say what it is of.
KINDS = ("job", "model", "run", "dataset")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a report is of: one of these is given."""

    job_id: int | None = None
    model: sa.RowMapping | None = None
    run: sa.RowMapping | None = None
    dataset: Path | None = None


@click.command("report")
@click.argument("of", metavar="JOB|MODEL|NIGHT|DATASET")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--films", type=click.IntRange(0, 100), default=12, show_default=True,
    help="Films of each kind that are shown.",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True),
    help="Of a model: labelled films to score now and to judge it by.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@output.json_option
@click.pass_context
def command(
    ctx: click.Context, /, of: str, file: Path, films: int, data: Path | None, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a page to FILE.html about a job, a model, a night or a dataset.

    A number is a job (one that trained has the page of its model); `champion` or a model's name is
    a model; a schedule's name is its latest night; a path is a folder or manifest of labelled
    films. job:5, model:3, run:7 and dataset:PATH say which is meant.

    The page is one file that needs no network, for screens of any width, print, keyboard and screen
    reader; under each chart are its numbers. Films are in it: keep it as you keep them. v_pages has
    each page that was written. Exit status: 0, or 3 where files of --data could not be read.

    \b
    Examples:
      pneumoq report 5 job5.html                  which films to look at first, and why
      pneumoq report champion model.html --data /data/chest_xray
      pneumoq report nightly night.html
      pneumoq report /data/chest_xray dataset.html
    """
    from scheduler.pages import writing

    writing.check(file, force=force)
    engine = session.database()
    asked = _resolve(engine, of)
    if data is not None and asked.model is None:
        raise errors.Failure("--data goes with a model: it names films to judge it by")
    made, numbers, unreadable = _make(engine, asked, films, data)
    page_id = writing.record(engine, "report", file, films=made.films, **numbers)
    size = writing.write(file, made.page)
    if as_json:
        output.emit(
            {
                "page_id": page_id, "file": str(file), "bytes": size, "films": len(made.films),
                "missing": made.missing, "unreadable": dict(unreadable), **numbers,
            },
            as_json=True,
        )  # fmt: skip
        ctx.exit(errors.ITEM_ERRORS if unreadable else errors.DONE)
    shown = f", {len(made.films)} films" if made.films else ""
    click.echo(f"{output.printable(str(file))}: {output.size(size)}{shown}")
    if made.missing:
        click.echo(f"{made.missing} of them cannot be shown; the page says why", err=True)
    if unreadable:
        click.echo(_not_read(unreadable), err=True)
        ctx.exit(errors.ITEM_ERRORS)


def _make(
    engine: sa.Engine, asked: _Asked, films: int, data: Path | None
) -> tuple[Made, dict[str, int], Mapping[str, int]]:
    """The page, the numbers that it is recorded under, and how many labelled films could not be
    read, by code of the error."""
    if asked.dataset is not None:
        from scheduler.commands.dataset import decoder
        from scheduler.pages import dataset as dataset_page
        from trainer.checking import checkup

        found = checkup.check([asked.dataset], decoder=decoder(2))
        if found.root is None:
            # A page about nothing would look as if there were a dataset.
            raise errors.Failure(
                f"{found.findings[0].text}. Films without classes are scored, and the job has a "
                f"report: pneumoq score {shlex.quote(str(asked.dataset))}"
            )
        return dataset_page.make(found, [asked.dataset]), {}, {}
    if asked.run is not None:
        from scheduler.pages import night as night_page

        return night_page.make(engine, asked.run), {"run_id": int(asked.run["id"])}, {}
    if asked.model is not None:
        from scheduler.pages import dressed
        from scheduler.pages import model as model_page

        if data is None:
            scored, others = None, dressed.of_training(engine, asked.model, films, _tell)
        else:
            scored, others = _score(engine, asked.model, data, films)
        made = model_page.make(engine, asked.model, scored, films, others)
        unreadable = {} if scored is None else scored.unreadable
        return made, {"model_id": int(asked.model["id"])}, unreadable
    from scheduler.pages import job as job_page

    assert asked.job_id is not None
    return job_page.make(engine, asked.job_id, films), {"job_id": asked.job_id}, {}


def _resolve(engine: sa.Engine, of: str) -> _Asked:
    """What a person means; Failure where it may be several things, or none."""
    kind, colon, name = of.partition(":")
    if colon and kind in KINDS:
        return _named(engine, kind, name)
    if of.isdecimal():
        return _named(engine, "job", of)
    found: list[tuple[str, _Asked]] = []
    if Path(of).exists():
        found.append(("dataset", _Asked(dataset=Path(of))))
    for kind in ("model", "run"):
        try:
            found.append((kind, _named(engine, kind, of)))
        except NotFound:
            continue
    if len(found) > 1:
        ways = " or ".join(f"{kind}:{of}" for kind, _ in found)
        raise errors.Failure(f"{of} may be several things: write {ways}")
    if not found:
        raise errors.Failure(
            f"{of} is no job's number, model, schedule, folder or manifest; `pneumoq jobs ls`, "
            "`pneumoq models ls` and `pneumoq schedule ls` list what there is"
        )
    return found[0][1]


def _named(engine: sa.Engine, kind: str, name: str) -> _Asked:
    if kind == "dataset":
        if not Path(name).exists():
            raise errors.Failure(f"there is no folder or manifest {name}")
        return _Asked(dataset=Path(name))
    if kind == "model":
        return _Asked(model=aliases.resolve(engine, name))
    if kind == "run":
        return _Asked(run=_night(engine, name))
    if not name.isdecimal() or int(name) > session.JOB.max:  # type: ignore[operator]
        raise errors.Failure(f"{name} is no job's number; `pneumoq jobs ls` lists them")
    row = jobs.get(engine, int(name))
    if row["kind"] == "score":
        return _Asked(job_id=int(name))
    if row["model_id"] is None:
        raise errors.Failure(
            f"job {name} trains, and has made no model yet; `pneumoq jobs watch {name}` shows its "
            "epochs"
        )
    return _Asked(model=models.get(engine, row["model_id"]))


def _night(engine: sa.Engine, name: str) -> sa.RowMapping:
    if name.isdecimal() and int(name) < 2**63:
        return runs.get(engine, int(name))
    schedule = schedules.get(engine, name)
    last = runs.of_schedule(engine, schedule["id"], 1)
    if not last:
        raise errors.Failure(f"the schedule {name} had no night yet")
    return last[0]


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)


def _score(engine: sa.Engine, row: sa.RowMapping, data: Path, films: int) -> tuple[Judged, Dressed]:
    """The model's scores of labelled films, computed now, and some of these films dressed."""
    import numpy as np

    from scheduler.commands.dataset import decoder
    from scheduler.commands.models import made_with
    from scheduler.pages import dressed, judged
    from scheduler.submitting import precision
    from trainer.card import Card
    from trainer.data import whose
    from trainer.data.labelled import TEST
    from worker.schedules.fleet import Machines
    from worker.scoring import serving
    from worker.training import evaluation, shifted

    settings = session.settings()
    card = Card.from_json(json.dumps(row["card"]))
    split, entries = evaluation.choose(data, card, None)
    pinned = precision.pin(engine, row["id"], "auto", Machines()).precision
    owned = whose.of(entries)
    files: list[str] = []
    owners: list[Patient] = []
    unreadable: collections.Counter[str] = collections.Counter()
    score: list[float] = []
    truth: list[bool] = []
    with serving.opened(settings, engine, row["id"], pinned) as network:
        kept = shifted.Kept(entries if films else (), card.size)
        for place, film in enumerate(evaluation.score(network, entries, decoder(2), kept.add)):
            if film.probability is None:
                unreadable[film.code] += 1
            else:
                owners.append(owned[place])
                files.append(str(film.file))
                score.append(film.probability)
                truth.append(film.truth == card.positive)
        said = f"Films of {split} of {output.printable(data.absolute().name)}."
        others = dressed.of_films(
            kept.films(card), shifted.scorer(network), seed=0, most=films, said=said
        )
    if not files:
        raise errors.Failure(f"no film of {data} could be scored; `pneumoq dataset check {data}`")
    warning = made_with.sentence(made_with.among(engine, settings, row, entries))
    notes = []
    if warning:
        notes.append(f"{warning}: the figures are too good.")
    elif split != TEST or card.provenance.get("calibrated"):
        notes.append(judged.GIVEN)
    if whose.state(owners) == "unknown":
        notes.append(judged.NOBODYS)
    if unreadable:
        notes.append(_not_read(unreadable))
    scored = judged.Judged(
        of=f"{split} of {data.absolute().name}, scored for this page",
        score=np.array(score),
        truth=np.array(truth, bool),
        number=np.arange(len(files)),
        files=files,
        patients=[owner.patient for owner in owners],
        notes=notes,
        unreadable=unreadable,
    )
    return scored, others


def _not_read(unreadable: Mapping[str, int]) -> str:
    codes = ", ".join(f"{n} × {code}" for code, n in sorted(unreadable.items()))
    return f"Not in the figures, as they could not be read: {sum(unreadable.values())} ({codes})."
