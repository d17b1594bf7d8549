"""Everything at once: while jobs run, all kinds of harm strike, and each film gets what is right.

What is right is known from how the films are made (`films`), and what strikes when follows from a
seed, which is printed: `TEST_SEED=7` has the same harms again. What was done is printed at the end.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.faults import harm
from tests.faults.chaos import films, judge
from tests.faults.chaos.films import Outcome
from tests.faults.chaos.harms import Harms, own_clock
from tests.faults.chaos.sequence import KINDS, LASTING, Strike, sequence
from tests.support import chance, servers, soak
from tests.support.broken import mounts
from tests.support.broken.clock import Clock
from tests.support.broken.disk import small_disk
from tests.support.service import Service
from tests.support.site import Site, site
from tests.worker import samples

#: Films of a job, and how often each kind of harm strikes. A part of the soak is CI's: a minute.
FILMS = soak.repetitions(quick=3_000, full=20_000, part=6_000)
ROUNDS = soak.repetitions(quick=1, full=3, part=1)

WORKERS = 3
LEASE_S = 5.0

#: Films that wait longer than this for their share are put off, in seconds: some harms last longer.
FILM_DEADLINE_S = 8.0

#: Megabytes of the disks that fill up.
DISK_MB = 256

#: There are always so many jobs, so that one is at hand when another ends.
OPEN_JOBS = 2

#: Longest wait for a shard to be leased, so that a harm can strike, and for the end, in seconds.
LEASED_S, END_S = 150.0, 600.0

#: All of it, in seconds: a slow machine needs long to start workers again and again.
TIMEOUT_S = 1800

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@dataclass(kw_only=True)
class Chaos:
    """One run of it."""

    here: Site
    harms: Harms
    service: Service
    sources: list[Path]
    expected: Mapping[str, Outcome]
    began: float = field(default_factory=time.monotonic)
    #: What was done, in its order.
    history: list[str] = field(default_factory=list)
    strikes: Counter[str] = field(default_factory=Counter)
    done_under_harm: int = 0

    def run(self, planned: list[Strike]) -> None:
        """All the harms, one after another, and then the end of all work."""
        self._submit()
        before = 0
        for number, strike in enumerate(planned):
            self._until(time.monotonic() + strike.after_s, lambda: False)
            if strike.kind in LASTING:
                self._until(None, lambda: not self.harms.lasting)
            if number == 0:
                # While the first one lasts the database may give no answer.
                before = self._films_done()
            self._strike(strike)
        self._until(None, lambda: not self.harms.lasting)
        self.done_under_harm = self._films_done() - before
        self._say("the last harm is over")
        deadline = time.monotonic() + END_S
        if not self._until(deadline, lambda: self._open_jobs() == 0):
            raise AssertionError(self.account(f"the rest did not end within {END_S:.0f} s"))
        self._say("all jobs have ended")

    def _strike(self, strike: Strike) -> None:
        """Strike as soon as a shard is leased."""
        deadline = time.monotonic() + LEASED_S
        why = ""

        def struck() -> bool:
            nonlocal why
            if not self.harms.lasting:
                self._submit()
            if not self.harms.holders():
                why = "no shard is leased"
                return False
            try:
                done = self.harms.begin(strike)
            except RuntimeError as error:
                why = str(error)
                return False
            self.strikes[strike.kind] += 1
            self._say(f"{strike.kind}: {done}")
            return True

        if not self._until(deadline, struck):
            raise AssertionError(
                self.account(f"{strike.kind} could not strike for {LEASED_S:.0f} s: {why}")
            )

    def _until(self, deadline: float | None, true: Callable[[], bool]) -> bool:
        """Keep the service running until something is true; whether it came so far."""
        while True:
            self.service.keep()
            self.harms.look()
            if true():
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def _submit(self) -> None:
        """See to it that there is enough to do. The sources must be in good order."""
        while self._open_jobs() < OPEN_JOBS:
            job_id = samples.submit_score(self.here.engine, 1, *self.sources, spec=harm.ANEW)
            self._say(f"job {job_id} is submitted")

    def _open_jobs(self) -> int:
        return len(self._asked("SELECT id FROM jobs WHERE finished_at IS NULL"))

    def _films_done(self) -> int:
        rows = self._asked("SELECT sum(n_items) AS n FROM shards WHERE finished_at IS NOT NULL")
        return int(rows[0].n or 0)

    def _asked(self, statement: str) -> list[sa.Row[Any]]:
        """Rows; where the database does not answer at this moment it is asked again."""
        while True:
            try:
                return self.here.rows(statement)
            except sa.exc.DBAPIError:
                if self.harms.cluster is not None and not self.harms.cluster.running:
                    raise
                time.sleep(0.2)

    def _say(self, what: str) -> None:
        self.history.append(f"{time.monotonic() - self.began:6.1f} s  {what}")

    def wrong(self) -> list[str]:
        """All that is wrong with any job."""
        jobs = self._asked("SELECT id FROM jobs ORDER BY id")
        return [
            said
            for row in jobs
            for said in judge.wrong(self.here, row[0], self.expected, films.LABELS)
        ]

    def summary(self, seed: int) -> str:
        """What is printed at the end."""
        jobs = len(self._asked("SELECT id FROM jobs"))
        attempts = self._asked("SELECT max(attempts) AS n FROM shards")[0].n
        lines = [
            f"chaos on {self.here.engine.dialect.name}, TEST_SEED={seed}: "
            f"{jobs} jobs of {len(self.expected):,} films, {self.done_under_harm:,} films done "
            f"under harm, most attempts {attempts}, {time.monotonic() - self.began:.0f} s",
            *(
                f"  {kind}: " + (f"left out, {why}" if why else f"{self.strikes[kind]} strikes")
                for kind, why in self.harms.kinds().items()
            ),
            f"  the service was started {self.service.starts} times; it ended by itself "
            f"{len(self.service.ended)} times {self.service.ended or ''}".rstrip(),
        ]
        lines += [f"  in the logs {n} times: {said}" for said, n in self._met().most_common(12)]
        return "\n".join(lines)

    def _met(self) -> Counter[str]:
        """The last lines of tracebacks in the service's logs."""
        found: Counter[str] = Counter()
        for log in (self.here.settings.home / "logs").glob("*.log"):
            inside = False
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith("Traceback"):
                    inside = True
                elif inside and not line.startswith(" ") and line.strip():
                    inside = False
                    found[line[:160]] += 1
        return found

    def account(self, what: str) -> str:
        """Something went wrong: what was done until then, what is open, and what was said."""
        if self.harms.lasting:
            self.harms.end()
        kept = self.here.logs / "kept-logs"
        shutil.copytree(self.here.settings.home / "logs", kept, dirs_exist_ok=True)
        try:
            still = judge.open_work(self.here)
        except sa.exc.DBAPIError as error:
            still = [f"the database does not answer: {error}"]
        tails = [
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in sorted([*kept.glob("*.log"), *self.here.logs.glob("*.log")])
        ]
        return "\n".join([what, *self.history, *still, f"logs: {kept}", *tails])


