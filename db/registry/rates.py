"""Rates: how fast a model is in each precision on each kind of worker, and which one `auto` is.

A kind of worker has one chosen precision per model: before anything is measured the first of a
fixed order, and another one only once it was measured to be faster beyond doubt. The rows are of
the model, so that a new model is measured anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from db.base import database
from db.base.schema import aliases, engines, films, model_files, models, rates
from db.base.types import now
from db.registry import events

#: A precision takes another one's place where the interval of how much faster it is lies above.
MARGIN = 1.10

#: From fewer rounds nothing is changed.
LEAST_ROUNDS = 10

#: Precisions that outcomes may be stored in, the fastest first as a rule: of as many, the first.
PRECISIONS = ("int8", "bf16", "fp16", "fp32")


_PREDICTIONS = sa.text(
    "SELECT precision, SUM(predictions) AS n FROM v_daily_scores WHERE model_id = :model "
    "GROUP BY precision"
)


class Known(NamedTuple):
    """Which engines of a model there are: another one is another answer."""

    engines: int
    newest: datetime | None


class Rate(NamedTuple):
    """One precision as it was measured, beside the one that was chosen then."""

    precision: str
    #: Median of the rounds.
    films_per_s: float
    #: Films/s to those of the chosen one, and the 95 % interval; None for that one itself.
    ratio: tuple[float, float, float] | None = None


def keep(
    connection: sa.Connection,
    model_id: int,
    kind: str,
    measured: Sequence[Rate],
    *,
    batch: int,
    rounds: int,
    who: str,
    only_new: bool = False,
    known: Known | None = None,
) -> str | None:
    """Write what was measured on a kind of worker in place of what was; the precision chosen.

    The one without a ratio is what the others were measured beside. Another one is chosen where its
    interval lies above `MARGIN`, the fastest of several, and the model's history says so. With
    `only_new` what another worker of that kind wrote first stays. None, and nothing is written,
    where what may be computed is not what was `known` then.
    """
    # Of two workers that measured at once the second one sees what the first one wrote.
    connection.execute(sa.select(models.c.id).where(models.c.id == model_id).with_for_update())
    ours = sa.and_(rates.c.model_id == model_id, rates.c.kind == kind)
    if known is not None and known != _known(connection, model_id):
        return None
    if only_new:
        there = connection.execute(sa.select(rates.c.precision).where(ours, rates.c.chosen))
        if first := there.scalar():
            return str(first)
    (before,) = (rate.precision for rate in measured if rate.ratio is None)
    faster = [
        (rate.ratio[0], rate.precision)
        for rate in measured
        if rate.ratio is not None and rate.ratio[1] > MARGIN and rounds >= LEAST_ROUNDS
    ]
    best = max(faster)[1] if faster else before
    connection.execute(sa.delete(rates).where(ours))
    for rate in measured:
        middle, low, high = rate.ratio or (None, None, None)
        connection.execute(
            sa.insert(rates).values(
                model_id=model_id, kind=kind, precision=rate.precision, batch=batch,
                films_per_s=rate.films_per_s, ratio=middle, ratio_low=low, ratio_high=high,
                rounds=rounds, chosen=rate.precision == best, measured_at=now(), measured_by=who,
            )
        )  # fmt: skip
    if best != before:
        middle, low, high = next(r.ratio for r in measured if r.precision == best) or (0, 0, 0)
        events.log(
            connection, model_id, who, "precision",
            f"auto is {best} in place of {before} on {kind}: {middle:.2f} times as fast "
            f"(95 % interval {low:.2f} to {high:.2f}, {rounds} rounds)",
        )  # fmt: skip
    return best


def known(engine: sa.Engine, model_id: int) -> Known:
    """Which engines of the model there are now."""
    with database.reading(engine) as connection:
        return _known(connection, model_id)


def _known(connection: sa.Connection, model_id: int) -> Known:
    select = (
        sa.select(sa.func.count(), sa.func.max(engines.c.created_at))
        .select_from(engines)
        .join(model_files, model_files.c.sha256 == engines.c.sha256)
        .where(model_files.c.model_id == model_id)
    )
    return Known(*connection.execute(select).one())


def of_model(engine: sa.Engine, model_id: int) -> list[sa.RowMapping]:
    """The rows of a model, by kind of worker, the fastest first."""
    select = (
        sa.select(rates)
        .where(rates.c.model_id == model_id)
        .order_by(rates.c.kind, rates.c.films_per_s.desc())
    )
    with database.reading(engine) as connection:
        return list(connection.execute(select).mappings())


def of_kind(engine: sa.Engine, model_id: int, kind: str) -> list[str]:
    """The precisions that a kind of worker was measured in, the fastest first."""
    return [row["precision"] for row in of_model(engine, model_id) if row["kind"] == kind]


def chosen(engine: sa.Engine, model_id: int, kind: str) -> str | None:
    """The precision that a kind of worker has for a model; None where none was measured there."""
    select = sa.select(rates.c.precision).where(
        rates.c.model_id == model_id, rates.c.kind == kind, rates.c.chosen
    )
    with database.reading(engine) as connection:
        return connection.execute(select).scalar()


def fastest(
    rows: Iterable[sa.RowMapping], kinds: Sequence[str], usable: Collection[str]
) -> str | None:
    """The precision for workers of these kinds (one for each worker), of the usable ones.

    `rows` are those of a model. Where the kinds chose differently, that in which all workers
    together score most films per second, of those that each kind has. None where that cannot be
    told: a kind that was not measured, no worker, or no precision that all have.
    """
    rows = [row for row in rows if row["kind"] in kinds]
    choices = {row["kind"]: row["precision"] for row in rows if row["chosen"]}
    if not kinds or not set(kinds) <= choices.keys():
        return None
    if len(agreed := set(choices.values())) == 1 and agreed <= set(usable):
        return str(agreed.pop())
    speed = {(row["kind"], row["precision"]): float(row["films_per_s"]) for row in rows}
    together = {
        precision: sum(speed[kind, precision] for kind in kinds)
        for precision in PRECISIONS
        if precision in usable and all((kind, precision) in speed for kind in kinds)
    }
    return max(together, key=lambda precision: together[precision]) if together else None


def lacking(rows: Iterable[sa.RowMapping], kinds: Sequence[str]) -> set[str]:
    """Precisions that a kind of worker could not be measured in, of those that were measured.

    `rows` are those of a model.
    """
    found: dict[str, set[str]] = {}
    for row in rows:
        if row["kind"] in kinds:
            found.setdefault(row["kind"], set()).add(row["precision"])
    return {name for there in found.values() for name in set(PRECISIONS) - there}


def forget(connection: sa.Connection, model_id: int) -> None:
    """Have a model be measured anew, on all kinds of workers: it has another precision."""
    connection.execute(sa.select(models.c.id).where(models.c.id == model_id).with_for_update())
    connection.execute(sa.delete(rates).where(rates.c.model_id == model_id))


def stored(engine: sa.Engine, model_id: int) -> str | None:
    """The precision of most of the model's predictions, where any can be answered from the store.

    In another one the whole archive would be scored anew.
    """
    with database.reading(engine) as connection:
        stored_in = sa.union_all(
            *(
                sa.select(sa.literal(precision)).where(
                    sa.exists().where(films.c.model_id == model_id, films.c.precision == precision)
                )
                for precision in PRECISIONS
            )
        )
        there = [str(name) for name in connection.execute(stored_in).scalars()]
        there.sort(key=PRECISIONS.index)
        if len(there) < 2:
            return there[0] if there else None
        rows = connection.execute(_PREDICTIONS, {"model": model_id})
        counted: dict[str, int] = {row.precision: int(row.n) for row in rows}
    return max(there, key=lambda precision: counted.get(precision, 0))


def unmeasured(engine: sa.Engine, kind: str) -> list[int]:
    """Models that an alias stands for and that were not measured on this kind of worker."""
    measured = sa.select(rates.c.model_id).where(rates.c.kind == kind)
    select = (
        sa.select(models.c.id)
        .where(models.c.id.in_(sa.select(aliases.c.model_id)), models.c.id.not_in(measured))
        .order_by(models.c.id)
    )
    with database.reading(engine) as connection:
        return list(connection.execute(select).scalars())
