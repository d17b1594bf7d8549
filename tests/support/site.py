"""A whole installation for one test: database, broker, home, and worker processes to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database, migrate, workers
from db.queue import jobs
from scheduler.local import stack
from tests.support import processes, servers
from tests.worker import samples
from worker import config, wakeup
from worker.config import Settings

#: Longest wait for a job or a process, in seconds: machines that run tests are slow and shared.
PATIENCE_S = 120.0


@dataclass(kw_only=True)
class Site:
    """Settings that point at private servers, and what was started with them."""

    settings: Settings
    engine: sa.Engine
    logs: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def worker(
        self, queue: str = "score", *, within: Sequence[str] = (), **settings: Any
    ) -> subprocess.Popen[bytes]:
        """Start a worker process, as `begin_worker`, and wait until it has said hello."""
        process = self.begin_worker(queue, within=within, **settings)
        self.hello(process)
        return process

    def begin_worker(
        self, queue: str = "score", *, within: Sequence[str] = (), **settings: Any
    ) -> subprocess.Popen[bytes]:
        """Start a worker process and do not wait for it.

        `within` is the beginning of its command line, as of `mounts.without`.
        """
        chosen = replace(self.settings, **settings)
        process = servers.spawn(
            [*within, *stack.command_of_worker(chosen, queue, len(self.started) + 1)],
            log=self.log(len(self.started)),
            env=config.child_environment(chosen),
        )
        self.started.append(process)
        return process

    def beat(self, **settings: Any) -> subprocess.Popen[bytes]:
        """Start a beat with a schedule file of its own."""
        number = len(self.started)
        home = self.logs / f"beat-{number}"
        home.mkdir()
        chosen = replace(self.settings, home=home, **settings)
        process = servers.spawn(
            stack.command_of_beat(chosen),
            log=self.log(number),
            env=config.child_environment(chosen),
        )
        self.started.append(process)
        return process

    def hello(self, process: subprocess.Popen[bytes]) -> str:
        """Wait until a worker has said hello; its id."""

        def row() -> Any:
            assert process.poll() is None, f"a worker ended: {process.returncode}\n{self.tail()}"
            rows = [w for w in workers.alive(self.engine) if w["pid"] == process.pid]
            return rows[0] if rows else None

        self.wait(row, f"worker {process.pid} to say hello")
        return str(row()["id"])

    def log(self, process: int | subprocess.Popen[bytes]) -> Path:
        """The log of a process, or of the nth that was started."""
        number = process if isinstance(process, int) else self.started.index(process)
        return self.logs / f"{number + 1:02d}.log"

    def says(self, process: subprocess.Popen[bytes], text: str) -> bool:
        """Whether a process has said something in its log."""
        return text in self.log(process).read_text(errors="replace")

    def wait(self, true: Callable[[], Any], what: str) -> None:
        """Wait until something is true; fail with the workers' logs if it never is."""
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}\n{self.tail()}")
            time.sleep(0.02)

    def tail(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            for log in sorted(self.logs.glob("*.log"))
        )

    def score(self, *sources: Path, model_id: int, notify: bool = True, **job: Any) -> int:
        """Submit a scoring job, as the command line does."""
        job_id = samples.submit_score(self.engine, model_id, *sources, **job)
        if notify:
            assert wakeup.notify(self.settings, "score", 4)
        return job_id

    def state(self, job_id: int) -> str:
        """A job's state."""
        # By SQL, so that it may be asked of an older schema too.
        (row,) = self.rows("SELECT state FROM jobs WHERE id = :job", job=job_id)
        return str(row.state)

    def ended(self, job_id: int, *, hurry: bool = False) -> str:
        """Wait for a job's final state.

        With `hurry` the minute before films are read again that could not be read passes at once.
        """

        def ended() -> bool:
            if hurry:
                self.execute(
                    "UPDATE shards SET not_before = NULL "
                    "WHERE unread IS NOT NULL AND state = 'ready'"
                )
            (row,) = self.rows("SELECT finished_at FROM jobs WHERE id = :job", job=job_id)
            return row.finished_at is not None

        self.wait(ended, f"job {job_id} to end")
        return self.state(job_id)

    def done(self, job_id: int) -> int:
        """How many of a job's shards are final."""
        return int(jobs.progress(self.engine, job_id)["shards_done"])

    def events(self, job_id: int, event: str) -> int:
        """How often something happened to a job."""
        return sum(row["event"] == event for row in jobs.events(self.engine, job_id))

    def rows(self, statement: str, **values: Any) -> list[sa.Row[Any]]:
        """The rows of a SELECT."""
        with database.reading(self.engine) as connection:
            return list(connection.execute(sa.text(statement), values))

    def execute(self, statement: str, **values: Any) -> None:
        """Run a statement in a transaction of its own."""
        database.write(self.engine, lambda c: c.execute(sa.text(statement), values))

    def probabilities(self, job_id: int) -> dict[str, float]:
        """Film's name → probability."""
        found = self.rows(
            "SELECT name, probability FROM v_predictions WHERE job_id = :job", job=job_id
        )
        assert len({row.name for row in found}) == len(found)
        return {row.name: row.probability for row in found}

    def exactly_one_outcome_each(self, job_id: int, items: int) -> None:
        """Every item of the job has one row among predictions, refusals and errors."""
        numbers = [
            row.item_no
            for table in ("predictions", "refusals", "item_errors")
            for row in self.rows(f"SELECT item_no FROM {table} WHERE job_id = :job", job=job_id)
        ]
        assert sorted(numbers) == list(range(items))

    def run(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line with this site's settings."""
        return subprocess.run(
            [sys.executable, "-m", "scheduler", *arguments],
            env=config.child_environment(replace(self.settings, **settings)),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )


@contextmanager
def site(
    database_url: str,
    broker: servers.Valkey | None,
    folder: Path,
    *,
    schema: str = migrate.HEAD,
    **settings: Any,
) -> Iterator[Site]:
    """A site with an empty database of this schema; its workers are killed at the end.

    Without a `broker` it is the one that `pneumoq up` starts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = settings.pop("home", folder / "home")
    chosen = replace(
        config.load({"PNEUMOQ_HOME": str(home)}),
        database_url=database_url,
        broker_url=config.embedded_broker_url(home) if broker is None else broker.url,
        **{"decoders": 1, "engine_threads": 1, "train_threads": 1, "lease_s": 3.0, "sweep_s": 1.0}
        | settings,
    )
    engine = database.connect(database_url)
    migrate.upgrade(engine, schema)
    made = Site(settings=chosen, engine=engine, logs=folder)
    try:
        yield made
    finally:
        for process in made.started:
            if process.poll() is None:
                process.kill()  # also where it is stopped
            process.wait()
        engine.dispose()


def processes_with(text: str) -> list[int]:
    """Processes whose environment holds this text, and all that they have started.

    Those of one site, that is, however they were started: what reads films has few variables.
    """
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) != os.getpid():
            try:
                if text.encode() in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
            except OSError:
                continue  # it ended meanwhile, or is not ours to look at
    return sorted(found | processes.descendants(found))


def stop(process: subprocess.Popen[bytes], by: signal.Signals) -> int:
    """Send a signal and wait for the end; the exit status."""
    process.send_signal(by)
    return process.wait(PATIENCE_S)
