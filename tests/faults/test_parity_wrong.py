"""A machine that computes wrongly keeps a new model from being promoted, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base.database import write
from db.base.schema import models as models_table
from db.base.schema import schedules as schedules_table
from db.nightly import runs, schedules
from db.registry import aliases
from db.work import claims, endings
from tests.faults import made_up_gpu
from tests.support.site import Site
from tests.worker import samples
from trainer.card import Card
from worker.engine import choose, gate, open_engine


def a_candidate(site: Site, file: Path, card: Card) -> int:
    """A run whose new model was not worse, with what training said of drawn films; its number."""
    number = samples.register(site.engine, file, card)
    engine = open_engine(file, batch=8, threads=1)
    scores = gate.answers(engine, gate.golden(card)).scores.tolist()
    engine.close()

    def make(connection: sa.Connection) -> int:
        connection.execute(
            sa.update(models_table)
            .where(models_table.c.id == number)
            .values(reference={"golden": {"scores": scores}})
        )
        schedules.add(
            connection, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
            spec={"job": {"data": "/films"}, "night": {}}, catch_up_s=60, created_by="tests",
        )  # fmt: skip
        row = connection.execute(sa.select(schedules_table)).one()
        run_id = schedules.make_run(connection, row, row.created_at, "clock")
        assert run_id is not None
        claimed = claims.claim_job(connection, "train", "t", 60.0)
        assert claimed is not None
        runs.note(
            connection, run_id, state="proving", candidate_id=number, reason="AUROC is as good",
            verdict={"told": "as good"},
        )  # fmt: skip
        endings.finish(connection, claimed.lease.job_id, "completed", "t")
        return run_id

    return write(site.engine, make)


def test_a_worker_that_computes_wrongly_keeps_the_champion_and_is_named(
    here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = here
    file = tmp_path / "candidate.onnx"
    run_id = a_candidate(site, file, samples.write_model(file, ("NORMAL", "PNEUMONIA"), seed=7))
    made_up_gpu.miscompute(tmp_path / "site-packages", monkeypatch)
    site.worker()
    site.wait(lambda: runs.get(site.engine, run_id)["finished_at"], "the night to be settled")
    run = runs.get(site.engine, run_id)
    assert run["outcome"] == "kept"
    assert aliases.resolve(site.engine, aliases.CHAMPION)["id"] == 1
    kind = choose(site.settings).kind
    assert run["reason"] == (
        f"it was not worse (AUROC is as good), but did not prove itself on {kind}: fp32 differs "
        "from training by up to 0.01 in probability on 160 drawn films (limit 0.0001)"
    )
