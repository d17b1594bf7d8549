"""Nights with real training: what becomes champion, what does not, and what a person is told.

Two sites are made once for a whole run of the tests: one that has had its first night, and one that
has had a second with more films. A test that goes on from there does so on a copy of its own.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import migrate
from db.base.schema import datasets, evaluations, notices
from db.base.schema import runs as runs_table
from db.base.schema import schedules as schedules_table
from db.nightly import nights as kept
from db.nightly import runs, schedules
from db.queue import jobs
from db.queue.leases import Lease
from db.queue.training import epoch_rows
from db.registry import aliases, engines, models
from tests.support import once, soak
from tests.worker import samples, spots
from tests.worker.training import narrow_child
from trainer.checking import checkup, unseen
from trainer.data import frozen, gathering
from trainer.data.labelled import NAMING
from worker import config
from worker.engine import gate, open_engine, store
from worker.machine.heartbeat import Heartbeat
from worker.schedules import promotion
from worker.training import loop, night, process

JOB = {
    "epochs": 3, "patience": 0, "size": 64, "batch_size": 16, "lr": 1e-3, "init": "scratch",
    "precision": "fp32", "val_fraction": 0.2, "operating_point": "youden", "ema": 0.9,
    "augment": 0.25, "positive": "PNEUMONIA", "workers": 2, "seed": 0, "naming": NAMING,
}  # fmt: skip
#: Channels of the network's first layer, a quarter of a ResNet18's.
WIDTH = 16
#: With few films what is demanded must be little.
RULES = {"margin_auroc": 0.5, "margin_sensitivity": 0.6, "margin_specificity": 0.6}

#: In one process: the others would only wait for the sites.
pytestmark = pytest.mark.xdist_group("nights")

#: Where a site keeps its films.
FILMS = "chest films"


class Nights:
    """A database, a training worker, and a clock that is turned by hand."""

    def __init__(self, root: Path) -> None:
        #: The films that the hospital adds to, and takes from.
        self.folder = root / FILMS
        home = root / "home"
        home.mkdir(exist_ok=True)
        url = f"sqlite:///{home}/pneumoq.db"
        self.settings = config.load(
            {
                "PNEUMOQ_HOME": str(home),
                "PNEUMOQ_DATABASE_URL": url,
                # Of two one would only wait for the other, as other tests compute beside this.
                "PNEUMOQ_TRAIN_THREADS": "1",
                "PNEUMOQ_ENGINE_THREADS": "1",
            }
        )
        self.engine = connecting.connect(url)
        migrate.upgrade(self.engine)
        self.heartbeat = Heartbeat(self.engine, "w", lease_s=60.0)
        self.heartbeat.start()
        # Each night follows those that were.
        last = [run["scheduled_for"] for run in self.runs()]
        self.at = max([schedules.database_clock(self.engine), *last])

    def close(self) -> None:
        """End the heartbeat, and leave one file as the database."""
        self.heartbeat.end()
        with self.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()

    def runs(self, name: str = "nightly") -> list[sa.RowMapping]:
        """A schedule's runs, newest first."""
        found = [row for row in schedules.listing(self.engine) if row["name"] == name]
        return [run for row in found for run in runs.of_schedule(self.engine, row["id"], 100)]

    def add(self, name: str, data: Path, **rules: Any) -> None:
        """Add a schedule that trains on a folder."""
        spec = {"job": {**JOB, "data": str(data)}, "night": {**RULES, **rules}}
        connecting.write(
            self.engine,
            lambda c: schedules.add(
                c, name=name, cron="0 2 * * *", tz="UTC", kind="train", spec=spec,
                catch_up_s=3600, created_by="tests",
            ),
        )  # fmt: skip

    def pass_over(self, name: str) -> sa.RowMapping:
        """Let a night come: its run is made, its job worked on, and what it made settled."""
        return self.end(self.begin(name))

    def begin(self, name: str) -> int:
        """Let a night come, on which nobody works yet; its run."""
        self.at += timedelta(days=1)
        run_id = connecting.write(self.engine, lambda c: self._run(c, name))
        assert run_id is not None
        return run_id

    def work(self, stop: threading.Event) -> None:
        """Train what is due, with a network that learns the spots as a whole one does."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process, "CHILD", narrow_child.__name__)
            for name, value in narrow_child.environment(WIDTH).items():
                patch.setenv(name, value)
            loop.Trainer(self.settings, self.engine, "w", self.heartbeat, stop).drain()

    def end(self, run_id: int) -> sa.RowMapping:
        """Work on a run's job to its end, and settle what it made."""
        self.work(threading.Event())
        promotion.run(self.settings, self.engine, "w")
        run = runs.get(self.engine, run_id)
        job = jobs.get(self.engine, run["job_id"])
        assert job["state"] == "completed", job["reason"]
        assert run["state"] == "done"
        return run

    def _run(self, connection: sa.Connection, name: str) -> int | None:
        row = connection.execute(
            sa.select(schedules_table).where(schedules_table.c.name == name)
        ).one()
        return schedules.make_run(connection, row, self.at, "clock")

    def champion(self) -> int:
        """The model in use."""
        return int(aliases.resolve(self.engine, aliases.CHAMPION)["id"])

    def count(self) -> int:
        """Models that there are."""
        return len(models.listing(self.engine))

    def told(self, run: sa.RowMapping) -> list[dict[str, Any]]:
        """What hooks are told of a run."""
        with connecting.reading(self.engine) as connection:
            found = connection.execute(
                sa.select(notices.c.payload).where(notices.c.run_id == run["id"])
            )
            return list(found.scalars())


