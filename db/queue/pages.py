"""Pages: which files with films, or names of films, in them were written outside the database.

Whoever has to erase a patient's films finds there what else holds them.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from db.base import bulk
from db.base.schema import page_films, pages
from db.base.types import now

#: What was written.
KINDS = ("report", "review", "export", "folder", "labels")


def record(
    connection: sa.Connection,
    kind: str,
    path: str,
    who: str,
    *,
    job_id: int | None = None,
    model_id: int | None = None,
    run_id: int | None = None,
    films: Iterable[tuple[int, int]] | None = (),
) -> int:
    """Record a file or folder that is about to be written; its number.

    `films` are the jobs and items that it holds; None: all of its job.
    """
    items = None if films is None else sorted(set(films))
    page_id = int(
        connection.execute(
            sa.insert(pages)
            .values(
                kind=kind,
                path=path,
                job_id=job_id,
                model_id=model_id,
                run_id=run_id,
                n_films=None if items is None else len(items),
                written_by=who,
                written_at=now(),
            )
            .returning(pages.c.id)
        ).scalar_one()
    )
    bulk.insert(
        connection, page_films.name, ("page_id", "job_id", "item_no"),
        [(page_id, job, item_no) for job, item_no in items or ()],
    )  # fmt: skip
    return page_id


def holding(connection: sa.Connection, job_id: int, item_no: int) -> list[sa.RowMapping]:
    """The files that hold an item of a job, oldest first."""
    named = sa.exists().where(
        page_films.c.page_id == pages.c.id,
        page_films.c.job_id == job_id,
        page_films.c.item_no == item_no,
    )
    whole = sa.and_(pages.c.job_id == job_id, pages.c.n_films.is_(None))
    return list(
        connection.execute(
            sa.select(pages).where(sa.or_(named, whole)).order_by(pages.c.id)
        ).mappings()
    )
