"""What a scoring job is to read: paths, patterns and lists become rows of `sources`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from scheduler import errors
from scheduler.show import output
from scheduler.submitting import submit

#: Sources of a job: sources.source_no is a small integer from 0.
MOST = 2**15


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
