"""Whatever is called in whatever order, each item ends in exactly one outcome.

`PNEUMOQ_TEST_EXAMPLES` is how many random runs are made instead of the few that CI makes, each time
others: `PNEUMOQ_TEST_EXAMPLES=5000 pytest tests/db/test_state_machine.py`.
"""

from __future__ import annotations

import os

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.db.machine import Machine

#: Random runs of 40 calls, so many that both take less than a minute.
EXAMPLES = {"sqlite": 60, "postgresql": 25}


@pytest.mark.timeout(0)
def test_random_calls_never_lose_an_item_or_give_it_two_outcomes(database: sa.Engine) -> None:
    longer = os.environ.get("PNEUMOQ_TEST_EXAMPLES")
    run_state_machine_as_test(
        lambda: Machine(database),
        settings=settings(
            max_examples=int(longer or EXAMPLES[database.dialect.name]),
            stateful_step_count=40,
            deadline=None,
            derandomize=longer is None,
            database=None,
            # A failure is shrunk only where somebody waits for it.
            phases=[Phase.generate, *([Phase.shrink] if longer else [])],
            # Each step asks a real database.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            print_blob=False,
        ),
    )
