"""Models: registering them with their files, naming them by alias, and reading the files back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from db.base import database, outbox
from db.base.errors import Conflict, NotFound
from db.base.schema import (
    aliases,
    engines,
    evaluations,
    model_chunks,
    model_events,
    model_files,
    model_labels,
    models,
    promotions,
)
from db.base.types import now

#: The alias that `score` uses when no model is named.
CHAMPION = "champion"

#: Bytes in one row of model_chunks.
CHUNK_BYTES = 1 << 20

#: Characters of evaluations.split.
LONGEST_SPLIT = 64

#: Fewer characters than this are not taken for the start of a SHA-256.
LEAST_SHA256 = 8

#: Columns of the engines table that, with the file, say which engine it is.
ENGINE_KEY = ("backend", "backend_version", "device", "precision")

#: engines.backend of the two flavours of TensorRT.
TENSORRT = ("tensorrt", "tensorrt_rtx")

#: Kind of worker → precisions that are faster than fp32 there, the fastest first. A processor
#: widens fp16 again, and TensorRT computes bf16's file in fp32.
FASTEST = {"onnx": ("int8", "bf16"), "tensorrt": ("int8", "fp16"), "either": ("int8",)}

#: Longer numbers do not fit into a 64-bit column.
_MOST_DIGITS = 18


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
    #: How the engines that were tried on it did: columns of the engines table, with `precision`.
    engines: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    #: Split name → metrics, with `n_films`.
    evaluations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    #: What drift is measured against, and what engines must say of drawn films.
    reference: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, card: Mapping[str, Any], **values: Any) -> NewModel:
        """By what the model file's card says, as JSON; `values` are the other fields."""
        told = (
            "labels", "positive", "size", "film_rule", "temperature", "threshold",
            "threshold_rule", "ood_threshold", "metrics",
        )  # fmt: skip
        return cls(
            arch="resnet18", card=dict(card), **{name: card[name] for name in told}, **values
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
                created_at=now(),
            )
            .returning(models.c.id)
        ).scalar_one()
    )
    connection.execute(
        sa.insert(model_labels),
        [{"model_id": model_id, "label_no": n, "name": name} for n, name in enumerate(new.labels)],
    )
    digests = {
        precision: _store(connection, model_id, precision, path)
        for precision, path in new.files.items()
    }
    _record_engines(connection, digests, new.engines)
    for split, metrics in new.evaluations.items():
        record_evaluation(
            connection, model_id, split, metrics, dataset_id=new.dataset_id, job_id=new.job_id
        )
    _log(connection, model_id, who, "registered", f"{new.origin} as {new.name}")
    if connection.execute(sa.select(aliases).where(aliases.c.name == CHAMPION)).first() is None:
        # Two first models at the same moment: the second keeps its registration, not the title.
        with suppress(IntegrityError), connection.begin_nested():
            move_alias(connection, CHAMPION, model_id, who, "the first model there is", how="first")
    return model_id


def record_evaluation(
    connection: sa.Connection, model_id: int, split: str, metrics: Mapping[str, float], **of: Any
) -> None:
    """Add how a model did on `n_films` labelled films, which is one of the metrics.

    `of` are `dataset_id` and `job_id` where there are such. A split's name is cut to its column.
    """
    connection.execute(
        sa.insert(evaluations).values(
            model_id=model_id,
            split=split[:LONGEST_SPLIT],
            n_films=int(metrics["n_films"]),
            metrics={k: v for k, v in metrics.items() if k != "n_films"},
            created_at=now(),
            **of,
        )
    )


