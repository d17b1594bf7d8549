"""The heartbeat keeps leases alive, and notices those that are gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import workers
from db.queue import listings
from db.queue.leases import Shard
from db.queue.listings import NewShard
from db.work import claims, control
from tests.worker import samples
from worker import archive
from worker.machine import heartbeat as heartbeats
from worker.machine.heartbeat import Heartbeat

#: Short, so that a lease which is not renewed runs out within the test.
LEASE_S = 1.0


@pytest.fixture
def heartbeat(database: sa.Engine) -> Iterator[Heartbeat]:
    """A beating heart of worker `w`."""
    made = Heartbeat(database, "w", lease_s=LEASE_S)
    made.start()
    yield made
    made.end()


@pytest.fixture
def job_id(database: sa.Engine, model_id: int, tmp_path: Path) -> int:
    """A job of one folder, not planned yet."""
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.png").write_bytes(b"x")
    return samples.submit_score(database, model_id, tmp_path / "films")


def claim_job(database: sa.Engine, worker_id: str = "w") -> claims.Claimed | None:
    """Claim a job to be planned."""
    return connecting.write(database, lambda c: claims.claim_job(c, "score", worker_id, LEASE_S))


def claim_shard(database: sa.Engine, worker_id: str = "w") -> Shard | None:
    """Claim a shard."""
    return connecting.write(database, lambda c: claims.claim_shard(c, worker_id, LEASE_S))


def planned(database: sa.Engine) -> None:
    """Plan the job that is due into two shards."""
    claimed = claim_job(database)
    assert claimed is not None
    new = [NewShard(source_no=0, n_items=1, listing=archive.pack([])) for _ in range(2)]
    connecting.write(database, lambda c: listings.add(c, claimed.lease, new))
    connecting.write(database, lambda c: listings.complete(c, claimed.lease, {}))


def test_a_held_job_is_still_ours_long_after_its_lease(
    database: sa.Engine, job_id: int, heartbeat: Heartbeat
) -> None:
    claimed = claim_job(database)
    assert claimed is not None
    heartbeat.hold(claimed.lease)
    time.sleep(2 * LEASE_S)
    assert claim_job(database, "other") is None
    assert not heartbeat.lost(claimed.lease)
    heartbeat.release(claimed.lease)
    samples.wait(lambda: claim_job(database, "other"), "the lease to run out")


def test_held_shards_are_still_ours_long_after_their_lease(
    database: sa.Engine, job_id: int, heartbeat: Heartbeat
) -> None:
    planned(database)
    held = [claim_shard(database), claim_shard(database)]
    for shard in held:
        assert shard is not None
        heartbeat.hold(shard)
    time.sleep(2 * LEASE_S)
    assert claim_shard(database, "other") is None
    assert held[0] is not None
    heartbeat.release(held[0])
    samples.wait(lambda: claim_shard(database, "other"), "the first lease to run out")
    assert claim_shard(database, "other") is None
    assert held[1] is not None
    assert not heartbeat.lost(held[1])


def test_a_lease_that_another_worker_took_is_lost_and_only_that(
    database: sa.Engine, job_id: int
) -> None:
    planned(database)
    first = claim_shard(database)
    assert first is not None
    time.sleep(1.1 * LEASE_S)  # a worker that was asleep
    taken = claim_shard(database, "other")
    assert taken is not None
    assert taken.shard_no == first.shard_no
    second = claim_shard(database)
    assert second is not None
    heartbeat = Heartbeat(database, "w", lease_s=LEASE_S)
    heartbeat.hold(first)
    heartbeat.hold(second)
    heartbeat.beat()
    assert heartbeat.lost(first)
    assert not heartbeat.lost(second)
    heartbeat.release(first)
    assert not heartbeat.lost(first), "what was released is nobody's concern"


def test_a_cancelled_job_is_noticed_within_a_beat_or_two(
    database: sa.Engine, job_id: int, heartbeat: Heartbeat
) -> None:
    planned(database)
    shard = claim_shard(database)
    assert shard is not None
    heartbeat.hold(shard)
    connecting.write(database, lambda c: control.cancel(c, job_id, "tester"))
    samples.wait(lambda: heartbeat.lost(shard), "the cancel to be noticed", patience_s=5)


def test_a_cancelled_plan_or_training_is_noticed_too(
    database: sa.Engine, job_id: int, heartbeat: Heartbeat
) -> None:
    claimed = claim_job(database)
    assert claimed is not None
    heartbeat.hold(claimed.lease)
    connecting.write(database, lambda c: control.cancel(c, job_id, "tester"))
    samples.wait(lambda: heartbeat.lost(claimed.lease), "the cancel to be noticed", patience_s=5)


@pytest.fixture
def known(database: sa.Engine) -> None:
    """Worker `w` said hello long ago."""
    connecting.write(
        database,
        lambda c: workers.register(
            c, "w", host="here", pid=1, queues="score", engine=None, versions={}
        ),
    )
    with connecting.writing(database) as connection:
        connection.exec_driver_sql("UPDATE workers SET seen_at = '2020-01-01 00:00:00'")


@pytest.mark.usefixtures("known")
def test_a_beat_tells_that_the_worker_is_alive(database: sa.Engine) -> None:
    assert not workers.alive(database)
    Heartbeat(database, "w", lease_s=LEASE_S).beat()
    assert [row["id"] for row in workers.alive(database)] == ["w"]


@pytest.mark.usefixtures("known")
def test_an_error_of_the_database_does_not_stop_the_heart(
    database: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with connecting.writing(database) as connection:
        connection.exec_driver_sql("ALTER TABLE workers RENAME TO hidden")
    heartbeat = Heartbeat(database, "w", lease_s=LEASE_S)
    heartbeat.start()
    samples.wait(lambda: "a heartbeat failed" in caplog.text, "a failed beat")
    with connecting.writing(database) as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO workers")
    samples.wait(lambda: workers.alive(database), "the next beat")
    heartbeat.end()


def test_a_workers_row_says_how_its_machine_is_and_what_it_computes_with(
    database: sa.Engine,
) -> None:
    read: list[int] = []

    def health() -> dict[str, int]:
        read.append(1)
        return {"temperature_c": 60 + len(read)}

    connecting.write(
        database,
        lambda c: workers.register(
            c, "w", host="h", pid=1, queues="score", engine="TensorRT", versions={}
        ),
    )
    heart = Heartbeat(database, "w", lease_s=60.0)

    def row() -> sa.RowMapping:
        (found,) = workers.alive(database)
        return found

    heart._ask(health)
    heart.beat()
    assert (row()["health"], row()["engine"]) == ({"temperature_c": 61}, "TensorRT")
    heart.set_status("TensorRT; model 1 in fp16")
    heart.beat()
    assert row()["engine"] == "TensorRT; model 1 in fp16"
    assert row()["health"] == {"temperature_c": 61}, "a beat does not take it away"
    heart._ask(health)
    heart.beat()
    assert row()["health"] == {"temperature_c": 62}
    heart._ask(dict)
    heart.beat()
    assert row()["health"] == {}, "what is no longer told does not stand there for ever"


def test_a_machine_that_tells_nothing_leaves_its_row_alone(database: sa.Engine) -> None:
    connecting.write(
        database,
        lambda c: workers.register(
            c, "w", host="h", pid=1, queues="score", engine=None, versions={}
        ),
    )
    heart = Heartbeat(database, "w", lease_s=60.0)
    heart._ask(dict)
    heart.beat()
    (found,) = workers.alive(database)
    assert found["health"] is None


def test_a_driver_that_gives_no_answer_delays_no_renewal_and_is_told_of(
    database: sa.Engine, job_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "HEALTH_S", 0.1)
    monkeypatch.setattr(heartbeats, "SILENT_S", 0.5)
    answers = threading.Event()

    def health() -> dict[str, float]:
        answers.wait()
        return {"temperature_c": 61.0}

    connecting.write(
        database,
        lambda c: workers.register(
            c, "w", host="h", pid=1, queues="score", engine=None, versions={}
        ),
    )

    def row() -> sa.RowMapping:
        (found,) = workers.alive(database)
        return found

    claimed = claim_job(database)
    assert claimed is not None
    heart = Heartbeat(database, "w", lease_s=LEASE_S, health=health)
    heart.hold(claimed.lease)
    heart.start()
    time.sleep(2 * LEASE_S)
    assert claim_job(database, "other") is None, "it is renewed all the while"
    assert not heart.lost(claimed.lease)
    samples.wait(
        lambda: row()["health"] == {"silent": "the GPU's driver gives no answer"}, "it to be told"
    )
    answers.set()
    samples.wait(lambda: row()["health"] == {"temperature_c": 61.0}, "the driver's answer")
    answers.clear()
    time.sleep(0.3)
    began = time.monotonic()
    heart.end()
    assert time.monotonic() - began < 2, "nor does it hold up the worker's end"
    answers.set()
