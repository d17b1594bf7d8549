"""Scoring within this process: what one shard or one model may cost the others."""

from __future__ import annotations

import io
import re
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sqlalchemy as sa
import zstandard

from db.base import database as connecting
from db.base.schema import model_chunks, shards, sources
from db.queue import jobs, leases, listings
from db.queue.listings import NewShard
from db.work import claims
from tests.worker import samples
from trainer.card import Card
from worker import archive, config
from worker.archive import Member
from worker.engine import open_engine
from worker.machine.heartbeat import Heartbeat
from worker.scoring import loop
from worker.scoring.listing import Lister
from worker.scoring.loop import Scorer

LEASE_S = 1.0


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: what differs between databases is tested with them."""
    return sqlite_url


class Scoring:
    """A scorer and its database; work goes on until nothing is due."""

    def __init__(self, engine: sa.Engine, home: Path) -> None:
        settings = config.load(
            {
                "PNEUMOQ_HOME": str(home),
                "PNEUMOQ_DECODERS": "1",
                "PNEUMOQ_ENGINE_THREADS": "1",
                "PNEUMOQ_LEASE_S": str(LEASE_S),
            }
        )
        self.engine = engine
        self.heartbeat = Heartbeat(engine, "w", lease_s=LEASE_S)
        self.heartbeat.start()
        self.scorer = Scorer(
            settings, engine, "w", self.heartbeat, threading.Event(), lambda times: None
        )

    def probabilities(self, job_id: int) -> dict[str, float]:
        """Film's name → probability."""
        with connecting.reading(self.engine) as connection:
            found = connection.execute(
                sa.text("SELECT name, probability FROM v_predictions WHERE job_id = :job"),
                {"job": job_id},
            )
            return {row.name: row.probability for row in found}

    def shards(self, job_id: int) -> list[sa.RowMapping]:
        """The job's shards."""
        with connecting.reading(self.engine) as connection:
            return list(
                connection.execute(sa.select(shards).where(shards.c.job_id == job_id)).mappings()
            )


