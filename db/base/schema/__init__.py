"""The tables. Each table and column says what it means; `pneumoq db schema` prints exactly this.

Those with sums over many shards are in `db.base.totals`; the others in the modules of this folder:
models (`registry`), schedules (`timetable`), jobs and shards (`queue`), films (`outcomes`). Import
them from here: then all are known, whatever a foreign key refers to.

People query the views (views.py), whose names and columns are stable. These tables may change, by
migration.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Table

from db.base.columns import column as _c
from db.base.columns import metadata as metadata
from db.base.schema.outcomes import cams as cams
from db.base.schema.outcomes import films as films
from db.base.schema.outcomes import identities as identities
from db.base.schema.outcomes import item_errors as item_errors
from db.base.schema.outcomes import labels as labels
from db.base.schema.outcomes import page_films as page_films
from db.base.schema.outcomes import pages as pages
from db.base.schema.outcomes import predictions as predictions
from db.base.schema.outcomes import refusals as refusals
from db.base.schema.outcomes import rollups as rollups
from db.base.schema.pieces import FINAL_JOB_STATES as FINAL_JOB_STATES
from db.base.schema.pieces import FINAL_SHARD_STATES as FINAL_SHARD_STATES
from db.base.schema.pieces import JOB_STATES as JOB_STATES
from db.base.schema.pieces import NOTICES as NOTICES
from db.base.schema.pieces import OUTCOMES as OUTCOMES
from db.base.schema.pieces import PARTITION_JOBS as PARTITION_JOBS
from db.base.schema.pieces import PARTITIONED as PARTITIONED
from db.base.schema.pieces import RUN_STATES as RUN_STATES
from db.base.schema.pieces import SCORING_JOB_STATES as SCORING_JOB_STATES
from db.base.schema.pieces import SHARD_STATES as SHARD_STATES
from db.base.schema.queue import job_events as job_events
from db.base.schema.queue import jobs as jobs
from db.base.schema.queue import notices as notices
from db.base.schema.queue import outages as outages
from db.base.schema.queue import shard_listings as shard_listings
from db.base.schema.queue import shards as shards
from db.base.schema.queue import shares as shares
from db.base.schema.queue import sources as sources
from db.base.schema.queue import workers as workers
from db.base.schema.registry import EPOCH_MEASURES as EPOCH_MEASURES
from db.base.schema.registry import INTERVALS as INTERVALS
from db.base.schema.registry import MEASURES as MEASURES
from db.base.schema.registry import aliases as aliases
from db.base.schema.registry import datasets as datasets
from db.base.schema.registry import drift as drift
from db.base.schema.registry import engines as engines
from db.base.schema.registry import epochs as epochs
from db.base.schema.registry import evaluations as evaluations
from db.base.schema.registry import model_chunks as model_chunks
from db.base.schema.registry import model_events as model_events
from db.base.schema.registry import model_files as model_files
from db.base.schema.registry import model_labels as model_labels
from db.base.schema.registry import model_looks as model_looks
from db.base.schema.registry import models as models
from db.base.schema.registry import promotions as promotions
from db.base.schema.registry import rates as rates
from db.base.schema.timetable import proofs as proofs
from db.base.schema.timetable import runs as runs
from db.base.schema.timetable import schedules as schedules
from db.base.schema.timetable import watched as watched
from db.base.totals import shard_totals as shard_totals
from db.base.totals import source_totals as source_totals

compatibility = Table(
    "compatibility",
    metadata,
    _c("revision", sa.String(32), "Revision of the schema that this is said of.", primary_key=True),
    _c("oldest_release", sa.String(32), "Oldest release of PneumoQ that may use it."),
    comment="Which releases of PneumoQ may use this schema: one row.",
)

site = Table(
    "site",
    metadata,
    _c("id", sa.SmallInteger, "1.", primary_key=True, autoincrement=False),
    _c(
        "content_hash",
        sa.String(16),
        "What films' contents are: the first 128 bits of BLAKE3 (blake3), or BLAKE2b-128 (blake2b) "
        "in databases that had jobs or workers before there was a choice.",
    ),
    sa.CheckConstraint("id = 1", name="id"),
    comment="What is so for all of this database: one row.",
)
