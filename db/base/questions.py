"""Views over the whole archive: what was scored when, by what, how completely, and how it differs.

Where they sum up, they read `db.base.totals` alone.
"""

from __future__ import annotations

from db.base import totals
from db.base.completeness import V_COMPLETENESS
from db.base.view import View

#: Films that the tenths count: all but those of jobs that were purged before there were tenths.
_IN_TENTHS = " + ".join(f"d.{name}" for name in totals.TENTHS)

V_DAILY_SCORES = View(
    name="v_daily_scores",
    comment="Outcomes of a day, by model and precision, those of purged jobs included. The day is "
    "the one of scoring, when outcomes were committed, not the one of the examination.",
    columns={
        "day": "Day of scoring in UTC, as text: 2026-01-31.",
        "model_id": "Model.",
        "model": "That model's name.",
        "precision": "fp32, bf16, fp16 or int8.",
        **totals.COUNTS,
        "mean_probability": "Mean P(positive) of the predictions that the tenths count.",
        **totals.TENTHS,
    },
    select=f"""
        SELECT d.day, d.model_id, m.name AS model, d.precision,
               {", ".join(f"d.{name}" for name in totals.COUNTS)},
               d.score_sum / NULLIF({_IN_TENTHS}, 0) AS mean_probability,
               {", ".join(f"d.{name}" for name in totals.TENTHS)}
        FROM ({totals.up_to_now(totals.DAY)}) AS d
        JOIN models m ON m.id = d.model_id
    """,  # noqa: S608  # constants
)

V_THROUGHPUT = View(
    name="v_throughput",
    comment="What a machine got through on a day, by model and precision.",
    columns={
        "day": "Day of scoring in UTC, as text: 2026-01-31.",
        "host": "Machine; empty where it is not known.",
        "model_id": "Model.",
        "model": "That model's name.",
        "precision": "fp32, bf16, fp16 or int8.",
        **totals.WORK,
        "seconds": "Time that its workers were at the timed items, added up over workers.",
        "items_per_s": "Items that one of its workers gets through in a second.",
    },
    select=f"""
        SELECT d.day, d.host, d.model_id, m.name AS model, d.precision,
               {", ".join(f"d.{name}" for name in totals.WORK)}, d.seconds,
               d.timed / NULLIF(d.seconds, 0) AS items_per_s
        FROM ({totals.up_to_now(totals.HOST)}) AS d
        JOIN models m ON m.id = d.model_id
    """,  # noqa: S608  # constants
)

#: job_id and item_no in one number of 19 digits: both are below 2^31.
_PLACE, _DIGITS = 2**31, 2**62

_PREDICTED = {
    "label": "Class, by the model's operating threshold.",
    "probability": "P(positive class), 0 to 1, calibrated.",
    "ood": "Distance from the training films; about 1 is typical.",
    "unusual": "1 where ood is beyond the model's threshold: do not trust the label.",
    "job_id": "Scoring job that holds it.",
    "item_no": "The film's place in that job's listing, from 0.",
    "scored_at": "When it was committed.",
}
_PREDICTED_SELECT = """l.name AS label, p.probability, p.ood,
               CASE WHEN p.ood > m.ood_threshold THEN 1 ELSE 0 END AS unusual,
               p.job_id, p.item_no, h.finished_at AS scored_at"""

