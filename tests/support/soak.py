"""How often a test repeats what it repeats: a few times in `make test`, in full in `make soak`.

`make soak` runs what is marked `soak`, with the full numbers. `ONLY` keeps a test, or
one of its parameters, out of `make test`. `PNEUMOQ_TEST_SOAK` says which run this is: absent in
`make test`, `full` in `make soak`, `part` in `make soak PART=k`, where what takes longer than a
part may has a shorter form.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import Enum

import pytest

#: What `make test` leaves out.
ONLY = pytest.mark.soak(only=True)


class Run(Enum):
    """Which of the three runs this is."""

    QUICK = ""
    PART = "part"
    FULL = "full"


#: Read once: tests see an environment without the variables of PneumoQ.
RUN = Run(os.environ.get("PNEUMOQ_TEST_SOAK", ""))


def repetitions(quick: int, full: int, part: int | None = None) -> int:
    """How often something is repeated in this run.

    `part` is for what takes longer in full than a part of the soak may.
    """
    if RUN is Run.PART and part is not None:
        return part
    return quick if RUN is Run.QUICK else full


def of_this_run(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests that this run makes, and the others."""
    chosen: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        marks = list(item.iter_markers("soak"))
        if RUN is Run.QUICK:
            wanted = not any(mark.kwargs.get("only") for mark in marks)
        else:
            wanted = bool(marks)
        (chosen if wanted else others).append(item)
    return chosen, others
