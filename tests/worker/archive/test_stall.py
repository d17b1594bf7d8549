"""Work that is given up comes to its end later, and what it opened is given to be closed."""

from __future__ import annotations

import threading

import pytest

from tests.worker import samples
from worker.archive import apart, stall
from worker.errors import SourceTrouble


def test_what_work_returns_after_it_was_given_up_is_given_to_be_closed() -> None:
    go_on = threading.Event()
    late: list[str] = []

    def work() -> str:
        go_on.wait()
        return "opened"

    with pytest.raises(SourceTrouble, match="fell silent"):
        stall.watched(work, lambda: "/nowhere", lambda: 0.5, late.append)
    assert late == []
    go_on.set()
    samples.wait(lambda: late == ["opened"], "what came late to be given")
    samples.wait(lambda: apart.left_behind() == 0, "the thread to end")
    assert stall.watched(work, lambda: "/nowhere", lambda: 60.0, late.append) == "opened"
    assert late == ["opened"], "what is in time is given to nobody else"
