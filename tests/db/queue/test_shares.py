"""Weights of shares."""

from __future__ import annotations

import math

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.queue import shares
from tests.db import given


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_weight_is_refused(database: sa.Engine, weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        write(database, lambda c: shares.set_weight(c, "ann", weight, "tests"))

    assert shares.listing(database) == []


def test_two_that_set_a_weight_at_the_same_moment_both_do(database: sa.Engine) -> None:
    def set_it(weight: float) -> None:
        write(database, lambda c: shares.set_weight(c, "ann", weight, "tests"))

    for _ in range(10):
        set_it(1.0)
        found = given.together(*[lambda n=n: set_it(2.0 + n) for n in range(4)])

        assert [one for one in found if isinstance(one, BaseException)] == []
        assert shares.listing(database)[0]["weight"] in (2.0, 3.0, 4.0, 5.0)