@pytest.fixture
def scoring(database: sa.Engine, tmp_path: Path) -> Iterator[Scoring]:
    """A scorer with a beating heart."""
    made = Scoring(database, tmp_path / "home")
    yield made
    made.heartbeat.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of some films."""
    root = tmp_path_factory.mktemp("films")
    for name, data in samples.films(8):
        (root / name).write_bytes(data)
    return root


def test_what_a_shard_took_is_counted_to_whose_job_it_is(
    scoring: Scoring, folder: Path, model_id: int
) -> None:
    job_id = samples.submit_score(scoring.engine, model_id, folder, share="ann")
    began = time.monotonic()
    scoring.scorer.drain()
    took_s = time.monotonic() - began
    scoring.scorer.close()

    rows = scoring.shards(job_id)

    assert all(row["share"] == "ann" for row in rows)
    assert all(row["ends"] == pytest.approx(row["starts"] + row["seconds"]) for row in rows)
    assert 0 < sum(row["seconds"] for row in rows) <= took_s


def test_what_a_planner_wrote_is_scored_at_once_and_not_when_a_poll_or_its_plan_ends(
    scoring: Scoring, tmp_path: Path, model_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RECLAIM_S", samples.PATIENCE_S)
    monkeypatch.setattr(loop, "TICK_S", samples.PATIENCE_S)
    folder = tmp_path / "ten"
    folder.mkdir()
    for name, data in samples.films(10)[:10]:
        (folder / name).write_bytes(data)
    job_id = samples.submit_score(scoring.engine, model_id, folder)
    seen = []

    def go_on_later(self: Lister, row: sa.RowMapping, *, more: bool) -> None:
        """The plan goes on when what it wrote is scored, or after a while."""
        deadline = time.monotonic() + samples.PATIENCE_S / 2
        while not seen and time.monotonic() < deadline:
            seen.extend(s for s in [{r["state"] for r in scoring.shards(job_id)}] if s == {"done"})
            time.sleep(0.02)
        was_read(self, row, more=more)

    def begin_late(self: Lister, *source: Any) -> bool:
        """By when a claim has found nothing."""
        time.sleep(1.0)
        return begin(self, *source)

    was_read, begin = Lister._was_read, Lister._source
    monkeypatch.setattr(Lister, "_was_read", go_on_later)
    monkeypatch.setattr(Lister, "_source", begin_late)
    scoring.scorer.drain()
    scoring.scorer.close()
    assert seen == [{"done"}]
    assert jobs.get(scoring.engine, job_id)["state"] == "completed"
    assert len(scoring.probabilities(job_id)) == 10


def test_nothing_is_asked_for_again_while_nothing_new_can_be_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "RECLAIM_S", 0.2)
    nothing_due = loop._NothingDue()
    nothing_due.asked()
    nothing_due.answered(found=False)
    assert nothing_due.lasts
    nothing_due.end()
    assert not nothing_due.lasts
    nothing_due.asked()
    nothing_due.end()
    nothing_due.answered(found=False)
    assert not nothing_due.lasts, "what came after the claim was asked for, it may not have seen"
    nothing_due.asked()
    nothing_due.answered(found=False)
    samples.wait(lambda: not nothing_due.lasts, "that time to end by itself")
    nothing_due.asked()
    nothing_due.answered(found=False)
    nothing_due.asked()
    nothing_due.answered(found=True)
    assert not nothing_due.lasts


def expected(path: Path, films: Path) -> dict[str, float]:
    """What the model says of each film alone, in the batch shape of scoring."""
    engine = open_engine(path, batch=8, threads=1)
    found = {}
    for file in films.iterdir():
        pixels = samples.pixels([file.read_bytes()] * 8)
        scores = engine.submit(pixels).result().scores[0]
        found[file.name] = float(scores[engine.card.positive_index])
    engine.close()
    return found


def test_jobs_of_two_models_in_hand_at_once_each_have_their_own_answers(
    scoring: Scoring, folder: Path, model_file: Path, model_id: int, other_model: tuple[Path, Card]
) -> None:
    other_id = samples.register(scoring.engine, *other_model)
    job_ids = [
        samples.submit_score(scoring.engine, chosen, folder)
        for chosen in (model_id, other_id, model_id, other_id)
    ]
    scoring.scorer.drain()
    scoring.scorer.close()
    answers = [expected(path, folder) for path in (model_file, other_model[0])]
    for n, job_id in enumerate(job_ids):
        assert jobs.get(scoring.engine, job_id)["state"] == "completed"
        assert scoring.probabilities(job_id) == answers[n % 2]


def test_a_scorer_that_is_to_pause_ends_with_the_shards_in_hand_and_goes_on_later(
    scoring: Scoring, folder: Path, model_id: int
) -> None:
    job_id = samples.submit_score(scoring.engine, model_id, *[folder] * 12)

    def states() -> list[str]:
        return [str(row["state"]) for row in scoring.shards(job_id)]

    scoring.scorer.drain(lambda: "done" in states())
    assert set(states()) == {"done", "ready"}, "none is held"
    scoring.scorer.drain(lambda: True)
    assert "ready" in states(), "nothing more is claimed"
    scoring.scorer.drain()
    scoring.scorer.close()
    assert set(states()) == {"done"}
    assert jobs.get(scoring.engine, job_id)["state"] == "completed"
    with connecting.reading(scoring.engine) as connection:
        scored = connection.exec_driver_sql("SELECT COUNT(*) FROM predictions").scalar()
    assert scored == 12 * len(list(folder.iterdir()))


def test_shards_are_claimed_ahead_again_as_soon_as_a_plan_has_made_the_first(
    scoring: Scoring, folder: Path, model_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # While the plan is made a claim finds nothing: no other is made for so long.
    monkeypatch.setattr(loop, "RECLAIM_S", 3600.0)
    pipeline = scoring.scorer._pipeline
    in_hand = []
    add = pipeline.add

    def counted(run: Any) -> None:
        add(run)
        in_hand.append(len(pipeline.runs))

    monkeypatch.setattr(pipeline, "add", counted)
    job_id = samples.submit_score(scoring.engine, model_id, *[folder] * 12)
    scoring.scorer.drain()
    scoring.scorer.close()

    assert jobs.get(scoring.engine, job_id)["state"] == "completed"
    assert max(in_hand) > 1


def test_a_plan_that_takes_long_does_not_delay_a_pause_and_is_made_meanwhile(
    scoring: Scoring, model_id: int, tmp_path: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(2_000):
        (many / f"{number}.png").touch()
    job_id = samples.submit_score(scoring.engine, model_id, many)

    def state() -> str:
        return str(jobs.get(scoring.engine, job_id)["state"])

    scoring.scorer.drain(lambda: state() != "queued")
    assert state() == "planning"
    samples.wait(lambda: state() == "running", "the job to be planned")
    assert {row["state"] for row in scoring.shards(job_id)} == {"ready"}
    scoring.scorer.close()


def test_a_compressed_tar_that_is_read_from_its_start_is_marked_as_a_stream(
    scoring: Scoring, model_id: int, tmp_path: Path
) -> None:
    """So that one worker has it, and not each of several reads all of it."""
    path = tmp_path / "one-frame.tar.zst"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for n in range(40):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = 1 << 20
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    path.write_bytes(zstandard.compress(buffer.getvalue()))
    job_id = samples.submit_score(scoring.engine, model_id, path)
    scoring.scorer.drain(lambda: jobs.get(scoring.engine, job_id)["state"] != "queued")
    samples.wait(lambda: jobs.get(scoring.engine, job_id)["planned_at"], "the job to be planned")
    scoring.scorer.close()
    with connecting.reading(scoring.engine) as connection:
        assert connection.execute(sa.select(sources.c.streams)).scalar_one()


def with_a_damaged_listing(scoring: Scoring, folder: Path, model_id: int) -> int:
    """A job of one shard, whose listing is none."""
    new = NewShard(source_no=0, n_items=1, listing=b"no listing")
    return of_one_shard(scoring, folder, model_id, new)


def of_one_shard(scoring: Scoring, folder: Path, model_id: int, new: NewShard) -> int:
    """A job of this shard alone."""
    job_id = samples.submit_score(scoring.engine, model_id, folder)
    claimed = connecting.write(scoring.engine, lambda c: claims.claim_job(c, "score", "w", LEASE_S))
    assert claimed is not None
    connecting.write(scoring.engine, lambda c: listings.add(c, claimed.lease, [new]))
    connecting.write(scoring.engine, lambda c: listings.complete(c, claimed.lease, {}))
    return job_id


def test_a_shard_that_cannot_be_opened_is_handed_back_and_others_are_scored(
    scoring: Scoring, folder: Path, model_id: int, caplog: pytest.LogCaptureFixture
) -> None:
    bad = with_a_damaged_listing(scoring, folder, model_id)
    good = samples.submit_score(scoring.engine, model_id, folder)
    scoring.scorer.drain()
    scoring.scorer.close()
    assert jobs.get(scoring.engine, good)["state"] == "completed"
    (shard,) = scoring.shards(bad)
    assert shard["state"] == "ready"
    assert 1 <= shard["attempts"] <= leases.MAX_ATTEMPTS, "on a slow machine it is tried again"
    assert shard["last_error"].startswith("opening the shard failed (ValueError: a shard's listing")
    assert "Traceback" in caplog.text


def test_a_shard_that_cannot_even_be_given_up_fails_its_job(
    scoring: Scoring, folder: Path, model_id: int
) -> None:
    bad = with_a_damaged_listing(scoring, folder, model_id)
    used_up = sa.update(shards).where(shards.c.job_id == bad).values(attempts=leases.MAX_ATTEMPTS)
    with connecting.writing(scoring.engine) as connection:
        connection.execute(used_up)
    good = samples.submit_score(scoring.engine, model_id, folder)
    scoring.scorer.drain()
    scoring.scorer.close()
    assert jobs.get(scoring.engine, good)["state"] == "completed"
    row = jobs.get(scoring.engine, bad)
    assert row["state"] == "failed"
    assert row["reason"].startswith("giving up shard 0 failed (ValueError: a shard's listing")


def test_films_that_are_given_up_are_named_by_hashes_that_this_machine_can_trace_back(
    scoring: Scoring, folder: Path, model_id: int, tmp_path: Path
) -> None:
    members = [Member(name, 0, 1, 1, 0, None) for name in ("SMITH/IM0001", "SMITH/film.png")]
    new = NewShard(source_no=0, n_items=2, listing=archive.pack(members))
    job_id = of_one_shard(scoring, folder, model_id, new)
    used_up = sa.update(shards).values(attempts=leases.MAX_ATTEMPTS, last_error="no engine")
    with connecting.writing(scoring.engine) as connection:
        connection.execute(used_up)
    scoring.scorer.drain()
    scoring.scorer.close()
    with connecting.reading(scoring.engine) as connection:
        select = "SELECT name FROM item_errors ORDER BY item_no"
        hashed, plain = connection.exec_driver_sql(select).scalars()
    assert re.fullmatch("#[0-9a-f]{32}", hashed) and plain == "SMITH/film.png"
    kept = tmp_path / "home" / "names" / f"job-{job_id}.csv"
    assert kept.read_text().splitlines() == [f"0,{hashed},SMITH/IM0001"]


def test_a_network_that_answers_no_numbers_costs_its_own_films(
    scoring: Scoring, folder: Path, model_file: Path, model_id: int, tmp_path: Path
) -> None:
    network = onnx.load(model_file)
    (weights,) = [one for one in network.graph.initializer if one.name.endswith("fc.bias")]
    weights.raw_data = np.full(2, np.nan, np.float32).tobytes()
    onnx.save(network, tmp_path / "nan.onnx")
    nan_id = samples.register(scoring.engine, tmp_path / "nan.onnx")
    bad = samples.submit_score(scoring.engine, nan_id, folder)
    good = samples.submit_score(scoring.engine, model_id, folder)
    scoring.scorer.drain()
    scoring.scorer.close()
    assert jobs.get(scoring.engine, good)["state"] == "completed"
    assert jobs.get(scoring.engine, bad)["state"] == "completed_with_errors"
    with connecting.reading(scoring.engine) as connection:
        codes = connection.exec_driver_sql("SELECT DISTINCT code FROM item_errors").scalars().all()
    assert codes == ["no_score"]


def test_a_model_that_cannot_be_had_hands_its_shards_back_with_the_reason(
    scoring: Scoring, folder: Path, model_id: int, other_model: tuple[Path, Card]
) -> None:
    other_id = samples.register(scoring.engine, *other_model)
    with connecting.writing(scoring.engine) as connection:
        sha256 = sa.text("SELECT sha256 FROM model_files WHERE model_id = :model")
        damaged = connection.execute(sha256, {"model": other_id}).scalar()
        connection.execute(sa.delete(model_chunks).where(model_chunks.c.sha256 == damaged))
    bad = samples.submit_score(scoring.engine, other_id, folder)
    good = samples.submit_score(scoring.engine, model_id, folder)
    scoring.scorer.drain()
    scoring.scorer.close()
    assert jobs.get(scoring.engine, good)["state"] == "completed"
    assert jobs.get(scoring.engine, bad)["state"] == "running"
    for shard in scoring.shards(bad):
        assert (shard["state"], shard["attempts"]) == ("ready", 1)
        assert shard["last_error"].startswith(f"model {other_id} is damaged in the database")
