"""A watched folder and its schedule, for tests."""

from __future__ import annotations

import functools
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database as connecting
from db.base import workers
from db.base.database import reading, write
from db.base.schema import notices, watched
from db.base.schema import schedules as schedules_table
from db.nightly import runs, schedules
from db.queue import jobs, listings
from db.work import endings, patience
from tests.worker import samples
from worker.config import Settings
from worker.schedules import watch

SETTLE_S = 30


class Inbox:
    """A folder, its schedule, and a clock that is turned by moving what was seen into the past."""

    def __init__(
        self, settings: Settings, engine: sa.Engine, folder: Path, name: str = "inbox"
    ) -> None:
        self.settings, self.engine, self.folder, self.name = settings, engine, folder, name
        folder.mkdir()
        self._minute = 0
        spec = {
            "job": {
                "sources": [str(folder)], "model": "champion", "keep_cam": "none", "accept": [],
                "hash_names": False, "force": False,
            },
            "precision": "auto", "engine": None, "priority": 3, "watch": {"settle_s": SETTLE_S},
        }  # fmt: skip
        write(
            engine,
            lambda c: schedules.add(
                c, name=name, cron="* * * * *", tz="UTC", kind="score", spec=spec,
                catch_up_s=60, created_by="tests",
            ),
        )  # fmt: skip

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def watches(self, *folders: Path) -> None:
        """Let it watch these folders instead."""
        named = schedules_table.c.name == self.name
        with connecting.writing(self.engine) as connection:
            spec = connection.execute(sa.select(schedules_table.c.spec).where(named)).scalar_one()
            spec["job"]["sources"] = list(map(str, folders))
            connection.execute(sa.update(schedules_table).where(named).values(spec=spec))

    def untaken(self) -> str:
        """What the latest look kept of files that it did not take."""
        return (self.settings.home / "names" / "schedule-1.csv").read_text()

    def due(self) -> int:
        """A run of the schedule, to be looked at."""
        self._minute += 1

        def make(connection: sa.Connection) -> int | None:
            row = connection.execute(
                sa.select(schedules_table).where(schedules_table.c.name == self.name)
            ).one()
            at = row.created_at + timedelta(minutes=self._minute)
            return schedules.make_run(connection, row, at, "clock")

        run_id = write(self.engine, make)
        assert run_id is not None
        return run_id

    def ticks(self) -> int:
        """The schedule's next time comes: its run, to be looked at."""
        self._minute += 1
        at = schedules.get(self.engine, self.name)["created_at"] + timedelta(minutes=self._minute)
        with connecting.writing(self.engine) as connection:
            connection.exec_driver_sql("UPDATE schedules SET catch_up_s = 1000000000")
        run_id = write(
            self.engine,
            lambda c: schedules.tick(c, 1, at, lambda *_: [at], patience.let_go),
        )
        assert run_id is not None
        return run_id

    def later(self) -> None:
        """Let the time pass in which a file has to stay as it is."""
        with connecting.writing(self.engine) as connection:
            connection.execute(
                sa.update(watched).values(since=sa.literal(self.now() - timedelta(hours=1)))
            )
            connection.exec_driver_sql("UPDATE runs SET not_before = created_at")

    def now(self) -> Any:
        return schedules.database_clock(self.engine)

    def look(self, who: str = "w") -> None:
        watch.run(self.settings, self.engine, who)

    def night(self) -> sa.RowMapping:
        """A run, looked at as often as it takes."""
        run_id = self.due()
        self.look()
        self.later()
        self.look()
        return runs.get(self.engine, run_id)

    def takes(self, run: sa.RowMapping) -> dict[str, list[str]]:
        """Kind of source → what the run's job is to score: names in the folder."""
        found: dict[str, list[str]] = {}
        for row in jobs.source_rows(self.engine, run["job_id"]):
            place = Path(row["uri"]).relative_to(self.folder)
            names = listings.unpack_paths(row["paths"])
            found.setdefault(row["kind"], []).extend(
                [str(place)] if names is None else [str(place / name) for name in names]
            )
        return found

    def close(self, run: sa.RowMapping, state: str) -> None:
        write(self.engine, lambda c: endings.finish(c, run["job_id"], state, "w"))

    def jobs(self) -> int:
        """How many jobs there are."""
        with reading(self.engine) as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one())

    def files(self) -> dict[str, tuple[str, int]]:
        """Name → state and attempts of what was seen."""
        with reading(self.engine) as connection:
            found = connection.execute(sa.select(watched.c.path, watched.c.state,
                                                 watched.c.attempts))  # fmt: skip
            return {Path(row.path).name: (row.state, row.attempts) for row in found}


def hello(database: sa.Engine, who: str) -> None:
    write(
        database,
        lambda c: workers.register(
            c, who, host="h", pid=1, queues="score", engine="x", versions={"engines": "auto,onnx"}
        ),
    )


@functools.cache
def films(n: int, seed: int = 0) -> list[bytes]:
    return [data for _, data in samples.films(n, seed=seed)][:n]


def told(database: sa.Engine) -> list[str]:
    """The events of which hooks got a notice."""
    with reading(database) as connection:
        events = connection.execute(sa.select(notices.c.payload).order_by(notices.c.id)).scalars()
        return [payload["event"] for payload in events]
