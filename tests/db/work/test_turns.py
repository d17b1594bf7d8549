"""Turns: those who share the workers get the same of their time, whatever their films take."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy as sa

from db.base.database import reading, write, writing
from db.base.schema import jobs as jobs_table
from db.base.schema import shards as shards_table
from db.queue import jobs, leases, listings, results, shares
from db.work import claims, control, turns
from tests.db import given

#: Films in a shard here.
FILMS = 2


class Fleet:
    """Workers in simulated time: each has a shard in hand and one that waits behind it."""

    def __init__(self, database: sa.Engine, workers: int, costs: Mapping[str, float]) -> None:
        """`costs` are seconds per film by key; each shard's lies between half of it and one and a
        half."""
        self._database = database
        self._costs = costs
        self._chance = random.Random(7)
        self._keys = dict[int, str]()
        #: When each worker is through with what it has in hand, and with which shards.
        self._busy = {f"w{n}": (0.0, list[leases.Shard]()) for n in range(workers)}
        self.seconds: Counter[str] = Counter()
        self.shards: Counter[str] = Counter()
        #: Keys in the order in which shards were claimed.
        self.claimed: list[str] = []

    @property
    def idle(self) -> list[str]:
        return [name for name, (_, held) in self._busy.items() if not held]

    def key(self, shard: leases.Shard) -> str:
        if shard.job_id not in self._keys:
            self._keys[shard.job_id] = str(jobs.get(self._database, shard.job_id)["share"])
        return self._keys[shard.job_id]

    def step(self) -> bool:
        """The worker that is through first commits, and claims; whether anything was to be done."""
        name = min(
            self._busy, key=lambda worker: (self._busy[worker][0], len(self._busy[worker][1]))
        )
        at, held = self._busy[name]
        if held:
            shard = held.pop(0)
            key = self.key(shard)
            cost_s = self._costs[key] * shard.n_items * self._chance.uniform(0.5, 1.5)
            write(
                self._database,
                lambda c: results.commit(c, shard, given.outcomes(shard), seconds=cost_s),
            )
            self.seconds[key] += cost_s
            self.shards[key] += 1
            at += cost_s
        while len(held) < 2:
            found = self._claim(name)
            if found is None:
                break
            held.append(found)
        self._busy[name] = (at if held else at + 1.0, held)
        return any(held for _, held in self._busy.values())

    def _claim(self, name: str) -> leases.Shard | None:
        while True:
            found = write(
                self._database,
                lambda c: claims.claim_best(c, name, given.LEASE_S, planning=True, alone=False),
            )
            if not isinstance(found, claims.Claimed):
                if found is not None:
                    self.claimed.append(self.key(found))
                return found
            plan(self._database, found, 1)


def plan(database: sa.Engine, claimed: claims.Claimed, count: int) -> None:
    """List a job whose planning was claimed."""

    def work(connection: sa.Connection) -> None:
        listings.add(connection, claimed.lease, given.new_shards(count, FILMS))
        listings.complete(connection, claimed.lease, {})

    write(database, work)


def archive(database: sa.Engine, key: str, count: int, **options: object) -> int:
    """A job of many shards, all listed."""
    return given.running(database, shards=count, items=FILMS, submitted_by=f"{key}@a", **options)


def test_over_fifty_shards_of_unequal_cost_every_key_gets_its_share(database: sa.Engine) -> None:
    costs = {"ann": 1.0, "bob": 1.5, "cyd": 2.0, "dee": 2.5, "eve": 3.0}
    for key, cost in reversed(costs.items()):
        archive(database, key, int(90 * 3 / cost))
    fleet = Fleet(database, 4, costs)

    while min(fleet.shards[key] for key in costs) < 50:
        assert fleet.step()

    share = fleet.seconds.total() / len(costs)
    assert {key: fleet.seconds[key] / share for key in costs} == {
        key: pytest.approx(1.0, abs=0.2) for key in costs
    }


def test_a_key_of_twice_the_weight_gets_twice_the_time(database: sa.Engine) -> None:
    costs = {"ann": 1.0, "bob": 2.0}
    archive(database, "ann", 130)
    archive(database, "bob", 130)
    write(database, lambda c: shares.set_weight(c, "bob", 2.0, "tests"))
    fleet = Fleet(database, 3, costs)

    while min(fleet.shards.get(key, 0) for key in costs) < 50:
        assert fleet.step()

    assert fleet.seconds["bob"] / fleet.seconds["ann"] == pytest.approx(2.0, rel=0.2)


def test_a_key_alone_gets_every_worker(database: sa.Engine) -> None:
    archive(database, "ann", 12)
    fleet = Fleet(database, 4, {"ann": 1.0})

    for _ in range(4):
        fleet.step()

    assert fleet.claimed == ["ann"] * 8
    assert fleet.idle == []


@pytest.mark.parametrize("others", [1, 30])
def test_a_keys_first_shard_comes_after_two_of_others_at_most_planned_and_all(
    database: sa.Engine, others: int
) -> None:
    costs = {f"other{n}": 1.0 + n % 3 for n in range(others)} | {"late": 1.0}
    for n in range(others):
        archive(database, f"other{n}", 60 // others + 3)
    fleet = Fleet(database, 3, costs)
    for _ in range(others + 10):
        fleet.step()
    before = len(fleet.claimed)

    given.queued(database, submitted_by="late@b")
    while "late" not in fleet.claimed:
        assert fleet.step()

    assert fleet.claimed[before:].index("late") <= 2


def test_a_key_that_was_away_is_owed_nothing(database: sa.Engine) -> None:
    costs = {"ann": 1.0, "bob": 1.0, "cyd": 1.0}
    archive(database, "ann", 3)
    archive(database, "bob", 90)
    archive(database, "cyd", 90)
    fleet = Fleet(database, 2, costs)
    while len(fleet.claimed) < 60:  # of which ann has had the three that she wanted
        fleet.step()

    archive(database, "ann", 60)
    before = len(fleet.claimed)
    while len(fleet.claimed) < before + 45:
        fleet.step()

    assert 12 <= fleet.claimed[before:].count("ann") <= 18


def test_what_was_taken_alone_is_not_owed_to_those_who_come(database: sa.Engine) -> None:
    costs = {"ann": 1.0, "bob": 1.0}
    archive(database, "ann", 100)
    fleet = Fleet(database, 2, costs)
    while len(fleet.claimed) < 50:
        fleet.step()

    archive(database, "bob", 60)
    while len(fleet.claimed) < 90:
        fleet.step()

    assert 16 <= fleet.claimed[50:].count("ann") <= 22


def test_priority_goes_before_any_share(database: sa.Engine) -> None:
    archive(database, "ann", 3)
    urgent = archive(database, "bob", 3, priority=1)

    assert [given.claimed(database).job_id for _ in range(3)] == [urgent] * 3


def test_a_key_is_counted_over_all_its_jobs_and_their_hosts(database: sa.Engine) -> None:
    for host in ("a", "b", "c"):
        given.running(database, shards=4, submitted_by=f"ann@{host}")
    bob = given.running(database, shards=4, submitted_by="x@y", share="bob")

    found = [given.claimed(database).job_id for _ in range(8)]

    assert found.count(bob) == 4


def test_a_job_of_an_older_release_has_the_share_of_who_submitted_it(database: sa.Engine) -> None:
    old = given.running(database, shards=4, submitted_by="ann@a")
    write(database, lambda c: c.execute(sa.update(jobs_table).values(share=None)))
    new = given.running(database, shards=4, submitted_by="bob@a")

    found = [given.claimed(database).job_id for _ in range(4)]

    assert sorted(found) == [old, old, new, new]
    assert given.one(
        database, shards_table, shards_table.c.job_id == old, shards_table.c.shard_no == 0
    ).share == "ann@a"  # fmt: skip


def test_another_keys_job_is_planned_while_an_archive_is_listed(database: sa.Engine) -> None:
    given.queued(database, submitted_by="ann@a")
    given.queued(database, submitted_by="ann@a")
    small = given.queued(database, submitted_by="bob@a")

    def claim(*planned: str) -> leases.Shard | claims.Claimed | None:
        return write(
            database,
            lambda c: claims.claim_best(c, "w", given.LEASE_S, planning=True, planned=planned),
        )

    first, second = claim(), claim("ann")

    assert isinstance(first, claims.Claimed)
    assert first.share == "ann"
    assert isinstance(second, claims.Claimed)
    assert second.lease.job_id == small
    assert claim("ann", "bob") is None


def test_a_retry_has_the_share_of_the_job_that_it_does_again(database: sa.Engine) -> None:
    job_id = given.queued(database, submitted_by="ann@a", share="study")
    write(database, lambda c: control.cancel(c, job_id, "tests"))

    again = write(database, lambda c: control.retry(c, job_id, "bob@a"))
    other = write(database, lambda c: control.retry(c, job_id, "bob@a", share="bob"))

    assert [jobs.get(database, n)["share"] for n in (again, other)] == ["study", "bob"]


def test_keys_are_listed_with_what_is_open_of_them(database: sa.Engine) -> None:
    given.running(database, shards=3, items=2, submitted_by="ann@a")
    given.queued(database, submitted_by="ann@b")
    write(database, lambda c: shares.set_weight(c, "bob", 0.5, "tests"))
    given.claimed(database)

    assert [tuple(row.values()) for row in shares.listing(database)] == [
        ("ann", 1.0, 2, 6, 1),
        ("bob", 0.5, 0, 0, 0),
    ]
    write(database, lambda c: shares.set_weight(c, "bob", 1.0, "tests"))
    assert [row["key"] for row in shares.listing(database)] == ["ann"]


@pytest.mark.parametrize("in_hand", [1, 2])
def test_what_is_handed_back_in_good_order_is_charged_to_nobody(
    database: sa.Engine, in_hand: int
) -> None:
    """With two in hand it is the older one, which the other follows."""
    costs = {"ann": 1.0, "bob": 1.0}
    for key in costs:
        archive(database, key, 60)
    fleet = Fleet(database, 1, costs)
    done: Counter[str] = Counter()
    held: list[leases.Shard] = []
    for n in range(80):
        held.append(given.claimed(database))
        if len(held) == in_hand:
            shard = held.pop(0)
            if fleet.key(shard) == "ann" and n % 4 < 2:
                hand_back(database, shard)
            else:
                write(
                    database,
                    lambda c, s=shard: results.commit(c, s, given.outcomes(s), seconds=FILMS),
                )
                done[fleet.key(shard)] += 1

    assert done["ann"] == pytest.approx(done["bob"], abs=2)


def test_a_key_whose_shards_are_handed_back_again_and_again_keeps_its_share(
    database: sa.Engine,
) -> None:
    costs = {"ann": 1.0, "bob": 1.0}
    for key in costs:
        archive(database, key, 60)
    fleet = Fleet(database, 1, costs)
    done: Counter[str] = Counter()

    def end(shard: leases.Shard) -> None:
        write(database, lambda c: results.commit(c, shard, given.outcomes(shard), seconds=FILMS))
        done[fleet.key(shard)] += 1

    for _ in range(20):
        held = [given.claimed(database) for _ in range(4)]
        for shard in held:
            if fleet.key(shard) == "ann":
                hand_back(database, shard)
            else:
                end(shard)
        end(given.claimed(database))

    assert done["ann"] >= 0.8 * done["bob"]


def hand_back(database: sa.Engine, shard: leases.Shard) -> None:
    """As a worker does that is ending."""
    write(database, lambda c: leases.hand_back_shard(c, shard, "ending", in_good_order=True))


def test_a_claim_that_failed_stays_charged(database: sa.Engine) -> None:
    archive(database, "ann", 3)
    shard = given.claimed(database)

    write(database, lambda c: leases.hand_back_shard(c, shard, "failed", in_good_order=False))

    assert charge(database, shard.shard_no) > 0


def charge(database: sa.Engine, shard_no: int) -> float:
    """What a shard of the only job is charged."""
    row = given.one(database, shards_table, shards_table.c.shard_no == shard_no)
    return float(row.ends - row.starts)


def test_the_parts_of_a_shard_are_charged_what_it_was(database: sa.Engine) -> None:
    given.running(database, shards=1, items=5, submitted_by="ann@a")
    shard = given.claimed(database)
    whole = charge(database, 0)

    parts = [listings.NewShard(source_no=0, n_items=n, listing=b"x") for n in (1, 3, 1)]
    made = write(database, lambda c: listings.cut(c, shard, parts))

    charges = [charge(database, one.shard_no) for one in made]
    assert charges == pytest.approx([whole * n / 5 for n in (1, 3, 1)])
    for one in made:
        hand_back(database, one)
    last = given.one(database, shards_table, shards_table.c.starts.is_not(None),
                     shards_table.c.shard_no == made[-1].shard_no)  # fmt: skip
    assert last.ends == last.starts


@contextmanager
def under_way(database: sa.Engine, count: int) -> Iterator[list[leases.Shard]]:
    """So many claims, none of which is committed yet: none sees another one."""
    with ExitStack() as stack:
        found = []
        for n in range(count):
            connection = stack.enter_context(writing(database))
            found.append(claims.claim_shard(connection, f"w{n}", given.LEASE_S))
        yield [shard for shard in found if shard is not None]


@pytest.mark.postgres
@pytest.mark.parametrize("keys", [1, 2, 4, 8])
def test_claims_of_one_instant_are_spread_over_the_keys(
    postgres_database: sa.Engine, keys: int
) -> None:
    for n in range(keys):
        archive(postgres_database, f"key{n}", 12)

    with under_way(postgres_database, 8) as found:
        pass

    assert Counter(shard.job_id for shard in found) == {n + 1: 8 // keys for n in range(keys)}
    ends = charged(postgres_database)
    assert len(set(ends)) == 8 // keys
    assert max(ends) == pytest.approx(8 / keys * min(ends))


def charged(database: sa.Engine) -> list[float]:
    """Where each claim ends."""
    with reading(database) as connection:
        statement = sa.select(shards_table.c.ends).where(shards_table.c.starts.is_not(None))
        return [round(end, 6) for end in connection.execute(statement).scalars()]


@pytest.mark.postgres
def test_more_claims_of_one_instant_than_there_are_places_all_find_something(
    postgres_database: sa.Engine,
) -> None:
    archive(postgres_database, "ann", 12)

    with under_way(postgres_database, turns.PLACES + 3) as found:
        pass

    assert len(found) == turns.PLACES + 3


@pytest.mark.postgres
def test_a_claim_is_charged_for_what_was_committed_after_it_chose(
    postgres_database: sa.Engine,
) -> None:
    archive(postgres_database, "ann", 12)

    with writing(postgres_database) as connection:
        turn = turns.next_one(connection, turns.Wanted(planning=False), taking=True)
        assert turn is not None
        first = given.claimed(postgres_database)
        end = first_end = charge(postgres_database, first.shard_no)
        row = turns.lock_shard(connection, turn, turns.Wanted(planning=False))
        assert row is not None
        counted = turns.counted(turn, row)

    assert counted["starts"] >= first_end
    assert counted["ends"] > end


@pytest.mark.postgres
@pytest.mark.parametrize("others", [1, 3, 7])
def test_claims_that_begin_once_a_key_is_there_serve_it_first(
    postgres_database: sa.Engine, others: int
) -> None:
    """Those that are under way when it comes have chosen already: one for each other worker."""
    archive(postgres_database, "ann", 40)
    archive(postgres_database, "bob", 40)
    for _ in range(6):
        given.commit(postgres_database, given.claimed(postgres_database))

    with under_way(postgres_database, others):
        late = archive(postgres_database, "late", 1)
        first = given.claimed(postgres_database)

    assert first.job_id == late


def test_a_shard_that_ended_two_workers_is_for_one_with_nothing_else_in_hand(
    database: sa.Engine,
) -> None:
    given.running(database, shards=2)
    for _ in range(leases.SUSPECT_ATTEMPTS):
        assert not given.claimed(database, lease_s=given.EXPIRED_S).suspect

    def claim(alone: bool) -> leases.Shard | None:
        return write(
            database, lambda c: claims.claim_shard(c, "worker", given.LEASE_S, alone=alone)
        )

    busy = claim(alone=False)
    assert busy is not None
    assert (busy.shard_no, busy.suspect) == (1, False)
    assert claim(alone=False) is None
    last = claim(alone=True)
    assert last is not None
    assert (last.shard_no, last.suspect) == (0, True)


def test_a_source_that_is_read_from_its_start_is_one_workers_at_a_time(
    database: sa.Engine,
) -> None:
    lease = given.planning(database).lease

    def plan(connection: sa.Connection) -> None:
        listings.add(connection, lease, given.new_shards(3))
        listings.set_seek_index(connection, lease, 0, None, streams=True)
        listings.complete(connection, lease, {})

    write(database, plan)
    first = given.claimed(database, "first")

    assert write(database, lambda c: claims.claim_shard(c, "second", given.LEASE_S)) is None
    given.claimed(database, "first", lease_s=given.EXPIRED_S)
    given.commit(database, first)
    # The first has let its last lease run out.
    assert given.claimed(database, "second").shard_no == 1


def test_a_shard_has_no_turn_with_a_worker_that_lacks_the_engine_of_its_job(
    database: sa.Engine,
) -> None:
    given.running(database, engine="tensorrt")

    def turn(*kinds: str) -> object:
        with reading(database) as connection:
            return turns.next_one(connection, turns.Wanted(kinds=set(kinds)))

    assert turn("auto", "onnx") is None
    assert turn("auto", "tensorrt") is not None
