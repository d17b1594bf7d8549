"""`pneumoq dataset`: whether labelled films are fit to train on, and dividing them by patient."""

from __future__ import annotations

import dataclasses
import functools
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from scheduler import errors, numbers, session
from scheduler.show import output
from trainer.checking import checkup, contact, division
from trainer.checking.checkup import Checkup, Sizes
from trainer.data import classes, whose
from trainer.data.decoding import Decoder
from trainer.data.labelled import TEST, TRAIN, VAL
from trainer.data.whose import Whose
from trainer.errors import FilmError

#: Worst finding → exit status.
STATUS = {"note": errors.DONE, "doubt": errors.ITEM_ERRORS, "bad": errors.BAD_INPUT}

LABELS = click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV of corrected labels, as for `train`.",
)
PATIENT_PATTERN = click.option(
    "--patient-pattern",
    help="Regular expression whose first group is the patient in a file's path below its class "
    "folder. Default: DICOM's PatientID, names that are known, folders.",
)
POSITIVE = click.option(
    "--positive",
    help="Class that is the disease. Default: of two classes the one whose name does not say "
    "healthy.",
)
WORKERS = click.option(
    "--workers", "-j", type=click.IntRange(1), default=2, show_default=True,
    help="Processes that decode films.",
)  # fmt: skip


def decoder(workers: int) -> Decoder:
    """As scoring decodes films: one that ends its process or never ends costs that film."""
    from worker.decoding import labelled
    from worker.decoding.labelled import Limits

    return labelled.processes(Limits.of(session.settings(), workers))


@click.group("dataset")
def command() -> None:
    """Check labelled films before training on them, and divide them by patient.

    \b
    Examples:
      pneumoq dataset check /data/chest_xray
      pneumoq dataset split /data/chest_xray /data/divided
    """


@command.command("check")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@LABELS
@POSITIVE
@PATIENT_PATTERN
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw films of groups that look acquired alike and are of one class into this PNG.",
)
@WORKERS
@output.json_option
@click.pass_context
def check(
    ctx: click.Context,
    data: tuple[Path, ...],
    labels: Path | None,
    positive: str | None,
    patient_pattern: str | None,
    sheet: Path | None,
    workers: int,
    as_json: bool,
) -> None:
    """Say whether DATA is fit to train on: ready, usable but with doubts, or not usable.

    DATA is what `pneumoq train` takes. Every film is decoded once. Looked for are files that cannot
    be read, copies and near copies (also of another size or compression), patients and pictures on
    two sides of a split, classes that are small, rare or told apart by their file sizes, classes of
    which none is plainly the disease, films that look acquired alike (a burned-in mark, a frame, a
    tone curve, their sharpness or size) and are nearly all of one class, and labels.txt that
    disagrees. Exit status: 0 ready, 3 usable with doubts, 2 not usable.

    \b
    Examples:
      pneumoq dataset check /data/chest_xray
      pneumoq dataset check /data/chest_xray --sheet groups.png
      pneumoq dataset check /data/chest_xray --json
    """
    found = checkup.check(
        data,
        said=Whose(pattern=patient_pattern),
        corrections=labels,
        positive=positive,
        decoder=decoder(workers),
        report=_counter("looking at films"),
    )
    status = STATUS[found.worst]
    if as_json:
        output.emit({"status": status, **_plain(found)}, as_json=True)
    else:
        _print(found, data)
    if sheet is not None:
        click.echo(_draw(found, sheet), err=True)
    ctx.exit(status)


@command.command("split")
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write this CSV instead of a folder; `train` takes it.",
)
@click.option("--copy", is_flag=True, help="Copy the films instead of linking to them.")
@click.option(
    "--val", type=numbers.Real(0, 1, min_open=True, max_open=True), default=0.1,
    show_default=True, help="Share of each class that chooses the model.",
)  # fmt: skip
@click.option(
    "--test", type=numbers.Real(0, 1, max_open=True), default=0.1, show_default=True,
    help="Share of each class that is kept for judging.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
    help="Another seed holds out other patients.",
)  # fmt: skip
@LABELS
@PATIENT_PATTERN
@WORKERS
@output.json_option
@click.pass_context
def split(
    ctx: click.Context,
    data: Path,
    out: Path | None,
    manifest: Path | None,
    copy: bool,
    val: float,
    test: float,
    seed: int,
    labels: Path | None,
    patient_pattern: str | None,
    workers: int,
    as_json: bool,
) -> None:
    """Divide DATA into train, val and test by patient, in a new folder OUT or as a manifest.

    All films of a patient go to one side, and so do films that are nearly the same picture. In OUT
    they are hard links: the films of DATA stay as and where they are, and take no second room.
    Splits that DATA has are given up. The same films and seed give the same division. Exit status:
    0, or 3 where films were left out.

    \b
    Examples:
      pneumoq dataset split /data/films /data/divided
      pneumoq dataset split /data/films --manifest /data/divided.csv --seed 1
    """
    if (out is None) == (manifest is None):
        raise click.UsageError("give either a new folder OUT, or --manifest FILE.csv")
    if manifest is not None and (copy or manifest.suffix.lower() != ".csv"):
        raise click.UsageError("a manifest's name ends in .csv, and it copies no films")
    found = division.divide(
        [data],
        val=val,
        test=test,
        seed=seed,
        said=Whose(pattern=patient_pattern, key=_key),
        corrections=labels,
        decoder=decoder(workers),
        report=_counter("looking at films"),
    )
    divided = found.data
    if manifest is not None:
        division.write_manifest(divided, manifest)
    elif out is not None:
        division.write_folder(divided, out, copy=copy)
    to = manifest or (out or Path()) / division.MANIFEST
    status = errors.ITEM_ERRORS if divided.left_out else errors.DONE
    films = {part: divided.count(part) for part in (TRAIN, VAL, TEST)}
    patients = {part: len({f.patient for f in divided.of(part)}) for part in films}
    if as_json:
        left_out = [dataclasses.asdict(file) for file in divided.left_out]
        output.emit(
            {
                "status": status, "manifest": str(to), "hash": divided.hash, "seed": seed,
                "films": films, "patients": patients, "patients_are": divided.patients,
                "left_out": left_out,
            },
            as_json=True,
        )  # fmt: skip
    else:
        rows = [(part, *films[part].values(), patients[part]) for part in films]
        output.grid(["", *divided.labels, "patients"], rows)
        for note in whose.notes(divided.films):
            click.echo(note, err=True)
        for file in divided.left_out:
            click.echo(f"left out: {output.printable(f'{file.path}: {file.reason}')}", err=True)
        if found.joined:
            click.echo(
                f"{found.joined} groups of films of several patients are nearly the same picture; "
                "each is on one side."
            )
        click.echo(f"Next: pneumoq train {shlex.quote(str(to))}")
    ctx.exit(status)


