"""The views people query: stable names and columns over tables that may change.

Every view has one line of meaning per column, printed by `pneumoq db schema`. The SQL is common to
SQLite and PostgreSQL but for the words of `db.base.view`. Views over the whole archive are in
`db.base.questions`.
"""

from __future__ import annotations

import sqlalchemy as sa

from db.base import questions
from db.base.schema import EPOCH_MEASURES
from db.base.view import View as View

V_PREDICTIONS = View(
    name="v_predictions",
    comment="A film that was scored.",
    columns={
        "job_id": "Scoring job.",
        "item_no": "The film's place in the job's listing, from 0.",
        "name": "The film's name in its source.",
        "source": "Folder or archive it was read from.",
        "label": "Class, by the model's operating threshold.",
        "probability": "P(positive class), 0 to 1, calibrated.",
        "threshold": "The operating threshold that was applied.",
        "ood": "Distance from the training films; about 1 is typical.",
        "unusual": "1 where ood is beyond the model's threshold: do not trust the label.",
        "model_id": "Model that scored it.",
        "model": "That model's name.",
        "reused_from_job": "Job whose outcome answered it without scoring, if any.",
        "worker_id": "Worker that committed it.",
        "scored_at": "When it was committed.",
        "look": "Training films that it looks acquired like, where nearly all of those were of one "
        "class: that class, and how they are alike. Do not trust the label. NULL: none, or not "
        "known.",
        "precision": "fp32, bf16, fp16 or int8: what it was scored in.",
    },
    select="""
        SELECT p.job_id, p.item_no, p.name, s.uri AS source, l.name AS label,
               p.probability, m.threshold, p.ood,
               CASE WHEN p.ood > m.ood_threshold THEN 1 ELSE 0 END AS unusual,
               p.model_id, m.name AS model, p.reused_from_job, h.worker_id,
               h.finished_at AS scored_at,
               -- Few films have one, and a join more costs PostgreSQL a third of its planning.
               CASE WHEN p.look IS NOT NULL THEN (
                   SELECT k.label || ': ' || k.what FROM model_looks k
                   WHERE k.model_id = p.model_id AND k.look_no = p.look
               ) END AS look,
               COALESCE((SELECT j.precision FROM jobs j WHERE j.id = p.job_id), 'fp32') AS precision
        FROM predictions p
        -- The items too: whoever begins with the shards of a day finds theirs by the key.
        JOIN shards h ON h.job_id = p.job_id AND h.shard_no = p.shard_no
            AND p.item_no >= h.first_item AND p.item_no < h.first_item + h.n_items
        JOIN sources s ON s.job_id = p.job_id AND s.source_no = h.source_no
        JOIN models m ON m.id = p.model_id
        JOIN model_labels l ON l.model_id = p.model_id AND l.label_no = p.label_no
    """,
)

_NOT_PREDICTED = {
    "job_id": "Scoring job.",
    "item_no": "The item's place in the job's listing, from 0.",
    "name": "The item's name in its source.",
    "source": "Folder or archive it was read from.",
    "code": "Stable short word for what is wrong.",
    "detail": "What was found, in a sentence.",
    "worker_id": "Worker that committed it.",
    "found_at": "When it was committed.",
}

V_ITEM_ERRORS = View(
    name="v_item_errors",
    comment="A broken item: it could not be read or decoded.",
    columns=_NOT_PREDICTED,
    select="""
        SELECT e.job_id, e.item_no, e.name, s.uri AS source, e.code, e.detail, h.worker_id,
               h.finished_at AS found_at
        FROM item_errors e
        JOIN shards h ON h.job_id = e.job_id AND h.shard_no = e.shard_no
        JOIN sources s ON s.job_id = e.job_id AND s.source_no = h.source_no
    """,
)

V_REFUSALS = View(
    name="v_refusals",
    comment="An intact item that is not a film to be scored.",
    columns=_NOT_PREDICTED,
    select="""
        SELECT r.job_id, r.item_no, r.name, s.uri AS source, r.code, r.detail, h.worker_id,
               h.finished_at AS found_at
        FROM refusals r
        JOIN shards h ON h.job_id = r.job_id AND h.shard_no = r.shard_no
        JOIN sources s ON s.job_id = r.job_id AND s.source_no = h.source_no
    """,
)

