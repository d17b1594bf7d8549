"""The disks or shares of watched folders, asked about one file after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.archive import apart
from worker.errors import NoAnswer, SourceTrouble
from worker.schedules import inbox


@dataclass(frozen=True)
class Disks:
    """The disks or shares on which a schedule's folders are, for one look."""

    folders: Sequence[Path]
    patience_s: float
    #: Paths that gave no answer, and where the share of each is mounted.
    silent: dict[str, str | None] = field(default_factory=dict)

    def ask(self, path: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of `inbox` answers about this path, as `apart.call` has it.

        Where there is no answer the folder is named: the path may name people.
        """
        folder = next(folder for folder in self.folders if Path(path).is_relative_to(folder))
        try:
            return apart.call(path, self.patience_s, function, *arguments, named=str(folder))
        except NoAnswer:
            self.silent[path] = apart.share_of(path)
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
        share = self.silent.get(path)
        beside = [path for path, place in self.silent.items() if place == share]
        return error.whose == "machine" or (share is not None and len(beside) >= apart.SILENT)