@functools.cache
def _key() -> bytes:
    """Under which identifiers of patients are hashed, as a training hashes them."""
    from worker.machine import privacy

    return privacy.load(session.settings()).key_of_manifests()


def _plain(found: Checkup) -> dict[str, Any]:
    return {
        "verdict": found.verdict.removesuffix(", but"),
        **dataclasses.asdict(found),
        "root": None if found.root is None else str(found.root),
    }


def _print(found: Checkup, data: tuple[Path, ...]) -> None:
    total = sum(sum(counts.values()) for counts in found.films.values())
    where = ", ".join(str(path) for path in data)
    if total:
        click.echo(f"{total:,} films of {found.patients:,} patients in {output.printable(where)}")
        names = list(next(iter(found.films.values())))
        rows = [(split, *counts.values()) for split, counts in found.films.items()]
        output.grid(["", *names], [*rows, *_sizes(found.sizes, names)])
        if found.positive is not None:
            click.echo(output.printable(classes.meaning(names, found.positive)))
        click.echo()
        _groups(found)
    reasons = [f for f in found.findings if f.level == found.worst != "note"]
    notes = [f for f in found.findings if f not in reasons]
    colour = {"bad": "red", "doubt": "yellow", "note": "green"}[found.worst]
    because = " because" if found.worst == "bad" else ""
    verdict = f"{found.verdict}{because}:" if reasons else found.verdict
    click.echo(click.style(verdict[0].upper() + verdict[1:], fg=colour, bold=True))
    for finding in reasons:
        click.echo(f"  - {output.printable(finding.text)}")
    if notes:
        click.echo("Also:" if reasons else "Good to know:")
    for finding in notes:
        click.echo(f"  - {output.printable(finding.text)}")


def _groups(found: Checkup) -> None:
    """A row for each group that is nearly of one class."""
    if not found.groups:
        return
    names = list(found.groups[0].films)
    rows = [(g.what, *map(len, g.films.values()), g.patients) for g in found.groups]
    output.grid(["look alike: films with", *names, "patients"], rows)
    click.echo()


def _draw(found: Checkup, path: Path) -> str:
    """Draw some films of each group, of its class first; what was done, in a sentence. Failure
    where that cannot be: the findings are printed by then."""
    name = output.printable(str(path))
    if found.root is None or not found.groups:
        return f"{name} is not written: no films look acquired alike and are of one class."
    try:
        drawn = contact.draw(found.root, found.groups)
    except (OSError, FilmError) as error:
        raise errors.Failure(
            f"{name} is not written: a film changed since it was looked at ({error}); run again"
        ) from error
    try:
        drawn.save(path, format="PNG")
    except OSError as error:
        raise errors.Failure(
            f"{name} cannot be written: {error.strerror}; give another file to --sheet"
        ) from error
    return f"Films of the groups are drawn in {name}."


def _sizes(sizes: dict[str, Sizes], classes: list[str]) -> list[tuple[str, ...]]:
    """Rows about the films as files, under the classes."""
    if not sizes:
        return []

    def row(what: str, of: Any) -> tuple[str, ...]:
        return (what, *(of(sizes[name]) if name in sizes else "" for name in classes))

    return [
        row("median size", lambda s: f"{s.width} × {s.height}"),
        row("shortest side", lambda s: str(s.shortest)),
        row("format", lambda s: ", ".join(sorted(s.kinds))),
    ]


def _counter(what: str) -> Any:
    """Shows on a terminal how many are done."""
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            end = "\r\x1b[K" if done == total else ""
            click.echo(f"\r{what}: {done:,} of {total:,}{end}", nl=False, err=True)

    return show
