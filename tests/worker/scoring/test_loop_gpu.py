"""Scoring with an engine that holds a GPU: waiting for it, giving it back, and losing it.

ONNX Runtime on the processor stands where the engine on the GPU would.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from db.base import database as connecting
from db.base.schema import shards
from db.queue import jobs
from tests.worker import samples
from tests.worker.made_up import GPU, ON_GPU
from trainer import card as cards
from worker import config
from worker.engine import Engine, EngineChoice, choose, open_engine
from worker.engine.onnx import OnnxEngine
from worker.errors import GpuLost
from worker.machine.gpu_lease import GpuLease
from worker.machine.heartbeat import Heartbeat
from worker.scoring import serving
from worker.scoring.loop import Scorer


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite only: what differs between databases is tested with them."""
    return sqlite_url


class Losing:
    """A real engine, except that the GPU is lost at one film."""

    def __init__(self, inner: Engine, poison: NDArray[np.uint8]) -> None:
        self._inner, self._poison = inner, poison

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> Any:
        if any(np.array_equal(film[0], self._poison) for film in pixels[:films]):
            raise GpuLost("CUDA says 719")
        return self._inner.submit(pixels, films)


class Site:
    """A database, and one scorer after another in this process."""

    def __init__(self, engine: sa.Engine, home: Path) -> None:
        self.settings = config.load(
            {
                "PNEUMOQ_HOME": str(home),
                "PNEUMOQ_DECODERS": "1",
                "PNEUMOQ_ENGINE_THREADS": "1",
                "PNEUMOQ_LEASE_S": "20",
            }
        )
        self.engine = engine
        self.folder = home
        self.statuses: list[str] = []
        self.heartbeat = Heartbeat(engine, "w", lease_s=20)
        self.heartbeat.start()

    def scorer(
        self, choice: EngineChoice | None = None, gpu_lease: GpuLease | None = None
    ) -> Scorer:
        """A new one, as of a new process."""
        self.stop = threading.Event()
        return Scorer(
            self.settings, self.engine, "w", self.heartbeat, self.stop, lambda times: None,
            choice=choice or choose(self.settings), gpu_lease=gpu_lease,
            set_status=self.statuses.append,
        )  # fmt: skip

    def shards(self, job_id: int) -> list[sa.RowMapping]:
        """The job's shards."""
        with connecting.reading(self.engine) as connection:
            select = sa.select(shards).where(shards.c.job_id == job_id)
            return list(connection.execute(select.order_by(shards.c.shard_no)).mappings())

    def rows(self, statement: str, job_id: int) -> list[sa.Row[Any]]:
        """The rows of a SELECT over a job."""
        with connecting.reading(self.engine) as connection:
            return list(connection.execute(sa.text(statement), {"job": job_id}))

    def events(self, job_id: int, event: str) -> list[str]:
        """What a job's history says of an event."""
        return [e["detail"] for e in jobs.events(self.engine, job_id) if e["event"] == event]


@pytest.fixture
def site(database: sa.Engine, tmp_path: Path) -> Iterator[Site]:
    """A database and a beating heart."""
    made = Site(database, tmp_path / "home")
    yield made
    made.heartbeat.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of films: several shards."""
    root = tmp_path_factory.mktemp("films")
    for name, data in samples.films(20):
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def poison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the film at which every engine loses the GPU."""
    name = sorted(file.name for file in folder.iterdir())[5]
    pixels = samples.pixels([(folder / name).read_bytes()])[0, 0]
    real = serving.open_on

    def losing(*arguments: Any, **options: Any) -> Any:
        return Losing(real(*arguments, **options), pixels)

    monkeypatch.setattr(serving, "open_on", losing)
    return name


def test_a_lost_gpu_counts_for_the_shards_that_it_was_at_and_for_no_other(
    site: Site, folder: Path, model_id: int, poison: str
) -> None:
    job_id = samples.submit_score(site.engine, model_id, folder)
    scorer = site.scorer()
    with pytest.raises(GpuLost, match="CUDA says 719"):
        scorer.drain()
    scorer.close()
    assert site.stop.is_set(), "nothing more may be claimed by this process"
    found = site.shards(job_id)
    # At once, for whoever comes next: nobody waits for a lease to run out.
    assert {row["state"] for row in found} <= {"ready", "done"}
    counted = [row for row in found if row["state"] == "ready" and row["attempts"]]
    # One lane, so one batch was being computed, of films of one shard or of two that meet.
    assert 1 <= len(counted) <= 2
    assert {row["attempts"] for row in counted} == {1}
    assert {row["last_error"] for row in counted} == {None}
    said = site.events(job_id, "gpu_lost")
    assert len(said) == len(counted)
    assert said[0].endswith("attempt 1: CUDA says 719")


def test_a_film_that_loses_the_gpu_again_and_again_is_cornered_and_costs_itself_alone(
    site: Site, folder: Path, model_id: int, poison: str
) -> None:
    job_id = samples.submit_score(site.engine, model_id, folder)
    lost = 0
    for _ in range(40):  # processes
        scorer = site.scorer()
        try:
            scorer.drain()
        except GpuLost:
            lost += 1
        scorer.close()
        if jobs.get(site.engine, job_id)["finished_at"] is not None:
            break
        with connecting.writing(site.engine) as connection:  # the back-off is over
            connection.execute(sa.update(shards).values(not_before=None))
    assert jobs.get(site.engine, job_id)["state"] == "completed_with_errors"
    errors = site.rows("SELECT name, code FROM v_item_errors WHERE job_id = :job", job_id)
    assert [(row.name, row.code) for row in errors] == [(poison, "worker_died")]
    scored = site.rows("SELECT name FROM v_predictions WHERE job_id = :job", job_id)
    assert len(scored) == len(list(folder.iterdir())) - 1
    assert 5 <= lost <= 5 + 2 * 5, "five attempts, then two for each half"


