"""The table of the faults, after the tests."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.mutants import faults


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What became of each fault, and what told."""
    reports: list[pytest.TestReport] = [
        report
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
        if report.when == "call"
    ]
    rows = [
        (*value, report.duration)
        for report in reports
        for key, value in report.user_properties
        if key == "mutant"
    ]
    if not rows:
        return
    seed, _ = faults.load()
    terminalreporter.section(f"faults (those drawn: seed {seed})")
    for name, result, why, seconds in sorted(rows):
        terminalreporter.write_line(f"{result:<10} {name:<44} {seconds:5.0f} s  {why}")
    counts = Counter(result for _, result, _, _ in rows)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("caught", "SURVIVED", "equivalent"))
    terminalreporter.write_line(f"{len(rows)} faults: {told}")
