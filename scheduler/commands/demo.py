"""`pneumoq demo`: the whole journey once, on made-up films, with the real parts."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from db.base.errors import Conflict
from scheduler import errors, session
from scheduler.show import output
from trainer.data.labelled import NAMING

#: Patients to train on, and patients of the archive that is scored; none is in both.
TRAIN_PATIENTS, ARCHIVE_PATIENTS = 300, 110
FIRST_ARCHIVE_PATIENT = 100_000

#: What a user would type for these films on a machine without a GPU: small, and from scratch.
SPEC: dict[str, Any] = {
    "epochs": 10,
    "patience": 0,
    "batch_size": 32,
    "lr": 1e-3,
    "size": 112,
    "init": "scratch",
    "augment": 0.5,
    "defend": True,
    "workers": 2,
    "seed": 0,
    "val_fraction": 0.2,
    "weight_decay": 0.05,
    "label_smoothing": 0.05,
    "precision": "auto",
    "operating_point": "youden",
    "positive": "PNEUMONIA",
    "patient_pattern": None,
    "naming": NAMING,
    "name": None,
}

QUESTION = """SELECT label, count(*) AS films, round(avg(probability), 3) AS mean_probability,
       sum(unusual) AS unusual
FROM v_predictions WHERE job_id = {job} GROUP BY label ORDER BY label"""


@click.command("demo")
@click.argument("folder", default="pneumoq-demo", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Train on made-up films, score an archive of others, and ask SQL about it.

    Everything is real (broker, workers, training, scoring, database) except the films, and
    everything is kept in FOLDER.

    \b
    Example:
      pneumoq demo
    """
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise errors.Failure(
            "the demo trains a model, which needs PyTorch: pip install 'pneumoq[train]'"
        )
    began = time.monotonic()
    folder = folder.absolute()
    films, archive = folder / "films", folder / "archive.zip"
    click.secho("PneumoQ: chest X-ray scoring and training on a task queue", bold=True)
    click.echo("Research software, not a medical device. The films here are drawn, not taken.\n")
    _draw(films, archive)

    from db.base import database
    from db.queue import jobs
    from scheduler.local import stack
    from worker import config

    settings = session.settings()
    home = folder / "home"
    settings = replace(
        settings,
        home=home,
        database_url=f"sqlite:///{home / 'pneumoq.db'}",
        broker_url=config.embedded_broker_url(home),
    )
    engine = session.database(settings)
    with contextlib.ExitStack() as stacked:
        _step("Starting Valkey, a training worker, a scoring worker and beat")
        stacked.enter_context(stack.sole(settings))
        running = stacked.enter_context(stack.Stack(settings, engine, report=click.echo))
        who = session.who()

        _step(
            f"pneumoq train {_quoted(films)} --init scratch --size {SPEC['size']} "
            f"--epochs {SPEC['epochs']} --wait"
        )
        spec = SPEC | {"data": str(films)}
        train_job = database.write(
            engine, lambda c: jobs.submit(c, kind="train", spec=spec, submitted_by=who)
        )
        _follow(ctx, settings, engine, "train", train_job, running.watch)
        model_id = int(jobs.get(engine, train_job)["model_id"])

        _step(f"pneumoq score {_quoted(archive)} --model {model_id} --wait")
        score_job = _score(engine, archive, model_id, who)
        _follow(ctx, settings, engine, "score", score_job, running.watch)

        question = QUESTION.format(job=score_job)
        _step(f'pneumoq query "{question}"')
        from db.base import query

        with query.run(settings.database_url, question) as answer:
            output.grid(answer.columns, answer.rows)
    _compare(engine, score_job)
    click.echo(f"\nAll of it took {output.seconds(time.monotonic() - began)}.")
    click.secho("\nWhat next", bold=True)
    if shutil.which("pneumoq") is None:
        click.echo(f"  export PATH={_quoted(Path(sys.executable).parent)}:$PATH")
    click.echo(f"  export PNEUMOQ_HOME={_quoted(home)}")
    click.echo(f"  pneumoq score {_quoted(archive)} --local")
    click.echo(f"  pneumoq classify {_quoted(_some_film(films))} annotated.png")
    click.echo("  pneumoq jobs ls; pneumoq models ls; pneumoq db schema")
    click.echo("  pneumoq up      workers that stay; in other terminals, type `export` again")


