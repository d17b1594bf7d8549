"""What a scoring job is to read: paths, patterns and lists become rows of `sources`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scheduler import errors
from scheduler.submitting import submit

#: Sources of a job: sources.source_no is a small integer from 0.
MOST = 2**15


def rows(paths: Sequence[Path], lists: Sequence[Path]) -> list[dict[str, Any]]:
    """Columns of `sources` for what was typed, in that order: the paths, then the lists.

    Each is opened here, so that a path that cannot be read is an error now and not in the worker's
    log. A path with wildcard characters that does not exist is a pattern. Raises ArchiveError and
    Failure.
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
    return [_row(path, "glob" if _is_pattern(path) else None) for path in paths] + [
        _row(path, "list") for path in lists
    ]


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
