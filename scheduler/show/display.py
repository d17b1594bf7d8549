"""Display: where the progress of a job is shown, and how.

A terminal has a bar at its bottom, under the curves of a training job; a pipe or a log has lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import click

from scheduler.show import curves

if TYPE_CHECKING:
    from rich.console import Group

#: Without a terminal, seconds between two lines while there is progress, and while there is none.
LINE_S, SILENT_LINE_S = 5.0, 60.0

#: Characters of the bar. Where what is said has no room beside it, it stands below.
BAR = 24


class Display(Protocol):
    """Where progress is shown."""

    def show(self, title: str, text: str, done: int, total: int | None) -> None:
        """Show where the job is now; `total` is None while it is not known."""

    def draw(self, rows: Sequence[Mapping[Any, Any]], epochs: int) -> None:
        """Show the epochs so far, of `epochs` asked for."""

    def line(self, text: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def opened(*, silent: bool = False) -> Display:
    """A bar where standard error is a terminal, else lines; with `silent`, nothing."""
    if silent:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


class Silent:
    """Shows nothing, for programs."""

    def show(self, title: str, text: str, done: int, total: int | None) -> None:
        pass

    def draw(self, rows: Sequence[Mapping[Any, Any]], epochs: int) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """A line when the job's state changes and every few seconds, for pipes and logs."""

    def __init__(self) -> None:
        self._title = ""
        self._text = ""
        self._printed_at = -SILENT_LINE_S

    def show(self, title: str, text: str, done: int, total: int | None) -> None:
        silent_s = time.monotonic() - self._printed_at
        due = silent_s >= SILENT_LINE_S or (text != self._text and silent_s >= LINE_S)
        if title != self._title or due:
            self._title, self._text, self._printed_at = title, text, time.monotonic()
            self.line(f"{title}: {text}" if text else title)

    def draw(self, rows: Sequence[Mapping[Any, Any]], epochs: int) -> None:
        """Nothing: each epoch is a line already."""

    def line(self, text: str) -> None:
        click.echo(text, err=True)

    def close(self) -> None:
        pass


class Bar:
    """A bar at the bottom of a terminal, curves above it, and lines that stay above both."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR),
            TextColumn("{task.fields[beside]}", markup=False),
            console=self._console,
        )
        self._task = self._progress.add_task("", total=None, beside="")
        self._below = ""
        self._curves: list[list[curves.Piece]] = []
        self._live = Live(
            get_renderable=self._picture, console=self._console, transient=True,
            refresh_per_second=10,
        )  # fmt: skip
        self._live.start()

    def show(self, title: str, text: str, done: int, total: int | None) -> None:
        fits = len(title) + BAR + len(text) + 3 <= self._console.width
        self._below = "" if fits else text
        self._progress.update(
            self._task, description=title, completed=done, total=total, beside=text if fits else ""
        )

    def draw(self, rows: Sequence[Mapping[Any, Any]], epochs: int) -> None:
        if self._console.encoding.startswith("utf"):
            self._curves = curves.draw(rows, epochs, self._console.width)

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._live.stop()
        # The curves stay, as the lines do.
        for line in self._drawn():
            self._console.print(line, highlight=False, soft_wrap=True)

    def _picture(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        below = [Text(self._below, no_wrap=True, overflow="ellipsis")] if self._below else []
        return Group(*self._drawn(), self._progress, *below)

    def _drawn(self) -> list[Any]:
        from rich.text import Text

        return [Text.assemble(*line) for line in self._curves]
