"""`pneumoq classify`: films, here and now, without the queue; as jetson-inference's imagenet.py."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from scheduler import engines, errors, numbers
from scheduler.show import output
from scheduler.submitting import imagenet, precision
from trainer import regular
from trainer.errors import FilmError
from worker import config
from worker.classify import ahead as notes
from worker.classify.ahead import Ahead, Used, processor
from worker.errors import ArchiveError, MemberError

if TYPE_CHECKING:
    # What is computed ahead must not wait for these to load, nor they for it.
    import sqlalchemy as sa

    from worker.classify.answer import Answer
    from worker.classify.result import Result
    from worker.config import Settings
    from worker.engine import EngineChoice

#: Films that are classified in one go at most; for more there is `score`.
MOST = 100_000

#: Bytes of a part of a film's path that its annotated copy keeps; file systems take 255, and a
#: number and an ending may come to it.
LONGEST_PART = 200

#: Endings that a picture can be written in; any other becomes PNG.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tga", ".webp", ".tif", ".tiff")


@click.command("classify")
@click.argument("films", metavar="FILMS")
@click.argument("annotated", metavar="[OUT]", required=False)
@precision.model_option
@precision.option
@engines.here
@click.option(
    "--topK", "--topk", "top", type=click.IntRange(0), default=1, show_default=True,
    help="Classes that are printed of each film, the likeliest first; 0: all.",
)  # fmt: skip
@click.option(
    "--threshold", type=numbers.Real(0, 1), default=0.01, show_default=True,
    help="Print no class below this probability; the model's operating point decides as ever.",
)  # fmt: skip
@click.option("--profile", is_flag=True, help="Print films per second at the end.")
@imagenet.options
@output.json_option
@click.pass_context
def command(
    ctx: click.Context, /, films: str, annotated: str | None, model: str, asked: str,
    asked_engine: str | None, top: int, threshold: float, profile: bool, as_json: bool,
    **ignored: object,
) -> None:  # fmt: skip
    """Score films now and print the answers; nothing is stored.

    FILMS is a film, a folder, an archive or a pattern ("*.jpg"). The answers are those of a scoring
    job with this model and precision, to the last bit. With OUT, each film is written with the
    answer and the evidence drawn on it: of one film OUT is the file; of several it is a new folder,
    or a name with a number in it, as %04i.jpg.

    The options of jetson-inference's imagenet.py are understood; a model of its is brought in with
    `pneumoq models import`. Those of videos and cameras are an error that says what to do. Exit
    status: 3 where a film of several could not be read.

    \b
    Examples:
      pneumoq classify film.jpeg annotated.png
      pneumoq classify films/ annotated/ --topK 0
      pneumoq classify "films/*.jpeg" "annotated/%04i.jpg"
    """
    began = time.monotonic()
    image = Path(imagenet.path(films))
    out = Path(imagenet.path(annotated)) if annotated else None
    imagenet.check(ignored)
    settings = engines.settings_of(config.load(), asked_engine)
    ahead = None
    if out is not None and out.exists() and _is_one_film(image) and out.samefile(image):
        raise errors.Failure(f"{out} is the film itself; give OUT another name")
    if out is None:
        ahead = Ahead(settings, image)
        ctx.call_on_close(ahead.end)
    # What follows needs SQLAlchemy and more, which load meanwhile.
    from scheduler import session
    from worker import engine as scoring

    engine = session.database()
    chosen = _model(engine, model)
    choice = scoring.choose(settings)
    pinned = precision.pin(engine, chosen["id"], asked, engines.of(choice)).precision
    used = _used(engine, chosen["id"], pinned, settings, choice)
    result = None
    if used is None:
        notes.forget(settings.home)
    elif ahead is not None:
        try:
            result = ahead.answer(used)
        except FilmError as error:
            raise FilmError(error.code, f"{image}: {error}") from error
    one = result is not None or _is_one_film(image)
    places = None if out is None else _Places(out, one=one)
    count, broken = 0, 0
    answers: Iterable[tuple[str, Result | FilmError]]
    if result is not None:
        answers = [(str(image), result)]
    else:
        if ahead is not None:
            ahead.end()
        from worker.classify import films as here

        answers = here.classify(_films(image), settings, engine, chosen["id"], pinned)
    rows = []
    for name, found in answers:
        count += 1
        if isinstance(found, FilmError):
            if one:
                raise found
            broken += 1
            rows.append({"name": name, "error": str(found), "code": found.code})
            if not as_json:
                click.echo(output.printable(f"{name}: not scored: {found}"), err=True)
            continue
        written = None if places is None else places.draw(name, count - 1, cast("Answer", found))
        rows.append(_row(name, found, chosen, pinned, written))
        if not as_json:
            rows.clear()  # they are printed as they come
            _print(name, found, top, threshold, alone=one)
            if one:
                _more(found, chosen, pinned, written)
    if not count:
        raise errors.Failure(f"{image} has no film in it")
    if as_json:
        output.emit(rows[0] if one else rows, as_json=True)
    elif not one:
        click.echo(
            f"{count - broken:,} of {count:,} scored by model {chosen['id']} ({chosen['name']}) in "
            f"{pinned}. Research software, not a medical device."
        )
        if places is not None:
            click.echo(f"annotated films: {output.printable(str(out))}")
    if profile:
        took = time.monotonic() - began
        click.echo(f"{count / took:.1f} films/s, the loading of the model included", err=True)
    if one and result is None and used is not None:
        notes.note(settings.home, used)
    if broken:
        ctx.exit(errors.ITEM_ERRORS)


def _used(
    database: sa.Engine, model_id: int, pinned: str, settings: Settings, choice: EngineChoice
) -> Used | None:
    """What a film alone is computed with here; None where no processor computes it."""
    if choice.gpu is not None:
        return None
    from db.registry import models
    from worker.engine import FILE_OF

    return Used(
        sha256=models.file_of(database, model_id, FILE_OF[pinned])["sha256"],
        precision=pinned,
        version=choice.version,
        processor=processor(),
        batch=settings.batch,
    )


def _model(engine: sa.Engine, model: str) -> sa.RowMapping:
    """The model that is named; a path to a model file says how it is brought in."""
    from db.registry import aliases

    path = Path(model)
    if path.suffix in (".onnx", ".tar", ".pth") and path.is_file():
        import hashlib

        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else (
                hashlib.sha256(file.read())
            )  # fmt: skip
        try:
            return aliases.resolve(engine, digest.hexdigest())
        except LookupError as error:
            raise errors.Failure(
                f"{path} is no model that is registered; bring it in with `pneumoq models import "
                f"{path}`, and name the model that it becomes"
            ) from error
    return aliases.resolve(engine, model)


def _is_one_film(image: Path) -> bool:
    return image.is_file() and not _is_archive(image)


def _is_archive(path: Path) -> bool:
    from worker import archive

    try:
        return archive.kind(str(path.absolute())) != "file"
    except ArchiveError:
        return False  # a film that is none: why is said where it is decoded


def _films(path: Path) -> Iterator[tuple[str, bytes | FilmError]]:
    """Name and bytes of each film of what was named, or why it cannot be read."""
    if not path.is_dir() and path.is_file() and not _is_archive(path):
        try:
            yield str(path), regular.contents(path)
        except OSError as error:
            yield str(path), FilmError("unreadable", f"{path}: {error.strerror}")
        return
    from scheduler.measure import survey
    from scheduler.submitting import sources

    (row,) = sources.rows([path], [])
    found = survey.look(row, MOST)
    if found.items > MOST:
        raise errors.Failure(
            f"{path} has {found.items:,} films, and {MOST:,} are the most for this command; "
            f"`pneumoq score {path}` takes any number"
        )
    for member, data in survey.contents(found):
        if isinstance(data, MemberError):
            yield member.name, FilmError("unreadable", f"{member.name}: {data}")
        else:
            yield member.name, data


class _Places:
    """Where annotated films go."""

    def __init__(self, out: Path, *, one: bool) -> None:
        """Raises Failure where they cannot go there, before a film is scored."""
        self._out = out
        self._one = one and not out.is_dir()
        self._numbered = not one and "%" in out.name
        if self._one or self._numbered:
            if not out.absolute().parent.is_dir():
                raise errors.Failure(f"{out}: there is no folder {out.parent}; make it first")
            if self._numbered:
                self._name(0)
        elif not one:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise errors.Failure(f"{out} is there and not empty; give a new folder")
            out.mkdir(exist_ok=True)

    def _name(self, number: int) -> str:
        try:
            return self._out.name % number
        except (TypeError, ValueError) as error:
            raise errors.Failure(
                f"{self._out.name} must have one place for a number, as in %04i.jpg"
            ) from error

    def draw(self, name: str, number: int, answer: Answer) -> Path:
        """Write a film with its answer on it; where."""
        from scheduler.show import picture

        if self._one:
            path = self._out
        elif self._numbered:
            path = self._out.with_name(self._name(number))
        else:
            path = self._below(name, number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.annotate(path, answer)
        except (ValueError, OSError) as error:
            raise errors.Failure(f"{path} cannot be written: {error}") from error
        return path

    def _below(self, name: str, number: int) -> Path:
        """A path in the folder that is like the film's own; its number where that is odd."""
        parts = [part for part in Path(name).parts if part not in ("/", "..", ".")]
        if Path(name).is_absolute():
            parts = parts[-1:]
        too_long = any(len(os.fsencode(part)) > LONGEST_PART for part in parts)
        if not parts or output.printable(name) != name or too_long:
            parts = [f"film-{number:06}.png"]
        path = self._out.joinpath(*parts)
        if path.suffix.lower() not in ENDINGS:
            path = path.with_name(f"{path.name}.png")
        return path if not path.exists() else path.with_name(f"{number:06}-{path.name}")


