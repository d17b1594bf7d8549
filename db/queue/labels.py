"""Ground truth brought in after scoring: matched to items by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import sqlalchemy as sa

from db.base import bulk, database
from db.base.errors import Conflict, NotFound, UnknownLabel
from db.base.schema import (
    identities,
    item_errors,
    labels,
    model_labels,
    predictions,
    refusals,
)
from db.base.types import now
from db.queue import jobs as job_rows

#: Rows taken from the file at a time.
BATCH = 10_000

#: Names that a report shows of each kind.
EXAMPLES = 5

#: Largest item_no that its column takes.
MOST_ITEM = 2**31 - 1

#: What a row names: an item's number, its name, or names of which the first that there is counts.
#: Names in a tuple of their own are one: items that have either are items of that name.
Item = int | str | tuple[str | tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of the rows that were brought in."""

    #: Rows read.
    rows: int
    #: Items that have a label now, of those named in the file.
    labelled: int
    #: Rows that name no item of the job that has an outcome.
    unknown: int
    #: Rows whose name several items have: none of them was labelled.
    ambiguous: int
    #: Items that were given two different labels: none of them was labelled.
    contradicted: int
    #: The first few names of each kind that was not labelled.
    examples: dict[str, list[str]]


def has_hashed(engine: sa.Engine, job_id: int) -> bool:
    """Whether some item of a job is named by a hash, which begins with `#`."""
    with database.reading(engine) as connection:
        return any(
            connection.execute(
                sa.select(sa.exists().where(table.c.job_id == job_id, table.c.name.startswith("#")))
            ).scalar_one()
            for table in (predictions, refusals, item_errors)
        )


def import_rows(
    connection: sa.Connection, job_id: int, rows: Iterable[tuple[Item, str]], who: str
) -> Imported:
    """Give items of a job their true classes, replacing those they had; nothing is guessed.

    A row is an item's name, exactly as in v_predictions, or its number, and the class, in which
    accents may be written otherwise (NFC, NFD). Raises UnknownLabel where a label is no class of
    the job's model; then nothing is kept. `rows` is read once: whoever repeats the transaction
    gives it anew.
    """
    job = job_rows.locked(connection, job_id)
    if job.kind != "score":
        raise Conflict(f"job {job_id} is no scoring job: it has no items to be labelled")
    job_rows.check_kept(job_id, job.purged_at)
    classes = _classes(connection, job.model_id)
    end = " ON COMMIT DROP" if connection.dialect.name == "postgresql" else ""
    connection.exec_driver_sql(
        "CREATE TEMPORARY TABLE label_rows "
        "(row_no INTEGER, way INTEGER, alias INTEGER, item_no INTEGER, name TEXT, label TEXT, "
        f"PRIMARY KEY (row_no, way, alias)){end}"
    )
    connection.exec_driver_sql(
        "CREATE TEMPORARY TABLE label_items "
        f"(row_no INTEGER, way INTEGER, item_no INTEGER, label TEXT, items INTEGER){end}"
    )
    count, nobodys = _take(connection, rows, classes, job.model_id)
    _match(connection, job_id)
    report = _keep(connection, job_id, count, nobodys, who)
    connection.exec_driver_sql("DROP TABLE label_rows")
    connection.exec_driver_sql("DROP TABLE label_items")
    job_rows.log(
        connection, job_id, who, "labels_imported",
        f"{report.labelled} items of {report.rows} rows; {report.unknown} unknown, "
        f"{report.ambiguous} ambiguous, {report.contradicted} contradicted",
    )  # fmt: skip
    return report


def _classes(connection: sa.Connection, model_id: int) -> list[str]:
    return list(
        connection.execute(
            sa.select(model_labels.c.name)
            .where(model_labels.c.model_id == model_id)
            .order_by(model_labels.c.label_no)
        ).scalars()
    )


