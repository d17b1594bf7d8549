"""A list of files as an archive: a text with one path a line, or a CSV with a column of paths.

Each path is an item, in the list's order, whether its file exists or not. One that is named again,
also as `./x`, is counted and skipped. Paths are absolute or relative to the list's own folder. What
a list names is kept with its job (`ListSource.listed`), so that nobody needs the list's file
afterwards (`KeptSource`).
"""

from __future__ import annotations

import abc
import contextlib
import gzip
import hashlib
import io
import itertools
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer import spelling, table
from trainer.errors import TableError
from worker.archive import trouble
from worker.archive.folder import check_root, member_of, status_of
from worker.archive.member import NO_FILE, Member
from worker.archive.source import Kind, Source, examine, open_file, pread
from worker.errors import ArchiveError, SourceTrouble

#: Names of a column of paths, by preference; their case does not matter.
COLUMNS = ("path", "file", "filename", "file_path", "filepath", "file_name")

#: A line longer than this is no path; Linux takes paths of 4,096 bytes.
_LONGEST_LINE = 1 << 16

#: Rows that are looked at to tell whether the first column holds paths.
_LOOK = 100

#: Paths in one line of what is kept of a list.
_BATCH = 512

#: Of gzip, as of listings: higher ones take much longer for little.
_LEVEL = 1


class Named(Source):
    """Lists files that are named by paths, which are relative to a list's folder or absolute."""

    kind: Kind = "list"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._folder = str(Path(uri).absolute().parent)

    def _walk(self) -> Iterator[Member]:
        root = trouble.Root(self._folder)
        for path in self._paths():
            yield self._member(path, root)

    @abc.abstractmethod
    def _paths(self) -> Iterator[str]:
        """The paths, in their order; what else the list has is counted in `skipped`."""

    def _member(self, path: str, root: trouble.Root) -> Member:
        try:
            mode, size = self._examined(self._place(path))
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


class KeptSource(Named):
    """Lists the files that a list named when it was submitted, whatever became of it since."""

    def __init__(self, uri: str, listed: bytes) -> None:
        """`uri` is where the list's file was, and `listed` what `ListSource.listed` gave."""
        super().__init__(uri)
        self._listed = listed

    def fingerprint(self) -> str:
        """SHA-256 of what is kept."""
        return hashlib.sha256(self._listed).hexdigest()

    def has_changed(self, fingerprint: str) -> bool:
        return False

    def _paths(self) -> Iterator[str]:
        with gzip.open(io.BytesIO(self._listed)) as lines:
            for line in lines:
                found = json.loads(line)
                if isinstance(found, dict):
                    self.skipped.update(found)
                else:
                    yield from found