@contextmanager
def opened(root: Path) -> Iterator[Nights]:
    """The site that lies in a folder, with its heart beating."""
    made = Nights(root)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def copied(site: Path, root: Path) -> Iterator[Nights]:
    """A copy of a site that is at rest, in a folder that does not exist yet."""
    shutil.copytree(site, root)
    with closing(sqlite3.connect(root / "home" / "pneumoq.db")) as connection, connection:
        (old,) = connection.execute(
            "SELECT json_extract(spec, '$.job.data') FROM schedules WHERE name = 'nightly'"
        ).fetchone()
        for table in ("schedules", "jobs"):
            connection.execute(
                f"UPDATE {table} SET spec = replace(spec, ?, ?)", (old, str(root / FILMS))
            )
    with opened(root) as nights:
        yield nights


@pytest.fixture(scope="session")
def first_site() -> Path:
    """A site that has had its first night: model 1 is the champion."""

    def make(root: Path) -> None:
        spots.write(root / FILMS, 60, 1)
        with opened(root) as nights:
            nights.add("nightly", nights.folder)
            nights.pass_over("nightly")

    return once.made("first night", make)


@pytest.fixture(scope="session")
def second_site(first_site: Path) -> Path:
    """A site that had a second night with twice the films: model 2 is the champion."""

    def make(root: Path) -> None:
        with copied(first_site, root) as nights:
            add_films(nights.folder, spots.write(root / "more", 60, 2))
            nights.pass_over("nightly")

    return once.made("second night", make)


@pytest.fixture
def first(first_site: Path, tmp_path: Path) -> Iterator[Nights]:
    """A copy of the site that has had its first night."""
    with copied(first_site, tmp_path / "site") as nights:
        yield nights


@pytest.fixture
def second(second_site: Path, tmp_path: Path) -> Iterator[Nights]:
    """A copy of the site that has had its second night."""
    with copied(second_site, tmp_path / "site") as nights:
        yield nights


def add_films(folder: Path, more: Path) -> None:
    """Put films of other patients among those that are there."""
    for film in more.rglob("*.png"):
        shutil.copy(film, folder / film.parent.name / film.name)


def test_the_first_night_makes_the_champion_and_freezes_films_that_are_never_trained_on(
    first: Nights,
) -> None:
    nights = first
    (run,) = nights.runs()
    assert (run["outcome"], run["reason"]) == ("promoted", "it is the first model there is")
    assert run["candidate_id"] == nights.champion() == 1
    row = schedules.get(nights.engine, "nightly")
    assert run["evaluation_id"] == row["evaluation_id"]
    judged = frozen.from_csv(kept.manifest(nights.engine, row["evaluation_id"]))
    trained = kept.dataset_of_model(nights.engine, 1)
    assert trained is not None
    learned = [film for film in kept.films(nights.engine, trained) if film.split != "test"]
    assert len(judged) == run["snapshot"]["frozen"] >= 40
    assert not {f.sha256 for f in judged} & {f.sha256 for f in learned}
    assert not {f.patient for f in judged} & {f.patient for f in learned}
    assert run["snapshot"]["films"] == 120 == len(judged) + len(learned)
    # What workers prove a model by: PyTorch's own words about drawn films.
    engine = open_engine(store.fetch(nights.engine, nights.settings.home, 1), batch=8, threads=1)
    said = gate.answers(engine, gate.golden(engine.card)).scores
    engine.close()
    golden = np.array(models.get(nights.engine, 1)["reference"]["golden"]["scores"])
    assert golden.shape == said.shape == (gate.DRAWN, 2)
    assert np.abs(golden - said).max() < gate.LIMITS["fp32"].probability
    usable = engines.usable_precisions(nights.engine, 1)
    assert usable - {"fp32"} == set(models.get(nights.engine, 1)["reference"]["golden"]) - {
        "scores"
    }