def _row(
    name: str, answer: Result, chosen: sa.RowMapping, pinned: str, written: Path | None
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "label": answer.label,
        "probability": answer.probability,
        "threshold": answer.threshold,
        "scores": answer.scores,
        "ood": answer.ood,
        "unusual": answer.unusual,
        "look": answer.look,
        "model_id": chosen["id"],
        "model": chosen["name"],
        "precision": pinned,
    }
    return row if written is None else row | {"annotated": str(written)}


def _print(name: str, answer: Result, top: int, threshold: float, *, alone: bool) -> None:
    """The answer on a film, and its likeliest classes where they are asked for."""
    if alone:
        click.echo(
            f"{100 * answer.probability:.2f}% {answer.positive}: called {answer.label} "
            f"(operating point {100 * answer.threshold:.2f}%)"
        )
    else:
        odd = "unusual" if answer.unusual else answer.look and "acquired like films of one class"
        doubt = f"  {odd}: do not trust the label" if odd else ""
        percent = f"{100 * answer.probability:6.2f}%"
        click.echo(output.printable(f"{percent} {answer.positive}  {answer.label}  {name}{doubt}"))
    if top == 1:
        return
    likely = sorted(answer.scores.items(), key=lambda pair: -pair[1])
    for label, score in likely[: top or None]:
        if score >= threshold:
            number = answer.labels.index(label)
            click.echo(output.printable(f"  {100 * score:6.2f}% class #{number} ({label})"))


def _more(answer: Result, chosen: sa.RowMapping, pinned: str, written: Path | None) -> None:
    """What is said of a film that is asked about alone."""
    if answer.ood is not None:
        warning = "  unlike the training films: do not trust the label" if answer.unusual else ""
        click.echo(f"distance from the training films {answer.ood:.2f} (1 is typical){warning}")
    if answer.look is not None:
        click.echo(
            f"acquired like training films with {answer.look['what']}, nearly all of which were "
            f"{answer.look['label']}: do not trust the label"
        )
    click.echo(
        f"model {chosen['id']} ({chosen['name']}) in {pinned}. Research software, not a medical "
        "device."
    )
    if written is not None:
        click.echo(f"annotated film: {written}")
