"""Progress: nested phases become steps of one whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine import progress
from worker.engine.progress import WHOLE, Progress


def reported(act: Callable[[Progress], None], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is said of phases, however quickly they follow each other."""
    said: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(progress, "PACE_S", 0.0)
        act(Progress(lambda *now: said.append(now), lambda: False))
    return said


def test_a_phase_within_another_is_a_part_of_one_of_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(at: Progress) -> None:
        at.start("all", None, 2)
        at.start("half", "all", 4)
        at.step("half", 0)
        at.step("half", 2)
        at.finish("half")
        at.step("all", 0)
        at.finish("all")
        at.start("more", None, 10)

    assert reported(act, monkeypatch) == [
        ("all 0/2", 0, 1000),
        ("half 0/4", 0, 1000),
        ("half 1/4", 125, 1000),
        ("half 3/4", 375, 1000),
        ("all 1/2", 500, 1000),
        ("more 0/10", 500, 1000),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "step", "finish"]),
            st.sampled_from("abc"),
            st.sampled_from(["a", "b", "c", None]),
            st.integers(-1, 5),
        ),
        max_size=40,
    )
)
def test_no_order_of_phases_confuses_progress(
    events: list[tuple[str, str, str | None, int]],
) -> None:
    said: list[int] = []
    at = Progress(lambda _, step, steps: said.append(step), lambda: False)
    at_once = pytest.MonkeyPatch()
    at_once.setattr(progress, "PACE_S", 0.0)
    try:
        for what, name, parent, number in events:
            if what == "start":
                at.start(name, parent, number)
            elif what == "step":
                assert at.step(name, number)
            else:
                at.finish(name)
    finally:
        at_once.undo()
    assert said == sorted(said)
    assert all(0 <= step < WHOLE for step in said)
