"""What must hold of jobs, shards and outcomes at any moment, whatever was called before."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from typing import Any

import sqlalchemy as sa
from hypothesis.stateful import RuleBasedStateMachine, invariant

from db.base.database import reading
from db.base.schema import FINAL_JOB_STATES, metadata

T = metadata.tables
OUTCOMES = ("predictions", "refusals", "item_errors")


def name_of(source_no: int, n: int) -> str:
    return f"source {source_no}, film {n}"


def content_of(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


class Invariants(RuleBasedStateMachine):
    """A database that is looked at after each step."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__()
        self.engine = engine
        #: Final state and reason, as first seen.
        self.ended: dict[int, tuple[str, str | None]] = {}
        #: Outcomes as first seen: (job, item) → table and row.
        self.outcomes: dict[tuple[int, int], tuple[Any, ...]] = {}
        #: Full counts of jobs, as last seen before they were purged.
        self.counts: dict[int, Counter[str]] = {}

    def rows(self, statement: sa.Select[Any]) -> list[sa.RowMapping]:
        with reading(self.engine) as connection:
            return list(connection.execute(statement).mappings())

    def all(self, table: str) -> list[sa.RowMapping]:
        return self.rows(sa.select(T[table]).order_by(*T[table].primary_key.columns))

    @invariant()
    def nothing_is_lost_or_done_twice(self) -> None:
        seen = self.see()
        by_job: dict[int, list[sa.RowMapping]] = defaultdict(list)
        for row in seen["shards"]:
            by_job[row["job_id"]].append(row)
        outcomes = self.seen_outcomes(seen)
        rollups: Counter[tuple[int, int]] = Counter()
        for row in seen["rollups"]:
            rollups[row["job_id"], row["shard_no"]] += row["n"]
        done = {row["job_id"]: row["done"] for row in seen["progress"]}
        for job in seen["jobs"]:
            mine = sorted(by_job[job["id"]], key=lambda s: s["first_item"])
            self.check_job(job, mine, done[job["id"]])
            if job["purged_at"] is not None:
                assert not [key for key in outcomes if key[0] == job["id"]]
                continue
            assert len(mine) == job["planned_shards"]
            assert {s["shard_no"] for s in mine} == set(range(len(mine)))
            next_item = 0
            names = []
            for s in mine:
                assert s["first_item"] == next_item, "items are missing or in two shards"
                next_item += s["n_items"]
                inside = json.loads(s["listing"])
                assert len(inside) == s["n_items"]
                names += [(s["source_no"], name) for name in inside]
                self.check_shard(s, inside, outcomes, rollups)
            assert next_item == job["planned_items"]
            assert len(set(names)) == len(names)
            if not job["spec"].get("failed_only"):
                listed: Counter[int] = Counter()
                for source_no, name in names:
                    assert name == name_of(source_no, listed[source_no])
                    listed[source_no] += 1
        self.check_reuse(seen, outcomes)
        self.check_sums(seen)

    def check_sums(self, seen: dict[str, list[sa.RowMapping]]) -> None:
        """The sums are a full count of what was not purged, and what purged jobs had."""
        purged = {job["id"] for job in seen["jobs"] if job["purged_at"] is not None}
        counts: dict[int, Counter[str]] = defaultdict(Counter)
        for p in seen["predictions"]:
            counts[p["job_id"]] += Counter(
                predictions=1, positives=p["label_no"], reused=p["reused_from_job"] is not None,
            )  # fmt: skip
            counts[p["job_id"]][f"tenth_{int(p['probability'] * 10)}"] += 1
        for table, name in (("refusals", "refused"), ("item_errors", "errors")):
            for row in seen[table]:
                counts[row["job_id"]][name] += 1
        self.counts = {job: n for job, n in self.counts.items() if job in purged} | dict(counts)
        expected = sum(self.counts.values(), Counter[str]())
        names = ("predictions", "positives", "reused", "refused", "errors", "tenth_7")
        for view in ("days", "models"):
            said = Counter[str]()
            for row in seen[view]:
                said.update({name: int(row[name]) for name in names if name in row})
            assert +said == Counter({n: expected[n] for n in names if n in said and expected[n]})
        machines = Counter[str]()
        for row in seen["machines"]:
            machines.update({name: int(row[name]) for name in ("items", "scored", "reused")})
        assert machines["items"] == sum(expected[n] for n in ("predictions", "refused", "errors"))
        assert machines["scored"] == expected["predictions"] - expected["reused"]

    def see(self) -> dict[str, list[sa.RowMapping]]:
        """Everything there is, at one moment."""
        shard, listing = T["shards"], T["shard_listings"]
        selects: dict[str, sa.Executable] = {
            name: sa.select(T[name])
            for name in (*OUTCOMES, "jobs", "rollups", "films", "identities")
        } | {
            "shards": sa.select(shard, listing.c.listing).join_from(shard, listing, isouter=True),
            "progress": sa.text("SELECT job_id, done FROM v_job_progress"),
            "days": sa.text("SELECT * FROM v_daily_scores"),
            "machines": sa.text("SELECT * FROM v_throughput"),
            "models": sa.text(
                "SELECT predictions, positives, reused, refused, errors FROM model_totals "
                "UNION ALL SELECT predictions, positives, reused, refused, errors FROM shard_totals"
            ),
        }
        with reading(self.engine) as connection:
            return {
                name: list(connection.execute(select).mappings())
                for name, select in selects.items()
            }

    def seen_outcomes(
        self, seen: dict[str, list[sa.RowMapping]]
    ) -> dict[tuple[int, int], tuple[Any, ...]]:
        """All outcomes there are; none has changed, and none is there twice."""
        found: dict[tuple[int, int], tuple[Any, ...]] = {}
        for table in OUTCOMES:
            for row in seen[table]:
                key = (row["job_id"], row["item_no"])
                assert key not in found, f"item {key} has two outcomes"
                found[key] = (table, *row.values())
        purged = {j["id"] for j in seen["jobs"] if j["purged_at"] is not None}
        for key, value in self.outcomes.items():
            assert found.get(key) == value or key[0] in purged, f"the outcome of {key} has changed"
        self.outcomes = dict(found)
        return found

    def check_job(self, job: sa.RowMapping, mine: list[sa.RowMapping], done: int) -> None:
        state = job["state"]
        if job["id"] in self.ended:
            assert (state, job["reason"]) == self.ended[job["id"]], "a final state has changed"
        if state in FINAL_JOB_STATES:
            self.ended.setdefault(job["id"], (state, job["reason"]))
            assert (job["reason"] is None) == state.startswith("completed")
        assert (state == "planning") == (job["lease_until"] is not None)
        assert state != "running" or job["planned_at"] is not None
        assert state != "planning" or job["planned_at"] is None
        assert job["attempts"] >= 0
        if state.startswith("completed") and job["purged_at"] is None:
            assert all(s["finished_at"] is not None for s in mine)
            errors = sum(s["n_errors"] for s in mine)
            assert state == ("completed_with_errors" if errors else "completed")
        if state in ("paused", "queued"):
            assert not [s for s in mine if s["state"] == "leased"]
        final = [s for s in mine if s["finished_at"] is not None]
        assert done == sum(s["n_items"] for s in final)
        assert done <= job["planned_items"]

    def check_shard(
        self,
        s: sa.RowMapping,
        names: list[str],
        outcomes: dict[tuple[int, int], tuple[Any, ...]],
        rollups: Counter[tuple[int, int]],
    ) -> None:
        assert (s["state"] == "leased") == (s["lease_until"] is not None)
        assert s["attempts"] >= 0
        first = s["first_item"]
        kinds: Counter[str] = Counter()
        for item_no, name in enumerate(names, first):
            outcome = outcomes.get((s["job_id"], item_no))
            if outcome is not None:
                kinds[outcome[0]] += 1
                assert name in outcome, "the outcome of another film"
        if s["finished_at"] is None:
            assert not kinds, "outcomes of a shard that is not done"
            return
        assert kinds.total() == s["n_items"], "a finished shard lacks outcomes"
        counts = (s["n_predictions"], s["n_refused"], s["n_errors"])
        assert counts == tuple(kinds[table] for table in OUTCOMES)
        assert s["state"] != "dead" or s["n_errors"] == s["n_items"]
        assert rollups[s["job_id"], s["shard_no"]] == s["n_predictions"]

    def check_reuse(
        self,
        seen: dict[str, list[sa.RowMapping]],
        outcomes: dict[tuple[int, int], tuple[Any, ...]],
    ) -> None:
        rows = {(p["job_id"], p["item_no"]): p for p in seen["predictions"]}
        there = {j["id"] for j in seen["jobs"]}
        for p in rows.values():
            if p["reused_from_job"] is not None:
                assert p["reused_from_job"] in there
                origin = rows.get((p["reused_from_job"], p["reused_from_item"]))
                if origin is not None:
                    assert origin["name"] == p["name"]
                    assert origin["reused_from_job"] is None, "a chain"
        for film in seen["films"]:
            origin = rows[film["job_id"], film["item_no"]]
            assert content_of(origin["name"]) == bytes(film["content"])
        for row in seen["identities"]:
            assert (row["job_id"], row["item_no"]) in outcomes
