"""Shares: how much of the workers each key gets of those that share them, and who they are.

A key is a user, a schedule, or what was given as `--for`; what it weighs is 1 unless it was set.
What a claim is charged to its key stands in the shard, from `starts` to `ends` (`db.work.turns`);
here is what becomes of it where the shard is handed back or cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from db.base import database
from db.base.schema import jobs, shards, shares
from db.base.types import now

#: Characters of a key that is given.
LONGEST_KEY = 64

#: Columns of a shard that say what its last claim was charged, and to whom.
CHARGE = ("share", "share_priority", "starts", "ends")

#: Of two that are set at the same moment the later one counts.
_SET = (
    "INSERT INTO shares (key, weight, set_at, set_by) VALUES (:key, :weight, :at, :who) "
    "ON CONFLICT (key) DO UPDATE SET weight = excluded.weight, set_at = excluded.set_at, "
    "set_by = excluded.set_by"
)


def set_weight(connection: sa.Connection, key: str, weight: float, who: str) -> None:
    """Let a key have so many times what others get; 1 is what it gets anyway.

    Raises ValueError where that is no finite number above 0.
    """
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"{weight} is no weight; give a number above 0")
    if weight == 1.0:
        connection.execute(sa.delete(shares).where(shares.c.key == key))
        return
    connection.execute(
        sa.text(_SET).bindparams(sa.bindparam("at", type_=shares.c.set_at.type)),
        {
            "key": key,
            "weight": weight,
            "at": connection.execute(sa.select(now())).scalar_one(),
            "who": who,
        },
    )


def listing(engine: sa.Engine) -> list[sa.RowMapping]:
    """Keys with open scoring jobs or a weight, by name.

    `key`, `weight`, and of what is open: `jobs`, `films` that are listed and not done, and shards
    that workers have (`at_work`).
    """
    key = sa.func.coalesce(jobs.c.share, jobs.c.submitted_by)
    of_job = (shards.c.job_id == jobs.c.id, shards.c.finished_at.is_(None))
    films = sa.select(sa.func.coalesce(sa.func.sum(shards.c.n_items), 0)).where(*of_job)
    at_work = sa.select(sa.func.count()).where(*of_job, shards.c.state == "leased")
    each = (
        sa.select(
            key.label("key"),
            films.correlate(jobs).scalar_subquery().label("films"),
            at_work.correlate(jobs).scalar_subquery().label("at_work"),
        )
        .where(jobs.c.kind == "score", jobs.c.finished_at.is_(None))
        .subquery("each_job")
    )
    keys = sa.union(sa.select(each.c.key), sa.select(shares.c.key)).subquery("every_key")
    statement = (
        sa.select(
            keys.c.key,
            sa.func.coalesce(sa.func.max(shares.c.weight), 1.0).label("weight"),
            sa.func.count(each.c.key).label("jobs"),
            sa.func.coalesce(sa.func.sum(each.c.films), 0).label("films"),
            sa.func.coalesce(sa.func.sum(each.c.at_work), 0).label("at_work"),
        )
        .select_from(keys)
        .outerjoin(shares, shares.c.key == keys.c.key)
        .outerjoin(each, each.c.key == keys.c.key)
        .group_by(keys.c.key)
        .order_by(keys.c.key)
    )
    with database.reading(engine) as connection:
        return list(connection.execute(statement).mappings())


def given_back() -> dict[str, Any]:
    """The columns of a shard whose holder has not used what its key was charged for.

    The key's last claim ends where it began. Where others of the key follow it, the charge is taken
    off when the shard is claimed again: until then `starts` is NULL, and `ends` is the charge.
    """
    later = shards.alias("later")
    followed = (
        sa.exists()
        .where(
            later.c.share == shards.c.share,
            later.c.share_priority == shards.c.share_priority,
            later.c.starts > shards.c.starts,
        )
        .correlate(shards)
    )
    return {
        "starts": sa.case((followed, None), else_=shards.c.starts),
        "ends": sa.case((followed, shards.c.ends - shards.c.starts), else_=shards.c.starts),
    }


def of_part(items: int, whole: int) -> dict[str, Any]:
    """The columns of a shard of which the first `items` of `whole` are left."""
    return {"ends": shards.c.starts + (shards.c.ends - shards.c.starts) * (items / whole)}


def of_next(before: Mapping[str, Any], items: int) -> dict[str, Any]:
    """CHARGE and n_items of so many items that were cut from a shard behind those of `before`."""
    after = {**before, "n_items": items}
    if before["starts"] is not None:
        each = (before["ends"] - before["starts"]) / before["n_items"]
        after |= {"starts": before["ends"], "ends": before["ends"] + each * items}
    return after
