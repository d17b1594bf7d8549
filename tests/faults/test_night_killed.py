"""A night whose processes are killed at each step: the champion serves, the night ends once."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.base.schema import schedules as schedules_table
from db.nightly import runs, schedules
from db.registry import aliases, models
from tests.faults import harm
from tests.support import processes, soak
from tests.support.site import Site, stop
from tests.worker import samples, spots
from tests.worker.training import narrow_child

JOB = {
    "epochs": 4, "patience": 0, "size": 64, "batch_size": 16, "lr": 1e-3, "init": "scratch",
    "precision": "fp32", "val_fraction": 0.2, "operating_point": "youden", "ema": 0.9,
    "augment": 0.25, "positive": "PNEUMONIA", "workers": 1, "seed": 0,
}  # fmt: skip

#: Channels of the network's first layer, a quarter of a ResNet18's, which learns the spots as well.
WIDTH = 16

#: At every step in the soak, else in the middle of training.
FIRST, EACH = soak.repetitions(quick=2, full=0), soak.repetitions(quick=3, full=1)


def a_night(site: Site, data: Path) -> int:
    """A schedule's run of now; its number."""
    spec = {"job": {**JOB, "data": str(data)}, "night": {}}

    def make(connection: sa.Connection) -> int | None:
        schedules.add(
            connection, name="nightly", cron="0 2 1 1 *", tz="UTC", kind="train", spec=spec,
            catch_up_s=60, created_by="tests",
        )  # fmt: skip
        row = connection.execute(sa.select(schedules_table)).one()
        at = connection.execute(sa.select(schedules_table.c.created_at)).scalar_one()
        return schedules.make_run(connection, row, at, "clock")

    made = database.write(site.engine, make)
    assert made is not None
    return made


def champion_scores(site: Site, films: Path) -> None:
    """The champion is who it was, and does its work."""
    assert int(aliases.resolve(site.engine, aliases.CHAMPION)["id"]) == 1
    harm.completed(site, harm.submit(site, films), harm.count(films))


@pytest.mark.timeout(900)
def test_a_night_whose_workers_and_beat_are_killed_ends_once(
    here: Site, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = here
    for name, value in narrow_child.environment(WIDTH, tmp_path / "narrow").items():
        monkeypatch.setenv(name, value)
    data = spots.write(tmp_path / "data", 60, 1)
    scorer, beat = site.worker("score"), site.beat()
    run_id = a_night(site, data)

    def run() -> sa.RowMapping:
        return runs.get(site.engine, run_id)

    def epochs() -> int:
        return len(site.rows("SELECT epoch FROM epochs"))

    def notes(text: str) -> Any:
        return site.rows("SELECT 1 FROM job_events WHERE detail LIKE :t", t=f"{text}%")

    steps: list[tuple[str, Callable[[], Any]]] = [
        ("the job is claimed", lambda: site.state(1) == "running"),
        ("the films were looked at", lambda: run()["snapshot"] is not None),
        ("an epoch is over", lambda: epochs() >= 1),
        ("training is over", lambda: notes("making and measuring")),
        ("models are compared", lambda: notes("comparing the model")),
    ]
    trainer = site.worker("train")
    for what, reached in steps[FIRST::EACH]:
        site.wait(reached, what)
        assert run()["finished_at"] is None, f"the night was over before {what}"
        killed(trainer)
        if what == "an epoch is over":
            stop(beat, signal.SIGKILL)  # nobody ticks any more; workers look for themselves
        champion_scores(site, few)
        trainer = site.worker("train")
    site.wait(lambda: run()["state"] != "running", "the model to be made")
    if run()["state"] == "proving":
        # Whoever proves it is killed, perhaps in the middle; another of its kind takes over.
        stop(scorer, signal.SIGKILL)
        assert int(aliases.resolve(site.engine, aliases.CHAMPION)["id"]) == 1
        scorer = site.worker("score")
    site.wait(lambda: run()["finished_at"] is not None, "the night to be settled")

    ended = run()
    assert ended["outcome"] in ("promoted", "kept"), ended["reason"]
    assert "frozen films" in ended["reason"]
    assert site.state(1) == "completed"
    assert site.rows("SELECT COUNT(*) FROM jobs WHERE kind = 'train'")[0][0] == 1
    assert site.rows("SELECT COUNT(*) FROM runs")[0][0] == 1
    assert ended["candidate_id"] == 2
    assert len(models.listing(site.engine)) == 2
    champion = int(aliases.resolve(site.engine, aliases.CHAMPION)["id"])
    assert champion == (2 if ended["outcome"] == "promoted" else 1)
    assert site.rows("SELECT COUNT(*) FROM promotions WHERE how = 'promote'")[0][0] == champion - 1
    harm.alive(scorer, trainer)


def killed(worker: subprocess.Popen[bytes]) -> None:
    """SIGKILL a training worker; its training process ends with it."""
    of_it = processes.children(worker.pid, narrow_child.__name__)
    stop(worker, signal.SIGKILL)
    for pid in of_it:
        samples.wait(lambda pid=pid: not _is_there(pid), f"process {pid} to end")


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
