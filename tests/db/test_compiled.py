"""What SQLAlchemy knows again: statements that are used again and again are compiled once."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from scheduler.measure import stages


def test_statements_of_a_scoring_job_are_compiled_once(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that SQLAlchemy cannot know again takes longer to write than to answer."""
    work = stages.Writing(database, 1, "fp32", "patient0001/film")
    work.run()
    compiled: list[str] = []
    compiler = type(database.dialect).statement_compiler
    make = compiler.__init__

    def counted(self: Any, *given: Any, **more: Any) -> None:
        make(self, *given, **more)
        compiled.append(str(self))

    monkeypatch.setattr(compiler, "__init__", counted)
    work.run()
    assert [one for one in compiled if "SAVEPOINT" not in one] == []
