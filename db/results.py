"""Outcomes: a shard's predictions, refusals and errors are written in one fenced transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from db import jobs as job_rows
from db import leases
from db.errors import LeaseLost
from db.leases import Shard
from db.schema import cams, item_errors, predictions, refusals, rollups, shards
from db.types import now

#: Buckets of the score histogram; twentieths.
BUCKETS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Cam:
    """A class-activation map as bytes, linear from `low` to `high` logits."""

    height: int
    width: int
    low: float
    high: float
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A film that was scored."""

    item_no: int
    name: str
    label_no: int
    #: P(positive class), 0 to 1.
    probability: float
    positive: bool
    #: All classes, where there are more than two.
    scores: list[float] | None = None
    ood: float | None = None
    unusual: bool = False
    cam: Cam | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NotPredicted:
    """An item that was refused (intact, but no film to be scored) or is in error (broken)."""

    item_no: int
    name: str
    code: str
    detail: str
    refused: bool = False


Outcome = Prediction | NotPredicted


def commit(connection: sa.Connection, shard: Shard, outcomes: Sequence[Outcome]) -> None:
    """Write a shard's outcomes and mark it done, all or nothing.

    The fence comes first: LeaseLost where another worker has claimed the shard since, or the job
    has ended. A duplicate key is not forgiven: it would mean that an item had two outcomes.
    """
    if sorted(o.item_no for o in outcomes) != list(
        range(shard.first_item, shard.first_item + shard.n_items)
    ):
        raise ValueError(
            f"shard {shard.shard_no} of job {shard.job_id} has {shard.n_items} items, "
            f"but {len(outcomes)} outcomes that are not one each"
        )
    predicted = [o for o in outcomes if isinstance(o, Prediction)]
    others = [o for o in outcomes if isinstance(o, NotPredicted)]
    _finish(
        connection,
        shard,
        "done",
        n_predictions=len(predicted),
        n_positive=sum(p.positive for p in predicted),
        n_unusual=sum(p.unusual for p in predicted),
        n_refused=sum(o.refused for o in others),
        n_errors=sum(not o.refused for o in others),
    )
    key = {"job_id": shard.job_id, "shard_no": shard.shard_no}
    _insert(
        connection,
        predictions,
        [
            {
                **key,
                "item_no": p.item_no,
                "name": p.name,
                "model_id": shard.model_id,
                "label_no": p.label_no,
                "probability": p.probability,
                "scores": p.scores,
                "ood": p.ood,
            }
            for p in predicted
        ],
    )
    _insert(
        connection,
        cams,
        [
            {
                "job_id": shard.job_id,
                "item_no": p.item_no,
                "height": p.cam.height,
                "width": p.cam.width,
                "low": p.cam.low,
                "high": p.cam.high,
                "data": p.cam.data,
            }
            for p in predicted
            if p.cam is not None
        ],
    )
    for table, refused in ((refusals, True), (item_errors, False)):
        _insert(
            connection,
            table,
            [
                {**key, "item_no": o.item_no, "name": o.name, "code": o.code, "detail": o.detail}
                for o in others
                if o.refused == refused
            ],
        )
    histogram = Counter(
        (min(int(p.probability * BUCKETS), BUCKETS - 1), p.label_no) for p in predicted
    )
    _insert(
        connection,
        rollups,
        [{**key, "bucket": b, "label_no": label, "n": n} for (b, label), n in histogram.items()],
    )


def give_up(connection: sa.Connection, shard: Shard, names: Sequence[str], detail: str) -> None:
    """Mark a shard dead: each of its items becomes an error row, so that none is lost unseen."""
    if len(names) != shard.n_items:
        raise ValueError(
            f"shard {shard.shard_no} of job {shard.job_id} has {shard.n_items} items, "
            f"but {len(names)} names"
        )
    _finish(connection, shard, "dead", n_errors=shard.n_items, last_error=detail)
    _insert(
        connection,
        item_errors,
        [
            {
                "job_id": shard.job_id,
                "shard_no": shard.shard_no,
                "item_no": shard.first_item + n,
                "name": name,
                "code": "worker_died",
                "detail": detail,
            }
            for n, name in enumerate(names)
        ],
    )
    job_rows.log(
        connection, shard.job_id, shard.worker_id, "shard_dead", f"shard {shard.shard_no}: {detail}"
    )


def _finish(connection: sa.Connection, shard: Shard, state: str, **counts: Any) -> None:
    # The job's row is share-locked first: a cancel waits for us, or we see it.
    if job_rows.scoring(connection, shard.job_id):
        changed = connection.execute(
            sa.update(shards)
            .where(leases.held(shard))
            .values(state=state, finished_at=now(), lease_until=None, **counts)
        )
        if changed.rowcount == 1:
            return
    raise LeaseLost(
        f"shard {shard.shard_no} of job {shard.job_id} is no longer this worker's, "
        "or the job has ended"
    )


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(sa.insert(table), rows)
