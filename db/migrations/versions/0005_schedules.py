"""Schedules: their runs, proofs of new models, moves of aliases, watched files, drift and notices

Revision: 0005
After: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from db.base.types import BigId, Json, UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: table, column → comment before, comment after. SQLite keeps no comments.
COMMENTS = {
    ("schedules", "name"): (
        "Name.",
        "Name; of a removed one with its number, so that it is free.",
    ),
    ("schedules", "spec"): (
        "What the job is to do, as jobs.spec.",
        "`job`: as jobs.spec; `night` or `watch`: how it is judged, or found.",
    ),
}

#: What is known of moves made before they were kept. A replacement is logged just before its
#: promotion, so the champion before is that of the promotion before. The champion promoted again
#: was logged too, and is no move.
HISTORY = """
INSERT INTO promotions (alias, model_id, previous_id, how, at, who, reason)
SELECT 'champion', model_id, previous_id,
       CASE WHEN previous_id IS NULL THEN 'first' ELSE 'promote' END,
       at, who, detail
FROM (
    SELECT id, model_id, at, who, detail, LAG(model_id) OVER (ORDER BY id) AS previous_id
    FROM model_events
    WHERE event = 'promoted' AND detail LIKE 'to champion\\:%'
) AS promoted
WHERE previous_id IS NULL OR previous_id <> model_id
ORDER BY id
"""


def _comment(which: int) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for (table, column), both in COMMENTS.items():
            op.alter_column(table, column, comment=both[which])


def upgrade() -> None:
    op.create_table(
        "drift",
        sa.Column("job_id", BigId, autoincrement=False, nullable=False, comment="Scoring job."),
        sa.Column("model_id", BigId, nullable=False, comment="Its model."),
        sa.Column(
            "reference",
            sa.Text(),
            nullable=False,
            comment="What it is compared with: validation, or `job 7`.",
        ),
        sa.Column("n", sa.Integer(), nullable=False, comment="Predictions of the job."),
        sa.Column("reference_n", sa.Integer(), nullable=False, comment="Films of the reference."),
        sa.Column(
            "psi",
            sa.Double(),
            nullable=False,
            comment="Population stability index over twentieths of probability.",
        ),
        sa.Column(
            "psi_limit",
            sa.Double(),
            nullable=False,
            comment="What chance alone exceeds once in 1000 at these numbers.",
        ),
        sa.Column(
            "ks",
            sa.Double(),
            nullable=False,
            comment="Kolmogorov-Smirnov distance, 0 to 1, over the same twentieths.",
        ),
        sa.Column("ks_p", sa.Double(), nullable=False, comment="Its p-value, 0 to 1."),
        sa.Column(
            "unusual",
            sa.Integer(),
            nullable=False,
            comment="Predictions that are unlike the training films.",
        ),
        sa.Column(
            "reference_unusual",
            sa.Integer(),
            nullable=True,
            comment="Films of the reference that are.",
        ),
        sa.Column(
            "unusual_p", sa.Double(), nullable=True, comment="p-value of the two rates being equal."
        ),
        sa.Column(
            "warned",
            sa.Boolean(),
            nullable=False,
            comment="Whether it is beyond what chance and habit explain.",
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="In a sentence."),
        sa.Column("measured_at", UtcDateTime(), nullable=False, comment="When the job ended."),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_drift_job_id_jobs")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_drift_model_id_models")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_drift")),
        comment="A scoring job's scores against its model's reference.",
    )
    op.create_table(
        "runs",
        sa.Column("id", BigId, nullable=False, comment="Number."),
        sa.Column("schedule_id", BigId, nullable=False, comment="Schedule."),
        sa.Column(
            "scheduled_for",
            UtcDateTime(),
            nullable=False,
            comment="The time of the schedule that it is for.",
        ),
        sa.Column(
            "cause",
            sa.String(length=16),
            nullable=False,
            comment="clock, catch_up (the machine was off at the time) or hand.",
        ),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="due (a watched folder is looked through), running (its job is open), proving (workers compare the new model), done.",
        ),
        sa.Column(
            "outcome",
            sa.String(length=24),
            nullable=True,
            comment="Of training: promoted, kept (the champion stays), skipped or failed. Of scoring: what became of its job, or skipped. Of both: missed, cancelled.",
        ),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why, in a sentence."),
        sa.Column("job_id", BigId, nullable=True, comment="Its job."),
        sa.Column(
            "champion_id",
            BigId,
            nullable=True,
            comment="The champion when it began, which the new model is compared with.",
        ),
        sa.Column("candidate_id", BigId, nullable=True, comment="The new model."),
        sa.Column(
            "evaluation_id",
            BigId,
            nullable=True,
            comment="Frozen films that both were measured on.",
        ),
        sa.Column(
            "snapshot",
            Json,
            nullable=True,
            comment="The films as they were: `hash`, `films`, `classes`, `added`, `removed`, `relabelled`, `unreadable`.",
        ),
        sa.Column(
            "verdict",
            Json,
            nullable=True,
            comment="Both models' figures, differences with intervals, and slices.",
        ),
        sa.Column(
            "not_before",
            UtcDateTime(),
            nullable=True,
            comment="A watched folder is looked at again then.",
        ),
        sa.Column(
            "worker_id",
            sa.String(length=64),
            nullable=True,
            comment="Who looks through the watched folder.",
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False, comment="Made."),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="Its outcome was settled."),
        sa.CheckConstraint(
            "(state = 'done') = (finished_at IS NOT NULL)", name=op.f("ck_runs_finished")
        ),
        sa.CheckConstraint(
            "(state = 'done') = (outcome IS NOT NULL)", name=op.f("ck_runs_decided")
        ),
        sa.CheckConstraint("cause IN ('clock', 'catch_up', 'hand')", name=op.f("ck_runs_cause")),
        sa.CheckConstraint(
            "outcome IN ('promoted', 'kept', 'skipped', 'failed', 'missed', 'cancelled', 'completed', 'completed_with_errors')",
            name=op.f("ck_runs_outcome"),
        ),
        sa.CheckConstraint(
            "state IN ('due', 'running', 'proving', 'done')", name=op.f("ck_runs_state")
        ),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["models.id"], name=op.f("fk_runs_candidate_id_models")
        ),
        sa.ForeignKeyConstraint(
            ["champion_id"], ["models.id"], name=op.f("fk_runs_champion_id_models")
        ),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["datasets.id"], name=op.f("fk_runs_evaluation_id_datasets")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_runs_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_runs_schedule_id_schedules")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint(
            "schedule_id", "scheduled_for", name=op.f("uq_runs_schedule_id_scheduled_for")
        ),
        comment="What a schedule did at one of its times: once each, however many clocks tick.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_runs_job_id"), "runs", ["job_id"], unique=False)
    op.create_index(
        "ix_runs_open",
        "runs",
        ["state", "id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "watched",
        sa.Column("schedule_id", BigId, nullable=False, comment="Schedule."),
        sa.Column(
            "path_hash",
            sa.LargeBinary(length=16),
            nullable=False,
            comment="BLAKE2b-128 of the path.",
        ),
        sa.Column("path", sa.Text(), nullable=False, comment="Absolute path."),
        sa.Column(
            "size", sa.BigInteger(), nullable=False, comment="Bytes, when it was last looked at."
        ),
        sa.Column(
            "mtime_ns",
            sa.BigInteger(),
            nullable=False,
            comment="Modified, in nanoseconds since 1970, as the file says.",
        ),
        sa.Column(
            "since", UtcDateTime(), nullable=False, comment="Of this size and time since then."
        ),
        sa.Column(
            "content",
            sa.String(length=64),
            nullable=True,
            comment="SHA-256, once it had stopped growing.",
        ),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="seen, taken (its job is open), done or given_up.",
        ),
        sa.Column("job_id", BigId, nullable=True, comment="The job that took it last."),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Jobs that took it.",
        ),
        sa.CheckConstraint(
            "state IN ('seen', 'taken', 'done', 'given_up')", name=op.f("ck_watched_state")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_watched_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_watched_schedule_id_schedules")
        ),
        sa.PrimaryKeyConstraint("schedule_id", "path_hash", name=op.f("pk_watched")),
        comment="Files of watched folders: one is taken once it stopped growing, and not twice.",
    )
    op.create_index(
        op.f("ix_watched_schedule_id_content"), "watched", ["schedule_id", "content"], unique=False
    )
    op.create_table(
        "notices",
        sa.Column("id", BigId, nullable=False, comment="Number."),
        sa.Column("at", UtcDateTime(), nullable=False, comment="When it happened."),
        sa.Column(
            "event",
            sa.String(length=16),
            nullable=False,
            comment="failed, skipped, missed, kept, promoted, drift or test.",
        ),
        sa.Column(
            "payload",
            Json,
            nullable=False,
            comment="What is sent: numbers and names of ours, no path and no film.",
        ),
        sa.Column("job_id", BigId, nullable=True, comment="Job."),
        sa.Column("run_id", BigId, nullable=True, comment="Run."),
        sa.Column("model_id", BigId, nullable=True, comment="Model."),
        sa.Column(
            "state",
            sa.String(length=16),
            nullable=False,
            comment="waiting, delivered, given_up, or unheard (no hook was set).",
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Times it was sent.",
        ),
        sa.Column("not_before", UtcDateTime(), nullable=True, comment="To be sent again then."),
        sa.Column(
            "worker_id", sa.String(length=64), nullable=True, comment="Who sends it, or did."
        ),
        sa.Column("sent_at", UtcDateTime(), nullable=True, comment="Last sent."),
        sa.Column("last_error", sa.Text(), nullable=True, comment="Why it did not arrive."),
        sa.CheckConstraint(
            "event IN ('failed', 'skipped', 'missed', 'kept', 'promoted', 'drift', 'test')",
            name=op.f("ck_notices_event"),
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'delivered', 'given_up', 'unheard')",
            name=op.f("ck_notices_state"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_notices_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_notices_model_id_models")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_notices_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        comment="What hooks are told, written with the outcome and sent afterwards.",
    )
    op.create_index(
        "ix_notices_waiting",
        "notices",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "promotions",
        sa.Column("id", BigId, nullable=False, comment="Number."),
        sa.Column("alias", sa.String(length=64), nullable=False, comment="Name that was moved."),
        sa.Column("model_id", BigId, nullable=False, comment="Model it stands for since."),
        sa.Column("previous_id", BigId, nullable=True, comment="Model it stood for before."),
        sa.Column(
            "how", sa.String(length=16), nullable=False, comment="first, promote or rollback."
        ),
        sa.Column("run_id", BigId, nullable=True, comment="Run of a schedule that decided it."),
        sa.Column("at", UtcDateTime(), nullable=False, comment="When."),
        sa.Column("who", sa.Text(), nullable=False, comment="User or worker."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why."),
        sa.CheckConstraint(
            "how IN ('first', 'promote', 'rollback')", name=op.f("ck_promotions_how")
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_promotions_model_id_models")
        ),
        sa.ForeignKeyConstraint(
            ["previous_id"], ["models.id"], name=op.f("fk_promotions_previous_id_models")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_promotions_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
        comment="Every move of an alias: what `models rollback` goes back by. Rows are only added.",
    )
    op.create_index(op.f("ix_promotions_alias_id"), "promotions", ["alias", "id"], unique=False)
    op.create_table(
        "proofs",
        sa.Column("run_id", BigId, nullable=False, comment="Run."),
        sa.Column(
            "kind",
            sa.String(length=200),
            nullable=False,
            comment="What computes: engine, version and device.",
        ),
        sa.Column(
            "worker_id", sa.String(length=64), nullable=True, comment="Who is at it, or was."
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Times it was begun.",
        ),
        sa.Column(
            "passed",
            sa.Boolean(),
            nullable=True,
            comment="Whether the engine says what training says.",
        ),
        sa.Column("detail", sa.Text(), nullable=True, comment="What was found, in a sentence."),
        sa.Column("began_at", UtcDateTime(), nullable=True, comment="Last begun."),
        sa.Column("finished_at", UtcDateTime(), nullable=True, comment="Decided."),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_proofs_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "kind", name=op.f("pk_proofs")),
        comment="A new model tried on every kind of worker that is there, before it is promoted.",
    )
    op.add_column(
        "models",
        sa.Column(
            "reference",
            Json,
            nullable=True,
            comment="What drift is measured against (`of`, `n`, `histogram`, `unusual`), and what every engine must say of drawn films (`golden`).",
        ),
    )
    op.add_column(
        "schedules",
        sa.Column(
            "considered_until",
            UtcDateTime(),
            nullable=True,
            comment="Times up to then were dealt with.",
        ),
    )
    op.add_column(
        "schedules",
        sa.Column(
            "evaluation_id",
            sa.BigInteger(),
            nullable=True,
            comment="Frozen films that its models are compared on (datasets.id).",
        ),
    )
    op.add_column(
        "schedules",
        sa.Column("removed_at", UtcDateTime(), nullable=True, comment="Removed; its runs stay."),
    )
    op.add_column(
        "sources",
        sa.Column(
            "paths",
            sa.LargeBinary(),
            nullable=True,
            comment="Of a list that no file holds: its paths, one a line, zlib.",
        ),
    )
    op.execute(sa.text(HISTORY))
    _comment(1)


def downgrade() -> None:
    _comment(0)
    op.drop_column("sources", "paths")
    op.drop_column("schedules", "removed_at")
    op.drop_column("schedules", "evaluation_id")
    op.drop_column("schedules", "considered_until")
    op.drop_column("models", "reference")
    op.drop_table("proofs")
    op.drop_index(op.f("ix_promotions_alias_id"), table_name="promotions")
    op.drop_table("promotions")
    op.drop_index(
        "ix_notices_waiting",
        table_name="notices",
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.drop_table("notices")
    op.drop_index(op.f("ix_watched_schedule_id_content"), table_name="watched")
    op.drop_table("watched")
    op.drop_index(
        "ix_runs_open",
        table_name="runs",
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.drop_index(op.f("ix_runs_job_id"), table_name="runs")
    op.drop_table("runs")
    op.drop_table("drift")