def test_a_night_on_which_nothing_changed_trains_nothing_and_says_so(first: Nights) -> None:
    nights = first
    run = nights.pass_over("nightly")
    assert run["outcome"] == "skipped"
    assert run["reason"].startswith("nothing changed in the 120 films since the run of ")
    assert run["candidate_id"] is None
    assert nights.count() == 1
    (told,) = nights.told(run)
    assert (told["event"], told["text"]) == ("skipped", run["reason"])


def test_films_that_help_make_a_model_that_is_promoted(second: Nights) -> None:
    nights = second
    run = nights.runs()[0]
    assert run["outcome"] == "promoted", run["reason"]
    assert (run["champion_id"], run["candidate_id"], nights.champion()) == (1, 2, 2)
    assert (run["snapshot"]["added"], run["snapshot"]["removed"]) == (120, 0)
    figures = run["verdict"]
    assert figures["auroc"]["candidate"] > figures["auroc"]["champion"] + 0.1
    assert f"the new model's AUROC is {figures['auroc']['candidate']:.3f}" in run["reason"]
    # Nobody scores here.
    assert run["reason"].endswith("no scoring worker was there to prove it on")
    with connecting.reading(nights.engine) as connection:
        both = connection.execute(
            sa.select(evaluations.c.model_id, evaluations.c.n_films).where(
                evaluations.c.job_id == run["job_id"], evaluations.c.split == "frozen films"
            )
        ).all()
    assert [tuple(row) for row in both] == [(2, figures["films"]), (1, figures["films"])]
    (told,) = nights.told(run)
    assert (told["event"], told["model"]) == ("promoted", 2)
    assert FILMS not in str(told)


def test_films_of_one_class_that_look_new_keep_the_champion_until_a_person_takes_the_model(
    first: Nights,
) -> None:
    nights = first
    spots.lettered(nights.folder / "PNEUMONIA", 8)
    run = nights.pass_over("nightly")
    assert (run["outcome"], run["candidate_id"], nights.champion()) == ("kept", 2, 1)
    assert "50 films of 25 patients have the same " in run["reason"]
    assert (
        ", all of them are PNEUMONIA, and the champion's films had no such group: a "
        in (run["reason"])
    )
    place = f"training/job-{run['job_id']}/groups.png"
    assert f"look at some of them in PNEUMOQ_HOME/{place} on " in run["reason"]
    assert (nights.settings.home / place).read_bytes().startswith(b"\x89PNG")
    (told,) = nights.told(run)
    assert told["event"] == "kept"
    assert "PNEUMONIA" not in told["text"] and "groups.png" not in told["text"]
    assert "50 films of 25 patients look acquired alike and are of one class" in told["text"]

    connecting.write(
        nights.engine, lambda c: aliases.move(c, aliases.CHAMPION, 2, "kim", "looked at them")
    )
    run_id = nights.begin("nightly")
    with connecting.reading(nights.engine) as connection:
        row = runs.of_job(connection, runs.get(nights.engine, run_id)["job_id"])
    assert row is not None
    lease = Lease(job_id=row.job_id, token=1, worker_id="w")
    facts = night.Night(nights.settings, nights.engine, lease, row).prepare(
        nights.settings.home, None
    )
    champion = json.loads(facts.read_text())["champion"]
    films = gathering.gather([nights.folder])
    found = checkup.check([nights.folder], gathered=films).groups
    assert len(found) == 1
    assert unseen.groups(found, films, champion["films"]) == (), "later nights know such films"


def test_a_class_that_shrank_is_not_trained_on(second: Nights) -> None:
    nights, folder = second, second.folder
    sick = sorted((folder / "PNEUMONIA").iterdir())
    for film in sick[::2]:
        film.unlink()
    run = nights.pass_over("nightly")
    assert run["outcome"] == "kept"
    assert "PNEUMONIA has 60 films where there were 120: 50% are gone" in run["reason"]
    assert "--max-shrink" in run["reason"]
    (told,) = nights.told(run)
    assert "PNEUMONIA" not in told["text"]
    assert "a class has 60 films where there were 120" in told["text"]
    assert (nights.champion(), nights.count()) == (2, 2)


