"""Models: registering them with their files, and reading both back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.base import database
from db.base.errors import Conflict, NotFound
from db.base.schema import (
    engines,
    evaluations,
    model_chunks,
    model_events,
    model_files,
    model_labels,
    model_looks,
    models,
    promotions,
)
from db.base.types import now
from db.registry import aliases, events, rates
from db.registry import engines as engine_rows

#: Bytes in one row of model_chunks.
CHUNK_BYTES = 1 << 20

#: Characters of evaluations.split.
LONGEST_SPLIT = 64


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A model to be registered; fields as in the models table."""

    name: str
    origin: str
    arch: str
    labels: Sequence[str]
    positive: str
    size: int
    film_rule: str
    temperature: float
    threshold: float
    threshold_rule: str
    ood_threshold: float | None
    metrics: Mapping[str, float]
    card: Mapping[str, Any]
    #: precision → file.
    files: Mapping[str, Path]
    dataset_id: int | None = None
    job_id: int | None = None
    parent_id: int | None = None
    #: Labelled films that a model with the parent's weights was calibrated on, how many they were,
    #: and of how many patients.
    calibrated_on: str | None = None
    calibration_films: int | None = None
    calibration_patients: int | None = None
    #: How the engines that were tried on it did: columns of the engines table, with `precision`.
    engines: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    #: Split name → metrics, with `n_films` and perhaps `shift`.
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What drift is measured against, and what engines must answer for drawn films.
    reference: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, card: Mapping[str, Any], **values: Any) -> NewModel:
        """By what the model file's card says, as JSON; `values` are the other fields."""
        fields = (
            "labels", "positive", "size", "film_rule", "temperature", "threshold",
            "threshold_rule", "ood_threshold", "metrics",
        )  # fmt: skip
        return cls(
            arch="resnet18", card=dict(card), **{name: card[name] for name in fields}, **values
        )


def register(connection: sa.Connection, new: NewModel, who: str) -> int:
    """Insert a model with its files and labels; the first one ever becomes the champion.

    Raises Conflict where its name, or one of its files, belongs to a model already.
    """
    namesake = connection.execute(sa.select(models.c.id).where(models.c.name == new.name)).scalar()
    if namesake is not None:
        raise Conflict(f"model {namesake} is named {new.name!r} already; choose another name")
    model_id = int(
        connection.execute(
            sa.insert(models)
            .values(
                name=new.name,
                state="candidate",
                origin=new.origin,
                arch=new.arch,
                positive=new.positive,
                size=new.size,
                film_rule=new.film_rule,
                temperature=new.temperature,
                threshold=new.threshold,
                threshold_rule=new.threshold_rule,
                ood_threshold=new.ood_threshold,
                metrics=dict(new.metrics),
                card=dict(new.card),
                reference=sa.null() if new.reference is None else dict(new.reference),
                dataset_id=new.dataset_id,
                job_id=new.job_id,
                parent_id=new.parent_id,
                calibrated_on=new.calibrated_on,
                calibration_films=new.calibration_films,
                calibration_patients=new.calibration_patients,
                created_at=now(),
            )
            .returning(models.c.id)
        ).scalar_one()
    )
    connection.execute(
        sa.insert(model_labels),
        [{"model_id": model_id, "label_no": n, "name": name} for n, name in enumerate(new.labels)],
    )
    if looks := new.card.get("looks"):
        fields = ("what", "label", "films", "patients")
        connection.execute(
            sa.insert(model_looks),
            [
                {"model_id": model_id, "look_no": n, **{name: look[name] for name in fields}}
                for n, look in enumerate(looks)
            ],
        )
    digests = {
        precision: _store(connection, model_id, precision, path)
        for precision, path in new.files.items()
    }
    engine_rows.add(connection, digests, new.engines)
    for split, metrics in new.evaluations.items():
        record_evaluation(
            connection, model_id, split, metrics, dataset_id=new.dataset_id, job_id=new.job_id
        )
    events.log(connection, model_id, who, "registered", f"{new.origin} as {new.name}")
    if aliases.model_of(connection, aliases.CHAMPION) is None:
        # Two first models at the same moment: the second keeps its registration, not the title.
        with suppress(IntegrityError), connection.begin_nested():
            aliases.move(
                connection, aliases.CHAMPION, model_id, who, "the first model there is", how="first"
            )
    return model_id