V_LATEST_PREDICTION = View(
    name="v_latest_prediction",
    comment="The newest prediction of a film, by its source and name, for each model and "
    "precision: the last that was committed. It stays so when the film fails or is refused later "
    "or is gone. Ask with `source = …`: a name alone is looked for in all jobs there are.",
    columns={
        "source": "Folder or archive it was read from.",
        "name": "The film's name in its source.",
        "model_id": "Model that scored it.",
        "model": "That model's name.",
        "precision": "fp32, bf16, fp16 or int8.",
        **_PREDICTED,
    },
    select=f"""
        SELECT n.source, n.name, n.model_id, m.name AS model, n.precision, {_PREDICTED_SELECT}
        FROM (
            SELECT s.uri AS source, p.name, p.model_id, COALESCE(j.precision, 'fp32') AS precision,
                   -- Times are texts of one length: the newest is the largest.
                   CAST(substr(MAX(h.finished_at || (
                       {_DIGITS} + p.job_id * {_PLACE} + p.item_no
                   )), -19) AS INTEGER) - {_DIGITS} AS place
            FROM ALL_SOURCES s
            JOIN jobs j ON j.id = s.job_id
            JOIN shards h ON h.job_id = s.job_id AND h.source_no = s.source_no
            JOIN predictions p ON p.job_id = h.job_id AND p.item_no >= h.first_item
                AND p.item_no < h.first_item + h.n_items
            GROUP BY s.uri, p.name, p.model_id, COALESCE(j.precision, 'fp32')
        ) AS n
        JOIN predictions p ON p.job_id = n.place / {_PLACE}
            AND p.item_no = n.place - n.place / {_PLACE} * {_PLACE}
        JOIN shards h ON h.job_id = p.job_id AND h.shard_no = p.shard_no
        JOIN models m ON m.id = p.model_id
        JOIN model_labels l ON l.model_id = p.model_id AND l.label_no = p.label_no
    """,  # noqa: S608  # constants
    # Each look into the partitions is planned for all of them: one look, and by one way alone, as
    # what is grouped is kept apart. SQLite has no DISTINCT ON.
    postgresql="""
        SELECT p.source, p.name, p.model_id, m.name AS model, p.precision, m.label, p.probability,
               p.ood, CASE WHEN p.ood > m.ood_threshold THEN 1 ELSE 0 END AS unusual,
               p.job_id, p.item_no, p.scored_at
        FROM (
            SELECT DISTINCT ON (b.source, p.name, p.model_id, b.precision)
                   b.source, p.name, p.model_id, b.precision, p.label_no, p.probability, p.ood,
                   p.job_id, p.item_no, b.scored_at
            FROM (
                SELECT s.uri AS source, h.job_id, h.first_item, h.first_item + h.n_items AS past,
                       h.finished_at AS scored_at,
                       (SELECT COALESCE(j.precision, 'fp32') FROM jobs j WHERE j.id = h.job_id)
                           AS precision
                FROM ALL_SOURCES s
                JOIN shards h ON h.job_id = s.job_id AND h.source_no = s.source_no
                GROUP BY s.uri, h.job_id, h.shard_no
            ) AS b
            JOIN predictions p ON p.job_id = b.job_id AND p.item_no >= b.first_item
                AND p.item_no < b.past
            ORDER BY b.source, p.name, p.model_id, b.precision, b.scored_at DESC, p.job_id DESC,
                p.item_no DESC
        ) AS p
        JOIN (
            SELECT m.id, m.name, m.ood_threshold, l.label_no, l.name AS label
            FROM models m JOIN model_labels l ON l.model_id = m.id
            GROUP BY m.id, l.model_id, l.label_no
        ) AS m ON m.id = p.model_id AND m.label_no = p.label_no
    """,
)

V_LATEST_BY_CONTENT = View(
    name="v_latest_by_content",
    comment="The prediction that answers for a film's bytes, for each model and precision: the "
    "one that a job takes from the store. Films of purged jobs are not known any more.",
    columns={
        "content": "Hash of the film's bytes, which `content_hash` names.",
        "model_id": "Model that scored it.",
        "model": "That model's name.",
        "precision": "fp32, bf16, fp16 or int8.",
        "name": "Its name in the source that it was read from.",
        **_PREDICTED,
        "content_hash": "What `content` is: blake3 (its first 128 bits, as `b3sum -l 16` "
        "prints them), or blake2b (BLAKE2b-128, `b2sum -l 128`) in a database that had "
        "jobs or workers before release 0.3.0.",
    },
    select=f"""
        SELECT f.content, f.model_id, m.name AS model, f.precision, p.name, {_PREDICTED_SELECT},
            (SELECT content_hash FROM site) AS content_hash
        FROM models m
        -- All columns of the key are known then, whatever is asked for; SQLite keeps to the order.
        CROSS JOIN (
            SELECT 'fp32' AS precision UNION ALL SELECT 'bf16' UNION ALL SELECT 'fp16'
            UNION ALL SELECT 'int8'
        ) AS x
        CROSS JOIN films f
        JOIN predictions p ON p.job_id = f.job_id AND p.item_no = f.item_no
        JOIN shards h ON h.job_id = p.job_id AND h.shard_no = p.shard_no
        JOIN model_labels l ON l.model_id = p.model_id AND l.label_no = p.label_no
        WHERE f.model_id = m.id AND f.precision = x.precision
    """,  # noqa: S608  # constants
)


