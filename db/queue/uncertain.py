"""Uncertain: which films of a scoring job a person should label next."""

from __future__ import annotations

import sqlalchemy as sa

from db.base import database
from db.base.schema import jobs, model_labels

#: The nearest to the threshold first, so that a label moves it most. What has a label is done.
_NEAREST = """
    SELECT v.item_no, p.shard_no, v.name, v.label, v.probability, v.threshold, v.ood, v.unusual
    FROM v_predictions v
    JOIN predictions p ON p.job_id = v.job_id AND p.item_no = v.item_no
    WHERE v.job_id = :job AND v.unusual = 0
      AND NOT EXISTS (SELECT 1 FROM labels t WHERE t.job_id = v.job_id AND t.item_no = v.item_no)
    ORDER BY ABS(v.probability - v.threshold), v.item_no
    LIMIT :most
"""

#: The most unusual first: the label that the model gave them means little.
_UNUSUAL = """
    SELECT v.item_no, p.shard_no, v.name, v.label, v.probability, v.threshold, v.ood, v.unusual
    FROM v_predictions v
    JOIN predictions p ON p.job_id = v.job_id AND p.item_no = v.item_no
    WHERE v.job_id = :job AND v.unusual = 1
      AND NOT EXISTS (SELECT 1 FROM labels t WHERE t.job_id = v.job_id AND t.item_no = v.item_no)
    ORDER BY v.ood DESC, v.item_no
    LIMIT :most
"""


def films(engine: sa.Engine, job_id: int, most: int) -> list[sa.RowMapping]:
    """Films of a job without a true label: up to `most` near the threshold, then as many unusual.

    Rows of `item_no`, `shard_no`, `name`, `label`, `probability`, `threshold`, `ood`, `unusual`.
    """
    with database.reading(engine) as connection:
        return [
            row
            for statement in (_NEAREST, _UNUSUAL)
            for row in connection.execute(
                sa.text(statement), {"job": job_id, "most": most}
            ).mappings()
        ]


def classes(engine: sa.Engine, job_id: int) -> list[str]:
    """The classes of a scoring job's model, in the order of the scores."""
    with database.reading(engine) as connection:
        return list(
            connection.execute(
                sa.select(model_labels.c.name)
                .join(jobs, jobs.c.model_id == model_labels.c.model_id)
                .where(jobs.c.id == job_id)
                .order_by(model_labels.c.label_no)
            ).scalars()
        )
