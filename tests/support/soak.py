"""How often a test repeats what it repeats: a few times in `make test`, in full in `make soak`.

`make soak` runs what is marked `soak`, with the full numbers. `ONLY` keeps a test, or one of its
parameters, out of `make test`. Whole jobs by real processes take one database each in `make test`
and both in the soak: `database_url = soak.database_url`, and `@soak.on_postgresql`.

`SOAK` says which run this is: absent in `make test`, `full` in `make soak`, `part` in
`make soak PART=k`, where what takes longer than a part may has a shorter form.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import Enum

import pytest
from _pytest.mark import ParameterSet

#: What `make test` leaves out.
ONLY = pytest.mark.soak(only=True)


class Run(Enum):
    """Which of the three runs this is."""

    QUICK = ""
    PART = "part"
    FULL = "full"


#: Read once. It is no variable of the product, which refuses those that it does not know.
RUN = Run(os.environ.get("SOAK", ""))


def _both(first: str) -> list[ParameterSet]:
    """Both databases, of which `make test` takes the first."""
    known = {
        "sqlite": ("sqlite", [pytest.mark.soak]),
        "postgres": ("postgresql", [pytest.mark.soak, pytest.mark.postgres]),
    }
    return [
        pytest.param(name, id=called, marks=marks if name == first else [*marks, ONLY])
        for name, (called, marks) in known.items()
    ]


@pytest.fixture(params=_both("sqlite"))
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh database: in the soak both, else SQLite; see `on_postgresql`."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=_both("sqlite"))
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh, empty database, as `database_url`."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


#: For tests that `make test` makes on PostgreSQL.
on_postgresql = pytest.mark.parametrize("database_url", _both("postgres"), indirect=True)


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