V_JOB_PROGRESS = View(
    name="v_job_progress",
    comment="A job and how far it is.",
    columns={
        "job_id": "Job.",
        "kind": "score or train.",
        "state": "queued, planning, running, paused, or a final state.",
        "priority": "Higher goes first.",
        "submitted_by": "User and host.",
        "model_id": "Scoring: the model used. Training: the model made.",
        "precision": "Scoring: fp32, bf16, fp16 or int8.",
        "parent_job_id": "The job that this one retries.",
        "items": "Scoring: items listed. Training: epochs asked for is in the job's spec.",
        "done": "Items with an outcome.",
        "predictions": "Of these, predicted.",
        "positives": "Of these, called positive.",
        "unusual": "Predictions that are unlike the training films.",
        "refused": "Items refused.",
        "errors": "Items in error.",
        "shards": "Shards written.",
        "shards_done": "Shards finished.",
        "reason": "Why it failed or was cancelled.",
        "created_at": "Submitted.",
        "started_at": "First claimed.",
        "planned_at": "Listing complete.",
        "finished_at": "Reached a final state.",
        "purged_at": "Its outcomes were removed; only these sums are left.",
        "engine": "Scoring: tensorrt or onnx, where only workers with that may score it.",
        "share": "Scoring: whose share of the workers it takes.",
        "looks": "Predictions of films that look acquired like ones of one class in training.",
    },
    select="""
        SELECT j.id AS job_id, j.kind, j.state, j.priority, j.submitted_by, j.model_id,
               j.precision, j.parent_job_id,
               j.planned_items AS items,
               -- One look at the job's own shards per column: of few jobs, few shards are read.
               (SELECT COALESCE(SUM(n_predictions + n_refused + n_errors), 0)
                FROM shards WHERE job_id = j.id) AS done,
               (SELECT COALESCE(SUM(n_predictions), 0)
                FROM shards WHERE job_id = j.id) AS predictions,
               (SELECT COALESCE(SUM(n_positive), 0) FROM shards WHERE job_id = j.id) AS positives,
               (SELECT COALESCE(SUM(n_unusual), 0) FROM shards WHERE job_id = j.id) AS unusual,
               (SELECT COALESCE(SUM(n_refused), 0) FROM shards WHERE job_id = j.id) AS refused,
               (SELECT COALESCE(SUM(n_errors), 0) FROM shards WHERE job_id = j.id) AS errors,
               j.planned_shards AS shards,
               (SELECT COUNT(finished_at) FROM shards WHERE job_id = j.id) AS shards_done,
               j.reason, j.created_at, j.started_at, j.planned_at, j.finished_at, j.purged_at,
               j.engine, COALESCE(j.share, j.submitted_by) AS share,
               (SELECT COALESCE(SUM(n_looks), 0) FROM shards WHERE job_id = j.id) AS looks
        FROM jobs j
    """,
)

V_STUDIES = View(
    name="v_studies",
    comment="The films of one DICOM study in a scoring job.",
    columns={
        "job_id": "Scoring job.",
        "study": "Keyed hash of the study's identifier.",
        "patient": "Keyed hash of the patient's identifier.",
        "accession": "Keyed hash of the accession number.",
        "films": "Items that belong to it, whatever came of them.",
        "predicted": "Of these, scored.",
        "positives": "Of these, with P(positive) at or above the operating threshold.",
        "unusual": "Of these, unlike the training films.",
        "max_probability": "Highest P(positive) of its films.",
        "mean_probability": "Mean P(positive) of its films.",
    },
    select="""
        SELECT i.job_id, i.study, MIN(i.patient) AS patient, MIN(i.accession) AS accession,
               COUNT(*) AS films, COUNT(p.item_no) AS predicted,
               COUNT(CASE WHEN p.probability >= m.threshold THEN 1 END) AS positives,
               COUNT(CASE WHEN p.ood > m.ood_threshold THEN 1 END) AS unusual,
               MAX(p.probability) AS max_probability, AVG(p.probability) AS mean_probability
        FROM identities i
        LEFT JOIN predictions p ON p.job_id = i.job_id AND p.item_no = i.item_no
        LEFT JOIN models m ON m.id = p.model_id
        WHERE i.study IS NOT NULL
        GROUP BY i.job_id, i.study
    """,
)