def test_a_gpu_that_is_lost_before_any_film_was_computed_counts_for_no_shard(
    site: Site, folder: Path, model_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: Any, **options: Any) -> Engine:
        raise GpuLost("CUDA says 100")

    monkeypatch.setattr(serving, "open_on", lost)
    job_id = samples.submit_score(site.engine, model_id, folder)
    scorer = site.scorer()
    with pytest.raises(GpuLost, match="CUDA says 100"):
        scorer.drain()
    scorer.close()
    found = site.shards(job_id)
    assert {(row["state"], row["attempts"]) for row in found} == {("ready", 0)}
    assert {row["last_error"] for row in found} - {None} == {"the GPU was lost: CUDA says 100"}
    assert site.events(job_id, "gpu_lost") == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """ONNX Runtime is what opens on a GPU; every engine that was opened."""
    made: list[Engine] = []

    def open_on(choice: EngineChoice, path: Path, *, precision: str, **_: Any) -> Engine:
        if choice.gpu is None:
            return open_engine(path, batch=choice.batch, threads=1, precision=precision)
        card = cards.read(path)
        made.append(OnnxEngine(path, card, gpu=None, batch=choice.batch, precision=precision))
        return made[-1]

    monkeypatch.setattr(serving, "open_on", open_on)
    return made


def test_scoring_waits_for_the_gpu_holding_nothing_and_gives_it_back_when_it_rests(
    site: Site,
    folder: Path,
    tmp_path: Path,
    model_id: int,
    opened: list[Engine],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    trainer = GpuLease(GPU.uuid, "training", tmp_path)
    assert trainer.take()
    job_id = samples.submit_score(site.engine, model_id, folder)
    scorer = site.scorer(ON_GPU, GpuLease(GPU.uuid, "scoring", tmp_path))
    thread = threading.Thread(target=scorer.drain)
    thread.start()
    samples.wait(lambda: site.statuses, "it to say that it waits")
    assert site.statuses == [f"scoring waits for the GPU, which {trainer.holder()} has"]
    assert site.statuses[0] in caplog.text
    time.sleep(0.5)
    assert jobs.get(site.engine, job_id)["state"] == "queued", "nothing is claimed meanwhile"
    trainer.release()
    thread.join(samples.PATIENCE_S)
    assert not thread.is_alive()
    assert jobs.get(site.engine, job_id)["state"] == "completed"
    assert site.statuses[-1] == f"model {model_id} in fp32"
    (text,) = site.events(job_id, "engine")
    assert text.startswith("ONNX Runtime ")
    assert "parity" in text and "on 96 films" in text

    # Warm for what comes next, until it rests.
    assert not trainer.take()
    again = samples.submit_score(site.engine, model_id, folder, spec={"force": True})
    scorer.drain()
    assert jobs.get(site.engine, again)["state"] == "completed"
    assert len(opened) == 1
    trainer.leave()
    scorer.release_gpu()
    assert opened[0]._session is None, "its memory is given back"  # type: ignore[attr-defined]
    assert trainer.take()
    trainer.release()
    once_more = samples.submit_score(site.engine, model_id, folder, spec={"force": True})
    scorer.drain()
    assert jobs.get(site.engine, once_more)["state"] == "completed"
    assert len(opened) == 2
    scorer.close()
    assert trainer.take(), "closing gives it back too"
    trainer.release()


def test_scoring_does_not_wait_for_the_gpu_where_nothing_is_due_or_when_it_is_stopped(
    site: Site, folder: Path, tmp_path: Path, model_id: int, opened: list[Engine]
) -> None:
    trainer = GpuLease(GPU.uuid, "training", tmp_path)
    assert trainer.take()
    scorer = site.scorer(ON_GPU, GpuLease(GPU.uuid, "scoring", tmp_path))
    scorer.drain()
    assert site.statuses == []
    samples.submit_score(site.engine, model_id, folder)
    thread = threading.Thread(target=scorer.drain)
    thread.start()
    samples.wait(lambda: site.statuses, "it to say that it waits")
    site.stop.set()
    thread.join(samples.PATIENCE_S)
    assert not thread.is_alive()
    scorer.close()
    # It keeps no turn either: whoever is next has it at once.
    trainer.release()
    other = GpuLease(GPU.uuid, "training", tmp_path)
    assert other.take()
    other.release()


def test_a_job_that_asks_for_another_engine_is_left_to_others(
    site: Site, folder: Path, model_id: int
) -> None:
    theirs = samples.submit_score(site.engine, model_id, folder, engine="tensorrt")
    ours = samples.submit_score(site.engine, model_id, folder, engine="onnx")
    scorer = site.scorer()
    scorer.drain()
    scorer.close()
    assert jobs.get(site.engine, ours)["state"] == "completed"
    # It is planned, which needs no engine.
    assert jobs.get(site.engine, theirs)["state"] == "running"
    assert {row["attempts"] for row in site.shards(theirs)} == {0}


def test_a_jobs_history_says_once_what_it_is_scored_with_and_why(
    site: Site, folder: Path, model_id: int
) -> None:
    job_id = samples.submit_score(site.engine, model_id, folder)
    scorer = site.scorer()
    scorer.drain()
    scorer.close()
    (text,) = site.events(job_id, "engine")
    choice = choose(site.settings)
    assert text.startswith("OpenVINO ")
    assert text.endswith(f": {choice.reason}")
    again = samples.submit_score(site.engine, model_id, folder)
    scorer = site.scorer()
    scorer.drain()
    scorer.close()
    assert site.events(again, "engine") == [], "it was answered from the first job"
