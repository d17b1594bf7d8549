"""`pneumoq models quantise`: the faster files of a model that came without them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import click

from db.base import database
from db.registry import aliases, models
from scheduler import engines, session
from scheduler.errors import Failure
from scheduler.show import output
from scheduler.submitting import submit


@click.command("quantise")
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@output.json_option
def quantise(model: str, folder: Path, as_json: bool) -> None:
    """Make a model's int8 and fp16 files, and let those that pass their gate be used.

    For a model that was registered without them. FOLDER holds films like those to be scored, no
    labels needed: a third of them, at most 256, show what the network's activations look like; on
    the others, at most 2000, each precision is compared with fp32. Fewer than 60 of those are too
    few, and with fewer than 200 one film that is decided differently is too many. With none of 60
    it is still possible that 1 film in 20 would be, with none of 200 that 1 in 66.

    \b
    Example:
      pneumoq models quantise champion /data/films
    """
    settings, engine = session.settings(), session.database()
    row = aliases.resolve(engine, model)
    have = {file["precision"] for file in models.detail(engine, row["id"])["files"]}
    if "int8" in have:
        raise Failure(
            f"model {row['id']} has an int8 file already; see `pneumoq models show {row['id']}`"
        )
    from trainer import card as cards
    from trainer.judging import parity
    from trainer.modelfile import quantise as making
    from worker.decoding.labelled import Limits
    from worker.engine import store
    from worker.schedules import fleet
    from worker.training import precisions

    path = store.fetch(engine, settings.home, row["id"])
    card = cards.read(path)
    threads = settings.engine_threads
    films, broken = precisions.pick(
        submit.readable_path(folder), card, making.FILMS + parity.FILMS, Limits.of(settings)
    )
    if broken:
        click.echo(f"{broken} of the files chosen are no films that can be read", err=True)
    shown = min(making.FILMS, len(films) // 3)
    if len(films) - shown < parity.LEAST:
        raise Failure(
            f"{folder} holds {len(films)} films, of which {shown} show what activations look like "
            f"and {parity.LEAST} are needed to compare on; give a folder of a few hundred"
        )
    with tempfile.TemporaryDirectory(prefix="pneumoq-") as work:
        copy = Path(shutil.copyfile(path, Path(work, "model.onnx")))
        derived = precisions.derive(
            copy, films[:shown], films[shown:], batch=settings.batch, threads=threads
        )
        files = {name: file for name, file in derived.files.items() if name not in have}
        tried = [e for e in derived.engines if e["precision"] not in have]
        database.write(
            engine,
            lambda c: models.add_precisions(c, row["id"], files, tried, session.who()),
        )
    if as_json:
        output.emit([{**e["options"], **e} for e in tried], as_json=True)
        return
    for note in derived.notes:
        click.echo(note)
    pinned = fleet.pin(engine, row["id"], "auto", engines.there(engine, None))
    click.echo(
        f"model {row['id']} ({row['name']}) is computed in {pinned.precision} from now on, "
        f"{pinned.why}"
    )