def add_precisions(
    connection: sa.Connection,
    model_id: int,
    files: Mapping[str, Path],
    tried: Sequence[Mapping[str, Any]],
    who: str,
) -> None:
    """Give a registered model files in further precisions, and record the engines tried on it.

    `tried` is as `NewModel.engines`; an engine that was tried before is recorded anew. Raises
    Conflict where the model has a file in one of the precisions already.
    """
    name = connection.execute(sa.select(models.c.name).where(models.c.id == model_id)).scalar()
    if name is None:
        raise NotFound(f"there is no model {model_id}; `pneumoq models ls` lists them")
    kept = sa.select(model_files.c.precision, model_files.c.sha256).where(
        model_files.c.model_id == model_id
    )
    digests = {row.precision: row.sha256 for row in connection.execute(kept)}
    for precision in files:
        if precision in digests:
            raise Conflict(f"model {model_id} ({name}) has its {precision} file already")
    for precision, path in files.items():
        digests[precision] = _store(connection, model_id, precision, path)
    rates.forget(connection, model_id)
    for engine in tried:
        connection.execute(
            sa.delete(engines).where(
                engines.c.sha256.in_(list(digests.values())),
                *(engines.c[key] == engine[key] for key in engine_rows.KEY),
            )
        )
    engine_rows.add(connection, digests, tried)
    if files:
        events.log(
            connection, model_id, who, "quantised", f"{name} has files in {', '.join(files)} too"
        )


def record_evaluation(
    connection: sa.Connection, model_id: int, split: str, metrics: Mapping[str, Any], **of: Any
) -> None:
    """Add how a model did on `n_films` labelled films, which is one of the metrics.

    Another may be `shift`, the report on dressed films. `of` are `dataset_id` and `job_id` where
    there are such. A split's name is cut to its column.
    """
    shift = metrics.get("shift")
    connection.execute(
        sa.insert(evaluations).values(
            model_id=model_id,
            split=split[:LONGEST_SPLIT],
            n_films=int(metrics["n_films"]),
            metrics={k: v for k, v in metrics.items() if k not in ("n_films", "shift")},
            shift=sa.null() if shift is None else shift,
            shift_worst=None if shift is None else shift["worst"]["name"],
            shift_worst_auroc=None if shift is None else shift["worst"]["auroc"],
            created_at=now(),
            **of,
        )
    )