def _take(
    connection: sa.Connection,
    rows: Iterable[tuple[Item, str]],
    classes: list[str],
    model_id: int,
) -> tuple[int, list[str]]:
    """Put the rows into label_rows: how many were read, and the first that no item can be meant by.

    Those are not put there: no database takes such a number or name.
    """
    stream = iter(rows)
    known = {unicodedata.normalize("NFC", name): name for name in classes}
    columns = ("row_no", "way", "alias", "item_no", "name", "label")
    count, nobodys = 0, list[str]()
    while part := list(islice(stream, BATCH)):
        batch: list[bulk.Row] = []
        for item, label in part:
            count += 1
            found = known.get(unicodedata.normalize("NFC", label))
            if found is None:
                said = item
                while isinstance(said, tuple):
                    said = said[0]
                raise UnknownLabel(
                    f"row {count} ({said}) has the label {label!r}, which is no class of model "
                    f"{model_id}; its classes are {', '.join(classes)}"
                )
            if isinstance(item, int):
                if 0 <= item <= MOST_ITEM:
                    batch.append((count, 0, 0, item, None, found))
                elif len(nobodys) < EXAMPLES:
                    nobodys.append(str(item))
                continue
            ways = [
                [name for name in (one if isinstance(one, tuple) else (one,)) if _is_text(name)]
                for one in (item if isinstance(item, tuple) else (item,))
            ]
            ways = [names for names in ways if names]
            for way, names in enumerate(ways):
                batch += [(count, way, n, None, name, found) for n, name in enumerate(names)]
            if not ways and len(nobodys) < EXAMPLES:
                nobodys.append(ascii(item))
        bulk.insert(connection, "label_rows", columns, batch)
    return count, nobodys


def _is_text(name: str) -> bool:
    """Whether a database can keep the name: items' names have neither NUL nor lone surrogates."""
    return not re.search("[\0\ud800-\udfff]", name)


def _match(connection: sa.Connection, job_id: int) -> None:
    connection.exec_driver_sql("CREATE INDEX label_rows_name ON label_rows (name)")
    connection.exec_driver_sql("CREATE INDEX label_rows_item ON label_rows (item_no)")
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("ANALYZE label_rows")
    tables = ("predictions", "refusals", "item_errors")
    for key in ("name", "item_no"):
        items = " UNION ALL ".join(
            f"SELECT item_no, name FROM {table} WHERE job_id = :job"  # noqa: S608  # constants
            for table in tables
        )
        connection.execute(
            sa.text(
                "INSERT INTO label_items (row_no, way, item_no, label, items) "  # noqa: S608  # constants
                "SELECT r.row_no, r.way, MIN(i.item_no), MIN(r.label), COUNT(*) "
                f"FROM ({items}) i JOIN label_rows r ON r.{key} = i.{key} GROUP BY r.row_no, r.way"
            ),
            {"job": job_id},
        )
    # Of several ways to write a name the first one that there is counts.
    connection.exec_driver_sql("CREATE INDEX label_items_row ON label_items (row_no, way)")
    connection.execute(
        sa.text(
            "DELETE FROM label_items WHERE EXISTS (SELECT 1 FROM label_items AS before "
            "WHERE before.row_no = label_items.row_no AND before.way < label_items.way)"
        )
    )


_CONTRADICTED = (
    "SELECT item_no FROM label_items WHERE items = 1 GROUP BY item_no HAVING MIN(label) <> "
    "MAX(label)"
)


