"""Known faults are put into the code one at a time, and the tests must notice each.

Of each fault those tests of `make test` run that import its module. The run prints a table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.mutants import faults, reach
from tests.mutants.faults import Fault
from tests.support import soak
from tests.support.paths import ROOT

F = TypeVar("F", bound=Callable[..., object])

SEED, FAULTS = faults.load()


def _each(values: list[str]) -> list[object]:
    """Parameters that may run in different processes."""
    return [pytest.param(v, id=v, marks=pytest.mark.xdist_group(f"mutant {v}")) for v in values]


def in_soak(test: F) -> F:
    """A test that runs other tests: it is left to `make soak`, and takes as long as they do."""
    return soak.ONLY(pytest.mark.timeout(3 * faults.PATIENCE_S)(test))


@in_soak
@pytest.mark.parametrize("module", _each(sorted({f.module for f in FAULTS if not f.equivalent})))
def test_without_a_fault_the_chosen_tests_pass(module: str, tmp_path: Path) -> None:
    copy = faults.copy(tmp_path / "copy")
    assert not faults.failing(copy, reach.tests_of(module), tmp_path / "tests")


@in_soak
@pytest.mark.parametrize("name", _each([f.name for f in FAULTS]))
def test_a_fault_is_caught(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    fault = next(f for f in FAULTS if f.name == name)
    if fault.equivalent:
        record_property("mutant", (name, "equivalent", fault.equivalent))
        return
    copy = faults.copy(tmp_path / "copy")
    fault.apply(copy)
    failed = faults.failing(copy, reach.tests_of(fault.module), tmp_path / "tests")
    record_property("mutant", (name, "caught" if failed else "SURVIVED", failed.partition("\n")[0]))
    assert failed, _shown(fault)


def _shown(fault: Fault) -> str:
    return f"{fault.file}, {fault.within}: no test tells\n  {fault.old}\nfrom\n  {fault.new}"


def test_every_fault_can_still_be_put_into_the_code() -> None:
    for fault in FAULTS:
        assert fault.changed(ROOT) != (ROOT / fault.file).read_text()


def test_at_least_forty_faults_are_there_half_of_them_drawn_and_half_from_the_history() -> None:
    drawn = [fault for fault in FAULTS if not fault.commit]
    assert len(FAULTS) >= 40
    assert abs(len(drawn) - len(FAULTS) / 2) <= 2
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
