"""What the fault tests do to processes and databases, and how they tell what came of it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

import psycopg

from tests.support.site import Site
from tests.worker import samples
from trainer.card import Card

#: Scoring must be real work each time: nothing is answered from what was scored before.
ANEW = {"keep_cam": "flagged", "force": True}


@contextmanager
def with_model(opening: AbstractContextManager[Site], model: tuple[Path, Card]) -> Iterator[Site]:
    """A site in which the model is registered as number 1."""
    with opening as made:
        assert samples.register(made.engine, *model) == 1
        yield made


def count(folder: Path) -> int:
    """How many films a folder holds."""
    return sum(1 for path in folder.rglob("*") if path.is_file())


def submit(here: Site, *sources: Path, notify: bool = True) -> int:
    """A job of model 1 over these sources."""
    return here.score(*sources, model_id=1, notify=notify, spec=ANEW)


def in_the_middle(here: Site, job_id: int, shards: int = 1) -> None:
    """Wait until so many shards are final."""
    here.wait(lambda: here.done(job_id) >= shards, f"{shards} shards to be final")
    assert here.state(job_id) in ("queued", "planning", "running"), "too late to break anything"


def goes_on(here: Site, job_id: int) -> None:
    """Wait until one shard more is final, or the job has ended."""
    before = here.done(job_id)
    here.wait(
        lambda: here.done(job_id) > before or here.state(job_id) not in ("planning", "running"),
        "the job to go on",
    )


def completed(here: Site, job_id: int, items: int) -> None:
    """Wait for a job's end: completed, closed once, one prediction for every item."""
    assert here.ended(job_id) == "completed"
    here.exactly_one_outcome_each(job_id, items)
    found = here.rows("SELECT count(*) AS n FROM predictions WHERE job_id = :job", job=job_id)
    assert found[0].n == items
    assert here.events(job_id, "completed") == 1


def alive(*processes: subprocess.Popen[bytes]) -> None:
    """These have not ended meanwhile."""
    assert [process.poll() for process in processes] == [None] * len(processes)


def calm(here: Site) -> None:
    """No process of the site has written a traceback."""
    for log in here.logs.glob("*.log"):
        text = log.read_text(errors="replace")
        assert "Traceback" not in text, text[-6000:]


def freeze(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP; returns when it has stopped."""
    process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


def thaw(process: subprocess.Popen[bytes]) -> None:
    """SIGCONT."""
    process.send_signal(signal.SIGCONT)


def worked_s(pid: int) -> float:
    """Seconds for which a process's threads ran or wanted to, so that a full machine is no rest."""
    worked_ns = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            worked_ns += sum(map(int, file.read_text().split()[:2]))
    assert worked_ns, f"{pid} has ended, or its kernel keeps no schedstat"
    return worked_ns / 1e9


@contextmanager
def locked(here: Site, *tables: str) -> Iterator[None]:
    """Nobody else can write: SQLite's one write lock, or PostgreSQL's strictest table locks."""
    url = here.engine.url
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(url.database), isolation_level=None)) as holder:
            holder.execute("PRAGMA busy_timeout = 60000")
            holder.execute("BEGIN IMMEDIATE")
            yield
            holder.rollback()
        return
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as holder:
        # One after the other, in an order in which somebody else may not have taken them.
        while True:
            try:
                holder.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
                break
            except psycopg.errors.DeadlockDetected:
                holder.rollback()
        yield
        holder.rollback()
