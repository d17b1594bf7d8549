"""Planning: the thread in which a claimed job's sources are listed, and what ends it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import sqlalchemy as sa

from db.base import database as connecting
from db.base.errors import LeaseLost, Unavailable
from db.queue import leases
from db.work import endings
from db.work.claims import Claimed
from worker.archive import stall
from worker.errors import ArchiveError, SourceTrouble
from worker.machine.heartbeat import Heartbeat
from worker.machine.privacy import Privacy
from worker.scoring.away import Away
from worker.scoring.listing import Lister

log = logging.getLogger(__name__)


#: Seconds without an answer from a share after which its source is left to others.
PATIENCE_S = 30.0

#: A listing that has come to a stop is waited for so many seconds when the worker is to end.
LAST_S = 10.0


class _Stopped(Exception):
    """The worker is shutting down, or the lease is gone."""


#: Jobs that one worker plans at the same time, each of another key: who shares the workers need
#: not wait until somebody's archive of a million is listed.
PLANNERS = 4


class Planners:
    """The planners of one worker. Used by one thread."""

    def __init__(self) -> None:
        self._all: list[Planner] = []

    def add(self, planner: Planner) -> None:
        """One has begun."""
        self._all = [*self._running(), planner]

    @property
    def keys(self) -> frozenset[str]:
        """Whose jobs are planned now."""
        return frozenset(planner.share for planner in self._running())

    @property
    def full(self) -> bool:
        """Whether no more than now may be planned."""
        return len(self._running()) >= PLANNERS

    def join(self) -> None:
        """Wait for all of them; set the stop event first."""
        for planner in self._all:
            planner.join()

    def _running(self) -> list[Planner]:
        return [planner for planner in self._all if planner.running]


class Planner:
    """Plans one job in a thread of its own."""

    def __init__(
        self,
        database: sa.Engine,
        claimed: Claimed,
        heartbeat: Heartbeat,
        stop: threading.Event,
        notify: Callable[[int], object],
        wake: Callable[[], None],
        site: Privacy,
        away: Away | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`notify` wakes as many workers as there are new shards, and `wake` this one's loop.

        `patience_s` is how long shares are waited for, in seconds.
        """
        self._database = database
        self._lease = claimed.lease
        self._heartbeat = heartbeat
        self._stop = stop
        self._notify = notify
        self._wake = wake
        self._away = Away() if away is None else away
        self._claimed = claimed
        #: Whose share of the workers its job takes.
        self.share = claimed.share
        self._site = site
        self._patience_s = patience_s
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still at it."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait for it; set the stop event first."""
        self._thread.join()

    def _run(self) -> None:
        job_id = self._lease.job_id
        try:
            # One that the database was away for goes on where it was, as another planner would.
            connecting.outlast(self._database, self._list)
        except _Stopped:
            self._write(
                lambda c: leases.hand_back(
                    c, self._lease, "the worker was stopped", in_good_order=True
                )
            )
        except SourceTrouble as error:
            log.warning(
                "job %d cannot be planned here: %s (its events say more)", job_id, error.code
            )
            reason = str(error)
            self._away.leave(job_id)
            self._write(lambda c: leases.hand_back(c, self._lease, reason, in_good_order=True))
        except ArchiveError as error:
            log.info("job %d cannot be planned: %s (its events say more)", job_id, error.code)
            reason = str(error)
            self._write(lambda c: endings.fail(c, self._lease, reason))
        except (LeaseLost, Unavailable) as error:
            log.warning("job %d: planning was given up: %s", job_id, error)
        except Exception as error:
            log.exception("job %d cannot be planned", job_id)
            met = error  # the clause's own name is gone for the lambda
            self._write(lambda c: endings.give_up(c, self._lease, "planning the job", met))
        finally:
            self._heartbeat.release(self._lease)
            self._wake()

    def _list(self) -> None:
        over = threading.Event()

        def check() -> None:
            """One that is left behind at a share may come back when the plan is another's."""
            if over.is_set():
                raise _Stopped
            self._check()

        lister = Lister(
            self._database, self._claimed, check, self._written, self._away, self._site,
            self._patience_s,
        )  # fmt: skip
        try:
            stall.watched(
                lister.run, lambda: lister.root, self._stall_s, inside=lambda: lister.inside
            )
        except SourceTrouble as error:
            if lister.at is not None:
                lister.note(lister.at, str(error))
            raise
        finally:
            over.set()

    def _stall_s(self) -> float:
        return LAST_S if self._stop.is_set() else stall.STALL_S

    def _check(self) -> None:
        if self._stop.is_set() or self._heartbeat.lost(self._lease):
            raise _Stopped

    def _written(self, shards: int) -> None:
        self._wake()  # first: the broker may take its time
        self._notify(shards)

    def _write(self, work: Callable[[sa.Connection], object]) -> None:
        try:
            connecting.write(self._database, work)
        except (LeaseLost, Unavailable) as error:
            log.warning("job %d: %s", self._lease.job_id, error)
