"""Made with: labelled films that a model learned or was chosen by, and others of their patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from db.base.errors import NotFound
from db.nightly import nights
from db.queue import jobs
from db.registry import models

if TYPE_CHECKING:
    from trainer.data.labelled import Entry
    from worker.config import Settings

#: Of no schedule: all films are asked for.
_NO_SCHEDULE = -1


def among(
    engine: sa.Engine, settings: Settings, model: sa.RowMapping, entries: Sequence[Entry]
) -> int | None:
    """Of how many of these films the model learned the film or another of its patient, or had it
    choose epoch and threshold; the models that it began from count too.

    None where nobody here knows what it was made with.
    """
    from trainer.data import gathering
    from trainer.data.labelled import TRAIN, VAL
    from trainer.data.learned import Learned
    from trainer.data.names import Names
    from trainer.data.whose import Whose
    from worker.machine import privacy

    its = nights.learned(engine, [model["id"]], _NO_SCHEDULE, (TRAIN, VAL))
    key = privacy.load(settings).key_of_manifests()
    learned = Learned.of(its, names=Names(key=key))
    if not learned.films:
        return None
    said = Whose(pattern=_pattern(engine, model), key=lambda: key)
    return sum(learned.known(gathering.of_entries(entries, said)))


def sentence(made_with: int | None) -> str:
    """What a person should know of it; empty where that is nothing."""
    if not made_with:
        return ""
    return f"{made_with:,} of these films, or others of their patients, the model was made with"


def _pattern(engine: sa.Engine, model: sa.RowMapping) -> str | None:
    """By what the films' names say a patient, where a person said so when it was trained."""
    while model["job_id"] is None:
        if model["parent_id"] is None:
            return None
        model = models.get(engine, model["parent_id"])
    try:
        pattern = jobs.get(engine, model["job_id"])["spec"].get("patient_pattern")
    except NotFound:  # it was purged
        return None
    return None if pattern is None else str(pattern)
