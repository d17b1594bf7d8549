"""Training jobs in processes of their own, which are killed, cancelled and stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch

from db.base import database as connecting
from db.base import workers
from db.base.schema import datasets
from db.queue import jobs
from db.queue import training as rows
from db.registry import aliases, engines, models
from db.work import control
from tests.support import chance, soak
from tests.support import processes as running
from tests.support.broken import mounts
from tests.support.broken.disk import fill, small_disk
from tests.support.paths import ROOT
from tests.trainer import samples as films
from tests.worker import samples
from trainer import checkpoint
from trainer.card import Card
from trainer.judging import parity
from worker import config
from worker.config import Settings
from worker.engine import open_engine, store
from worker.machine.heartbeat import Heartbeat
from worker.training import attempt, loop, process

#: How often a training process is killed.
KILLS = soak.repetitions(quick=2, full=5)
#: Of how many epochs, so that it is not over before.
LONGER = soak.repetitions(quick=7, full=14)

#: More epochs than any test waits for.
ENDLESS = 10_000

#: What is asked of these is what becomes of a job, not how good its model is.
narrow = pytest.mark.usefixtures("narrow")


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, where a test does not say otherwise: a training takes seconds."""
    url: str = request.getfixturevalue(getattr(request, "param", "sqlite_url"))
    return url


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A home of its own."""
    return config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DATABASE_URL": database_url,
            "PNEUMOQ_TRAIN_THREADS": "1",
            "PNEUMOQ_LEASE_S": "5",
        }
    )


class Trainer:
    """A worker's training, and what can happen to it."""

    def __init__(self, settings: Settings, engine: sa.Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.stop = threading.Event()
        self.heartbeat = Heartbeat(engine, "w", lease_s=settings.lease_s)
        self.heartbeat.start()

    def submit(self, *data: Path, parent: int | None = None, **spec: Any) -> int:
        """Submit a training job; its number."""
        sources = [str(path) for path in data]
        chosen = {**samples.TRAINING, "data": sources[0] if len(sources) == 1 else sources, **spec}
        return connecting.write(
            self.engine,
            lambda c: jobs.submit(
                c, kind="train", spec=chosen, submitted_by="tests", parent_job_id=parent
            ),
        )

    def folder(self, job_id: int) -> Path:
        """Where a job's attempts are."""
        return self.settings.home / "training" / f"job-{job_id}"

    def notes(self, job_id: int) -> list[str]:
        """What its training processes had to say."""
        return [detail for event, detail in self.events(job_id) if event == "note"]

    def work(self) -> bool:
        """Train what is due; whether more urgent scoring is to go first."""
        return loop.Trainer(self.settings, self.engine, "w", self.heartbeat, self.stop).drain()

    @contextmanager
    def working(self) -> Iterator[threading.Thread]:
        """Train what is due in a thread, which has ended at the end of the block."""
        thread = threading.Thread(target=self.work)
        thread.start()
        yield thread
        thread.join(samples.PATIENCE_S)
        assert not thread.is_alive()

    def job(self, job_id: int) -> sa.RowMapping:
        """The job's row."""
        return jobs.get(self.engine, job_id)

    def epochs(self, job_id: int) -> list[int]:
        """The epochs that are rows."""
        return [row["epoch"] for row in rows.epoch_rows(self.engine, job_id)]

    def events(self, job_id: int) -> list[tuple[str, str]]:
        """The job's history."""
        return [(e["event"], e["detail"] or "") for e in jobs.events(self.engine, job_id)]

    def no_wait(self, job_id: int) -> None:
        """Let the wait before the next attempt be over."""
        with connecting.writing(self.engine) as connection:
            connection.exec_driver_sql(f"UPDATE jobs SET not_before = NULL WHERE id = {job_id}")


@pytest.fixture
def trainer(settings: Settings, database: sa.Engine) -> Iterator[Trainer]:
    """A trainer with a beating heart."""
    made = Trainer(settings, database)
    yield made
    made.stop.set()
    made.heartbeat.end()


def children(parent: int | None = None) -> list[int]:
    """Training processes, real or not, of this process, or of another."""
    return running.children(parent or os.getpid(), process.CHILD)


@narrow
@pytest.mark.parametrize(
    "database_url",
    ["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.postgres)],
    indirect=True,
)
def test_a_job_becomes_epochs_a_dataset_and_a_model_that_can_be_run(
    trainer: Trainer, labelled: Path
) -> None:
    model_dir = trainer.settings.home / "models" / "new"
    job_id = trainer.submit(
        labelled, epochs=2, operating_point="sensitivity=0.9", model_dir=str(model_dir)
    )
    trainer.work()
    job = trainer.job(job_id)
    assert job["state"] == "completed", job["reason"]
    assert job["finished_at"] is not None
    assert trainer.epochs(job_id) == [1, 2]
    first = rows.epoch_rows(trainer.engine, job_id)[0]
    assert first["train_loss"] > 0
    assert 0 <= first["val_auroc"] <= 1
    assert first["learning_rate"] > 0
    assert first["val_auroc_low"] <= first["val_auroc"] <= first["val_auroc_high"]
    counts = ("true_positive", "false_positive", "true_negative", "false_negative")
    with connecting.reading(trainer.engine) as connection:
        dataset = connection.execute(sa.select(datasets)).mappings().one()
    assert dataset["id"] == job["dataset_id"]
    assert dataset["root"] == str(labelled)
    assert dataset["n_patients"] == 12
    films = sum(1 for p in labelled.rglob("*") if p.is_file())
    assert sum(first[f"val_{name}"] for name in counts) == dataset["n_val"]
    assert dataset["n_train"] + dataset["n_val"] == films == sum(dataset["classes"].values())

    model = aliases.resolve(trainer.engine, aliases.CHAMPION)
    assert (model["id"], model["name"]) == (job["model_id"], f"resnet18-job{job_id}")
    assert (model["job_id"], model["dataset_id"]) == (job_id, dataset["id"])
    hanging = models.detail(trainer.engine, model["id"])
    engine, *others = hanging["engines"]
    assert (engine["backend"], engine["precision"], engine["passed"]) == ("openvino", "fp32", True)
    assert engine["options"]["films_per_s"] > 0
    assert 0 <= engine["parity_delta"] < 1e-4
    assert engine["worker_id"] == "w"
    # What passed has a file; what did not, only a note with the reason.
    passed = {row["precision"] for row in others if row["passed"]}
    assert {f["precision"] for f in hanging["files"]} == {"fp32", *(passed & {"fp16", "int8"})}
    for row in others:
        found = row["options"]
        assert found["films"] == dataset["n_val"]
        near = found["agreement"] >= 0.995 and found["delta_p99"] <= 0.02
        assert row["passed"] == (near and found["films"] >= parity.LEAST)
    notes = [detail for event, detail in trainer.events(job_id) if event == "note"]
    for precision in ("fp16", "int8"):
        (verdict,) = [note for note in notes if note.startswith(precision)]
        assert ("passed: " in verdict) == (precision in passed)
        assert f"of {dataset['n_val']} decisions differ from fp32" in verdict
    assert any("overfitting" in note for note in notes)
    delivered = {path.name for path in model_dir.iterdir()}
    assert {"model.onnx", "labels.txt", "best.pth", "tensorboard"} <= delivered
    assert len(delivered) == 3 + len(hanging["files"])
    assert (model_dir / "labels.txt").read_text() == "NORMAL\nPNEUMONIA\n"
    curves = b"".join(path.read_bytes() for path in (model_dir / "tensorboard").iterdir())
    for name in (b"Loss/train", b"Accuracy/train", b"Loss/val", b"Accuracy/val", b"AUROC/val"):
        assert curves.count(name) == 2
    best = engines.best_precision(trainer.engine, model["id"])
    assert best == next((p for p in ("int8", "bf16") if p in passed), "fp32")

    (evaluation,) = hanging["evaluations"]
    assert (evaluation["split"], evaluation["n_films"]) == ("validation", dataset["n_val"])
    assert "auroc" in evaluation["metrics"]
    assert evaluation["metrics"]["basis"].startswith("cross-fitted over patients: of each of ")
    worst = evaluation["shift"]["worst"]
    assert evaluation["shift_worst"] == worst["name"]
    assert evaluation["shift_worst_auroc"] == worst["auroc"]
    assert any(note.startswith("held-out films dressed: AUROC") for note in notes)

    path = store.fetch(trainer.engine, trainer.settings.home, model["id"])
    opened = open_engine(path, batch=2, threads=1)
    card: Card = opened.card
    assert (card.positive, card.size) == ("PNEUMONIA", 32)
    assert card.threshold_rule.startswith("sensitivity=0.9")
    for name in ("threshold", "temperature", "ood_threshold", "metrics", "film_rule"):
        assert model[name] == getattr(card, name)
    assert evaluation["shift"] == card.shift
    opened.close()
    assert not children()

    reference = model["reference"]
    assert (reference["of"], reference["n"]) == ("validation", dataset["n_val"])
    assert len(reference["histogram"]) == 20
    assert sum(reference["histogram"]) == dataset["n_val"]
    assert 0 <= reference["unusual"] <= dataset["n_val"] * 0.2
    assert "golden" not in reference, "nobody proves a model that a person chooses"


def test_a_folder_that_cannot_be_trained_on_fails_the_job_at_once_and_says_why(
    trainer: Trainer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (data / "NORMAL").mkdir(parents=True)
    (data / "NORMAL" / "a.jpeg").write_bytes(samples.films(1)[0][1])
    only_one, gone = trainer.submit(data), trainer.submit(tmp_path / "gone")
    trainer.work()
    for job_id, folder in ((only_one, data), (gone, tmp_path / "gone")):
        job = trainer.job(job_id)
        assert job["state"] == "failed"
        assert (job["attempts"], job["model_id"]) == (1, None)
        assert str(folder) in job["reason"]
        assert "\n" not in job["reason"]
        assert [e for e, _ in trainer.events(job_id)] == ["submitted", "running", "failed"]


@narrow
def test_a_job_trains_on_several_sources_with_corrected_labels(
    trainer: Trainer, labelled: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new" / "NORMAL"
    new.mkdir(parents=True)
    (new / "one more.jpeg").write_bytes(samples.films(1, seed=7)[0][1])
    film = next(labelled.rglob("NORMAL/*")).relative_to(labelled)
    table = tmp_path / "fixed.csv"
    table.write_text(f"path,label\n{film},PNEUMONIA\n")
    job_id = trainer.submit(labelled, new.parent, corrections=str(table))
    trainer.work()
    assert trainer.job(job_id)["state"] == "completed", trainer.job(job_id)["reason"]
    with connecting.reading(trainer.engine) as connection:
        kept = connection.execute(sa.select(datasets)).mappings().one()
    text = zlib.decompress(kept["manifest"]).decode()
    assert f"{film},PNEUMONIA," in text
    assert "one more.jpeg,NORMAL," in text
    assert "The corrections give 1 films another label." in kept["notes"]


@narrow
def test_a_name_that_is_taken_fails_the_job_and_says_so(
    trainer: Trainer, labelled: Path, model_id: int, model_file: Path
) -> None:
    job_id = trainer.submit(labelled, name=model_file.stem)
    trainer.work()
    job = trainer.job(job_id)
    assert job["state"] == "failed"
    taken = f"model {model_id} is named '{model_file.stem}' already"
    assert job["reason"] == f"{taken}; choose another name"


@narrow
def test_a_killed_training_goes_on_where_it_was_with_its_films_though_others_came_and_went(
    trainer: Trainer, labelled: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labelled"
    shutil.copytree(labelled, folder)
    job_id = trainer.submit(folder, epochs=6)
    with trainer.working():
        samples.wait(lambda: trainer.epochs(job_id), "the first epoch")
        os.kill(children()[0], signal.SIGKILL)
    job = trainer.job(job_id)
    assert (job["state"], job["attempts"]) == ("queued", 1)
    assert ("handed_back", "the training process ended by itself (-9)") in trainer.events(job_id)
    done = len(trainer.epochs(job_id))
    assert done < 6

    dataset_id = trainer.job(job_id)["dataset_id"]
    going = min(folder.rglob("*.jpeg"))
    going.rename(going.with_name("renamed.jpeg"))
    (going.parent / "person999_bacteria_1.jpeg").write_bytes(films.film(999))

    trainer.work()
    assert trainer.job(job_id)["state"] == "queued", "the next attempt waits a little"
    trainer.no_wait(job_id)
    trainer.work()
    assert trainer.job(job_id)["state"] == "completed"
    assert trainer.epochs(job_id)[-1] == 6
    assert trainer.job(job_id)["dataset_id"] == dataset_id
    notes = [detail for event, detail in trainer.events(job_id) if event == "note"]
    continued = [n for n in notes if n.startswith("continuing after epoch")]
    # It may have been killed with an epoch finished that it had not told of yet.
    assert continued and continued[0] in [
        f"continuing after epoch {n} of 6" for n in (done, done + 1)
    ]


@narrow
def test_a_warm_start_goes_on_from_the_model_that_the_job_names_also_after_a_kill(
    trainer: Trainer, labelled: Path, tmp_path: Path
) -> None:
    model_file = tmp_path / "first.onnx"
    samples.write_model(model_file, ("NORMAL", "PNEUMONIA"), seed=1)
    model_id = samples.register(trainer.engine, model_file)
    job_id = trainer.submit(labelled, warm_start=model_id)
    with trainer.working():
        samples.wait(
            lambda: any("going on from" in note for note in trainer.notes(job_id)), "the weights"
        )
        os.kill(children()[0], signal.SIGKILL)
    assert trainer.job(job_id)["state"] == "queued"
    trainer.no_wait(job_id)
    trainer.work()
    job = trainer.job(job_id)
    assert job["state"] == "completed", job["reason"]
    model = models.get(trainer.engine, job["model_id"])
    assert model["parent_id"] == model_id
    digest = hashlib.sha256(model_file.read_bytes()).hexdigest()
    start = {"name": f"model {digest[:12]}", "sha256": digest}
    assert model["card"]["provenance"]["init"] == start
    assert aliases.resolve(trainer.engine, digest[:12])["id"] == model_id
    assert trainer.notes(job_id).count(f"going on from the weights of {start['name']}") == 2


def test_what_nobody_foresaw_fails_the_job_and_the_next_one_has_its_turn(
    trainer: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    malformed = trainer.submit(tmp_path, warm_start="no number")
    empty = trainer.submit(tmp_path)
    trainer.work()
    row = jobs.get(trainer.engine, malformed)
    assert (row["state"], row["attempts"]) == ("failed", 1)
    assert row["reason"].startswith("training failed (ValueError: invalid literal for int()")
    assert "Traceback" in caplog.text
    assert "two or more are needed" in jobs.get(trainer.engine, empty)["reason"]


def test_a_model_to_begin_from_that_is_not_there_fails_the_job_at_once_and_says_so(
    trainer: Trainer, labelled: Path
) -> None:
    job_id = trainer.submit(labelled, warm_start=9)
    trainer.work()
    job = trainer.job(job_id)
    assert (job["state"], job["attempts"], job["model_id"]) == ("failed", 1, None)
    assert job["reason"].startswith("the training cannot begin: model 9 cannot be fetched: ")


@narrow
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_job_killed_again_and_again_ends_with_the_weights_of_an_undisturbed_one(
    trainer: Trainer, labelled: Path
) -> None:
    quiet, disturbed = (
        trainer.submit(labelled, epochs=LONGER, name=n) for n in ("quiet", "disturbed")
    )
    with connecting.writing(trainer.engine) as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET priority = 1 WHERE id = {disturbed}")
    moments = chance.moments()
    for kill in range(1, KILLS + 1):
        with trainer.working():
            done = len(trainer.epochs(disturbed))
            samples.wait(children, "the training process")
            if kill > 1:  # one is killed wherever it is, the others when they have got further
                samples.wait(lambda n=done: len(trainer.epochs(disturbed)) > n, "an epoch")
            time.sleep(moments.uniform(0, 0.5))
            os.kill(children()[0], signal.SIGKILL)
            trainer.stop.set()
        trainer.stop.clear()
        trainer.no_wait(disturbed)
    trainer.work()
    assert trainer.job(disturbed)["state"] == trainer.job(quiet)["state"] == "completed"
    assert len([n for n in trainer.notes(disturbed) if "continuing after" in n]) >= KILLS - 1
    assert trainer.epochs(disturbed) == trainer.epochs(quiet)

    (ours,), (theirs,) = (
        trainer.folder(job).glob("attempt-*/best.pth") for job in (disturbed, quiet)
    )
    mine, other = checkpoint.load(ours), checkpoint.load(theirs)
    assert mine["epoch"] == other["epoch"]
    assert all(torch.equal(mine["net"][name], value) for name, value in other["net"].items())
    for row, reference in zip(
        *(rows.epoch_rows(trainer.engine, job) for job in (disturbed, quiet)), strict=True
    ):
        assert row["train_loss"] == reference["train_loss"]
        assert row["val_loss"] == reference["val_loss"]


@narrow
def test_a_cancelled_job_is_continued_by_another_where_it_was(
    trainer: Trainer, labelled: Path
) -> None:
    first = trainer.submit(labelled, epochs=ENDLESS)
    with trainer.working():
        samples.wait(lambda: trainer.epochs(first), "the first epoch")
        connecting.write(trainer.engine, lambda c: control.cancel(c, first, "tester"))
    done = len(trainer.epochs(first))
    left = {path: path.stat().st_mtime_ns for path in trainer.folder(first).rglob("*.pth")}

    second = trainer.submit(labelled, parent=first, epochs=ENDLESS)
    with trainer.working():
        samples.wait(lambda: trainer.epochs(second), "another epoch")
        connecting.write(trainer.engine, lambda c: control.cancel(c, second, "tester"))
    (note,) = [n for n in trainer.notes(second) if n.startswith("continuing after epoch")]
    assert int(note.split()[3]) >= done
    assert trainer.epochs(second)[0] > done
    assert left == {path: path.stat().st_mtime_ns for path in trainer.folder(first).rglob("*.pth")}


@narrow
def test_a_full_disk_ends_the_job_and_says_where_the_best_epoch_is(
    trainer: Trainer, labelled: Path
) -> None:
    with small_disk(500) as disk:
        trainer.settings = dataclasses.replace(trainer.settings, home=disk)
        job_id = trainer.submit(labelled, epochs=ENDLESS)
        with trainer.working():
            samples.wait(lambda: trainer.epochs(job_id), "the first epoch")
            fill(disk)
        job = trainer.job(job_id)
        (best,) = trainer.folder(job_id).glob("attempt-*/best.pth")
        assert job["state"] == "failed"
        assert "No space left on device; make room there" in job["reason"]
        assert job["reason"].endswith(f"; the best epoch's weights are kept in {best}")
        assert checkpoint.load(best)["epoch"] >= 1


def test_a_loss_that_is_no_number_ends_the_job_with_advice(
    trainer: Trainer, labelled: Path
) -> None:
    job_id = trainer.submit(labelled, lr=1e30)
    trainer.work()
    job = trainer.job(job_id)
    assert (job["state"], job["attempts"]) == ("failed", 1)
    assert "lower the learning rate (it is 1e+30)" in job["reason"]


@pytest.mark.usefixtures("stand_in")
def test_a_cancelled_job_ends_its_process_within_seconds(trainer: Trainer, labelled: Path) -> None:
    job_id = trainer.submit(labelled, epochs=ENDLESS)
    with trainer.working() as thread:
        samples.wait(lambda: trainer.epochs(job_id), "the first epoch")
        connecting.write(trainer.engine, lambda c: control.cancel(c, job_id, "tester"))
        began = time.monotonic()
        thread.join(samples.PATIENCE_S)
        assert time.monotonic() - began < 5
        assert not children()
    assert trainer.job(job_id)["state"] == "cancelled"


def test_a_training_that_waits_for_a_share_says_so(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CHILD", "tests.worker.training.reading_child")
    monkeypatch.setattr(attempt, "STALL_S", 1.0)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "films").write_bytes(b"x")
    with mounts.share(tmp_path / "real", tmp_path / "share") as share:
        share.hangs(on=["read"])
        job_id = trainer.submit(share.at / "films")
        with trainer.working():
            samples.wait(lambda: attempt.STALLED in trainer.notes(job_id), "it to say so")
            share.recovers()


@pytest.mark.usefixtures("stand_in")
def test_a_stopped_worker_hands_its_job_back_and_another_goes_on_with_it(
    trainer: Trainer, labelled: Path
) -> None:
    job_id = trainer.submit(labelled, epochs=ENDLESS)
    with trainer.working() as thread:
        samples.wait(lambda: trainer.epochs(job_id), "the first epoch")
        trainer.stop.set()
        began = time.monotonic()
        thread.join(samples.PATIENCE_S)
        assert time.monotonic() - began < process.GRACE_S
        assert not children()
    job = trainer.job(job_id)
    assert (job["state"], job["attempts"]) == ("queued", 0)
    assert ("handed_back", "the worker was stopped") in trainer.events(job_id)
    before = trainer.epochs(job_id)

    trainer.stop.clear()
    with trainer.working():
        samples.wait(lambda: len(trainer.epochs(job_id)) > len(before), "another epoch")
        connecting.write(trainer.engine, lambda c: control.cancel(c, job_id, "tester"))
    assert any("continuing after epoch" in detail for _, detail in trainer.events(job_id))


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "database_url",
    ["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.postgres)],
    indirect=True,
)
def test_two_workers_that_take_the_same_wake_up_train_a_job_once(
    settings: Settings, trainer: Trainer, labelled: Path
) -> None:
    job_id = trainer.submit(labelled)
    heart = Heartbeat(trainer.engine, "other", lease_s=settings.lease_s)
    heart.start()
    ready = threading.Barrier(2)

    def wake(worker_id: str, heartbeat: Heartbeat) -> None:
        ready.wait()
        for _ in range(2):  # a message may come twice
            loop.Trainer(settings, trainer.engine, worker_id, heartbeat, trainer.stop).drain()

    both = [
        threading.Thread(target=wake, args=args)
        for args in (("w", trainer.heartbeat), ("other", heart))
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(samples.PATIENCE_S)
    heart.end()
    assert (trainer.job(job_id)["state"], trainer.job(job_id)["attempts"]) == ("completed", 1)
    assert trainer.epochs(job_id) == [1]
    assert [event for event, _ in trainer.events(job_id)].count("running") == 1
    assert len(list(trainer.folder(job_id).glob("attempt-*"))) == 1
    assert len(models.listing(trainer.engine)) == 1


@pytest.mark.usefixtures("stand_in")
def test_a_job_that_another_worker_took_over_is_left_to_it(
    trainer: Trainer, labelled: Path
) -> None:
    job_id = trainer.submit(labelled, epochs=ENDLESS)
    with trainer.working() as thread:
        samples.wait(lambda: trainer.epochs(job_id), "the first epoch")
        with connecting.writing(trainer.engine) as connection:
            connection.exec_driver_sql(
                f"UPDATE jobs SET lease_token = lease_token + 1, worker_id = 'other' "
                f"WHERE id = {job_id}"
            )
        thread.join(samples.PATIENCE_S)
        assert not children()
    job = trainer.job(job_id)
    assert (job["state"], job["worker_id"]) == ("running", "other")


@pytest.mark.usefixtures("stand_in")
def test_training_gives_way_to_more_urgent_scoring_here_and_goes_on_after_it(
    trainer: Trainer, labelled: Path, model_id: int
) -> None:
    connecting.write(
        trainer.engine,
        lambda c: workers.register(
            c, "scorer", host=socket.gethostname(), pid=1, queues="score", engine="CPU",
            versions={},
        ),
    )  # fmt: skip
    job_id = trainer.submit(labelled, epochs=ENDLESS)
    with trainer.working():
        samples.wait(lambda: trainer.epochs(job_id), "the first epoch")
        patient = samples.submit_score(trainer.engine, model_id, labelled)
        urgent = samples.submit_score(trainer.engine, model_id, labelled, priority=1)
    reason = f"scoring job {urgent} goes first: its priority is 1, not 0"
    assert ("yielded", reason) in trainer.events(job_id)
    assert (trainer.job(job_id)["state"], trainer.job(job_id)["attempts"]) == ("queued", 0)
    assert trainer.work(), "it waits"
    assert trainer.job(job_id)["state"] == "queued"

    connecting.write(trainer.engine, lambda c: control.cancel(c, urgent, "tester"))
    before = trainer.epochs(job_id)
    with trainer.working():
        samples.wait(lambda: len(trainer.epochs(job_id)) > len(before), "another epoch")
        connecting.write(trainer.engine, lambda c: control.cancel(c, job_id, "tester"))
    assert trainer.job(patient)["state"] == "queued", "what is no more urgent was not waited for"


@narrow
def test_a_training_process_ends_when_its_worker_is_killed(
    settings: Settings, trainer: Trainer, labelled: Path, tmp_path: Path
) -> None:
    job_id = trainer.submit(labelled, epochs=ENDLESS)
    script = tmp_path / "script.py"
    script.write_text(
        "import threading\n"
        "from db.base import database\n"
        "from worker import config\n"
        "from worker.machine.heartbeat import Heartbeat\n"
        "from worker.training import loop, process\n"
        f"process.CHILD = {process.CHILD!r}\n"
        "settings = config.load()\n"
        "engine = database.connect(settings.database_url)\n"
        "heart = Heartbeat(engine, 'killed', lease_s=settings.lease_s)\n"
        "loop.Trainer(settings, engine, 'killed', heart, threading.Event()).drain()\n"
    )
    worker = subprocess.Popen(
        [sys.executable, script],
        env=config.child_environment(settings, PYTHONPATH=str(ROOT)),
    )
    try:
        samples.wait(lambda: trainer.epochs(job_id), "the first epoch")
        (child,) = children(worker.pid)
    finally:
        worker.kill()
        worker.wait()
    samples.wait(lambda: not Path(f"/proc/{child}").exists(), "the training process to end")
    connecting.write(trainer.engine, lambda c: control.cancel(c, job_id, "tester"))
