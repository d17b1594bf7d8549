"""An alias moves in one transaction with its history, goes back by it, and names one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import migrate
from db.base.database import reading, write
from db.base.errors import Conflict, NotFound
from db.base.schema import aliases as alias_table
from db.base.schema import models as models_table
from db.base.schema import notices, promotions
from db.base.schema import runs as runs_table
from db.nightly import schedules
from db.queue import jobs
from db.registry import aliases, models
from tests.db import given


def register(database: sa.Engine, folder: Path, *names: str) -> list[int]:
    """Models of these names; the database has model 1 already, which is the champion."""
    return [
        write(database, lambda c, n=name: models.register(c, given.model(folder, n), "kim@ward"))
        for name in names
    ]


def champion(database: sa.Engine) -> int:
    return int(aliases.resolve(database, aliases.CHAMPION)["id"])


def promote(database: sa.Engine, model_id: int) -> int | None:
    return write(
        database, lambda c: aliases.move(c, aliases.CHAMPION, model_id, "kim@ward", "better")
    )


def roll_back(database: sa.Engine) -> tuple[int, int]:
    return write(database, lambda c: aliases.rollback(c, aliases.CHAMPION, "kim@ward", "worse"))


def moves(database: sa.Engine) -> list[tuple[str, int, int | None]]:
    with reading(database) as connection:
        columns = (promotions.c.how, promotions.c.model_id, promotions.c.previous_id)
        found = connection.execute(sa.select(*columns).order_by(promotions.c.id))
        return [(row.how, row.model_id, row.previous_id) for row in found]


def history(database: sa.Engine, model_id: int) -> list[tuple[str, str]]:
    rows = models.detail(database, model_id)["events"]
    return [(row["event"], row["detail"]) for row in rows]


def test_a_rollback_goes_back_one_and_a_second_one_goes_back_two(
    database: sa.Engine, tmp_path: Path
) -> None:
    second, third = register(database, tmp_path, "second", "third")
    promote(database, second)
    promote(database, third)
    assert roll_back(database) == (second, third)
    assert champion(database) == second
    assert roll_back(database) == (1, second)
    assert champion(database) == 1
    with pytest.raises(Conflict, match="model 1 is the first champion there was"):
        roll_back(database)
    assert champion(database) == 1
    assert moves(database) == [
        ("first", 1, None), ("promote", second, 1), ("promote", third, second),
        ("rollback", second, third), ("rollback", 1, second),
    ]  # fmt: skip
    events = [(e["event"], e["detail"]) for e in models.detail(database, second)["events"]]
    assert ("promoted", "to champion: worse") in events
    assert ("replaced", "as champion by model 1: worse") in events
    # Whoever is promoted after a rollback took the place of the one that was gone back to.
    promote(database, third)
    assert roll_back(database) == (1, third)


def test_a_model_whose_files_may_be_gone_is_not_gone_back_to(
    database: sa.Engine, tmp_path: Path
) -> None:
    (second,) = register(database, tmp_path, "second")
    promote(database, second)
    write(
        database,
        lambda c: c.execute(
            sa.update(models_table).where(models_table.c.id == 1).values(state="retired")
        ),
    )
    with pytest.raises(Conflict, match="model 1 is retired"):
        roll_back(database)
    assert champion(database) == second
    assert moves(database)[-1] == ("promote", second, 1)


def test_two_promotions_at_the_same_moment_are_one_after_the_other(
    database: sa.Engine, tmp_path: Path
) -> None:
    second, third = register(database, tmp_path, "second", "third")
    before = given.meanwhile(
        database,
        lambda c: aliases.move(c, aliases.CHAMPION, second, "kim@ward", "better"),
        lambda: promote(database, third),
    )
    assert before == second
    assert champion(database) == third
    assert moves(database)[-2:] == [("promote", second, 1), ("promote", third, second)]


def test_the_same_model_promoted_again_is_no_move(database: sa.Engine) -> None:
    promote(database, 1)
    assert moves(database) == [("first", 1, None)]


def by_a_run(database: sa.Engine, model_id: int, **options: object) -> None:
    """Promote a model as a night does."""
    with reading(database) as connection:
        run = connection.execute(sa.select(sa.func.max(runs_table.c.id))).scalar()
    if run is None:
        write(
            database,
            lambda c: schedules.add(
                c, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
                spec={"job": {}, "night": {}}, catch_up_s=60, created_by="tests",
            ),
        )  # fmt: skip
        run = write(database, lambda c: schedules.run_now(c, "nightly"))
    write(
        database,
        lambda c: aliases.move(
            c, aliases.CHAMPION, model_id, "w", "not worse", run_id=run, **options  # type: ignore[arg-type]
        ),
    )  # fmt: skip


def anchor(database: sa.Engine) -> int | None:
    with reading(database) as connection:
        return aliases.anchor(connection)


def why(database: sa.Engine) -> str:
    with reading(database) as connection:
        return aliases.why_anchor(connection)


def test_the_anchor_is_the_champion_that_a_person_chose_last(
    database: sa.Engine, tmp_path: Path
) -> None:
    second, third, fourth = register(database, tmp_path, "second", "third", "fourth")
    assert anchor(database) == 1, "the first one there was"
    assert why(database) == "the first champion"
    by_a_run(database, second)
    by_a_run(database, third)
    assert (champion(database), anchor(database)) == (third, 1)
    before = moves(database)
    promote(database, third)
    assert anchor(database) == third, "a person stands by what a night promoted"
    assert why(database) == "the last that a person promoted"
    assert moves(database) == before
    by_a_run(database, fourth)
    assert anchor(database) == third
    assert roll_back(database) == (third, fourth)
    assert roll_back(database) == (second, third)
    assert anchor(database) == second
    promote(database, fourth)
    assert anchor(database) == fourth
    write(
        database,
        lambda c: aliases.move(c, aliases.CHAMPION, third, "kim", "as good", anchor=False),
    )
    assert (champion(database), anchor(database)) == (third, fourth)


def test_without_a_champion_there_is_no_anchor(empty: sa.Engine) -> None:
    migrate.upgrade(empty)
    assert anchor(empty) is None


def test_models_are_listed_with_since_when_the_champion_is_it(
    database: sa.Engine, tmp_path: Path
) -> None:
    (second,) = register(database, tmp_path, "second")

    def since() -> dict[int, object]:
        return {row["model_id"]: row["champion_since"] for row in models.listing(database)}

    promote(database, second)
    with reading(database) as connection:
        at = connection.execute(sa.select(sa.func.max(promotions.c.at))).scalar_one()
    assert since() == {1: None, second: at}
    promote(database, second)
    assert since() == {1: None, second: at}, "it has not moved"
    roll_back(database)
    back = since()
    assert back[second] is None
    assert isinstance(back[1], type(at))
    assert back[1] >= at


def test_jobs_that_are_submitted_or_run_keep_the_model_that_they_have(
    database: sa.Engine, tmp_path: Path
) -> None:
    running, queued = given.running(database), given.queued(database)
    (second,) = register(database, tmp_path, "second")
    promote(database, second)
    shard = given.claimed(database)
    given.commit(database, shard)
    with reading(database) as connection:
        scored = connection.exec_driver_sql("SELECT DISTINCT model_id FROM predictions").scalars()
        assert list(scored) == [1]
    assert shard.job_id == running
    assert [jobs.get(database, job)["model_id"] for job in (queued, running)] == [1, 1]


def test_hooks_are_told_of_a_promotion_by_hand_but_not_what_the_person_wrote(
    database: sa.Engine, tmp_path: Path
) -> None:
    (second,) = register(database, tmp_path, "second")
    promote(database, second)
    roll_back(database)
    with reading(database) as connection:
        payloads = list(
            connection.execute(sa.select(notices.c.payload).order_by(notices.c.id)).scalars()
        )
    assert [(t["event"], t["model"]) for t in payloads] == [("promoted", second), ("promoted", 1)]
    assert "better" not in str(payloads) and "worse" not in str(payloads)


def test_an_alias_moves_and_both_models_remember(database: sa.Engine, tmp_path: Path) -> None:
    [second] = register(database, tmp_path, "second")

    before = write(
        database, lambda c: aliases.move(c, aliases.CHAMPION, second, "kim@ward", "AUROC +0.02")
    )

    assert before == 1
    assert champion(database) == second
    assert history(database, 1)[-1] == ("replaced", "as champion by model 2: AUROC +0.02")
    assert history(database, second)[-1] == ("promoted", "to champion: AUROC +0.02")
    row = given.one(database, alias_table)
    assert (row.moved_by, row.reason) == ("kim@ward", "AUROC +0.02")
    assert row.moved_at is not None


def test_a_new_alias_replaces_nothing(database: sa.Engine) -> None:
    assert write(database, lambda c: aliases.move(c, "night", 1, "kim", "trying")) is None
    assert aliases.resolve(database, "night")["id"] == 1


def test_a_model_is_found_by_each_of_its_names(database: sa.Engine, tmp_path: Path) -> None:
    [second] = register(database, tmp_path, "second")
    sha256 = models.file_of(database, second)["sha256"]

    for reference in ("second", str(second), sha256, sha256[:8], sha256[:8].upper()):
        assert aliases.resolve(database, reference)["name"] == "second", reference
    assert aliases.resolve(database, "champion")["name"] == "first"


@pytest.mark.parametrize(
    "reference", ["nobody", "99", "9" * 40, "²", "", "%", "0", "-1", "' OR 1 = 1 --", "ü" * 300]
)
def test_an_unknown_model_is_named_with_what_to_do(database: sa.Engine, reference: str) -> None:
    with pytest.raises(NotFound, match=r"there is no model .*`pneumoq models ls` lists them"):
        aliases.resolve(database, reference)


def test_without_any_model_the_way_to_one_is_named(database: sa.Engine) -> None:
    write(database, lambda c: c.execute(sa.delete(alias_table)))

    with pytest.raises(NotFound, match="train one with `pneumoq train FOLDER`"):
        aliases.resolve(database, aliases.CHAMPION)


def test_too_few_characters_are_not_taken_for_a_file(database: sa.Engine) -> None:
    sha256 = models.file_of(database, 1)["sha256"]

    with pytest.raises(NotFound):
        aliases.resolve(database, "x" + sha256[:7])


def test_a_rollback_goes_back_through_a_model_that_was_champion_twice(
    database: sa.Engine, tmp_path: Path
) -> None:
    second, third = register(database, tmp_path, "second", "third")
    for model_id in (second, third, second):
        promote(database, model_id)
    assert [roll_back(database)[0] for _ in range(3)] == [third, second, 1]
    with pytest.raises(Conflict, match="model 1 is the first champion there was"):
        roll_back(database)


def test_an_alias_moves_to_a_model_of_other_classes_or_disease_only_where_that_is_meant(
    database: sa.Engine, tmp_path: Path
) -> None:
    made = {
        "three": {"labels": ("NORMAL", "PNEUMONIA", "VIRUS")},
        "flipped": {"positive": "NORMAL"},
        "reordered": {"labels": ("PNEUMONIA", "NORMAL")},
    }
    number = {
        name: write(
            database,
            lambda c, n=name, v=values: models.register(c, given.model(tmp_path, n, **v), "kim"),
        )
        for name, values in made.items()
    }
    ours = r"model 1, the champion, has the classes NORMAL, PNEUMONIA and the disease PNEUMONIA"
    theirs = "has the classes NORMAL, PNEUMONIA, VIRUS and the disease PNEUMONIA"
    with pytest.raises(Conflict, match=f"model {number['three']} {theirs}; {ours}"):
        promote(database, number["three"])
    with pytest.raises(Conflict, match=r"and the disease NORMAL; .*--other-classes"):
        promote(database, number["flipped"])
    assert champion(database) == 1
    assert promote(database, number["reordered"]) == 1, "the same classes in another order"

    def on_purpose(connection: sa.Connection) -> int | None:
        return aliases.move(
            connection, aliases.CHAMPION, number["flipped"], "kim", "meant", other_classes=True
        )

    write(database, on_purpose)
    with pytest.raises(Conflict, match="`pneumoq models rollback --other-classes`"):
        roll_back(database)
    assert champion(database) == number["flipped"]
    back = write(
        database,
        lambda c: aliases.rollback(c, aliases.CHAMPION, "kim", "back", other_classes=True),
    )
    assert back == (number["reordered"], number["flipped"])