def _store(connection: sa.Connection, model_id: int, precision: str, path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        sha256 = digest.hexdigest()
        owner = connection.execute(_owner(sha256)).scalar()
        if owner is not None:
            raise Conflict(f"{path.name} is registered already: it is a file of model {owner}")
        connection.execute(
            sa.insert(model_files).values(
                sha256=sha256,
                model_id=model_id,
                precision=precision,
                size_bytes=file.tell(),
                created_at=now(),
            )
        )
        file.seek(0)
        number = 0
        while chunk := file.read(CHUNK_BYTES):
            connection.execute(
                sa.insert(model_chunks).values(sha256=sha256, chunk_no=number, data=chunk)
            )
            number += 1
    return sha256


def owner_of(engine: sa.Engine, sha256: str) -> int | None:
    """The model that a file of this content is of; None where it is of none."""
    with database.reading(engine) as connection:
        return connection.execute(_owner(sha256)).scalar()


def _owner(sha256: str) -> sa.Select[Any]:
    return sa.select(model_files.c.model_id).where(model_files.c.sha256 == sha256)


def pruned(connection: sa.Connection, model_id: int) -> str | None:
    """Why a model cannot be used whose bytes were removed; None where they are there.

    The model is retired then; its row stays.
    """
    kept = sa.exists().where(
        model_files.c.model_id == models.c.id, model_chunks.c.sha256 == model_files.c.sha256
    )
    row = connection.execute(
        sa.select(models.c.name, kept.label("kept")).where(
            models.c.id == model_id, models.c.state == "retired"
        )
    ).one_or_none()
    if row is None or row.kept:
        return None
    return (
        f"model {model_id} ({row.name}) is retired, and its files were removed by "
        "`pneumoq models prune`; `pneumoq models ls` shows those that can be used"
    )


def get(engine: sa.Engine, model_id: int) -> sa.RowMapping:
    """One model's row by its number; NotFound where there is none."""
    with database.reading(engine) as connection:
        row = (
            connection.execute(sa.select(models).where(models.c.id == model_id)).mappings().first()
        )
    if row is None:
        raise NotFound(f"there is no model {model_id}; `pneumoq models ls` lists them")
    return row


def file_of(engine: sa.Engine, model_id: int, precision: str = "fp32") -> sa.RowMapping:
    """The row of a model's file in a precision."""
    with database.reading(engine) as connection:
        row = (
            connection.execute(
                sa.select(model_files).where(
                    model_files.c.model_id == model_id, model_files.c.precision == precision
                )
            )
            .mappings()
            .first()
        )
    if row is None:
        raise NotFound(
            f"model {model_id} has no {precision} file; "
            f"`pneumoq models quantise {model_id} FOLDER` makes one"
        )
    return row


def read_chunks(engine: sa.Engine, sha256: str) -> Iterator[bytes]:
    """The bytes of a model file, in order; check the SHA-256 of what you get."""
    number = 0
    while True:
        with database.reading(engine) as connection:
            chunk = connection.execute(
                sa.select(model_chunks.c.data).where(
                    model_chunks.c.sha256 == sha256, model_chunks.c.chunk_no == number
                )
            ).scalar()
        if chunk is None:
            return
        yield bytes(chunk)
        number += 1


def listing(engine: sa.Engine) -> list[sa.RowMapping]:
    """All models, newest first, as rows of v_models with their validation metrics and lineage.

    `films` is how many a model was trained on; `made_by` is the job, or the schedule's run; and
    `champion_since` is NULL where it is not the champion.
    """
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.text(
                    "SELECT v.*, m.metrics, d.n_train AS films, CASE "
                    "WHEN r.id IS NOT NULL THEN s.name || ', run ' || r.id "
                    "WHEN v.job_id IS NOT NULL THEN 'job ' || v.job_id "
                    "WHEN v.calibrated_from IS NOT NULL "
                    "THEN 'calibrated from ' || v.calibrated_from END AS made_by, "
                    # An alias that was given to the same model again has not moved.
                    "CASE v.champion WHEN 1 THEN (SELECT MAX(p.at) FROM promotions p "
                    "WHERE p.alias = :champion AND p.model_id = v.model_id) END AS champion_since "
                    "FROM v_models v JOIN models m ON m.id = v.model_id "
                    "LEFT JOIN datasets d ON d.id = v.dataset_id "
                    # Not v_runs: SQLite would make all of it first.
                    "LEFT JOIN runs r ON r.candidate_id = v.model_id "
                    "LEFT JOIN schedules s ON s.id = r.schedule_id "
                    "ORDER BY v.model_id DESC"
                ).columns(
                    metrics=models.c.metrics.type,
                    created_at=models.c.created_at.type,
                    champion_since=promotions.c.at.type,
                ),
                {"champion": aliases.CHAMPION},
            ).mappings()
        )


def detail(engine: sa.Engine, model_id: int) -> dict[str, list[sa.RowMapping]]:
    """What hangs on a model: `labels`, `files`, `engines`, `evaluations`, `events`."""
    with database.reading(engine) as connection:

        def rows(select: sa.Select[Any]) -> list[sa.RowMapping]:
            return list(connection.execute(select).mappings())

        files = sa.select(model_files.c.sha256).where(model_files.c.model_id == model_id)
        return {
            "labels": rows(
                sa.select(model_labels)
                .where(model_labels.c.model_id == model_id)
                .order_by(model_labels.c.label_no)
            ),
            "files": rows(sa.select(model_files).where(model_files.c.model_id == model_id)),
            "engines": rows(
                sa.select(engines).where(engines.c.sha256.in_(files)).order_by(engines.c.id)
            ),
            "evaluations": rows(
                sa.select(evaluations)
                .where(evaluations.c.model_id == model_id)
                .order_by(evaluations.c.id)
            ),
            "events": rows(
                sa.select(model_events)
                .where(model_events.c.model_id == model_id)
                .order_by(model_events.c.id)
            ),
        }
