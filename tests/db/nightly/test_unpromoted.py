"""Nights in a row that promoted nothing: counted, and told once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import outbox
from db.base.database import reading, write
from db.base.schema import schedules as table
from db.nightly import ends, runs, schedules, unpromoted
from db.registry import aliases, models
from db.work import claims
from tests.db import given


class Nights:
    """A schedule, whose nights come as the test says."""

    def __init__(self, database: sa.Engine, folder: Path, **night: Any) -> None:
        self.database = database
        write(database, lambda c: models.register(c, given.model(folder, "second"), "tests"))
        self.number = write(
            database,
            lambda c: schedules.add(
                c, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
                spec={"job": {"data": "/films"}, "night": night}, catch_up_s=60,
                created_by="tests",
            ),
        )  # fmt: skip
        self.at = schedules.database_clock(database)

    def begin(self) -> int:
        self.at += timedelta(days=1)
        row = schedules.get(self.database, "nightly")
        made = write(self.database, lambda c: schedules.make_run(c, _Row(row), self.at, "clock"))
        assert made is not None
        return made

    def night(self, outcome: str, **columns: Any) -> None:
        """A night that comes to this."""
        run_id = self.begin()
        write(self.database, lambda c: runs.finish(c, run_id, outcome, "so it was", **columns))

    def promote(self, model: int) -> None:
        """Somebody changes the champion."""
        write(self.database, lambda c: aliases.move(c, aliases.CHAMPION, model, "kim", "better"))

    def told(self) -> list[dict[str, Any]]:
        """The notices about nights in a row, oldest first."""
        found = [row["payload"] for row in outbox.recent(self.database, 100)]
        return [payload for payload in reversed(found) if payload["event"] == "not_promoted"]

    def in_a_row(self) -> unpromoted.InARow:
        with reading(self.database) as connection:
            spec = schedules.get(self.database, "nightly")["spec"]
            return unpromoted.in_a_row(connection, self.number, spec)


class _Row:
    """A row's columns as attributes."""

    def __init__(self, row: sa.RowMapping) -> None:
        self.__dict__.update(row)


def test_the_notice_comes_after_so_many_nights_and_once_until_a_promotion(
    database: sa.Engine, tmp_path: Path
) -> None:
    nights = Nights(database, tmp_path, notice_after=3)
    nights.night("kept")
    nights.night("failed")
    assert nights.told() == []
    nights.night("kept")
    (told,) = nights.told()
    assert (told["schedule"], told["nights"]) == ("nightly", 3)
    assert told["text"].startswith(
        "schedule nightly: no new champion in 3 nights in a row (2 kept the champion, 1 failed); "
        "`pneumoq schedule show nightly` says why"
    )
    nights.night("kept")
    assert len(nights.told()) == 1, "not every night anew"
    assert nights.in_a_row().nights == 4
    assert nights.in_a_row().notice_at is not None

    nights.promote(2)
    assert (nights.in_a_row().nights, nights.in_a_row().notice_at) == (0, None)
    for _ in range(2):
        nights.night("kept")
    assert len(nights.told()) == 1
    nights.night("kept")
    assert len(nights.told()) == 2


def test_nights_on_which_nothing_changed_neither_count_nor_end_the_row(
    database: sa.Engine, tmp_path: Path
) -> None:
    nights = Nights(database, tmp_path, notice_after=2)
    nights.night("kept")
    for outcome in ("skipped", "missed", "cancelled"):
        nights.night(outcome)
    assert nights.told() == []
    assert nights.in_a_row().nights == 1
    nights.night("failed")
    assert len(nights.told()) == 1


def test_nights_at_whose_end_the_training_was_not_done_count(
    database: sa.Engine, tmp_path: Path
) -> None:
    nights = Nights(database, tmp_path, notice_after=2)
    run_id = nights.begin()
    for night in range(2):
        write(database, lambda c: c.exec_driver_sql("UPDATE jobs SET state = 'queued'"))
        claimed = write(database, lambda c: claims.claim_job(c, "train", "w", 60.0))
        assert claimed is not None
        write(database, lambda c, k=claimed: ends.put_aside(c, k.lease, run_id, "late"))  # type: ignore[misc]
        assert len(nights.told()) == night
    assert "2 did not end in time" in nights.told()[0]["text"]


def test_without_a_word_it_is_after_seven_and_with_0_never(
    database: sa.Engine, tmp_path: Path
) -> None:
    nights = Nights(database, tmp_path)
    for _ in range(unpromoted.NOTICE_AFTER - 1):
        nights.night("kept")
    assert nights.told() == []
    nights.night("kept")
    assert len(nights.told()) == 1
    nights.promote(2)
    never = sa.update(table).values(spec={"job": {"data": "/f"}, "night": {"notice_after": 0}})
    write(database, lambda c: c.execute(never))
    for _ in range(9):
        nights.night("kept")
    assert len(nights.told()) == 1


def test_a_promotion_by_a_clock_that_was_ahead_hides_no_nights(
    database: sa.Engine, tmp_path: Path
) -> None:
    nights = Nights(database, tmp_path, notice_after=2)
    nights.promote(2)
    given.clock_was_ahead(database, days=30)
    nights.night("kept")
    nights.night("kept")
    assert len(nights.told()) == 1


def test_nights_that_are_to_promote_nothing_count_where_they_made_no_model(
    database: sa.Engine, tmp_path: Path
) -> None:
    nights = Nights(database, tmp_path, notice_after=2, promote=False)
    for _ in range(3):
        nights.night("kept", candidate_id=2)
    assert (nights.told(), nights.in_a_row().nights) == ([], 0)
    nights.night("kept")
    nights.night("failed")
    (told,) = nights.told()
    assert told["text"] == (
        "schedule nightly: no new model in 2 nights in a row (1 made no model, 1 failed); "
        "`pneumoq schedule show nightly` says why. There is no other notice about this until a "
        "model is made"
    )
    nights.promote(2)
    assert nights.in_a_row().nights == 2, "what a person promotes is no night's model"
    nights.night("kept", candidate_id=2)
    assert (nights.in_a_row().nights, nights.in_a_row().notice_at) == (0, None)
    nights.night("failed")
    nights.night("failed")
    assert len(nights.told()) == 2