def _record_engines(
    connection: sa.Connection, digests: Mapping[str, str], tried: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows of the engines table, each with the file that its precision is computed from."""
    for engine in tried:
        file = {"bf16": "fp32"}.get(engine["precision"], engine["precision"])
        if file in digests:  # a file that failed its gate is not kept, nor what it did
            connection.execute(
                sa.insert(engines).values(**engine, sha256=digests[file], created_at=now())
            )


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
    for engine in tried:
        connection.execute(
            sa.delete(engines).where(
                engines.c.sha256.in_(list(digests.values())),
                *(engines.c[key] == engine[key] for key in ENGINE_KEY),
            )
        )
    _record_engines(connection, digests, tried)
    if files:
        _log(connection, model_id, who, "quantised", f"{name} has files in {', '.join(files)} too")


def record_engine(connection: sa.Connection, sha256: str, row: Mapping[str, Any]) -> None:
    """Keep what became of an engine made from this file; one tried before is recorded anew.

    `row` is columns of the engines table, `passed` among them. Two workers may do so at once.
    """
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    values = {"parity_delta": None, "worker_id": None, **row, "sha256": sha256, "created_at": now()}
    key = ("sha256", *ENGINE_KEY)
    connection.execute(
        insert(engines)
        .values(**values)
        .on_conflict_do_update(
            index_elements=list(key),
            set_={name: value for name, value in values.items() if name not in key},
        )
    )


def engine_passed(
    engine: sa.Engine, sha256: str, backend: str, version: str, device: str, precision: str
) -> sa.RowMapping | None:
    """The row of this very engine, where it passed its gate the last time that it was tried."""
    select = sa.select(engines).where(
        engines.c.sha256 == sha256,
        engines.c.backend == backend,
        engines.c.backend_version == version,
        engines.c.device == device,
        engines.c.precision == precision,
        engines.c.passed,
    )
    with database.reading(engine) as connection:
        return connection.execute(select).mappings().first()


def best_precision(engine: sa.Engine, model_id: int, on: str = "onnx") -> str:
    """The fastest precision of a model that may be used, for workers of one kind.

    On `onnx`, workers that compute the file as it is: int8, else bf16, else fp32. (A bf16 engine
    that passed did so on a processor that has bfloat16.) On `tensorrt`: int8, else fp16, else fp32.
    On `either`: what is fast on both.
    """
    usable = usable_precisions(engine, model_id, on)
    return next((precision for precision in FASTEST[on] if precision in usable), "fp32")


def usable_precisions(engine: sa.Engine, model_id: int, on: str = "onnx") -> set[str]:
    """The precisions of a model that passed their parity gate, for workers of one kind.

    What passed elsewhere counts on TensorRT too, until it has been tried there: a worker tries its
    own engine before it serves. From then on the latest trial there has the last word.
    """
    with database.reading(engine) as connection:
        tried = connection.execute(
            sa.select(engines.c.precision, engines.c.backend, engines.c.passed)
            .join(model_files, model_files.c.sha256 == engines.c.sha256)
            .where(model_files.c.model_id == model_id)
            .order_by(engines.c.created_at, engines.c.id)
        ).all()
    usable = {row.precision for row in tried if row.passed and row.backend not in TENSORRT}
    there = {row.precision: row.passed for row in tried if row.backend in TENSORRT}
    if on != "onnx":
        usable -= {precision for precision, passed in there.items() if not passed}
    if on == "tensorrt":
        usable |= {precision for precision, passed in there.items() if passed}
    return usable


def _store(connection: sa.Connection, model_id: int, precision: str, path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        sha256 = digest.hexdigest()
        owner = connection.execute(
            sa.select(model_files.c.model_id).where(model_files.c.sha256 == sha256)
        ).scalar()
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


def _log(connection: sa.Connection, model_id: int, who: str, event: str, detail: str) -> None:
    connection.execute(
        sa.insert(model_events).values(
            model_id=model_id, at=now(), who=who, event=event, detail=detail
        )
    )


def move_alias(
    connection: sa.Connection,
    alias: str,
    model_id: int,
    who: str,
    reason: str,
    *,
    how: str = "promote",
    run_id: int | None = None,
) -> int | None:
    """Let an alias stand for a model, in one transaction with its history.

    Returns the model it stood for before. Jobs that are already submitted keep theirs. `how` is
    first, promote or rollback, and `run_id` the run that decided it. Raises Conflict for a model
    that is retired.
    """
    before = alias_of(connection, alias, lock=True)
    state = connection.execute(sa.select(models.c.state).where(models.c.id == model_id)).scalar()
    if state == "retired":
        raise Conflict(f"model {model_id} is retired: its files may be gone; promote another")
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
            _log(connection, before, who, "replaced", f"as {alias} by model {model_id}: {reason}")
    _log(connection, model_id, who, "promoted", f"to {alias}: {reason}")
    if before != model_id:
        connection.execute(
            sa.insert(promotions).values(
                alias=alias, model_id=model_id, previous_id=before, how=how, run_id=run_id,
                at=now(), who=who, reason=reason,
            )
        )  # fmt: skip
        if alias == CHAMPION and before is not None and run_id is None:
            # A run tells of its own promotion; a person's reason may hold anything.
            outbox.add(
                connection, "promoted", model_id=model_id, text=f"{how}: in place of model {before}"
            )
    return before


def rollback(connection: sa.Connection, alias: str, who: str, reason: str) -> tuple[int, int]:
    """Let an alias stand again for the model before: that which this one took the place of.

    Returns both, now and before. Done twice it goes back two. Raises Conflict where there is no
    model before, or it is retired.
    """
    current = alias_of(connection, alias, lock=True)
    if current is None:
        raise Conflict(f"no model is {alias}; `pneumoq models ls` lists them")
    target = before(connection, alias)
    if target is None:
        raise Conflict(
            f"model {current} is the first {alias} there was; `pneumoq models promote` takes any "
            "other model"
        )
    move_alias(connection, alias, target, who, reason, how="rollback")
    return target, current


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


def alias_of(connection: sa.Connection, alias: str, *, lock: bool = False) -> int | None:
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


def pruned(connection: sa.Connection, model_id: int) -> str | None:
    """What to say to who wants to use a model whose bytes were removed; None where they are there.

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
                    "WHEN r.run_id IS NOT NULL THEN r.schedule || ', run ' || r.run_id "
                    "WHEN v.job_id IS NOT NULL THEN 'job ' || v.job_id END AS made_by, "
                    # An alias that was given to the same model again has not moved.
                    "CASE v.champion WHEN 1 THEN (SELECT MAX(p.at) FROM promotions p "
                    "WHERE p.alias = :champion AND p.model_id = v.model_id) END AS champion_since "
                    "FROM v_models v JOIN models m ON m.id = v.model_id "
                    "LEFT JOIN datasets d ON d.id = v.dataset_id "
                    "LEFT JOIN v_runs r ON r.candidate_id = v.model_id "
                    "ORDER BY v.model_id DESC"
                ).columns(
                    metrics=models.c.metrics.type,
                    created_at=models.c.created_at.type,
                    champion_since=promotions.c.at.type,
                ),
                {"champion": CHAMPION},
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