def _keep(
    connection: sa.Connection, job_id: int, count: int, nobodys: list[str], who: str
) -> Imported:
    found, ambiguous = connection.execute(
        sa.text("SELECT COUNT(*), COUNT(CASE WHEN items > 1 THEN 1 END) FROM label_items")
    ).one()
    contradicted = connection.execute(
        sa.text(f"SELECT COUNT(*) FROM ({_CONTRADICTED}) AS c")  # noqa: S608  # constants
    ).scalar_one()
    # `WHERE` keeps SQLite from reading ON as part of a join.
    kept = connection.execute(
        sa.text(
            "INSERT INTO labels (job_id, item_no, label, imported_at, imported_by) "
            "SELECT :job, item_no, MIN(label), :at, :who FROM label_items WHERE items = 1 "
            "GROUP BY item_no HAVING MIN(label) = MAX(label) "
            "ON CONFLICT (job_id, item_no) DO UPDATE SET label = excluded.label, "
            "imported_at = excluded.imported_at, imported_by = excluded.imported_by"
        ).bindparams(sa.bindparam("at", type_=labels.c.imported_at.type)),
        {"job": job_id, "who": who, "at": connection.execute(sa.select(now())).scalar_one()},
    )
    lists = {
        "unknown": "SELECT COALESCE(r.name, CAST(r.item_no AS TEXT)) FROM label_rows r "
        "LEFT JOIN label_items i ON i.row_no = r.row_no WHERE i.row_no IS NULL AND r.way = 0 "
        "AND r.alias = 0 ORDER BY r.row_no LIMIT :n",
        "ambiguous": "SELECT r.name FROM label_rows r JOIN label_items i ON i.row_no = r.row_no "
        "AND i.way = r.way WHERE i.items > 1 AND r.alias = 0 ORDER BY r.row_no LIMIT :n",
        "contradicted": "SELECT DISTINCT COALESCE(r.name, CAST(r.item_no AS TEXT)) "  # noqa: S608  # constants
        "FROM label_rows r JOIN label_items i ON i.row_no = r.row_no AND i.way = r.way "
        f"WHERE i.item_no IN ({_CONTRADICTED}) AND r.alias = 0 ORDER BY 1 LIMIT :n",
    }
    examples = {
        kind: list(connection.execute(sa.text(select), {"n": EXAMPLES}).scalars())
        for kind, select in lists.items()
    }
    examples["unknown"] = [*nobodys, *examples["unknown"]][:EXAMPLES]
    return Imported(
        rows=count,
        labelled=kept.rowcount,
        unknown=count - int(found),
        ambiguous=int(ambiguous),
        contradicted=int(contradicted),
        examples=examples,
    )


class Scored(NamedTuple):
    """A prediction of which the true class was brought in."""

    item_no: int
    #: As the database has it: a keyed hash where names are hidden.
    name: str
    #: P(positive class), 0 to 1.
    probability: float
    #: All classes, where there are more than two.
    scores: list[float] | None
    #: Distance from the training films, where the model tells.
    ood: float | None
    #: True class.
    truth: str
    #: Of DICOM, keyed hashes of whose it is.
    patient: str | None
    study: str | None
    #: The row that was scored: its own, or the one that answered it.
    origin: tuple[int, int]


def scored(engine: sa.Engine, job_id: int) -> list[Scored]:
    """The labelled predictions of a scoring job that has completed, in the order of its items.

    Raises NotFound where there are none, and Conflict where the job has not completed or was
    purged.
    """
    job = job_rows.get(engine, job_id)
    if job["kind"] != "score":
        raise Conflict(f"job {job_id} is no scoring job: it has no scores")
    job_rows.check_kept(job_id, job["purged_at"])
    if job["state"] not in ("completed", "completed_with_errors"):
        raise Conflict(
            f"job {job_id} is {job['state'].replace('_', ' ')}; wait until it has completed"
        )
    select = (
        sa.select(
            predictions.c.item_no, predictions.c.name, predictions.c.probability,
            predictions.c.scores, predictions.c.ood, labels.c.label, identities.c.patient,
            identities.c.study, predictions.c.reused_from_job, predictions.c.reused_from_item,
        )
        .select_from(labels)
        .join(predictions, _same_item(predictions))
        .outerjoin(identities, _same_item(identities))
        .where(labels.c.job_id == job_id)
        .order_by(predictions.c.item_no)
    )  # fmt: skip
    found = []
    with database.reading(engine) as connection:
        for row in connection.execute(select):
            own = row.reused_from_job is None or row.reused_from_item is None
            found.append(
                Scored(
                    item_no=row.item_no, name=row.name, probability=row.probability,
                    scores=row.scores, ood=row.ood, truth=row.label, patient=row.patient,
                    study=row.study,
                    origin=(
                        (job_id, row.item_no)
                        if own
                        else (row.reused_from_job, row.reused_from_item)
                    ),
                )
            )  # fmt: skip
    if not found:
        raise NotFound(
            f"no prediction of job {job_id} has a label; `pneumoq labels import` brings them in"
        )
    return found


def _same_item(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.job_id == labels.c.job_id, table.c.item_no == labels.c.item_no)
