"""What a scoring job is to read: paths, patterns and lists become rows of `sources`."""

from __future__ import annotations

import glob
import gzip
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from db.queue import jobs
from scheduler import errors
from scheduler.show import output
from scheduler.submitting import submit

#: Sources of a job: sources.source_no is a small integer from 0.
MOST = 2**15

#: Kinds of sources to which films come.
GROWING = ("folder", "glob")

#: Sources that are named of those that have changed.
NAMED = 3


def rows(paths: Sequence[Path], lists: Sequence[Path]) -> list[dict[str, Any]]:
    """Columns of `sources` for what was typed, in that order: the paths, then the lists.

    Each is opened here, so that a path that cannot be read is an error now and not in the worker's
    log. A path with wildcard characters that does not exist is a pattern. What is named again is
    taken once, and that is said. Raises ArchiveError and Failure.
    """
    if not paths and not lists:
        raise errors.Failure(
            "nothing to score was named: give a folder, an archive or films, or --list FILE"
        )
    if len(paths) + len(lists) > MOST:
        raise errors.Failure(
            f"{len(paths) + len(lists):,} sources were named, and a job has room for {MOST:,}: "
            "quote the pattern, so that the shell leaves it to us, or name the folder, or write "
            "the paths into a file and give --list FILE"
        )
    named = [(path, "glob" if _is_pattern(path) else None) for path in paths]
    named += [(path, "list") for path in lists]
    once: dict[tuple[str, str | None], tuple[Path, str | None]] = {}
    for path, kind in named:
        once.setdefault((submit.readable_path(path), kind), (path, kind))
    found = [_row(path, kind) for path, kind in once.values()]
    if len(named) > len(once):
        _report(f"{len(named)} sources were named, and are {len(once)}: each is read once.")
    _report_shared(found)
    return found


def _report_shared(found: Sequence[dict[str, Any]]) -> None:
    """Say which sources lie in others, for their films are in the job twice."""
    from worker import archive

    folders = {row["uri"] for row in found if row["kind"] == "folder"}
    inside = []
    for row in found:
        if row["kind"] in ("folder", "file", "glob"):
            base = Path(archive.root_of(row["kind"], row["uri"]))
            around = [base, *base.parents] if row["kind"] == "glob" else base.parents
            inside += [(row["uri"], str(f)) for f in around if str(f) in folders][:1]
    if inside:
        more = f" (and {len(inside) - 1} more so)" if len(inside) > 1 else ""
        uri, folder = (output.printable(path) for path in inside[0])
        _report(f"{uri} lies in {folder}, also named{more}: what both list is in the job twice.")


def _report(sentence: str) -> None:
    click.echo(sentence, err=True)


def changed(engine: sa.Engine, job_id: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of these sources are known to be others than those that a job has, in words.

    Nothing is read for it but what `rows` knows: the paths that a list names; size and time of
    change of an archive or film, or a zip's directory. Folders and patterns may have grown: of
    those nothing is compared.
    """
    before = jobs.identities(engine, job_id)
    if len(before) != len(rows):
        return [f"{len(before):,} sources, not {len(rows):,}"]
    found = []
    for was, now in zip(before, rows, strict=True):
        if was["uri"] != now["uri"] or was["kind"] != now["kind"]:
            found.append(f"{was['kind']} {was['uri']} is {now['kind']} {now['uri']} now")
        elif now["kind"] in GROWING or _is_same(was, now):
            continue
        elif now["kind"] == "list":
            found.append(f"{now['uri']} names other films now")
        else:
            found.append(f"{now['uri']} was replaced or written anew")
    return found[:NAMED] + ([f"{len(found) - NAMED:,} more"] if len(found) > NAMED else [])


def _is_same(was: sa.RowMapping, now: Mapping[str, Any]) -> bool:
    if was["fingerprint"] == now["fingerprint"]:
        return True
    if was["listed"] is not None and now["listed"] is not None:
        pairs = itertools.zip_longest(_named(was["listed"]), _named(now["listed"]))
        return all(one == other for one, other in pairs)
    return was["content_id"] is not None and was["content_id"] == now["content_id"]


def _named(listed: bytes) -> Iterator[bytes]:
    """The lines of `sources.listed` that hold paths, and not what was skipped."""
    with gzip.open(io.BytesIO(listed)) as lines:
        yield from (line for line in lines if not line.startswith(b"{"))


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) and not os.path.lexists(path)


def _row(path: Path, kind: Any) -> dict[str, Any]:
    from scheduler.measure import survey
    from worker import archive

    uri = submit.readable_path(path)
    if kind is not None:
        with archive.open_source(uri, kind) as source:
            if next(source.members(), None) is None:
                raise errors.Failure(
                    f"{path}: no file matches; ** stands for any folders"
                    if kind == "glob"
                    else f"{path}: the list names no file; write one path a line"
                )
    return survey.row_of(uri, kind)
