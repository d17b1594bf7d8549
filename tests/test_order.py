"""The order of the tests, which every process of a run must find by itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

#: Twenty groups whose tests take as long together, in the order in which one process has them.
_ASK = """
import itertools
from tests.support import order

class Item:
    def __init__(self, nodeid, group):
        self.nodeid, self.args = nodeid, (group,)
    def get_closest_marker(self, name):
        return self

seconds, items = {}, []
for group in range(20):
    for n, took in enumerate((0.1, 0.2, 0.3, 0.7, 1.1, 5.3)):
        seconds[f"tests/test_{group}.py::test_{n}"] = took
        items.append(Item(f"tests/test_{group}.py::test_{n}", f"{group:02}"))
print(order.ordered(order.grouped(items, seconds)))
"""


def test_every_process_finds_the_same_order_whatever_its_hash_seed() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _ASK],
            env={**os.environ, "PYTHONHASHSEED": str(seed)}, cwd=ROOT,
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in range(4)
    }  # fmt: skip
    assert found == {f"{[f'{group:02}' for group in range(20)]}\n"}


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="runs in one process")
def test_xdist_knows_the_group_of_each_test(request: pytest.FixtureRequest) -> None:
    """Else each test goes to any process, which makes anew what its file makes once."""
    assert request.node.nodeid.endswith("@tests/test_order.py")