#: The source of each shard, by the shard's key.
_SOURCES = """(
            SELECT h.job_id, h.shard_no, MIN(s.uri) AS uri
            FROM shards h JOIN sources s ON s.job_id = h.job_id AND s.source_no = h.source_no
            GROUP BY h.job_id, h.shard_no
        )"""


def _disagreements(b: str) -> str:
    """The view, with the predictions of job_b from `b`."""
    return f"""
        SELECT a.job_id AS job_a, b.job_id AS job_b, sa.uri AS source, a.name,
               a.item_no AS item_a, b.item_no AS item_b, a.model_id AS model_a,
               b.model_id AS model_b, la.name AS label_a, lb.name AS label_b,
               a.probability AS probability_a, b.probability AS probability_b,
               ABS(a.probability - b.probability) AS difference
        FROM predictions a
        CROSS JOIN {b} AS b
        CROSS JOIN model_labels la
        CROSS JOIN model_labels lb
        -- Once for each shard, not for each film: grouped, they are a row each before they are
        -- joined.
        CROSS JOIN {_SOURCES} AS sa
        CROSS JOIN {_SOURCES} AS sb
        WHERE b.name = a.name AND b.model_id <> a.model_id
            AND la.model_id = a.model_id AND la.label_no = a.label_no
            AND lb.model_id = b.model_id AND lb.label_no = b.label_no AND la.name <> lb.name
            AND sa.job_id = a.job_id AND sa.shard_no = a.shard_no
            AND sb.job_id = b.job_id AND sb.shard_no = b.shard_no
            -- As a plain condition PostgreSQL would join all shards of the one job with all of the
            -- other by it.
            AND CASE WHEN la.name <> lb.name THEN sa.uri = sb.uri ELSE FALSE END
    """  # noqa: S608  # constants


V_DISAGREEMENTS = View(
    name="v_disagreements",
    comment="A film to which two models gave different classes: of the same name in the same "
    "source. Each pair comes twice, once from either side. Ask with `job_a = … AND job_b = …`.",
    columns={
        "job_a": "Scoring job.",
        "job_b": "Scoring job of another model.",
        "source": "Folder or archive that both read.",
        "name": "The film's name in it.",
        "item_a": "The film's place in the listing of job_a, from 0.",
        "item_b": "The film's place in the listing of job_b.",
        "model_a": "Number of the model of job_a.",
        "model_b": "Number of the model of job_b.",
        "label_a": "Class, by the operating threshold of model_a.",
        "label_b": "Class, by the operating threshold of model_b.",
        "probability_a": "P(positive class) by model_a.",
        "probability_b": "P(positive class) by model_b.",
        "difference": "Absolute difference of the two.",
    },
    # Grouped by its key: SQLite keeps it apart, and makes an index of the names.
    select=_disagreements(
        """(
            SELECT job_id, item_no, shard_no, name, model_id, label_no, probability
            FROM predictions GROUP BY job_id, item_no
        )"""
    ),
    # PostgreSQL has no statistics of what is grouped.
    postgresql=_disagreements("predictions"),
)


#: `evaluations.split` of a job that was measured on imported labels begins so.
_LABELS = "labels of job "


def _of_model(what: str) -> str:
    return f"COALESCE(d.{what}, 0) + COALESCE(u.{what}, 0) AS {what}"


