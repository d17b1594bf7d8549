"""The disks or shares of watched folders, asked about one file after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from db.nightly.watched import Seen
from worker.archive import apart
from worker.archive.shares import share_of
from worker.errors import NoAnswer, SourceTrouble
from worker.schedules import inbox

#: More entries of a folder than these that give no answer are a folder that gives none.
ASIDE = 4


@dataclass(frozen=True)
class Disks:
    """The disks or shares on which a schedule's folders are, for one look."""

    folders: Sequence[Path]
    patience_s: float
    #: Paths that gave no answer, and where the share of each is mounted.
    silent: dict[str, str | None] = field(default_factory=dict)

    def files(self, folder: Path) -> tuple[list[Seen], list[str]]:
        """What `inbox.files` finds below a folder, and what was put aside.

        That is what alone gave no answer, lately or now. Raises SourceTrouble, also where that is
        more than ASIDE.
        """
        path = str(folder)
        aside = apart.aside(path)
        if len(aside) > ASIDE:
            raise apart.no_answer(path, self.patience_s)
        while True:
            try:
                found = apart.each(path, self.patience_s, inbox.files, path, aside)
                return [Seen(*entry) for entry in found], aside
            except NoAnswer as error:
                if error.at in (None, path) or error.at in aside or len(aside) >= ASIDE:
                    raise
                aside.append(error.at)

    def ask(self, path: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of `inbox` answers about this path, as `apart.call` has it.

        Where there is no answer the folder is named: the path may name people.
        """
        folder = next(folder for folder in self.folders if Path(path).is_relative_to(folder))
        try:
            return apart.call(path, self.patience_s, function, *arguments, named=str(folder))
        except NoAnswer:
            self.silent[path] = share_of(path)
            raise

    def can_read(self, path: str) -> bool:
        """Whether a file can be read now; raises SourceTrouble where nothing of its share can."""
        try:
            return bool(self.ask(path, inbox.can_be_read, path))
        except SourceTrouble as error:
            if self.all_troubled(error, path):
                raise
            return False

    def all_troubled(self, error: SourceTrouble, path: str) -> bool:
        """Whether the trouble with a file is its whole share's, or this machine's."""
        return error.whose == "machine" or apart.is_silent(self.silent.get(path))
