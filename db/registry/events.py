"""What happened to models: appended, never changed."""

from __future__ import annotations

import sqlalchemy as sa

from db.base.schema import model_events
from db.base.types import now


def log(connection: sa.Connection, model_id: int, who: str, event: str, detail: str) -> None:
    """Append to the model's history."""
    connection.execute(
        sa.insert(model_events).values(
            model_id=model_id, at=now(), who=who, event=event, detail=detail
        )
    )
