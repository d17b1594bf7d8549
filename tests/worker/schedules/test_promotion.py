"""A new model is promoted when every kind of worker that is there has proved it, and only then."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from db.base import workers
from db.base.database import reading, write
from db.base.schema import model_labels, notices
from db.base.schema import models as models_table
from db.base.schema import schedules as schedules_table
from db.nightly import runs, schedules
from db.registry import aliases, engine_checks, models
from db.work import claims, endings
from tests.db import given
from tests.worker import samples
from trainer.card import Card
from worker import config
from worker.config import Settings
from worker.engine import choose, gate, open_engine
from worker.schedules import promotion
from worker.scoring import engine_check

CPU, GPU = "OpenVINO 1 on a processor", "TensorRT 10.3.0 on Orin (8.7)"


class Site:
    """A champion, a candidate that was not worse, and workers."""

    def __init__(self, settings: Settings, engine: sa.Engine, candidate: int) -> None:
        self.settings, self.engine, self.candidate = settings, engine, candidate

        def add(connection: sa.Connection) -> int | None:
            schedules.add(
                connection, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
                spec={"job": {"data": "/films"}, "night": {}}, catch_up_s=60, created_by="tests",
            )  # fmt: skip
            row = connection.execute(sa.select(schedules_table)).one()
            return schedules.make_run(connection, row, row.created_at, "clock")

        run_id = write(engine, add)
        assert run_id is not None
        self.run_id = run_id

        def trained(connection: sa.Connection) -> None:
            claimed = claims.claim_job(connection, "train", "t", 60.0)
            assert claimed is not None
            runs.note(
                connection, run_id, state="proving", candidate_id=candidate,
                reason="AUROC is as good", verdict={"told": "as good"},
            )  # fmt: skip
            endings.finish(connection, claimed.lease.job_id, "completed", "t")

        write(engine, trained)

    def worker(self, name: str, kind: str) -> None:
        write(
            self.engine,
            lambda c: workers.register(
                c, name, host=name, pid=1, queues="score", engine="x", versions={"proves": kind}
            ),
        )

    def claim(self, kind: str, worker: str) -> engine_checks.Due | None:
        there = workers.alive_ids(self.engine) - {worker}
        return write(self.engine, lambda c: engine_checks.claim(c, kind, worker, there))

    def decide(self, kind: str, worker: str, passed: bool, detail: str = "fp32 runs") -> bool:
        due = self.claim(kind, worker)
        assert due is not None
        return write(self.engine, lambda c: engine_checks.decide(c, due, worker, passed, detail))

    def settle(self) -> sa.RowMapping:
        promotion.run(self.settings, self.engine, "w")
        return runs.get(self.engine, self.run_id)

    @property
    def champion(self) -> int:
        return int(aliases.resolve(self.engine, aliases.CHAMPION)["id"])

    def told(self) -> list[dict[str, Any]]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(notices.c.payload)).scalars())


@pytest.fixture(params=["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return config.load(
        {"PNEUMOQ_HOME": str(tmp_path / "home"), "PNEUMOQ_DATABASE_URL": database_url}
    )


@pytest.fixture
def here(settings: Settings, database: sa.Engine, tmp_path: Path) -> Site:
    """Two models whose files hold no network, for what does not compute."""
    first, second = (
        write(database, lambda c, n=name: models.register(c, given.model(tmp_path, n), "tests"))
        for name in ("first", "second")
    )
    assert first == 1
    return Site(settings, database, second)


def test_a_model_is_promoted_once_when_every_live_kind_has_proved_it(here: Site) -> None:
    here.worker("a", CPU)
    here.worker("b", CPU)
    here.worker("g", GPU)
    assert here.settle()["state"] == "proving"
    assert here.decide(CPU, "a", True, "fp32 within 1e-07 of training")
    assert here.claim(CPU, "b") is None, "one of a kind is enough"
    assert here.settle()["state"] == "proving", "the GPU has not decided"
    assert here.decide(GPU, "g", True)
    samples_of_two = [here.settle() for _ in range(2)]
    run = samples_of_two[0]
    assert (run["outcome"], here.champion) == ("promoted", here.candidate)
    assert run["reason"] == (
        f"AUROC is as good; proved on {CPU}: fp32 within 1e-07 of training; proved on {GPU}: fp32 "
        "runs"
    )
    (told,) = here.told()
    assert (told["event"], told["text"], told["model"]) == ("promoted", "as good", here.candidate)
    with reading(here.engine) as connection:
        moves = connection.exec_driver_sql("SELECT how, run_id FROM promotions ORDER BY id").all()
    assert [tuple(move) for move in moves] == [("first", None), ("promote", here.run_id)]


def test_two_workers_that_settle_at_once_promote_once(here: Site) -> None:
    given.together(*[lambda: promotion.run(here.settings, here.engine, "w")] * 4)
    assert here.champion == here.candidate
    with reading(here.engine) as connection:
        count = connection.exec_driver_sql("SELECT COUNT(*) FROM promotions WHERE how = 'promote'")
        assert count.scalar() == 1
    assert len(here.told()) == 1


def test_one_kind_that_does_not_agree_keeps_the_champion_and_says_which(here: Site) -> None:
    here.worker("a", CPU)
    here.worker("g", GPU)
    here.decide(CPU, "a", True)
    here.decide(GPU, "g", False, "fp32 differs from training by up to 0.2 in probability")
    run = here.settle()
    assert (run["outcome"], here.champion) == ("kept", 1)
    assert run["reason"] == (
        f"it was not worse (AUROC is as good), but did not prove itself on {GPU}: fp32 differs "
        "from training by up to 0.2 in probability"
    )


def test_a_champion_that_was_changed_by_hand_meanwhile_stays(here: Site, tmp_path: Path) -> None:
    other = write(
        here.engine, lambda c: models.register(c, given.model(tmp_path, "other"), "tests")
    )
    write(here.engine, lambda c: aliases.move(c, aliases.CHAMPION, other, "kim", "mine"))
    run = here.settle()
    assert (run["outcome"], here.champion) == ("kept", other)
    assert f"the champion was changed to model {other} meanwhile" in run["reason"]


def test_a_candidate_of_other_classes_than_the_champion_is_kept(here: Site) -> None:
    with here.engine.begin() as connection:
        connection.execute(
            sa.insert(model_labels).values(model_id=here.candidate, label_no=2, name="VIRUS")
        )
    run = here.settle()
    assert (run["outcome"], here.champion) == ("kept", 1)
    assert run["reason"] == (
        f"model {here.candidate} has the classes NORMAL, PNEUMONIA, VIRUS and the disease "
        "PNEUMONIA; model 1, the champion, has the classes NORMAL, PNEUMONIA and the disease "
        f"PNEUMONIA; `pneumoq models promote {here.candidate} --other-classes` promotes it"
    )


def test_a_proof_is_taken_over_from_a_worker_that_vanished_and_given_up_after_three(
    here: Site,
) -> None:
    for name in ("a", "b", "c", "d"):
        here.worker(name, CPU)
    late = here.claim(CPU, "a")
    assert late is not None
    assert here.claim(CPU, "b") is None, "a is at it"
    for gone, following in (("a", "b"), ("b", "c")):
        write(here.engine, lambda c, g=gone: workers.deregister(c, g))
        assert here.claim(CPU, following) is not None
    written = write(here.engine, lambda c: engine_checks.decide(c, late, "a", True, "late"))
    assert not written, "it is not a's any more"
    write(here.engine, lambda c: workers.deregister(c, "c"))
    assert here.claim(CPU, "d") is None
    run = here.settle()
    assert run["outcome"] == "kept"
    assert "its worker ended each of the 3 times before it was done" in run["reason"]


def test_a_proof_that_is_handed_back_costs_no_attempt(here: Site) -> None:
    here.worker("a", CPU)
    for _ in range(5):
        due = here.claim(CPU, "a")
        assert due is not None
        write(here.engine, lambda c, d=due: engine_checks.hand_back(c, d, "a"))
    assert here.decide(CPU, "a", True)


def test_who_is_expected_back_is_waited_for_and_not_for_ever(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.worker("a", CPU)
    write(here.engine, lambda c: workers.deregister(c, "a"))
    assert here.settle()["state"] == "proving", "a scoring worker was here lately"
    monkeypatch.setattr(promotion, "CHECK_S", -timedelta(days=1).total_seconds())
    run = here.settle()
    assert (run["outcome"], here.champion) == ("kept", 1)
    assert run["reason"].endswith("on any scoring worker")


def test_a_kind_that_is_there_and_does_not_decide_is_named_when_time_is_up(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.worker("a", CPU)
    here.worker("g", GPU)
    here.decide(CPU, "a", True)
    assert here.settle()["state"] == "proving"
    monkeypatch.setattr(promotion, "CHECK_S", -3600.0)
    run = here.settle()
    assert (run["outcome"], here.champion) == ("kept", 1)
    assert run["reason"].endswith(f" on {GPU}"), "the processor has decided"
    assert [told["event"] for told in here.told()] == ["kept"]


@pytest.mark.parametrize("database_url", ["sqlite_url"], indirect=True)
def test_this_machine_proves_a_model_that_it_computes_as_training_did(
    settings: Settings, database: sa.Engine, model_file: Path, card: Card
) -> None:
    number = samples.register(database, model_file, card)

    def prove() -> tuple[bool, str]:
        choice = choose(settings)
        return engine_check.check(settings, database, "w", choice, number, threading.Event())

    assert prove() == (True, "fp32 runs"), "an imported model was never seen by PyTorch"
    engine = open_engine(model_file, batch=8, threads=1)
    said = gate.answers(engine, gate.golden(card)).scores
    engine.close()
    for off, passes in ((0.0, True), (0.01, False)):
        scores = np.clip(said + np.array([[off, -off]], np.float32), 0, 1).tolist()
        write(
            database,
            lambda c, s=scores: c.execute(
                sa.update(models_table).values(reference={"golden": {"scores": s}})
            ),
        )
        passed, detail = prove()
        assert passed is passes
    assert detail == (
        "fp32 differs from training by up to 0.01 in probability on 160 drawn films (limit 0.0001)"
    )
