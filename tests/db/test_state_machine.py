"""Whatever is called in whatever order, each item ends in exactly one outcome."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.db.machine import Machine
from tests.support import soak

#: Random runs of 40 calls.
EXAMPLES = {
    "sqlite": soak.repetitions(quick=15, full=1000, part=60),
    "postgresql": soak.repetitions(quick=8, full=1000, part=25),
}


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_random_calls_never_lose_an_item_or_give_it_two_outcomes(database: sa.Engine) -> None:
    longer = soak.RUN is soak.Run.FULL
    run_state_machine_as_test(
        lambda: Machine(database),
        settings=settings(
            max_examples=EXAMPLES[database.dialect.name],
            stateful_step_count=40,
            deadline=None,
            derandomize=not longer,
            database=None,
            # A failure is shrunk only where somebody waits for it.
            phases=[Phase.generate, *([Phase.shrink] if longer else [])],
            # Each step asks a real database.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            print_blob=False,
        ),
    )
