"""Doubts: films could not be read, and it is to be found out whether that is their own trouble.

It is while this worker can read others of the same source: witnesses, which are read again for
this, through the decoders, so that a disk that does not answer holds up nothing else. Then they are
tried some times more before they are in error. Else, and where the trouble was met at the source's
root or is the machine's, the shard is handed back, and this worker leaves the source alone. Films
that have their outcomes are committed first: where any may fail, all would never be read at once.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from db.base import database as connecting
from db.queue.leases import Shard
from worker.archive import MAX_BYTES, Member
from worker.decoding.pool import Decoded
from worker.decoding.supervisor import TIMEOUT
from worker.engine import Outputs
from worker.scoring.away import Away
from worker.scoring.commits import Commits
from worker.scoring.pipeline import Pipeline, Run
from worker.scoring.shard import ShardRun

log = logging.getLogger(__name__)

#: So many films are asked whether their source is there.
WITNESSES = 8

_numbers = itertools.count(1)


@dataclass(kw_only=True, eq=False)
class Witnesses(Run):
    """Films of the source of a shard that is in doubt, which are only read."""

    of: ShardRun
    back: int = 0
    #: Whether the bytes of one of them could be read. A decoder that ended says nothing of them.
    there: bool = False
    #: Whether one of them did not come in time: no other needs to be waited for.
    slow: bool = False

    @property
    def shard(self) -> Shard:
        """The shard that is in doubt."""
        return self.of.shard

    @property
    def complete(self) -> bool:
        """Whether it is known whether the source is there."""
        return self.there or self.slow or self.back == len(self.members)

    def read(self, index: int, decoded: Decoded) -> None:
        """One is back."""
        self.back += 1
        self.there |= decoded.content is not None
        self.slow |= bool(decoded.failure and decoded.failure.code == TIMEOUT)

    def scored(self, indexes: list[int], rows: list[int], outputs: Outputs) -> None:
        """None is scored."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the shard's window, if there is one."""
        self.of.close()


class Doubts:
    """The shards of which it is not settled yet whose trouble it is. Used by one thread."""

    def __init__(
        self,
        pipeline: Pipeline[ShardRun | Witnesses],
        commits: Commits,
        away: Away,
        commit: Callable[[ShardRun], object],
        handed_back: Callable[[Future[None], ShardRun], object],
    ) -> None:
        """`commit` takes a shard whose outcomes are known, `handed_back` one that is, in future."""
        self._pipeline = pipeline
        self._commits = commits
        self._away = away
        self._commit = commit
        self._handed_back = handed_back
        self._asked: dict[Future[list[Member]], ShardRun] = {}

    @property
    def waiting(self) -> list[ShardRun]:
        """Shards that are in hand here, and not in the pipeline."""
        return list(self._asked.values())

    def judge(self, run: ShardRun) -> None:
        """Find out what becomes of a shard with troubles, which the pipeline has let go of."""
        if run.not_its_own is not None:
            self._hand_back(run, run.not_its_own[1])
            return
        own = self._own_witnesses(run)
        if own:
            self._ask(run, own)
        else:
            self._asked[self._commits.others(run.shard, WITNESSES)] = run

    def step(self) -> None:
        """Ask those films that the database has named meanwhile."""
        for future in [f for f in self._asked if f.done()]:
            run = self._asked.pop(future)
            try:
                members = [m for m in future.result() if _is_read(m)]
            except Exception as error:
                if connecting.away(error):
                    raise
                log.exception("job %d: no others of its films are found", run.shard.job_id)
                failed = self._commits.failed(run, error, in_good_order=False)
                self._handed_back(failed, run)
                continue
            if members:
                self._ask(run, members)
            else:
                self._not_there(run)

    def heard(self, witnesses: Witnesses) -> None:
        """All witnesses are back."""
        run = witnesses.of
        self._pipeline.drop(witnesses)  # some may not be back
        if not witnesses.there:
            self._not_there(run)
            return
        tries, reason = run.tries, next(iter(run.troubles.values())).message
        if run.complete:
            run.give_up_unread()
            if not run.troubles:
                self._commit(run)
                return
        unread = {item: n for item, n in run.shard.unread.items()}
        for index in range(len(run.members)):
            item_no = run.shard.first_item + index
            if index in tries:
                unread[item_no] = tries[index]
            elif index in run.contents:
                unread.pop(item_no, None)
        reason = f"{len(tries)} films cannot be read: {reason}"
        self._handed_back(self._commits.try_again(run, reason, unread), run)

    def take_all(self) -> list[ShardRun]:
        """Take out all shards, unsettled."""
        found, self._asked = self.waiting, {}
        return found

    def _own_witnesses(self, run: ShardRun) -> list[Member]:
        """Films of the shard that were read, or else that nobody has tried yet."""
        read = [index for index in run.contents if index not in run.troubles]
        untried = [
            index
            for index, member in enumerate(run.members)
            if index not in run.troubles and index not in run.contents and _is_read(member)
        ]
        chosen = read[-WITNESSES:] or untried[:: max(1, len(untried) // WITNESSES)]
        return [run.members[index] for index in chosen[:WITNESSES]]

    def _ask(self, run: ShardRun, members: list[Member]) -> None:
        # Another edition: what is open may be of a share that is gone.
        edition = f"{run.place.edition}.{next(_numbers)}"
        self._pipeline.add(
            Witnesses(
                of=run,
                card=run.card,
                model=run.model,
                place=replace(run.place, edition=edition),
                members=members,
                hash=run.hash,
                unread=deque(range(len(members))),
            )
        )

    def _not_there(self, run: ShardRun) -> None:
        failure = next(iter(run.troubles.values()))
        self._hand_back(run, f"{run.place.uri}: no film of it can be read: {failure.message}")

    def _hand_back(self, run: ShardRun, reason: str) -> None:
        self._away.leave(run.place.uri)
        self._handed_back(self._commits.source_away(run, reason), run)


def _is_read(member: Member) -> bool:
    """Whether the system is asked for a member at all."""
    return member.method >= 0 and max(member.size, member.stored) <= MAX_BYTES