class ListSource(Named):
    """Lists the files that a text or CSV file names."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        mode = status_of(uri).st_mode
        # A pipe that nobody writes into would be waited for.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ArchiveError("unsupported", f"{uri} is no file, and so no list of paths")
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

    def listed(self) -> bytes | None:
        """The paths that it names, gzip: lines of JSON, the last of which counts what is skipped.

        Memory does not grow with them, but for what is returned. Raises ArchiveError.
        """
        self.skipped.clear()
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=_LEVEL, mtime=0) as lines:
            paths = self._paths()
            while batch := list(itertools.islice(paths, _BATCH)):
                lines.write(_line(batch))
            lines.write(_line(dict(self.skipped)))
        return packed.getvalue()

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
        if "\0" in head.decode(table.encoding_of(head), "replace"):
            raise self._no_list("no text; give an archive or a film by itself, without --list")

    def _paths(self) -> Iterator[str]:
        is_table = Path(self.uri).suffix.lower() in (".csv", ".tsv") or self._has_head()
        with contextlib.closing(_Places()) as places:
            for path in self._rows() if is_table else self._lines():
                # Each row without a path is an item that cannot be read.
                if not path or places.are_without(self._place(path)):
                    yield path
                else:
                    self.skipped["named_twice"] += 1

    def _has_head(self) -> bool:
        """Whether the first line of a text names the columns of a table, or says what parts them.

        Commas may be part of a path, so that only a head makes a table of a text.
        """
        first = self._first()
        if table.declared(first) is not None:
            return True
        if table.separator(first) is None:
            return False
        try:
            _, head = next(table.rows(io.StringIO(first, newline="")), (0, []))
        except TableError:
            return False
        return _column(head) is not None

    def _first(self) -> str:
        """The first line that is neither blank nor a comment."""
        return next((line for line in self._texts() if line.strip() and line[0] != "#"), "")

    def _lines(self) -> Iterator[str]:
        """The path of each line that has one; the others are counted."""
        self.skipped.clear()
        for line in self._texts():
            path = line.strip()
            if not path:
                self.skipped["blank_line"] += 1
            elif path[0] == "#":
                self.skipped["comment"] += 1
            else:
                yield self._meant(line)

    def _texts(self) -> Iterator[str]:
        """The lines, without what ends them."""
        with table.opened(self._fd) as text:
            for number in itertools.count(1):
                try:
                    line = text.readline(_LONGEST_LINE)
                except UnicodeError as error:
                    raise self._damaged(number, "the text is damaged or cut short") from error
                if not line:
                    return
                if len(line) == _LONGEST_LINE:
                    raise self._no_list(f"no list of paths: line {number:,} is too long for one")
                yield line.rstrip("\r\n")

    def _rows(self) -> Iterator[str]:
        """The path of each row of a table; empty rows are counted."""
        self.skipped.clear()
        separator = table.separator(self._first())
        with table.opened(self._fd) as text:
            try:
                yield from self._cells(row for _, row in table.rows(text, separator))
            except TableError as error:
                raise self._damaged(error.line, str(error)) from error

    def _damaged(self, line: int, what: str) -> ArchiveError:
        return ArchiveError(
            "corrupt",
            f"{self.uri}: line {line:,} is no row of a CSV file, nor of a list ({what}); save it "
            "again",
        )

    def _cells(self, rows: Iterator[list[str]]) -> Iterator[str]:
        filled = (row for row in rows if self._filled(row))
        head = list(itertools.islice(filled, 1 + _LOOK))
        while head and head[0][0][:1] == "#" and not self._exists(head[0][0]):
            self.skipped["comment"] += 1  # above the head
            del head[0]
        column = _column(head[0]) if head else None
        if column is not None:
            usual = head[0][column].strip().lower()
            if again := table.twice([c for c in map(str.strip, head[0]) if c.lower() == usual]):
                raise self._no_list(f"a table in which {again}")
            del head[0]
        elif head:
            column = 0
            paths = [self._meant(row[0]) for row in head]
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
            yield self._meant(row[column]) if column is not None and column < len(row) else ""

    def _filled(self, row: list[str]) -> bool:
        if any(cell.strip() for cell in row):
            return True
        self.skipped["blank_line"] += 1
        return False

    def _meant(self, name: str) -> str:
        """The path that a line or a cell names: as it is written, if there is such a file."""
        return spelling.found(name, self._exists)

    def _exists(self, path: str) -> bool:
        try:
            return bool(path) and stat.S_ISREG(examine(self._place(path))[0])
        except (OSError, ValueError):
            return False

    def _no_list(self, what: str, error: type[ArchiveError] = ArchiveError) -> ArchiveError:
        return error("unsupported", f"{self.uri}: as a list of films this is {what}")


class _Places:
    """Where the files of a list lie; kept on the disk when they are many, not in memory."""

    def __init__(self) -> None:
        # A private file that SQLite removes, and writes only what has no room in its cache.
        self._places = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._places.execute("PRAGMA journal_mode = OFF")
        self._places.execute("CREATE TABLE places (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        self._places.execute("BEGIN")

    def are_without(self, path: str) -> bool:
        """Whether this is the first path that leads there; from now on it is known."""
        plain = os.path.normpath(path)
        if ".." in path:
            plain = str(spelling.without_climbs(Path(path)))
        hashed = hashlib.blake2b(os.fsencode(plain), digest_size=16).digest()
        added = self._places.execute("INSERT OR IGNORE INTO places VALUES (?)", (hashed,))
        return added.rowcount == 1

    def close(self) -> None:
        self._places.close()


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
                _, size = self._examined(f"{self.uri}/{name}")
            except OSError:
                root.check()
                size = None  # gone already: reading it says so
            else:
                root.saw(name)
            yield member_of(name, size)


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _column(head: list[str]) -> int | None:
    """The column of paths by the table's head; None where the head names none."""
    names = [cell.strip().lower() for cell in head]
    return next((names.index(name) for name in COLUMNS if name in names), None)
