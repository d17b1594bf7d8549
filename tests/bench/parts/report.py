"""What a benchmark says at its end: each claim that was measured, met or missed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class Claims:
    """The claims of one benchmark."""

    def __init__(self) -> None:
        self._missed = 0
        self._lines: list[str] = []

    def check(self, met: bool, what: str, measured: str) -> None:
        """One claim: what was to hold, what was measured, and whether that is enough."""
        self._missed += not met
        self._lines.append(f"{'met   ' if met else 'MISSED'}  {what}: {measured}")

    def end(self) -> int:
        """Print all of them; the exit status, 1 where one was missed."""
        print()
        for line in self._lines:
            print(line)
        print(flush=True)
        return 1 if self._missed else 0


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a small table: the first column to the left, the others to the right."""
    cells = [[_text(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in [list(head), *cells]:
        first = row[0].ljust(widths[0])
        print("  ".join([first, *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
    print(flush=True)


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return (
            f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}" if cell < 10 else f"{cell:.1f}"
        )
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
