"""Commits: a shard that cannot be written costs itself, and no other that is in hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base.schema import predictions, shards
from db.queue import listings
from db.queue.listings import NewShard
from db.queue.results import Prediction
from db.work import claims
from tests.worker import samples
from trainer.card import Card
from worker import archive, config
from worker.archive import Member
from worker.decoding.pool import Place
from worker.machine.heartbeat import Heartbeat
from worker.machine.privacy import Privacy
from worker.scoring.away import Away
from worker.scoring.commits import Commits
from worker.scoring.engine_thread import Model
from worker.scoring.shard import ShardRun


def scored(database: sa.Engine, card: Card) -> ShardRun:
    """The best shard that is due, claimed, with a prediction of its one film."""
    shard = connecting.write(database, lambda c: claims.claim_shard(c, "w", 60))
    assert shard is not None
    found = ShardRun(
        hash="blake3",
        shard=shard, card=card, model=Model(shard.model_id, "fp32"),
        place=Place(kind="folder", uri="/films", edition="1"),
        members=archive.unpack(shard.listing), privacy=Privacy(b"the key of a site"),
    )  # fmt: skip
    found.outcomes.append(
        Prediction(shard.first_item, "film.png", label_no=0, probability=0.25, positive=False)
    )
    return found


def test_a_shard_that_cannot_be_committed_is_handed_back_and_the_next_one_is_committed(
    database: sa.Engine, model_id: int, card: Card, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "films").mkdir()
    job_id = samples.submit_score(database, model_id, tmp_path / "films")
    claimed = connecting.write(database, lambda c: claims.claim_job(c, "score", "w", 60))
    assert claimed is not None
    listing = archive.pack([Member("film.png", 0, 1, 1, 0, None)])
    new = [NewShard(source_no=0, n_items=1, listing=listing)] * 2
    connecting.write(database, lambda c: listings.add(c, claimed.lease, new))
    connecting.write(database, lambda c: listings.complete(c, claimed.lease, {}))
    first, second = scored(database, card), scored(database, card)
    # What stands there already is not forgiven, whoever wrote it.
    with connecting.writing(database) as connection:
        connection.execute(
            sa.insert(predictions).values(
                job_id=job_id, item_no=first.shard.first_item, shard_no=0, name="Secretive.png",
                model_id=model_id, label_no=0, probability=0.5,
            )
        )  # fmt: skip
    settings = config.load({"PNEUMOQ_HOME": str(tmp_path / "home")})
    heartbeat = Heartbeat(database, "w", lease_s=60)
    commits = Commits(settings, database, "w", heartbeat, lambda: None, Away())
    for run in (first, second):
        commits.commit(run).result()
    commits.close()
    with connecting.reading(database) as connection:
        query = sa.select(shards).where(shards.c.job_id == job_id).order_by(shards.c.shard_no)
        bad, good = connection.execute(query).mappings().all()
    assert (bad["state"], bad["attempts"], good["state"]) == ("ready", 1, "done")
    assert bad["last_error"].startswith("committing the shard failed (")
    assert "\n" not in bad["last_error"]
    assert "Traceback" in caplog.text