V_LABELLED = View(
    name="v_labelled",
    comment="A scored film whose true class was imported.",
    columns={
        "job_id": "Scoring job.",
        "item_no": "The film's place in the job's listing, from 0.",
        "name": "The film's name in its source.",
        "probability": "P(positive class), 0 to 1, calibrated.",
        "label": "Class, by the model's operating threshold.",
        "truth": "True class.",
        "correct": "1 where the two are the same.",
    },
    select="""
        SELECT t.job_id, t.item_no, p.name, p.probability, l.name AS label, t.label AS truth,
               CASE WHEN l.name = t.label THEN 1 ELSE 0 END AS correct
        FROM labels t
        JOIN predictions p ON p.job_id = t.job_id AND p.item_no = t.item_no
        JOIN model_labels l ON l.model_id = p.model_id AND l.label_no = p.label_no
    """,
)

V_MODELS = View(
    name="v_models",
    comment="A registered model.",
    columns={
        "model_id": "Number.",
        "name": "Name.",
        "champion": "1 for the model that `score` uses by default.",
        "state": "candidate or retired.",
        "origin": "trained or imported.",
        "arch": "Network architecture.",
        "positive": "Class whose probability is reported.",
        "size": "S: films are S × S pixels.",
        "film_rule": "Rule that makes its pixels.",
        "threshold": "Operating point.",
        "threshold_rule": "How that was chosen.",
        "ood_threshold": "ood above this is unusual.",
        "job_id": "Training job.",
        "dataset_id": "Dataset it was trained on.",
        "parent_id": "Model whose weights it started from.",
        "created_at": "Registered.",
        "calibrated_from": "Model whose weights it has, where only temperature and operating point "
        "were chosen anew.",
        "calibrated_on": "Labelled films that these were chosen on.",
        "calibration_films": "How many films those were.",
        "calibration_patients": "Of how many patients.",
    },
    select="""
        SELECT m.id AS model_id, m.name, CASE WHEN a.name IS NULL THEN 0 ELSE 1 END AS champion,
               m.state, m.origin, m.arch, m.positive, m.size, m.film_rule, m.threshold,
               m.threshold_rule, m.ood_threshold, m.job_id, m.dataset_id, m.parent_id, m.created_at,
               CASE WHEN m.calibrated_on IS NOT NULL THEN m.parent_id END AS calibrated_from,
               m.calibrated_on, m.calibration_films, m.calibration_patients
        FROM models m
        LEFT JOIN aliases a ON a.model_id = m.id AND a.name = 'champion'
    """,
)

V_EPOCHS = View(
    name="v_epochs",
    comment="One epoch of a training job.",
    columns={
        "job_id": "Training job.",
        "epoch": "From 1.",
        "train_loss": "Mean loss, as optimised.",
        "train_accuracy": "0 to 1, on augmented films.",
        "train_auroc": "0 to 1, on augmented films.",
        "val_loss": "Mean cross-entropy.",
        "val_accuracy": "0 to 1.",
        "val_auroc": "0 to 1.",
        "learning_rate": "At the end of the epoch.",
        "seconds": "Training and validation.",
        "films_per_s": "Training films per second.",
        "best": "1 where it was the best so far.",
        "finished_at": "When it ended.",
        **EPOCH_MEASURES,
        "shift_auroc": "Least AUROC of validation films dressed as others look; NULL: none were.",
    },
    select=f"""
        SELECT job_id, epoch, train_loss, train_accuracy, train_auroc, val_loss, val_accuracy,
               val_auroc, learning_rate, seconds, films_per_s,
               CASE WHEN best THEN 1 ELSE 0 END AS best, finished_at,
               {", ".join(EPOCH_MEASURES)}, shift_auroc
        FROM epochs
    """,  # noqa: S608  # constants
)