@contextmanager
def chaos(database: str, tmp_path: Path, made: list[films.Film]) -> Iterator[Chaos]:
    """A service with all that can be harmed, on films that are made; nothing is running yet."""
    real = tmp_path / "real"
    real.mkdir()
    names = [path.name for path in films.write(real, made)]
    card = films.write_model(tmp_path / "known.onnx")
    with ExitStack() as stack:
        share = stack.enter_context(mounts.share(real, tmp_path / "share"))
        disk = stack.enter_context(small_disk(DISK_MB))
        clock = stack.enter_context(own_clock())
        cluster = cluster_disk = cluster_clock = None
        url = f"sqlite:///{disk}/pneumoq.db"
        if database == "postgresql":
            cluster_disk = stack.enter_context(small_disk(DISK_MB))
            cluster_clock = stack.enter_context(own_clock())
            cluster = stack.enter_context(_postgres(cluster_disk, cluster_clock))
            url = stack.enter_context(cluster.database())
        here = stack.enter_context(
            site(
                url,
                None,
                tmp_path / "site",
                home=disk,
                lease_s=LEASE_S,
                sweep_s=2.0,
                film_deadline_s=FILM_DEADLINE_S,
            )
        )
        assert samples.register(here.engine, tmp_path / "known.onnx", card) == 1
        service = Service(
            here.settings,
            here.logs / "up.log",
            {} if clock is None else clock.environment,
            workers=WORKERS,
        )
        stack.callback(service.stop)
        harms = Harms(
            here=here, service=service, share=share, clock=clock, home_disk=disk,
            cluster=cluster, cluster_disk=cluster_disk, cluster_clock=cluster_clock,
        )  # fmt: skip
        stack.callback(harms.end)
        yield Chaos(
            here=here,
            harms=harms,
            service=service,
            sources=[share.at / name for name in names],
            expected={film.name: film.outcome for film in made},
        )


@contextmanager
def _postgres(disk: Path, clock: Clock | None) -> Iterator[servers.Postgres]:
    # Small segments: the log needs room soon, instead of what it got long ago.
    small = {"initdb": ["--wal-segsize=1"], "options": ["--min_wal_size=2MB",
             "--max_wal_size=4MB", "--synchronous_commit=on"]}  # fmt: skip
    data = disk / "data"
    data.mkdir(mode=0o700)
    disk.chmod(0o755)
    environment = {} if clock is None else clock.environment
    with servers.postgres(data, **small, environment=environment) as cluster:
        yield cluster


@soak.ONLY
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("database", DATABASES)
def test_whatever_strikes_each_film_gets_the_one_outcome_that_is_right(
    database: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    mounts.needed()
    seed = chance.seed()
    made = list(films.make(FILMS, seed))
    with chaos(database, tmp_path, made) as run:
        kinds = [kind for kind, why in run.harms.kinds().items() if not why]
        run.run(sequence(seed, kinds, ROUNDS))
        record_property("printed", run.summary(seed))
        wrong = run.wrong()
        assert not wrong, run.account("\n".join([*wrong, run.summary(seed)]))
        assert all(run.strikes[kind] >= ROUNDS for kind in kinds)


def test_what_strikes_when_follows_from_the_seed() -> None:
    planned = sequence(7, KINDS, 3)
    assert planned == sequence(7, KINDS, 3)
    assert planned != sequence(8, KINDS, 3)
    assert Counter(strike.kind for strike in planned) == dict.fromkeys(KINDS, 3)
