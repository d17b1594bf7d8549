"""A machine that drives jobs and shards through random legal and illegal calls.

After each step SQL says what is there, and the machine says whether that may be.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import rule

from db.base.database import reading, write
from db.base.errors import Conflict, LeaseLost
from db.base.schema import FINAL_JOB_STATES, SCORING_JOB_STATES
from db.queue import budget, jobs, labels, leases, listings, results, reuse, shares
from db.queue.leases import Shard
from db.queue.listings import NewShard
from db.work import claims, control, endings, purge, totals
from tests.db import given
from tests.db.invariants import Invariants, T, content_of, name_of

#: Emptied before each run, in this order.
EMPTIED = (
    "predictions", "cams", "refusals", "item_errors", "identities", "labels", "films", "rollups",
    "shard_listings", "shards", "sources", "job_events", "evaluations", "shares", "shard_totals",
    "day_totals", "host_totals", "model_totals", "source_totals",
)  # fmt: skip

#: Which of the things there are: taken modulo their number.
pick = st.integers(0, 1000)
workers = st.sampled_from(["ann", "bob", "cyd"])
#: Whether something is tried that may not be allowed any more.
late = st.sampled_from([False, False, False, True])


def _listing(names: list[str]) -> bytes:
    return json.dumps(names).encode()


def _empty(connection: sa.Connection) -> None:
    for name in EMPTIED:
        connection.execute(sa.delete(T[name]))
    connection.execute(sa.update(T["jobs"]).values(parent_job_id=None))
    for name in ("drift", "notices", "jobs"):
        connection.execute(sa.delete(T[name]))


class Machine(Invariants):
    """Calls in any order on a real database."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        #: Every claim there ever was, lost or not.
        self.claims: list[claims.Claimed] = []
        self.held: list[Shard] = []
        write(engine, _empty)

    # What there is to be done something with

    def job(self, which: int, *states: str) -> sa.RowMapping:
        """Any job; one in these states if there is one; a new one if there is none at all."""
        found = self.all("jobs")
        if not found:
            given.queued(self.engine)
            found = self.all("jobs")
        found = [row for row in found if row["state"] in states] or found
        return found[which % len(found)]

    def shard(self, which: int, late: bool) -> Shard | None:
        """A shard that somebody holds, else claimed now; or one that may be lost or done."""
        if late:
            return self.held[which % len(self.held)] if self.held else None
        leased = self.leased()
        live = [s for s in self.held if (s.job_id, s.shard_no, s.token) in leased]
        if live and which % 2:
            return live[which % len(live)]
        for _ in range(2):
            found = write(self.engine, lambda c: claims.claim_shard(c, "dee", given.LEASE_S))
            if found is not None:
                self.held.append(found)
                return found
            self.list_more(which, False, [3, 1 + which % 4], which % 3 == 0)
        return None

    def planner(self, which: int, late: bool) -> claims.Claimed | None:
        """A job that is being planned, else claimed now; or one whose lease may be lost."""
        if late:
            return self.claims[which % len(self.claims)] if self.claims else None
        leased = self.being_planned()
        live = [c for c in self.claims if (c.lease.job_id, c.lease.token) in leased]
        if live:
            return live[which % len(live)]
        if not self.rows(sa.select(T["jobs"].c.id).where(T["jobs"].c.state == "queued")):
            self.submit(which % 2, 1 + which % 2, (None, "2", "50%", None)[which % 4], None)
        found = write(self.engine, lambda c: claims.claim_job(c, "score", "dee", given.LEASE_S))
        if found is not None:
            self.claims.append(found)
        return found

    def still_held(self, shard: Shard) -> bool:
        return (shard.job_id, shard.shard_no, shard.token) in self.leased()

    def leased(self) -> set[tuple[int, int, int]]:
        """Job, number and token of the shards that somebody holds."""
        s, j = T["shards"], T["jobs"]
        found = self.rows(
            sa.select(s.c.job_id, s.c.shard_no, s.c.lease_token)
            .join_from(s, j)
            .where(s.c.state == "leased", j.c.state.in_(SCORING_JOB_STATES))
        )
        return {(row["job_id"], row["shard_no"], row["lease_token"]) for row in found}

    def still_planner(self, claimed: claims.Claimed) -> bool:
        return (claimed.lease.job_id, claimed.lease.token) in self.being_planned()

    def being_planned(self) -> set[tuple[int, int]]:
        """Job and token of the jobs that somebody plans."""
        j = T["jobs"]
        found = self.rows(sa.select(j.c.id, j.c.lease_token).where(j.c.state == "planning"))
        return {(row["id"], row["lease_token"]) for row in found}

    def expect(
        self, allowed: bool, work: Callable[[sa.Connection], Any], error: type[Exception]
    ) -> Any:
        """What the call returns where it is allowed; otherwise it must raise the error."""
        try:
            done = write(self.engine, work)
        except error:
            assert not allowed, "it was refused"
            return None
        assert allowed, "it was let through"
        return done

    # Jobs

    @rule(
        priority=st.integers(0, 1),
        sources=st.integers(1, 2),
        max_errors=st.sampled_from([None, None, "0", "2", "50%"]),
        key=st.sampled_from([None, None, "nightly"]),
        share=st.sampled_from([None, "ann", "bob"]),
    )
    def submit(
        self,
        priority: int,
        sources: int,
        max_errors: str | None,
        key: str | None,
        share: str | None = None,
    ) -> None:
        spec = {} if max_errors is None else {"max_errors": max_errors}
        given.queued(
            self.engine, spec=spec, priority=priority, key=key, share=share,
            source_rows=[
                {"uri": f"/{n}.zip", "kind": "zip", "fingerprint": "1", "content_id": f"zip:{n}"}
                for n in range(sources)
            ],
        )  # fmt: skip

    @rule(worker=workers)
    def claim_plan(self, worker: str) -> None:
        """A job that nobody may be planning."""
        claimed = write(self.engine, lambda c: claims.claim_job(c, "score", worker, given.LEASE_S))
        if claimed is not None:
            self.claims.append(claimed)

    @rule(
        which=pick,
        late=late,
        sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
        copying=st.booleans(),
    )
    def list_more(self, which: int, late: bool, sizes: list[int], copying: bool) -> None:
        """Plan as a planner does: what failed, or a copy, or the archive; then the next source."""
        claimed = self.planner(which, late)
        if claimed is None:
            return
        lease, spec = claimed.lease, claimed.spec
        if spec.get("failed_only"):
            new = self.failed(claimed)
            self.expect(
                self.still_planner(claimed), lambda c: listings.add(c, lease, new), LeaseLost
            )
            return
        with reading(self.engine) as connection:
            before = listings.planned(connection, lease.job_id)
            source_no = max(before, default=0)
            found = reuse.find_copy(connection, f"zip:{source_no}", 1, "fp32", spec)
        if copying and found is not None:
            self.expect(
                self.still_planner(claimed),
                lambda c: reuse.copy_source(c, lease, *found, source_no, {"JPEG": 1}, limit=2),
                LeaseLost,
            )
            return
        count = sum(
            s["source_no"] > source_no for s in self.rows(
                sa.select(T["sources"]).where(T["sources"].c.job_id == lease.job_id)
            )
        )  # fmt: skip
        if count and before.get(source_no, 0) >= 8:
            source_no += 1
        start, new = before.get(source_no, 0), []
        for size in sizes:
            names = [name_of(source_no, start + n) for n in range(size)]
            new.append(NewShard(source_no=source_no, n_items=size, listing=_listing(names)))
            start += size
        self.expect(self.still_planner(claimed), lambda c: listings.add(c, lease, new), LeaseLost)

    def failed(self, claimed: claims.Claimed) -> list[NewShard]:
        """The shards of a job over what failed in its parent, of which some may be listed."""
        parent = claimed.parent_job_id
        assert parent is not None
        new = []
        with reading(self.engine) as connection:
            listed = sum(listings.planned(connection, claimed.lease.job_id).values())
            for old in listings.after(connection, parent, to_retry=True):
                items = listings.items_to_retry(connection, parent, old.shard_no)
                assert items, "a shard without anything to retry"
                names = json.loads(old.listing)
                wanted = [names[n - old.first_item] for n in items][listed:]
                listed -= len(items) - len(wanted)
                if wanted:
                    new.append(
                        NewShard(
                            source_no=old.source_no, n_items=len(wanted), listing=_listing(wanted)
                        )
                    )
        return new

    @rule(which=pick, late=late)
    def planned(self, which: int, late: bool) -> None:
        claimed = self.planner(which, late)
        if claimed is None:
            return
        self.expect(
            self.still_planner(claimed),
            lambda c: listings.complete(c, claimed.lease, {}),
            LeaseLost,
        )

    @rule(which=pick, late=late, good=st.booleans(), renew=st.booleans())
    def give_plan_back_or_renew(self, which: int, late: bool, good: bool, renew: bool) -> None:
        claimed = self.planner(which, late)
        if claimed is None:
            return
        allowed, lease = self.still_planner(claimed), claimed.lease
        if renew:
            self.expect(allowed, lambda c: leases.renew(c, lease, given.LEASE_S), LeaseLost)
        else:
            self.expect(
                allowed, lambda c: leases.hand_back(c, lease, "x", in_good_order=good), LeaseLost
            )

    @rule(
        which=pick,
        late=late,
        what=st.sampled_from(["pause", "pause", "resume", "resume", "resume", "cancel"]),
    )
    def control(self, which: int, late: bool, what: str) -> None:
        states = {"pause": ("planning", "running"), "resume": ("paused",), "cancel": ("running",)}
        row = self.job(which, *(() if late else states[what]))
        final, paused = row["state"] in FINAL_JOB_STATES, row["state"] == "paused"
        allowed = {"pause": not final and not paused, "resume": paused, "cancel": not final}[what]
        call = {"pause": control.pause, "resume": control.resume, "cancel": control.cancel}[what]
        self.expect(allowed, lambda c: call(c, row["id"], "a person"), Conflict)

    @rule(which=pick, late=late, failed_only=st.booleans())
    def retry(self, which: int, late: bool, failed_only: bool) -> None:
        row = self.job(which, *(() if late else ("completed_with_errors", "failed", "cancelled")))
        failures = any(
            s["job_id"] == row["id"] and (s["state"] != "done" or s["n_errors"])
            for s in self.all("shards")
        )
        allowed = (
            row["state"] in FINAL_JOB_STATES
            and row["purged_at"] is None
            and (not failed_only or (row["planned_at"] is not None and failures))
        )
        self.expect(
            allowed,
            lambda c: control.retry(c, row["id"], "a person", failed_only=failed_only),
            Conflict,
        )

    @rule(which=pick)
    def close(self, which: int) -> None:
        row = self.job(which, "running")
        self.check_close(row)

    def check_close(self, row: sa.RowMapping) -> None:
        mine = [s for s in self.all("shards") if s["job_id"] == row["id"]]
        errors = sum(s["n_errors"] for s in mine)
        text, over = row["spec"].get("max_errors"), False
        if text is not None and (row["planned_at"] is not None or "%" not in text):
            over = not budget.parse(text).allows(errors, row["planned_items"])
        done = row["planned_at"] is not None and all(s["finished_at"] is not None for s in mine)
        expected = row["state"] in SCORING_JOB_STATES and (over or done)
        assert (row["id"] in endings.waiting_to_close(self.engine)) == expected

        assert given.close(self.engine, row["id"]) == expected

        if expected:
            after = jobs.get(self.engine, row["id"])
            assert after["state"] == (
                "failed" if over else "completed_with_errors" if errors else "completed"
            )

    @rule(keep=st.lists(pick, min_size=1, max_size=3))
    def purge(self, keep: list[int]) -> None:
        rows = self.all("jobs")
        kept = {rows[k % len(rows)]["id"] for k in keep if rows}
        parents = {r["parent_job_id"] for r in rows if r["finished_at"] is None}
        purge.purge(self.engine, timedelta(seconds=-1), "a person", kept)
        for before, after in zip(rows, self.all("jobs"), strict=True):
            goes = before["finished_at"] is not None and before["id"] not in kept | parents
            assert (after["purged_at"] is not None) == (goes or before["purged_at"] is not None)

    @rule(one_by_one=st.booleans())
    def add_up(self, one_by_one: bool) -> None:
        """Finished shards go into the sums."""
        if one_by_one:
            write(self.engine, totals.add_batch)
        else:
            totals.add_all(self.engine)

    @rule(which=pick, name=st.sampled_from(["NORMAL", "PNEUMONIA"]), item=st.integers(0, 5))
    def import_labels(self, which: int, name: str, item: int) -> None:
        row = self.job(which, "completed")
        allowed = row["purged_at"] is None
        self.expect(
            allowed,
            lambda c: labels.import_rows(c, row["id"], [(item, name)], "a person"),
            Conflict,
        )

    # Shards

    @rule(worker=workers, best=st.booleans())
    def claim_shard(self, worker: str, best: bool) -> None:
        due = {
            (s["job_id"], s["shard_no"]): j["priority"]
            for j in self.all("jobs")
            for s in self.all("shards")
            if s["job_id"] == j["id"] and j["state"] in SCORING_JOB_STATES and s["state"] == "ready"
        }  # fmt: skip
        turns = self.turns()
        if best:
            found = write(
                self.engine, lambda c: claims.claim_best(c, worker, given.LEASE_S, planning=True)
            )
        else:
            found = write(self.engine, lambda c: claims.claim_shard(c, worker, given.LEASE_S))
        if isinstance(found, claims.Claimed):
            self.claims.append(found)
        elif found is not None:
            self.held.append(found)
            if (found.job_id, found.shard_no) in due:
                assert due[found.job_id, found.shard_no] == found.priority
            (row,) = [
                s for s in self.all("shards")
                if (s["job_id"], s["shard_no"]) == (found.job_id, found.shard_no)
            ]  # fmt: skip
            assert row["ends"] > row["starts"]
            assert all(
                (-found.priority, row["starts"]) <= (-priority, start + 1e-6)
                for (_, priority), start in turns.items()
            ), "another key had its turn"

    def turns(self) -> dict[tuple[str, int], float]:
        """Key and priority of what is surely due → where its next claim begins."""
        found = self.all("shards")
        keys = {
            (j["share"] or j["submitted_by"], j["priority"])
            for j in self.all("jobs")
            for s in found
            if s["job_id"] == j["id"] and j["state"] in SCORING_JOB_STATES
            and s["state"] == "ready" and s["not_before"] is None
        }  # fmt: skip
        counted = [s for s in found if s["starts"] is not None]
        starts: dict[tuple[str, int], float] = {}
        for key, priority in keys:
            beside = [s for s in counted if s["share_priority"] == priority]
            level = max([s["starts"] for s in beside], default=0.0)
            mine = max(
                [(s["starts"], s["ends"]) for s in beside if s["share"] == key], default=None
            )
            starts[key, priority] = level if mine is None else max(level, mine[1])
        return starts

    @rule(share=st.sampled_from(["ann", "bob"]), weight=st.sampled_from([0.5, 1.0, 3.0]))
    def weigh(self, share: str, weight: float) -> None:
        write(self.engine, lambda c: shares.set_weight(c, share, weight, "a person"))

    @rule(seed=st.integers(0, 2**16), known=st.booleans())
    def work_off(self, seed: int, known: bool) -> None:
        """What a worker does that nothing disturbs: a job ends."""
        chance = random.Random(seed)
        claimed = self.planner(0, late=False)
        if claimed is not None:
            self.list_more(0, False, [2, 3], known)
            self.planned(0, late=False)
        row = self.job(0, "running")
        for _ in range(12):
            shard = write(self.engine, lambda c: claims.claim_shard(c, "eve", given.LEASE_S))
            if shard is None:
                break
            made = self.made(shard, chance, known)
            write(self.engine, lambda c, s=shard, m=made: results.commit(c, s, m))  # type: ignore[misc]
        self.check_close(jobs.get(self.engine, row["id"]))

    @rule(which=pick, late=late, seed=st.integers(0, 2**16), known=st.booleans())
    def commit(self, which: int, late: bool, seed: int, known: bool) -> None:
        """The holder, or somebody who is late, or who did it already."""
        shard = self.shard(which, late)
        if shard is None:
            return
        made = self.made(shard, random.Random(seed), known)
        took_s = seed / 2**12
        self.expect(
            self.still_held(shard), lambda c: results.commit(c, shard, made, took_s), LeaseLost
        )

    def made(self, shard: Shard, chance: random.Random, known: bool) -> list[results.Outcome]:
        names = json.loads(shard.listing)
        before: dict[bytes, reuse.Known] = {}
        if known:
            with reading(self.engine) as connection:
                before = reuse.known(connection, [content_of(n) for n in names], 1, shard.precision)
        made: list[results.Outcome] = []
        for item_no, name in enumerate(names, shard.first_item):
            kind = chance.choice(("prediction",) * 4 + ("refused", "error"))
            study = results.Identity(None, "study", None) if chance.random() < 0.3 else None
            if kind == "prediction":
                old = before.get(content_of(name))
                made.append(
                    results.Prediction(
                        item_no, name, 1, 0.75, True, content=content_of(name), identity=study,
                        reader=("JPEG", 1),
                        reused_from=None if old is None else (old.job_id, old.item_no),
                    )
                )  # fmt: skip
            else:
                made.append(results.NotPredicted(item_no, name, "x", "x", kind == "refused", study))
        return made

    @rule(which=pick, late=late, change=st.sampled_from(["missing", "twice", "foreign"]))
    def commit_the_wrong_items(self, which: int, late: bool, change: str) -> None:
        shard = self.shard(which, late)
        if shard is None:
            return
        made = given.outcomes(shard)
        wrong = {
            "missing": made[:-1],
            "twice": [*made, made[0]],
            "foreign": [o._replace(item_no=o.item_no + 1) for o in made],
        }[change]
        self.expect(False, lambda c: results.commit(c, shard, wrong), ValueError)

    @rule(which=pick, late=late)
    def renew(self, which: int, late: bool) -> None:
        shard = self.shard(which, late)
        if shard is None:
            return
        allowed = self.still_held(shard)
        lost = write(self.engine, lambda c: leases.renew_shards(c, [shard], given.LEASE_S))
        assert lost == ([] if allowed else [shard])

    @rule(which=pick, late=late, good=st.booleans())
    def hand_back(self, which: int, late: bool, good: bool) -> None:
        shard = self.shard(which, late)
        if shard is None:
            return
        write(self.engine, lambda c: leases.hand_back_shard(c, shard, "x", in_good_order=good))

    @rule(which=pick, late=late, at=pick)
    def bisect(self, which: int, late: bool, at: int) -> None:
        shard = self.shard(which, late)
        if shard is None:
            return
        names = json.loads(shard.listing)
        cut = 1 + at % max(1, len(names) - 1)
        halves = [
            NewShard(source_no=shard.source_no, n_items=len(half), listing=_listing(half))
            for half in (names[:cut], names[cut:])
        ]
        if len(names) < 2:
            self.expect(False, lambda c: listings.bisect(c, shard, *halves), ValueError)
        else:
            self.expect(
                self.still_held(shard), lambda c: listings.bisect(c, shard, *halves), LeaseLost
            )

    @rule(which=pick, late=late, at=pick, good=st.booleans())
    def commit_a_part(self, which: int, late: bool, at: int, good: bool) -> None:
        """Outcomes of some items of a shard, which is handed back with the others."""
        shard = self.shard(which, late)
        if shard is None:
            return
        names = json.loads(shard.listing)
        middle = 1 + at % max(1, len(names) - 1)
        new = [
            NewShard(source_no=shard.source_no, n_items=len(part), listing=_listing(part))
            for part in (names[:middle], names[middle:]) if part
        ]  # fmt: skip
        parts = self.expect(
            self.still_held(shard), lambda c: listings.cut(c, shard, new), LeaseLost
        )
        if parts:
            self.held += parts
            made = self.made(parts[0], random.Random(at), known=False)
            write(self.engine, lambda c: results.commit(c, parts[0], made))
            for part in parts[1:]:
                write(
                    self.engine,
                    lambda c, p=part: leases.hand_back_shard(c, p, "x", in_good_order=good),  # type: ignore[misc]
                )

    @rule(which=pick, late=late)
    def give_up(self, which: int, late: bool) -> None:
        shard = self.shard(which, late)
        if shard is None:
            return
        names = json.loads(shard.listing)
        self.expect(
            self.still_held(shard),
            lambda c: results.give_up(c, shard, names, "worker_died", "died"),
            LeaseLost,
        )

    @rule(what=st.sampled_from(["shards", "jobs"]))
    def time_passes(self, what: str) -> None:
        """Leases run out, and waiting is over."""
        past, table = "2000-01-01T00:00:00.000Z", T[what]
        write(
            self.engine,
            lambda c: c.execute(
                sa.text(
                    f"UPDATE {what} SET lease_until = {_time(self.engine, past)} "
                    "WHERE lease_until IS NOT NULL"
                )
            ),
        )
        write(self.engine, lambda c: c.execute(sa.update(table).values(not_before=None)))


def _time(engine: sa.Engine, text: str) -> str:
    return f"'{text}'" if engine.dialect.name == "sqlite" else f"CAST('{text}' AS timestamptz)"