V_MODEL_LEADERBOARD = View(
    name="v_model_leaderboard",
    comment="Models ranked on the same films, by their newest measure on each; and what each has "
    "done at work. There is no rank where nobody knows which films they were, nor for a model of "
    "which imported labels alone are known.",
    columns={
        "split": "Films: validation, `test of` a folder's name, a slice.",
        "dataset_id": "Dataset that the films are of, where it was read for training.",
        "rank": "1 for the highest AUROC on these films: those of the same split of a dataset or, "
        "without one, of the same `same_films`. Equal ones share a place.",
        "model_id": "Model.",
        "model": "Its name.",
        "champion": "1 for the model that `score` uses by default.",
        "state": "candidate or retired.",
        "films": "Films that it was measured on.",
        "auroc": "0 to 1.",
        "auroc_low": "Low end of its 95 % confidence interval.",
        "auroc_high": "High end of its 95 % confidence interval.",
        "sensitivity": "0 to 1, at its operating threshold.",
        "specificity": "0 to 1, at its operating threshold.",
        "measured_at": "When.",
        "predictions": "Films that it has predicted in jobs, purged ones included.",
        "positives": "Of these, called positive.",
        "unusual": "Of these, unlike its training films.",
        "labelled": "Predictions whose true classes were imported: a film of two jobs is two.",
        "labelled_accuracy": "Share of these that is right, 0 to 1.",
        "same_films": "Equal for equal films and true classes, in whatever folder; of what `models "
        "evaluate` and `calibrate --data` measured.",
    },
    select=f"""
        SELECT e.split, e.dataset_id,
               CASE WHEN e.dataset_id IS NOT NULL
                   OR JSON_TEXT(e.metrics, same_films) IS NOT NULL THEN RANK() OVER (
                   PARTITION BY e.split, e.dataset_id, JSON_TEXT(e.metrics, same_films)
                   ORDER BY COALESCE(JSON_NUMBER(e.metrics, auroc), -1) DESC
               ) END AS rank,
               m.id AS model_id, m.name AS model,
               CASE WHEN a.name IS NULL THEN 0 ELSE 1 END AS champion,
               m.state, e.n_films AS films, JSON_NUMBER(e.metrics, auroc) AS auroc,
               JSON_NUMBER(e.metrics, auroc_low) AS auroc_low,
               JSON_NUMBER(e.metrics, auroc_high) AS auroc_high,
               JSON_NUMBER(e.metrics, sensitivity) AS sensitivity,
               JSON_NUMBER(e.metrics, specificity) AS specificity, e.created_at AS measured_at,
               {_of_model("predictions")}, {_of_model("positives")}, {_of_model("unusual")},
               COALESCE(t.films, 0) AS labelled,
               t.correct / t.films AS labelled_accuracy,
               JSON_TEXT(e.metrics, same_films) AS same_films
        FROM models m
        LEFT JOIN evaluations e ON e.model_id = m.id
            AND substr(e.split, 1, {len(_LABELS)}) <> '{_LABELS}' AND NOT EXISTS (
                SELECT 1 FROM evaluations n
                WHERE n.model_id = e.model_id AND n.split = e.split
                    AND COALESCE(n.dataset_id, 0) = COALESCE(e.dataset_id, 0)
                    AND COALESCE(JSON_TEXT(n.metrics, same_films), '')
                        = COALESCE(JSON_TEXT(e.metrics, same_films), '')
                    AND n.id > e.id
            )
        LEFT JOIN aliases a ON a.model_id = m.id AND a.name = 'champion'
        LEFT JOIN model_totals d ON d.model_id = m.id
        LEFT JOIN ({totals.to_be_added(totals.MODEL)}) AS u ON u.model_id = m.id
        LEFT JOIN (
            SELECT model_id, SUM(n_films) AS films,
                   SUM(n_films * JSON_NUMBER(metrics, accuracy)) AS correct
            FROM evaluations
            WHERE substr(split, 1, {len(_LABELS)}) = '{_LABELS}' GROUP BY model_id
        ) AS t ON t.model_id = m.id
        WHERE e.id IS NOT NULL OR t.films IS NOT NULL
    """,  # noqa: S608  # constants
)

VIEWS = (
    V_LATEST_PREDICTION, V_LATEST_BY_CONTENT, V_DAILY_SCORES, V_DISAGREEMENTS, V_THROUGHPUT,
    V_MODEL_LEADERBOARD, V_COMPLETENESS,
)  # fmt: skip
