"""A private installation to be measured: servers, one real worker, and a model to score with."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from db.base import database
from db.queue import jobs
from tests.support import servers
from tests.support.site import Site, site
from worker import archive, wakeup

#: As a hospital would run it: what the tests' cluster leaves out for speed is done.
DURABLE = (
    "--fsync=on",
    "--synchronous_commit=on",
    "--full_page_writes=on",
    "--shared_buffers=256MB",
    "--max_wal_size=2GB",
)

#: Nothing here takes longer, in seconds.
PATIENCE_S = 3600.0

#: Progress is looked at so often, in seconds.
LOOK_S = 0.25


@contextmanager
def installation(kind: str, **settings: object) -> Iterator[Site]:
    """A site on `sqlite` or `postgresql` with the product's own settings for this machine."""
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumoq-measured-")))
        broker = stack.enter_context(servers.valkey(servers.valkey_program()))
        url = f"sqlite:///{folder}/pneumoq.db"
        if kind == "postgresql":
            cluster = stack.enter_context(servers.postgres(options=DURABLE))
            url = stack.enter_context(cluster.database())
        chosen = {
            "decoders": cores, "engine_threads": cores, "lease_s": 60.0, "sweep_s": 15.0,
        } | settings  # fmt: skip
        yield stack.enter_context(site(url, broker, folder, **chosen))


def submit(
    at: Site, model_id: int, source: Path, *, precision: str = "fp32", force: bool = False
) -> int:
    """Submit a scoring job as the command line does; its number."""
    with archive.open_source(str(source)) as opened:
        row = {
            "uri": opened.uri,
            "kind": opened.kind,
            "fingerprint": opened.fingerprint(),
            "content_id": opened.content_id(),
        }
    job_id = database.write(
        at.engine,
        lambda c: jobs.submit(
            c,
            kind="score",
            spec={"keep_cam": "flagged", "force": force},
            submitted_by="bench",
            model_id=model_id,
            precision=precision,
            source_rows=[row],
        ),
    )
    assert wakeup.notify(at.settings, "score", 1)
    return job_id


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a job went."""

    #: (seconds since it was submitted, items that have their outcome), as it was seen.
    seen: list[tuple[float, int]]
    items: int
    seconds: float
    state: str

    @property
    def rate(self) -> float:
        """Items per second from its submission to its end."""
        return self.items / self.seconds

    def steady(self, skip: float = 0.1) -> float:
        """Items per second after the first tenth."""
        begun = next((at for at in self.seen if at[1] >= skip * self.items), self.seen[0])
        ended = next(at for at in self.seen if at[1] == self.items)
        if ended[0] <= begun[0]:
            return self.rate
        return (ended[1] - begun[1]) / (ended[0] - begun[0])


def follow(
    at: Site,
    job_id: int,
    began: float,
    look: Callable[[float, int], None] | None = None,
    look_s: float = LOOK_S,
) -> Course:
    """Wait for a job's end; `look(seconds, done)` is called each time that it is looked at."""
    seen: list[tuple[float, int]] = []
    while True:
        # The state first: what is done when it is final is all.
        ended = jobs.get(at.engine, job_id)["finished_at"] is not None
        done = int(jobs.progress(at.engine, job_id)["done"] or 0)
        seconds = time.monotonic() - began
        seen.append((seconds, done))
        if ended:
            break
        if seconds > PATIENCE_S:
            raise TimeoutError(f"job {job_id} took longer than {PATIENCE_S} s\n{at.tail()}")
        if look is not None:
            look(seconds, done)
        time.sleep(look_s)
    row = jobs.progress(at.engine, job_id)
    state = at.state(job_id)
    if state not in ("completed", "completed_with_errors"):
        raise RuntimeError(f"job {job_id} is {state}: {row['reason']}\n{at.tail()}")
    return Course(seen=seen, items=int(row["items"]), seconds=seen[-1][0], state=state)


def score(
    at: Site, model_id: int, source: Path, *, precision: str = "fp32", force: bool = False
) -> tuple[int, Course]:
    """Submit a job and wait for its end; its number and how it went."""
    began = time.monotonic()
    job_id = submit(at, model_id, source, precision=precision, force=force)
    return job_id, follow(at, job_id, began, look_s=0.05)


@contextmanager
def cache(given: Path | None) -> Iterator[Path]:
    """The folder that was given, made if needed, or one that is gone afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="pneumoq-measured-") as folder:
        yield Path(folder)