V_EVALUATIONS = View(
    name="v_evaluations",
    comment="How a model did on labelled films.",
    columns={
        "model_id": "Model.",
        "model": "Its name.",
        "split": "Films: validation, `test of` a folder's name, `labels of job 7`.",
        "films": "Number of films.",
        "metrics": "JSON: auroc, auroc_low, auroc_high, sensitivity, ... by name.",
        "dataset_id": "Dataset that the films are of, where it was read for training.",
        "job_id": "Job that measured it, if any.",
        "measured_at": "When.",
        "shift_worst": "Of the looks that films were dressed in, the one that costs most AUROC.",
        "shift_worst_auroc": "AUROC there, 0 to 1.",
        "shift": "JSON: groups, dressings with AUROC, mean P and flips; see the model file.",
    },
    select="""
        SELECT e.model_id, m.name AS model, e.split, e.n_films AS films, e.metrics, e.dataset_id,
               e.job_id, e.created_at AS measured_at, e.shift_worst, e.shift_worst_auroc, e.shift
        FROM evaluations e
        JOIN models m ON m.id = e.model_id
    """,
)

V_RUNS = View(
    name="v_runs",
    comment="What a schedule did at one of its times.",
    columns={
        "run_id": "Number.",
        "schedule": "Schedule.",
        "kind": "score or train.",
        "scheduled_for": "The time of the schedule that it is for.",
        "cause": "clock, catch_up (the machine was off at the time) or hand.",
        "state": "due, running, proving or done.",
        "outcome": "promoted, kept, skipped, failed, missed, cancelled, or what became of the job.",
        "reason": "Why, in a sentence.",
        "job_id": "Its job.",
        "champion_id": "The champion when it began.",
        "candidate_id": "The new model.",
        "snapshot": "JSON: hash, films, classes, added, removed, relabelled, unreadable.",
        "verdict": "JSON: both models' figures and their differences with intervals.",
        "created_at": "Made.",
        "finished_at": "Its outcome was settled.",
        "anchor_id": "The last model that a person promoted, where that is not the champion.",
        "until": "The end of its night, where it has one.",
        "put_aside": "Nights at whose end its training was not done.",
    },
    select="""
        SELECT r.id AS run_id, s.name AS schedule, s.kind, r.scheduled_for, r.cause, r.state,
               r.outcome, r.reason, r.job_id, r.champion_id, r.candidate_id, r.snapshot, r.verdict,
               r.created_at, r.finished_at, r.anchor_id, r.until, r.put_aside
        FROM runs r
        JOIN schedules s ON s.id = r.schedule_id
    """,
)

V_DRIFT = View(
    name="v_drift",
    comment="A scoring job's scores against its model's reference.",
    columns={
        "job_id": "Scoring job.",
        "model_id": "Its model.",
        "model": "That model's name.",
        "reference": "What it is compared with: validation, or `job 7`.",
        "n": "Predictions of the job.",
        "reference_n": "Films of the reference.",
        "psi": "Population stability index over twentieths of probability.",
        "psi_limit": "What chance alone exceeds once in 1000 at these numbers.",
        "ks": "Kolmogorov-Smirnov distance over the same twentieths.",
        "ks_p": "Its p-value.",
        "unusual": "Predictions that are unlike the training films.",
        "reference_unusual": "Films of the reference that are.",
        "unusual_p": "p-value of the two rates being equal.",
        "warned": "1 where it is beyond what chance and habit explain.",
        "detail": "In a sentence.",
        "measured_at": "When the job ended.",
    },
    select="""
        SELECT d.job_id, d.model_id, m.name AS model, d.reference, d.n, d.reference_n, d.psi,
               d.psi_limit, d.ks, d.ks_p, d.unusual, d.reference_unusual, d.unusual_p,
               CASE WHEN d.warned THEN 1 ELSE 0 END AS warned, d.detail, d.measured_at
        FROM drift d
        JOIN models m ON m.id = d.model_id
    """,
)

