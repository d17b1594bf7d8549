"""A list of files as an archive: a text with one path a line, or a CSV with a column of paths.

Each path is an item, in the list's order, whether its file exists or not and however often it is
named. Paths are absolute or relative to the list's own folder.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer import table
from trainer.errors import TableError
from worker.archive import trouble
from worker.archive.folder import check_root, examine, member_of
from worker.archive.member import NO_FILE, Member
from worker.archive.source import Kind, Source, open_file, pread
from worker.errors import ArchiveError, SourceTrouble

#: Names of a column of paths, by preference; their case does not matter.
COLUMNS = ("path", "file", "filename", "file_path", "filepath", "file_name")

#: A line longer than this is no path; Linux takes paths of 4,096 bytes.
_LONGEST_LINE = 1 << 16

#: Rows that are looked at to tell whether the first column holds paths.
_LOOK = 100


class ListSource(Source):
    """Lists the files that a text or CSV file names."""

    kind: Kind = "list"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._folder = str(Path(uri).absolute().parent)
        self._fd = open_file(uri)
        try:
            self._check()
        except BaseException:
            trouble.close(self._fd)
            raise

    def close(self) -> None:
        trouble.close(self._fd)

    def fingerprint(self) -> str:
        """SHA-256 of the list: whether its files change is seen at each file."""
        digest = hashlib.sha256()
        at = 0
        while chunk := pread(self._fd, 1 << 20, at):
            digest.update(chunk)
            at += len(chunk)
        return digest.hexdigest()

    def _check(self) -> None:
        try:
            mode = os.fstat(self._fd).st_mode
            head = pread(self._fd, 4096, 0) if stat.S_ISREG(mode) else b""
        except OSError as error:
            raise trouble.at_root(self.uri, error) from error
        if not stat.S_ISREG(mode):
            raise self._no_list("no file; give a folder by itself, without --list")
        if not head:
            raise ArchiveError("empty", f"{self.uri}: the list is empty (0 bytes)")
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise self._no_list("in UTF-16; save it as UTF-8")
        if b"\0" in head:
            raise self._no_list("no text; give an archive or a film by itself, without --list")

    def _walk(self) -> Iterator[Member]:
        first = next((line for _, line in self._lines()), None)
        separator = table.separator(first or "")
        is_table = Path(self.uri).suffix.lower() in (".csv", ".tsv")
        if not is_table and separator and first is not None:
            # Commas may be part of a path, so that only a head makes a table of a text.
            _, head = next(table.rows(io.StringIO(first), separator, strict=False), (0, []))
            is_table = _column(head) is not None
        paths = self._rows(separator or ",") if is_table else (path for _, path in self._lines())
        root = trouble.Root(self._folder)
        for path in paths:
            yield self._member(path, root)

    def _member(self, path: str, root: trouble.Root) -> Member:
        try:
            mode, size = examine(self._place(path))
        except ValueError:
            return member_of(path, 0)  # reading it says why it cannot be
        except OSError:
            root.check()
            return member_of(path, None)  # reading it says that it is missing, or why it cannot be
        root.saw(path)
        if stat.S_ISREG(mode) or not path:
            return member_of(path, size if path else 0)
        return member_of(path, 0)._replace(method=NO_FILE)

    def _place(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._folder}/{path}"

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Number and path of each line that has one; the others are counted."""
        self.skipped.clear()
        with self._open(newline=None) as text:
            for number in itertools.count(1):
                line = text.readline(_LONGEST_LINE)
                if not line:
                    return
                if len(line) == _LONGEST_LINE:
                    raise self._no_list(f"no list of paths: line {number:,} is too long for one")
                line = line.removesuffix("\n")
                path = line.strip()
                if not path:
                    self.skipped["blank_line"] += 1
                elif path[0] == "#":
                    self.skipped["comment"] += 1
                else:
                    # Blanks around a path are the typist's, unless there is such a file.
                    yield number, line if line != path and self._exists(line) else path

    def _rows(self, separator: str) -> Iterator[str]:
        """The path of each row of a table; empty rows are counted."""
        self.skipped.clear()
        with self._open(newline="") as text:
            rows = (row for _, row in table.rows(text, separator, strict=False))
            try:
                yield from self._cells(rows)
            except TableError as error:
                raise ArchiveError(
                    "corrupt",
                    f"{self.uri}: line {error.line:,} is no row of a CSV file ({error}); save "
                    "it as CSV again",
                ) from error

    def _cells(self, rows: Iterator[list[str]]) -> Iterator[str]:
        filled = (row for row in rows if self._filled(row))
        head = list(itertools.islice(filled, 1 + _LOOK))
        column = _column(head[0]) if head else None
        if column is not None:
            del head[0]
        elif head:
            column = 0
            paths = [row[0].strip() for row in head]
            if not any(self._exists(path) for path in paths):
                names = ", ".join(f"`{name}`" for name in COLUMNS[:3])
                # Or those files are not there now: they were when it was submitted.
                raise self._no_list(
                    f"a table without a column named {names}, and its first column holds no paths "
                    f"of files that exist (such as {paths[-1][:80]!r}); name the column of paths "
                    "`path`, and write paths absolute or relative to the list's folder",
                    SourceTrouble,
                )
            if not self._exists(paths[0]) and not set("/\\.") & set(paths[0]):
                self.skipped["header"] += 1  # a word over a column of paths
                del head[0]
        for row in itertools.chain(head, filled):
            # A row that is too short, or empty there, is an item that cannot be read.
            yield row[column].strip() if column is not None and column < len(row) else ""

    def _filled(self, row: list[str]) -> bool:
        if any(cell.strip() for cell in row):
            return True
        self.skipped["blank_line"] += 1
        return False

    def _exists(self, path: str) -> bool:
        try:
            return bool(path) and stat.S_ISREG(examine(self._place(path))[0])
        except (OSError, ValueError):
            return False

    def _open(self, newline: str | None) -> io.TextIOWrapper:
        os.lseek(self._fd, 0, os.SEEK_SET)
        return open(
            self._fd, encoding="utf-8-sig", errors="surrogateescape", newline=newline, closefd=False
        )

    def _no_list(self, what: str, error: type[ArchiveError] = ArchiveError) -> ArchiveError:
        return error("unsupported", f"{self.uri}: as a list of films this is {what}")


class NamedSource(Source):
    """Lists files of one folder whose names are given: what a schedule found new there."""

    kind: Kind = "list"

    def __init__(self, uri: str, names: Sequence[str]) -> None:
        """`names` are relative to the folder at `uri`, which must be there."""
        super().__init__(uri)
        self._names = names
        check_root(uri)

    def fingerprint(self) -> str:
        """SHA-256 of the names: whether a file changes is seen at each file."""
        text = "\n".join(self._names)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def _walk(self) -> Iterator[Member]:
        root = trouble.Root(self.uri)
        for name in self._names:
            size: int | None
            try:
                _, size = examine(f"{self.uri}/{name}")
            except OSError:
                root.check()
                size = None  # gone already: reading it says so
            else:
                root.saw(name)
            yield member_of(name, size)


def _column(head: list[str]) -> int | None:
    """The column of paths by the table's head; None where the head names none."""
    names = [cell.strip().lower() for cell in head]
    return next((names.index(name) for name in COLUMNS if name in names), None)
