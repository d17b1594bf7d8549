"""What a night knows of the models before it: the films that went into their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.base.schema import schedules as schedules_table
from db.nightly import nights, schedules
from db.queue import training
from db.registry import models
from db.work import claims, endings
from tests.db import given


class Site:
    """Models, each of which was trained on films of its own."""

    def __init__(self, database: sa.Engine, folder: Path) -> None:
        self.database = database
        self._folder = folder
        spec = {"job": {"data": "/films"}, "night": {}}
        self.schedule_id = write(
            database,
            lambda c: schedules.add(
                c, name="nightly", cron="0 2 * * *", tz="UTC", kind="train", spec=spec,
                catch_up_s=60, created_by="tests",
            ),
        )  # fmt: skip

    def model(self, film: str, parent: int | None = None, **job: Any) -> int:
        """A model that was trained on a film, validated on a second and not shown a third."""
        job_id = given.queued(self.database, "train", **job)
        claimed = write(self.database, lambda c: claims.claim_job(c, "train", "w", given.LEASE_S))
        assert claimed is not None
        lines = [
            f"{film}.jpeg,{film}{split},NORMAL,{film},{split}" for split in ("train", "val", "test")
        ]
        dataset_id = write(
            self.database,
            lambda c: training.record_dataset(
                c, claimed.lease, digest=film * 64, root="/films", n_train=1, n_val=1,
                n_patients=1, classes={"NORMAL": 2}, notes=[],
                manifest_csv="\n".join(("path,sha256,label,patient,split", *lines)) + "\n",
            ),
        )  # fmt: skip
        new = given.model(
            self._folder, f"model-{film}", job_id=job_id, dataset_id=dataset_id, parent_id=parent
        )

        def register(connection: sa.Connection) -> int:
            number = models.register(connection, new, "w")
            endings.complete_training(connection, claimed.lease, number)
            return number

        return write(self.database, register)

    def freeze(self) -> None:
        """The schedule has chosen its films."""
        write(
            self.database,
            lambda c: c.execute(
                sa.update(schedules_table).values(
                    evaluation_id=sa.text("(SELECT MIN(id) FROM datasets)")
                )
            ),
        )

    def learned(self, *numbers: int) -> list[str]:
        """The films that these models learned."""
        found = list(nights.learned(self.database, numbers, self.schedule_id))
        assert [film.patient for film in found] == [film.sha256[0] for film in found]
        return sorted(film.sha256 for film in found)


@pytest.fixture
def site(database: sa.Engine, tmp_path: Path) -> Site:
    """A database without models, and a schedule."""
    return Site(database, tmp_path)


def test_a_model_has_learned_what_those_that_it_began_from_have_learned(site: Site) -> None:
    first = site.model("a")
    second = site.model("b", parent=first)
    third = site.model("c", parent=second)
    other = site.model("d")
    assert site.learned(third) == ["atrain", "btrain", "ctrain"]
    assert site.learned(second, other) == ["atrain", "btrain", "dtrain"]
    assert site.learned(first, first) == ["atrain"]
    assert site.learned() == []


def test_a_schedules_own_models_are_passed_over_once_it_has_frozen_films(site: Site) -> None:
    by_hand = site.model("a")
    own = site.model("b", parent=by_hand, schedule_id=site.schedule_id)
    assert site.learned(own) == ["atrain", "btrain"]
    site.freeze()
    # What it began from was there before the films were chosen.
    assert site.learned(own) == ["atrain"]


def test_of_an_imported_model_nothing_is_known(site: Site, tmp_path: Path) -> None:
    number = write(
        site.database, lambda c: models.register(c, given.model(tmp_path, "imported"), "w")
    )
    assert site.learned(number) == []
