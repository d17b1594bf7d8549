"""Aliases: the names that stand for a model, such as `champion`, and every move of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from db.base import database, outbox
from db.base.errors import Conflict, NotFound
from db.base.schema import aliases, model_files, model_labels, models, promotions
from db.base.types import now
from db.registry import events

#: The alias that `score` uses when no model is named.
CHAMPION = "champion"

#: Fewer characters than this are not taken for the start of a SHA-256.
LEAST_SHA256 = 8

#: Longer numbers do not fit into a 64-bit column.
_MOST_DIGITS = 18


def move(
    connection: sa.Connection,
    alias: str,
    model_id: int,
    who: str,
    reason: str,
    *,
    how: str = "promote",
    run_id: int | None = None,
    anchor: bool | None = None,
    other_classes: bool = False,
) -> int | None:
    """Let an alias stand for a model, in one transaction with its history.

    Returns the model it stood for before. Jobs that are already submitted keep theirs. `how` is
    first, promote or rollback, and `run_id` the run that decided it. `anchor` is whether nights
    compare with this model from now on; where it is not said, they do where no run decided it.
    Raises Conflict for a model that is retired, and without `other_classes` for one that has other
    classes or another disease than the model before.
    """
    anchor = run_id is None if anchor is None else anchor
    before = model_of(connection, alias, lock=True)
    state = connection.execute(sa.select(models.c.state).where(models.c.id == model_id)).scalar()
    if state == "retired":
        raise Conflict(f"model {model_id} is retired: its files may be gone; promote another")
    differs = "" if before is None else difference(connection, model_id, before, alias)
    if differs and not other_classes:
        again = "rollback" if how == "rollback" else f"promote {model_id}"
        raise Conflict(
            f"{differs}. Jobs that name no model would be scored for other classes; if you mean "
            f"that: `pneumoq models {again} --other-classes`"
        )
    if before is None:
        connection.execute(
            sa.insert(aliases).values(
                name=alias, model_id=model_id, moved_at=now(), moved_by=who, reason=reason
            )
        )
    else:
        connection.execute(
            sa.update(aliases)
            .where(aliases.c.name == alias)
            .values(model_id=model_id, moved_at=now(), moved_by=who, reason=reason)
        )
        if before != model_id:
            events.log(
                connection, before, who, "replaced", f"as {alias} by model {model_id}: {reason}"
            )
    events.log(connection, model_id, who, "promoted", f"to {alias}: {reason}")
    if before != model_id:
        connection.execute(
            sa.insert(promotions).values(
                alias=alias, model_id=model_id, previous_id=before, how=how, run_id=run_id,
                at=now(), who=who, reason=reason, anchor=anchor,
            )
        )  # fmt: skip
        if alias == CHAMPION and before is not None and run_id is None:
            # A run's promotion has a notice of its own; a person's reason may hold anything.
            outbox.add(
                connection, "promoted", model_id=model_id, text=f"{how}: in place of model {before}"
            )
    elif anchor:
        # A person chose what a run had promoted.
        newest = sa.select(sa.func.max(promotions.c.id)).where(promotions.c.alias == alias)
        connection.execute(
            sa.update(promotions)
            .where(promotions.c.id == newest.scalar_subquery())
            .values(anchor=True)
        )
    return before


def rollback(
    connection: sa.Connection, alias: str, who: str, reason: str, *, other_classes: bool = False
) -> tuple[int, int]:
    """Let an alias stand again for the model before: that which this one took the place of.

    Returns both, now and before. Done twice it goes back two. Raises Conflict where there is no
    model before, and as `move` does.
    """
    current = model_of(connection, alias, lock=True)
    if current is None:
        raise Conflict(f"no model is {alias}; `pneumoq models ls` lists them")
    target = before(connection, alias)
    if target is None:
        raise Conflict(
            f"model {current} is the first {alias} there was; `pneumoq models promote` takes any "
            "other model"
        )
    move(connection, alias, target, who, reason, how="rollback", other_classes=other_classes)
    return target, current


def difference(connection: sa.Connection, model_id: int, before: int, alias: str = CHAMPION) -> str:
    """Both models' classes and diseases, for a person; empty where they are the same.

    The order of the classes is how scores are stored, and makes no other model.
    """
    named = sa.select(model_labels.c.name).order_by(model_labels.c.label_no)
    ours, theirs = (
        (
            connection.execute(named.where(model_labels.c.model_id == number)).scalars().all(),
            connection.execute(sa.select(models.c.positive).where(models.c.id == number)).scalar(),
        )
        for number in (model_id, before)
    )
    if set(ours[0]) == set(theirs[0]) and ours[1] == theirs[1]:
        return ""
    return "; ".join(
        f"{model} has the classes {', '.join(labels)} and the disease {disease}"
        for model, (labels, disease) in (
            (f"model {model_id}", ours),
            (f"model {before}, the {alias},", theirs),
        )
    )


def before(connection: sa.Connection, alias: str) -> int | None:
    """The model that `rollback` goes back to; None where there is none.

    A rollback undoes the promotion before it, so a model that an alias stood for twice is come by
    twice.
    """
    line: list[int] = []
    for row in connection.execute(
        sa.select(promotions.c.how, promotions.c.model_id, promotions.c.previous_id)
        .where(promotions.c.alias == alias)
        .order_by(promotions.c.id)
    ):
        if not line and row.previous_id is not None:
            line.append(int(row.previous_id))  # moves of before were not kept of every alias
        if row.how == "rollback":
            line.pop()
        else:
            line.append(int(row.model_id))
    return line[-2] if len(line) > 1 else None


def anchor(connection: sa.Connection) -> int | None:
    """The champion that a person chose last, or the first that there was; None where there is none.

    Models that nights make are compared with it as well as with the champion: of many nights each
    may lose a little.
    """
    found = _chosen(connection)
    return model_of(connection, CHAMPION) if found is None else int(found.model_id)


def why_anchor(connection: sa.Connection) -> str:
    """What the anchor is, in words that follow "model 3, "."""
    found = _chosen(connection)
    is_first = found is None or found.how == "first"
    return "the first champion" if is_first else "the last that a person promoted"


def _chosen(connection: sa.Connection) -> sa.Row[Any] | None:
    """The newest move of the champion that nights compare with."""
    chosen = sa.or_(
        promotions.c.anchor.is_(True),
        sa.and_(promotions.c.anchor.is_(None), promotions.c.run_id.is_(None)),
    )
    columns = [promotions.c.model_id, promotions.c.how]
    return connection.execute(
        sa.select(*columns)
        .where(promotions.c.alias == CHAMPION, chosen)
        .order_by(promotions.c.id.desc())
        .limit(1)
    ).one_or_none()


def model_of(connection: sa.Connection, alias: str, *, lock: bool = False) -> int | None:
    """The model that an alias stands for now; with `lock` it stays so until commit."""
    select = sa.select(aliases.c.model_id).where(aliases.c.name == alias)
    found = connection.execute(select.with_for_update() if lock else select).scalar()
    return None if found is None else int(found)


def resolve(engine: sa.Engine, reference: str) -> sa.RowMapping:
    """The model that an alias, a number, a name or the start of a file's SHA-256 stands for."""
    with database.reading(engine) as connection:
        found = named(connection, reference)
    if not found:
        hint = (
            "train one with `pneumoq train FOLDER`"
            if reference == CHAMPION
            else "`pneumoq models ls` lists them"
        )
        raise NotFound(f"there is no model {reference!r}; {hint}")
    if len(found) > 1:
        raise NotFound(f"{reference!r} stands for several models; give the number")
    return found[0]


def named(connection: sa.Connection, reference: str) -> Sequence[sa.RowMapping]:
    """The models that a reference may stand for: as `resolve`, which wants exactly one."""
    found = connection.execute(
        sa.select(models)
        .join(aliases, aliases.c.model_id == models.c.id)
        .where(aliases.c.name == reference)
    ).mappings().all()  # fmt: skip
    if not found and reference.isdecimal() and len(reference) <= _MOST_DIGITS:
        found = connection.execute(
            sa.select(models).where(models.c.id == int(reference))
        ).mappings().all()  # fmt: skip
    if not found:
        by_file = sa.select(model_files.c.model_id).where(
            model_files.c.sha256.startswith(reference.lower(), autoescape=True)
        )
        same = models.c.name == reference
        if len(reference) >= LEAST_SHA256:
            same = sa.or_(same, models.c.id.in_(by_file))
        found = connection.execute(sa.select(models).where(same)).mappings().all()
    return found
