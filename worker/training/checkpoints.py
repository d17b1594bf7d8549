"""The folders that attempts at training jobs write in, and the checkpoints that later ones use.

Each attempt writes in a folder of its own lease token, so that a trainer that was given up for dead
cannot touch its successor's checkpoints; the successor begins from a copy of the newest of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import sqlalchemy as sa

from db.base.errors import NotFound
from db.queue import jobs
from db.queue.leases import Lease

#: What the states of a run are named in an attempt's folder (of trainer.learning.state).
PATTERN = "checkpoint*.pth"


def folder_of(home: Path, lease: Lease) -> Path:
    """The folder of the attempt with this lease."""
    return _job_folder(home, lease.job_id) / f"attempt-{lease.token}"


def newest(home: Path, engine: sa.Engine, job_id: int) -> Path | None:
    """The newest attempt that left a checkpoint here: at this job, or at one it continues."""
    job: int | None = job_id
    while job is not None:
        attempts = {f.parent for f in _job_folder(home, job).glob(f"attempt-*/{PATTERN}")}
        if attempts:
            return max(attempts, key=_token)
        try:
            job = jobs.get(engine, job)["parent_job_id"]
        except NotFound:
            return None
    return None


def forget_earlier(attempt: Path) -> None:
    """Remove what earlier attempts at the job left: this one has a checkpoint of its own."""
    for folder in attempt.parent.glob("attempt-*"):
        if _token(folder) < _token(attempt):
            shutil.rmtree(folder, ignore_errors=True)


def forget(attempt: Path) -> None:
    """Remove what only a run that is to go on needs: three times the model's size."""
    for path in attempt.glob(PATTERN):
        path.unlink(missing_ok=True)


def _job_folder(home: Path, job_id: int) -> Path:
    return home / "training" / f"job-{job_id}"


def _token(attempt: Path) -> int:
    """The lease token that an attempt's folder is named for."""
    return int(attempt.name.partition("-")[2])