def _quoted(path: Path) -> str:
    """A path as one types it in a shell."""
    return shlex.quote(str(path))


def _step(text: str) -> None:
    click.secho(f"\n$ {text}" if text.startswith("pneumoq") else f"\n{text} …", bold=True)


def _draw(films: Path, archive: Path) -> None:
    """Draw the films, unless an earlier run did."""
    from trainer import atomic, phantom

    films.parent.mkdir(parents=True, exist_ok=True)
    if not films.exists():
        click.echo(f"Drawing {TRAIN_PATIENTS} patients into {films} …")
        with atomic.new_folder(films) as part:
            count = phantom.write_folder(part, TRAIN_PATIENTS)
        click.echo(f"  {count} films in NORMAL/ and PNEUMONIA/")
    if not archive.exists():
        click.echo(f"Drawing {ARCHIVE_PATIENTS} other patients into {archive} …")
        with atomic.replacing(archive) as part:
            count = phantom.write_zip(part, ARCHIVE_PATIENTS, first_patient=FIRST_ARCHIVE_PATIENT)
        click.echo(f"  {count} films, unlabelled")


def _score(engine: Any, path: Path, model_id: int, who: str) -> int:
    from db.base import database
    from db.queue import jobs
    from scheduler import engines
    from scheduler.measure import survey
    from scheduler.submitting import precision

    rows = [survey.row_of(str(path))]
    spec = {"sources": [str(path)], "model": str(model_id), "keep_cam": "flagged"}
    pinned = precision.pin(engine, model_id, "auto", engines.there(engine, None)).precision
    return database.write(
        engine,
        lambda c: jobs.submit(
            c, kind="score", spec=spec, submitted_by=who, model_id=model_id, precision=pinned,
            source_rows=rows,
        ),
    )  # fmt: skip


def _follow(
    ctx: click.Context,
    settings: Any,
    engine: Any,
    queue: str,
    job_id: int,
    watch: Callable[[], None],
) -> None:
    from db.base import database
    from db.work import control
    from scheduler.show import follow
    from worker import wakeup

    wakeup.notify(settings, queue)
    try:
        status = follow.to_the_end(engine, job_id, tick=watch)
    except BaseException:
        # The next demo must not begin by finishing this one.
        with contextlib.suppress(Conflict):
            database.write(engine, lambda c: control.cancel(c, job_id, session.who()))
        raise
    if status != errors.DONE:
        ctx.exit(status)


def _compare(engine: Any, job_id: int) -> None:
    """The films' truth is known here, since they were drawn: say how well the model did."""
    import sqlalchemy as sa

    from db.base import database
    from trainer import phantom
    from trainer.judging import metrics

    truth = {
        film.patient: film.label == phantom.LABELS[1]
        for film in phantom.films(ARCHIVE_PATIENTS, first_patient=FIRST_ARCHIVE_PATIENT)
    }
    with database.reading(engine) as connection:
        rows = connection.execute(
            sa.text("SELECT name, probability FROM v_predictions WHERE job_id = :job"),
            {"job": job_id},
        ).all()
    import numpy as np

    score = np.array([row.probability for row in rows])
    sick = np.array([truth[row.name.rpartition("/")[2].partition("_")[0]] for row in rows])
    click.echo(
        f"\nAgainst the truth, which the model was not told: AUROC {metrics.auroc(score, sick):.3f}"
    )


def _some_film(films: Path) -> Path:
    return sorted((films / "PNEUMONIA").iterdir())[0]