def test_a_night_knows_where_films_of_earlier_nights_lay_and_what_was_said_of_it(
    second: Nights, tmp_path: Path
) -> None:
    nights = second
    run = nights.runs()[0]
    before = kept.last_trained(nights.engine, run["schedule_id"])
    assert before is not None
    text = kept.manifest(nights.engine, before).replace("PNEUMONIA/", "PNEUMONIA/#recycle/")
    with connecting.writing(nights.engine) as connection:
        connection.execute(
            sa.update(datasets)
            .where(datasets.c.id == before)
            .values(manifest=zlib.compress(text.encode()))
        )

    def told() -> dict[str, Any]:
        with connecting.reading(nights.engine) as connection:
            row = runs.of_job(connection, run["job_id"])
        lease = Lease(job_id=run["job_id"], token=1, worker_id="w")
        path = night.Night(nights.settings, nights.engine, lease, row).prepare(tmp_path, None)
        return dict(json.loads(path.read_text()))

    facts = told()
    sick = [sha256 for sha256, name in facts["before"].items() if name == "PNEUMONIA"]
    assert sorted(facts["paths"]) == sorted(sick)
    assert all("#recycle/" in path for paths in facts["paths"].values() for path in paths)
    assert not facts["told_of_clutter"]
    with connecting.writing(nights.engine) as connection:
        connection.execute(
            sa.update(runs_table)
            .where(runs_table.c.id == run["id"])
            .values(snapshot={**run["snapshot"], "clutter": 3})
        )
    assert told()["told_of_clutter"]


def test_films_that_were_corrupted_are_not_trained_on(second: Nights) -> None:
    nights, folder = second, second.folder
    broken = sorted(folder.rglob("*.png"))[::8]
    for film in broken:
        film.write_bytes(film.read_bytes()[: film.stat().st_size // 3])
    run = nights.pass_over("nightly")
    assert run["outcome"] == "kept"
    assert "30 of 240 films cannot be read" in run["reason"]
    assert (nights.champion(), nights.count()) == (2, 2)


def test_labels_that_were_exchanged_are_not_trained_on(second: Nights) -> None:
    nights, folder = second, second.folder
    turned = sorted(film for film in folder.rglob("*.png") if int(film.stem[-1]) == 0)
    for film in turned:
        shutil.move(film, folder / _other(film.parent.name) / f"x{film.name}")
    run = nights.pass_over("nightly")
    assert run["outcome"] == "kept"
    assert "120 of 240 films that were there have another class now" in run["reason"]
    assert (nights.champion(), nights.count()) == (2, 2)


def _other(name: str) -> str:
    return "NORMAL" if name == "PNEUMONIA" else "PNEUMONIA"


@soak.ONLY
@pytest.mark.timeout(600)
def test_a_night_whose_films_and_worker_change_starts_over_and_mixed_up_labels_make_no_champion(
    second: Nights, tmp_path: Path
) -> None:
    nights = second
    # Another schedule, which has seen nothing before that it could compare these with. Of labels
    # that are wrong by halves a network may learn the one thing there is to learn, by chance.
    data = spots.write(tmp_path / "wrong", 40, 4, wrong=0.7)
    judge = spots.write(tmp_path / "judge", 60, 3)
    nights.add("wrong", data, evaluate_on=str(judge), margin_auroc=0.03)
    run_id, stop = nights.begin("wrong"), threading.Event()
    job_id = runs.get(nights.engine, run_id)["job_id"]
    one = threading.Thread(target=nights.work, args=(stop,))
    one.start()
    samples.wait(lambda: epoch_rows(nights.engine, job_id), "an epoch", 300)
    stop.set()
    one.join(samples.PATIENCE_S)
    assert jobs.get(nights.engine, job_id)["state"] == "queued"

    add_films(data, spots.write(tmp_path / "more", 10, 5, wrong=0.7))
    run = nights.end(run_id)
    assert run["snapshot"]["films"] == 100
    notes = [e["detail"] for e in jobs.events(nights.engine, job_id) if e["event"] == "note"]
    (note,) = [text for text in notes if text.startswith("what an earlier attempt left")]
    assert "was made with another dataset" in note
    assert [row["epoch"] for row in epoch_rows(nights.engine, job_id)] == [1, 2, 3]

    # Labels that were mixed up make no champion.
    assert run["outcome"] == "kept"
    assert (run["champion_id"], run["candidate_id"], nights.champion()) == (2, 3, 2)
    assert run["verdict"]["auroc"]["champion"] > 0.9
    assert run["verdict"]["auroc"]["candidate"] < 0.8
    assert run["reason"].startswith("on 120 frozen films of 60 patients the new model's AUROC is ")
    assert " lower, where 0.030 is allowed" in run["reason"]