V_PAGES = View(
    name="v_pages",
    comment="A report, review, export or folder of films that was written for a person.",
    columns={
        "page_id": "Number.",
        "kind": "report, review, export, folder (of films) or labels (a CSV that was read).",
        "path": "Absolute path it was written to.",
        "job_id": "Job that it is of, if any.",
        "model_id": "Model that it is of, if any.",
        "run_id": "Night that it is of, if any.",
        "films": "Films in it; NULL: all of its job.",
        "written_by": "User and host.",
        "written_at": "When.",
    },
    select="""
        SELECT id AS page_id, kind, path, job_id, model_id, run_id, n_films AS films, written_by,
               written_at
        FROM pages
    """,
)

V_RATES = View(
    name="v_rates",
    comment="How fast a model was measured to be, per kind of worker and precision.",
    columns={
        "model_id": "Model.",
        "model": "That model's name.",
        "kind": "What computes: engine, version, device.",
        "precision": "Precision that it computes in.",
        "auto": "1 for the one that is `auto` for workers of this kind.",
        "films_per_s": "Films per second of the engine alone: median of the rounds.",
        "ratio": "Its films/s to those of the precision that was `auto` then, measured in turns; "
        "NULL: it was that one.",
        "ratio_low": "Low end of the ratio's 95 % interval.",
        "ratio_high": "High end.",
        "batch": "Films in every batch.",
        "rounds": "Rounds measured.",
        "measured_at": "When.",
        "measured_by": "User or worker.",
    },
    select="""
        SELECT r.model_id, m.name AS model, r.kind, r.precision,
               CASE WHEN r.chosen THEN 1 ELSE 0 END AS auto, r.films_per_s, r.ratio, r.ratio_low,
               r.ratio_high, r.batch, r.rounds, r.measured_at, r.measured_by
        FROM rates r
        JOIN models m ON m.id = r.model_id
    """,
)

VIEWS = (
    V_PREDICTIONS, V_ITEM_ERRORS, V_REFUSALS, V_STUDIES, V_LABELLED, V_JOB_PROGRESS, V_MODELS,
    V_EPOCHS, V_EVALUATIONS, V_RUNS, V_DRIFT, V_PAGES, V_RATES, *questions.VIEWS,
)  # fmt: skip

#: On PostgreSQL, the role that `pneumoq query` takes on: it may read and nothing else.
READER = "pneumoq_reader"

# A role belongs to all databases of a server, so another database's upgrade may make it at the same
# moment. Making it needs CREATEROLE; without that the schema is still made, and `query` then says
# what to ask the administrator for.
_READER_ROLE = """
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'pneumoq_reader') THEN
        BEGIN
            CREATE ROLE pneumoq_reader NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    IF NOT pg_has_role(CURRENT_USER, 'pneumoq_reader', 'USAGE') THEN
        GRANT pneumoq_reader TO CURRENT_USER;
    END IF;
EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
    RAISE WARNING 'role pneumoq_reader could not be taken; pneumoq query will say what to do';
END $$
"""
_READER_GRANTS = """
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %%I TO pneumoq_reader', current_schema());
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %%I TO pneumoq_reader', current_schema());
EXCEPTION WHEN undefined_object THEN NULL;
END $$
"""


def create(connection: sa.Connection) -> None:
    """Create all views, and on PostgreSQL let the reader role read."""
    for view in VIEWS:
        select = view.rendered(connection.dialect.name)
        connection.exec_driver_sql(f"CREATE VIEW {view.name} AS {select}")
        if connection.dialect.name == "postgresql":
            for column, meaning in view.columns.items():
                _comment(connection, f"COLUMN {view.name}.{column}", meaning)
            _comment(connection, f"VIEW {view.name}", view.comment)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_READER_ROLE)
        connection.exec_driver_sql(_READER_GRANTS)


def drop(connection: sa.Connection) -> None:
    """Drop all views that exist."""
    for view in reversed(VIEWS):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {view.name}")


def _comment(connection: sa.Connection, what: str, meaning: str) -> None:
    # COMMENT takes no bound parameters.
    quoted = meaning.replace("'", "''").replace("%", "%%")
    connection.exec_driver_sql(f"COMMENT ON {what} IS '{quoted}'")
