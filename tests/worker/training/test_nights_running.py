"""Several nights running with real training: a little is lost each night, or nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import schedules as schedules_table
from db.nightly import runs
from db.registry import aliases
from tests.support import soak
from tests.worker import spots
from tests.worker.training.test_night import JOB, Nights, opened

#: In one process, as the others that train.
pytestmark = [
    pytest.mark.xdist_group("nights"),
    soak.ONLY,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        soak.RUN is soak.Run.PART, reason="eight nights take longer than a part of the soak has"
    ),
]


def asked_for(nights: Nights, **job: object) -> None:
    """Let a schedule's next jobs be of other options."""
    with connecting.writing(nights.engine) as connection:
        spec = connection.execute(sa.select(schedules_table.c.spec)).scalar_one()
        connection.execute(
            sa.update(schedules_table).values(spec={**spec, "job": {**spec["job"], **job}})
        )


def by_hand(nights: Nights) -> sa.RowMapping:
    """A night although no film changed."""
    run_id = nights.begin("nightly")
    with connecting.writing(nights.engine) as connection:
        connection.execute(sa.text("UPDATE runs SET cause = 'hand' WHERE id = :id"), {"id": run_id})
    return nights.end(run_id)


def test_of_five_nights_that_each_lose_a_little_the_anchor_stops_the_third(tmp_path: Path) -> None:
    """Each night asks for some points of specificity less than the champion has.

    Most films choose the threshold: how well the few others are learned is of no account, and later
    nights leave the network nearly as it is.
    """
    spots.write(tmp_path / "chest films", 200, 1)
    judge = spots.write(tmp_path / "judge", 300, 2)
    with opened(tmp_path) as nights:
        nights.add(
            "nightly", nights.folder, evaluate_on=str(judge), margin_specificity=0.25,
            margin_sensitivity=0.25, margin_auroc=0.25,
        )  # fmt: skip
        asked_for(nights, epochs=2, val_fraction=0.9, operating_point="specificity=0.97")
        first = nights.pass_over("nightly")
        assert first["outcome"] == "promoted"
        asked_for(nights, epochs=1, warm_start=True, lr=1e-6)
        for specificity in (0.84, 0.70, 0.70, 0.70):
            asked_for(nights, operating_point=f"specificity={specificity}")
            by_hand(nights)
        told = list(reversed(nights.runs()))
        outcomes = [run["outcome"] for run in told]
        assert outcomes == ["promoted", "promoted", "kept", "kept", "kept"], [
            run["reason"] for run in told
        ]
        assert nights.champion() == told[1]["candidate_id"]
        for run in told[2:]:
            assert run["anchor_id"] == 1
            assert "that of model 1, the first champion, " in run["reason"], run["reason"]
            assert "the champion's" not in run["reason"], (
                "the champion alone would have let it pass"
            )
            assert run["verdict"]["specificity"]["low"] > -0.25
            assert run["verdict"]["anchor"]["specificity"]["low"] <= -0.25

        # A person who stands by the champion begins to count anew.
        champion = nights.champion()
        connecting.write(
            nights.engine, lambda c: aliases.move(c, aliases.CHAMPION, champion, "kim", "fine")
        )
        run = by_hand(nights)
        assert run["outcome"] == "promoted", run["reason"]
        assert run["anchor_id"] is None


def test_an_equal_model_on_enough_films_is_promoted_within_the_margins_of_every_schedule(
    tmp_path: Path,
) -> None:
    spots.write(tmp_path / "chest films", 60, 1)
    judge = spots.write(tmp_path / "judge", 1000, 2)
    with opened(tmp_path) as nights:
        nights.add(
            "nightly", nights.folder, evaluate_on=str(judge), margin_specificity=0.05,
            margin_sensitivity=0.02, margin_auroc=0.01, floor={"sensitivity": 0.05},
        )  # fmt: skip
        asked_for(nights, epochs=2)
        assert nights.pass_over("nightly")["outcome"] == "promoted"
        assert JOB["seed"] == 0, "the same films by the same seed: as good as the champion"
        run = by_hand(nights)
        assert (run["outcome"], nights.champion()) == ("promoted", 2), run["reason"]
        assert run["reason"].startswith("on 2,000 frozen films of 1,000 patients the new model's")
        assert ": within every margin" in run["reason"]
        assert runs.get(nights.engine, run["id"])["verdict"]["floors"]["sensitivity"]["low"] > 0.05
