"""An error budget is a number of items or a share of the job's."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from db.queue import budget
from tests.db import given


@pytest.mark.parametrize(
    ("text", "errors", "listed", "allowed"),
    [
        ("0", 0, 10, True),
        ("0", 1, 10, False),
        (100, 100, 1000, True),
        ("5%", 50, 1000, True),
        ("5%", 51, 1000, False),
        (" 0.5 % ", 5, 1000, True),
        ("100%", 9, 9, True),
    ],
)
def test_a_budget_is_a_number_or_a_share(
    text: str | int, errors: int, listed: int, allowed: bool
) -> None:
    assert budget.parse(text).allows(errors, listed) is allowed


@pytest.mark.parametrize("text", ["", "five", "-1", "101%", "5 percent", "1.5", "%", "\u0665"])
def test_what_is_no_budget_is_refused_at_once(database: sa.Engine, text: str) -> None:
    with pytest.raises(ValueError, match="give a number of items"):
        given.queued(database, spec={"max_errors": text})
