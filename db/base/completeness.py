"""The view of how completely a model has scored a source: which jobs count, and what of them.

It is written twice. PostgreSQL plans each look into a table anew whenever the view is asked, also
those that are never taken, and that is most of the time that an answer takes: its own has a look
where the other has three. A test holds that both say the same.
"""

from __future__ import annotations

from db.base.view import View


def _of_source(what: str) -> str:
    """A sum over the shards of a job's source, those that are to be added too."""
    return (
        f"COALESCE(t.{what}, 0) + (SELECT COALESCE(SUM(h.{what}), 0) FROM shard_totals h "  # noqa: S608  # constants
        "WHERE h.job_id = s.job_id AND h.source_no = s.source_no)"
    )


def _same(job: str, other: str = "j") -> str:
    """Whether a job is of the model and precision of another."""
    return (
        f"{job}.model_id = {other}.model_id "
        f"AND COALESCE({job}.precision, 'fp32') = COALESCE({other}.precision, 'fp32')"
    )


def _counts(job: str) -> str:
    """Whether a job of the model and precision of job j counts, if no newer one has its items."""
    return f"{job}.planned_at IS NOT NULL AND {job}.purged_at IS NULL AND {_same(job)}"


def _up(select: str) -> str:
    """A select of `up`: job j, and while they are retries of what failed, what they are retries of.

    Asked for each job, so that it reads those above it alone.
    """
    return f"""(
        WITH RECURSIVE up (id, parent_id, part) AS (
            SELECT j.id, j.parent_job_id, JSON_HAS(j.spec, failed_only)
            UNION ALL
            SELECT a.id, a.parent_job_id, JSON_HAS(a.spec, failed_only)
            FROM up JOIN jobs a ON a.id = up.parent_id WHERE up.part AND {_same("a")}
        ) {select}
    )"""  # noqa: S608  # constants


#: The job over all items that job j is a retry of, or is; 0 where that is of another model.
_ROOT = f"""CASE WHEN JSON_HAS(j.spec, failed_only)
    THEN COALESCE({_up("SELECT up.id FROM up WHERE NOT up.part")}, 0) ELSE j.id END"""  # noqa: S608  # constants

#: The job that this one does again.
_ABOVE_ROOT = f"(SELECT q.parent_job_id FROM jobs q WHERE q.id = {_ROOT})"  # noqa: S608  # constants

#: The newest job that retries items which job j, or one that it is a retry of, retried before.
_RETRIED_AGAIN = _up(
    # A look for each: joined, PostgreSQL may read all retries there are.
    f"""SELECT MAX((
            SELECT MAX(r.id) FROM jobs r WHERE r.parent_job_id = up.parent_id AND r.id > up.id
                AND {_counts("r")} AND JSON_HAS(r.spec, failed_only)
        )) FROM up WHERE up.part"""  # noqa: S608  # constants
)

#: The first job of all that job j comes from by retries, or itself.
_ORIGIN = """CASE WHEN j.parent_job_id IS NULL THEN j.id ELSE (
        WITH RECURSIVE up (id, parent_id) AS (
            SELECT j.id, j.parent_job_id
            UNION ALL
            SELECT a.id, a.parent_job_id FROM up JOIN jobs a ON a.id = up.parent_id
        ) SELECT MIN(up.id) FROM up
    ) END"""

#: Files of a watched folder that its schedule gave up when job o failed, the last that took them.
_GIVEN_UP = """FROM jobs o JOIN watched w
        ON w.schedule_id = o.schedule_id AND w.job_id = o.id AND w.state <> 'done'
    WHERE w.state = 'given_up' AND substr(w.path, 1, length(s.uri) + 1) = s.uri || '/'
        -- An archive is a source of its own.
        AND NOT EXISTS (SELECT 1 FROM sources a WHERE a.job_id = o.id AND a.uri = w.path)
        AND o.id ="""

#: Whether the files of job j waited again, and another job of its schedule has them since.
_TAKEN_AGAIN = "n.id IS NOT NULL AND j.parent_job_id IS NULL"


def _of_files(what: str) -> str:
    """A sum over a job, of which there is nothing where another has its files."""
    return f"CASE WHEN {_TAKEN_AGAIN} THEN 0 ELSE {what} END"


def _newest_retry(of: str) -> str:
    """The newest job that does all of a job again; 0: none."""
    return f"""COALESCE((
        SELECT MAX(r.id) FROM jobs r
        WHERE r.parent_job_id = {of} AND {_counts("r")} AND NOT JSON_HAS(r.spec, failed_only)
    ), 0)"""  # noqa: S608  # constants


#: Where the job that took files of a watched folder did not complete, so that they waited again:
#: a job that took them since.
_TAKEN = f"""SELECT s2.job_id AS id FROM jobs o
                CROSS JOIN ALL_SOURCES s2
                WHERE s.paths IS NOT NULL AND o.id = {_ORIGIN}
                    AND o.state IN ('failed', 'cancelled') AND s2.uri = s.uri
                    AND s2.job_id > {_ORIGIN}
                    AND s2.paths IS NOT NULL
                    -- Looked up for each, so that the first that is found is the last.
                    AND (
                        SELECT j2.planned_at FROM jobs j2
                        WHERE j2.id = s2.job_id AND j2.schedule_id = o.schedule_id
                    ) IS NOT NULL
                LIMIT 1"""  # noqa: S608  # constants


def _tried(uri: str, since: str, of: str) -> str:
    """The last job since then that tried all of a source in the model and precision of `of`."""
    # A look for each: joined, PostgreSQL may read all sources there are.
    return f"""(
                SELECT MAX(s2.job_id) FROM ALL_SOURCES s2
                JOIN jobs j2 ON j2.id = s2.job_id
                WHERE s2.uri = {uri} AND s2.paths IS NULL AND {since}
                    AND (j2.planned_at IS NOT NULL OR j2.state = 'failed')
                    AND j2.purged_at IS NULL AND {_same("j2", of)}
                    AND NOT JSON_HAS(j2.spec, failed_only)
            )"""  # noqa: S608  # constants


def _failed(source: str, job: str, listing: str) -> str:
    """The columns of a source of which so much as there are rows failed."""
    return f"""
        SELECT {source}, {job}.model_id, MIN(m.name), COALESCE({job}.precision, 'fp32'),
               '{listing}', COUNT(DISTINCT {job}.id), MAX({job}.id),
               COUNT(*), 0, 0, 0, COUNT(*), 0"""


def _each(source: str, job: str) -> str:
    """Of which there is one row for each of these."""
    return f"GROUP BY {source}, {job}.model_id, COALESCE({job}.precision, 'fp32')"


#: Whether file w was given up, and its last job, o, not purged.
_IS_GIVEN_UP = "w.state <> 'done' AND w.state = 'given_up' AND o.purged_at IS NULL"

#: Whether file w came to job o as a source of its own, as archives do.
_ALONE = "EXISTS (SELECT 1 FROM sources a WHERE a.job_id = o.id AND a.uri = w.path)"

#: What no listed job counts: sources whose newest job failed before it was known what is in them;
#: archives that a schedule gave up, taken by no job, or by one that ended before they were listed
#: (no job: by the model of the schedule's newest); films that it gave up after such a job.
_UNLISTED = f"""
        UNION ALL {_failed("s.uri", "j", "unlisted")}
        FROM ALL_SOURCES s
        JOIN jobs j ON j.id = s.job_id
        JOIN models m ON m.id = j.model_id
        WHERE j.state = 'failed' AND j.planned_at IS NULL AND j.purged_at IS NULL
            AND s.paths IS NULL AND NOT JSON_HAS(j.spec, failed_only)
            AND {_tried("s.uri", "s2.job_id > s.job_id", "j")} IS NULL
        {_each("s.uri", "j")}
        UNION ALL {_failed("w.path", "o", "given_up")}
        FROM watched w
        JOIN jobs o ON o.id = COALESCE(w.job_id, (
            SELECT MAX(x.id) FROM jobs x
            WHERE x.schedule_id = w.schedule_id AND x.purged_at IS NULL
        ))
        JOIN models m ON m.id = o.model_id
        WHERE {_IS_GIVEN_UP} AND (w.job_id IS NULL OR (o.planned_at IS NULL AND {_ALONE}))
            AND {_tried("w.path", "j2.created_at >= w.since", "o")} IS NULL
        {_each("w.path", "o")}
        UNION ALL {_failed("s.uri", "o", "given_up")}
        FROM watched w
        JOIN jobs o ON o.id = w.job_id
        JOIN models m ON m.id = o.model_id
        JOIN sources s ON s.job_id = o.id AND s.source_no = (
            SELECT MIN(f.source_no) FROM sources f
            WHERE f.job_id = o.id AND f.paths IS NOT NULL
                AND substr(w.path, 1, length(f.uri) + 1) = f.uri || '/'
        )
        WHERE {_IS_GIVEN_UP} AND o.planned_at IS NULL AND NOT {_ALONE}
            -- A retry by hand has them.
            AND NOT EXISTS (
                SELECT 1 FROM jobs r WHERE r.parent_job_id = o.id AND r.planned_at IS NOT NULL
                    AND r.purged_at IS NULL AND {_same("r", "o")}
                    AND NOT JSON_HAS(r.spec, failed_only)
            )
        {_each("s.uri", "o")}
    """  # noqa: S608  # constants

_SELECT = f"""
        SELECT source, model_id, MIN(model) AS model, precision, listing,
               COUNT(DISTINCT job_id) AS jobs, MAX(job_id) AS newest_job,
               SUM(predictions + refused + failed + missing) AS listed,
               SUM(predictions - reused) AS scored, SUM(reused) AS reused, SUM(refused) AS refused,
               SUM(failed) AS failed, SUM(missing) AS missing
        FROM (
            SELECT s.uri AS source, j.model_id, m.name AS model,
                   COALESCE(j.precision, 'fp32') AS precision, j.id AS job_id,
                   CASE WHEN s.paths IS NULL THEN 'whole' ELSE 'new' END AS listing,
                   {_of_files(_of_source("predictions"))} AS predictions,
                   {_of_files(_of_source("reused"))} AS reused,
                   {_of_files(_of_source("refused"))} AS refused,
                   CASE WHEN c.id IS NOT NULL THEN 0
                        WHEN {_TAKEN_AGAIN} THEN (SELECT COUNT(*) {_GIVEN_UP} j.id)
                        ELSE {_of_source("errors")} END AS failed,
                   CASE WHEN c.id IS NULL AND NOT ({_TAKEN_AGAIN}) THEN (
                       SELECT COALESCE(SUM(h.n_items), 0) FROM shards h
                       WHERE h.job_id = s.job_id AND h.source_no = s.source_no
                           AND h.finished_at IS NULL
                   ) ELSE 0 END AS missing
            FROM ALL_SOURCES s
            JOIN jobs j ON j.id = s.job_id
            JOIN models m ON m.id = j.model_id
            -- What it left is another job's since.
            LEFT JOIN jobs c ON c.id = (
                SELECT MAX(r.id) FROM jobs r
                WHERE r.parent_job_id = j.id AND {_counts("r")} AND JSON_HAS(r.spec, failed_only)
            )
            LEFT JOIN source_totals t ON t.job_id = s.job_id AND t.source_no = s.source_no
            LEFT JOIN jobs n ON n.id = ({_TAKEN})
            WHERE j.planned_at IS NOT NULL AND j.purged_at IS NULL
                AND (n.id IS NULL OR EXISTS (SELECT 1 {_GIVEN_UP} {_ORIGIN}))
                AND (s.paths IS NULL OR (
                    {_newest_retry(_ROOT)} = 0
                    AND {_newest_retry(_ABOVE_ROOT)} <= {_ROOT}
                ))
                AND (NOT JSON_HAS(j.spec, failed_only) OR {_RETRIED_AGAIN} IS NULL)
                AND (s.paths IS NOT NULL OR NOT EXISTS (
                SELECT 1 FROM ALL_SOURCES s2
                JOIN jobs j2 ON j2.id = s2.job_id
                WHERE s2.uri = s.uri AND s2.paths IS NULL AND s2.job_id > {_ROOT}
                    AND {_counts("j2")} AND NOT JSON_HAS(j2.spec, failed_only)
            ))
        ) AS k
        GROUP BY source, model_id, precision, listing {_UNLISTED}
    """  # noqa: S608  # constants


def _part(job: str) -> str:
    """Whether a job is a retry of what failed."""
    return f"JSON_HAS({job}.spec, failed_only)"


#: Of PostgreSQL, for job j and its source s: what it comes from by retries, and what came of it.
_RETRIES = f"""(
            WITH RECURSIVE up (id, parent_id, part, same, state, schedule_id) AS (
                SELECT j.id, j.parent_job_id, {_part("j")}, TRUE, j.state, j.schedule_id
                UNION ALL
                -- The same as job j are those that a retry of what failed is of.
                SELECT a.id, a.parent_job_id, {_part("a")}, up.same AND up.part AND {_same("a")},
                       a.state, a.schedule_id
                FROM up JOIN jobs a ON a.id = up.parent_id
            )
            SELECT MIN(up.id) AS origin,
                   -- The job over all items that it is a retry of, or is.
                   COALESCE(MAX(CASE WHEN up.same AND NOT up.part THEN up.id END), 0) AS root,
                   MAX(CASE WHEN up.parent_id IS NULL THEN up.schedule_id END) AS schedule_id,
                   BOOL_OR(up.parent_id IS NULL AND up.state IN ('failed', 'cancelled')) AS waited,
                   -- What it left is another job's since.
                   BOOL_OR(r.parent_job_id = j.id AND {_part("r")}) AS retried,
                   -- A newer job did again what it, or one that it is a retry of, did again.
                   BOOL_OR(r.id > up.id AND CASE
                       WHEN up.part THEN {_part("r")} AND r.parent_job_id = up.parent_id
                       ELSE s.paths IS NOT NULL AND NOT {_part("r")}
                   END) AS replaced
            FROM up LEFT JOIN jobs r ON up.same AND {_counts("r")}
                AND r.parent_job_id = ANY (ARRAY[up.id, up.parent_id])
        )"""  # noqa: S608  # constants

#: Of PostgreSQL: whether all that job k took is another's since.
_ALL_TAKEN = "k.since AND k.parent_job_id IS NULL"

#: Of PostgreSQL: what of job k's source is not another's, and how many files in it its schedule
#: gave up.
_SUMS = f"""(
            SELECT COALESCE(SUM(predictions), 0) AS predictions, COALESCE(SUM(reused), 0) AS reused,
                   COALESCE(SUM(refused), 0) AS refused, COALESCE(SUM(errors), 0) AS errors,
                   CASE WHEN k.retried THEN 0 ELSE COALESCE(SUM(missing), 0) END AS missing,
                   CASE WHEN k.since AND k.listing = 'new' THEN (
                       SELECT COUNT(*) FROM watched w
                       WHERE w.schedule_id = k.schedule_id AND w.job_id = k.origin
                           AND w.state <> 'done' AND w.state = 'given_up'
                           AND substr(w.path, 1, length(k.source) + 1) = k.source || '/'
                           AND w.path NOT IN (SELECT a.uri FROM sources a WHERE a.job_id = k.origin)
                   ) ELSE 0 END AS given_up
            FROM (
                SELECT predictions, reused, refused, errors, 0 AS missing
                FROM source_totals WHERE job_id = k.job_id AND source_no = k.source_no
                UNION ALL
                SELECT predictions, reused, refused, errors, 0
                FROM shard_totals WHERE job_id = k.job_id AND source_no = k.source_no
                UNION ALL
                SELECT 0, 0, 0, 0, n_items
                FROM shards
                WHERE job_id = k.job_id AND source_no = k.source_no AND finished_at IS NULL
            ) AS each
            WHERE ({_ALL_TAKEN}) IS NOT TRUE
        )"""  # noqa: S608  # constants

#: Of PostgreSQL: items of job k's source that failed, and files in it that its schedule gave up.
_FAILED = f"CASE WHEN k.retried THEN 0 WHEN {_ALL_TAKEN} THEN t.given_up ELSE t.errors END"

_POSTGRESQL = f"""
        SELECT k.source, k.model_id, (SELECT m.name FROM models m WHERE m.id = k.model_id) AS model,
               k.precision, k.listing, COUNT(DISTINCT k.job_id) AS jobs,
               MAX(k.job_id) AS newest_job,
               SUM(t.predictions + t.refused + {_FAILED} + t.missing) AS listed,
               SUM(t.predictions - t.reused) AS scored, SUM(t.reused) AS reused,
               SUM(t.refused) AS refused, SUM({_FAILED}) AS failed, SUM(t.missing) AS missing
        FROM (
            SELECT s.uri AS source, s.source_no, j.id AS job_id, j.parent_job_id, j.purged_at,
                   j.model_id, COALESCE(j.precision, 'fp32') AS precision,
                   CASE WHEN s.paths IS NULL THEN 'whole' ELSE 'new' END AS listing,
                   x.origin, x.schedule_id, x.retried, x.replaced,
                   -- Whether there is a newer job over all of the source; or one that took the
                   -- files of a watched folder since they waited again.
                   (s.paths IS NULL OR x.waited) AND MAX(CASE
                       WHEN s.paths IS NOT NULL
                           THEN CASE WHEN j.schedule_id = x.schedule_id THEN j.id END
                       WHEN j.purged_at IS NULL AND NOT {_part("j")} THEN j.id
                   END) OVER (PARTITION BY
                       s.uri, s.paths IS NULL,
                       CASE WHEN s.paths IS NULL THEN j.model_id ELSE x.schedule_id END,
                       CASE WHEN s.paths IS NULL THEN COALESCE(j.precision, 'fp32') END
                   ) > CASE WHEN s.paths IS NULL THEN x.root ELSE x.origin END AS since
            FROM ALL_SOURCES s
            JOIN jobs j ON j.id = s.job_id
            CROSS JOIN LATERAL {_RETRIES} AS x
            WHERE j.planned_at IS NOT NULL
        ) AS k
        CROSS JOIN LATERAL {_SUMS} AS t
        WHERE k.purged_at IS NULL AND k.model_id IS NOT NULL AND k.replaced IS NOT TRUE
            AND (k.since IS NOT TRUE OR t.given_up > 0)
        GROUP BY k.source, k.model_id, k.precision, k.listing {_UNLISTED}
    """  # noqa: S608  # constants


V_COMPLETENESS = View(
    name="v_completeness",
    comment="How completely a model has scored a source: by its newest job over all of the source "
    "and the newest retries of what failed in it; what a watched folder had new, by the newest job "
    "that took each file or did it again. A job counts once its listing is complete, and until it "
    "is purged. What failed before it was listed has rows of its own.",
    columns={
        "source": "Folder or archive.",
        "model_id": "Model.",
        "model": "That model's name.",
        "precision": "fp32, bf16, fp16 or int8.",
        "listing": "whole; new: files that a schedule took from a watched folder; unlisted: all of "
        "it, as its newest job failed before its listing was complete; or given_up: files that a "
        "schedule gave up and that no listed job had.",
        "jobs": "Jobs that are counted.",
        "newest_job": "The newest of them.",
        "listed": "Items: the sum of the next five.",
        "scored": "Films that went through the network.",
        "reused": "Films answered from the store.",
        "refused": "Items refused.",
        "failed": "Items in error that were not retried, and files that a schedule gave up.",
        "missing": "Items without an outcome: the job is open, or ended before them.",
    },
    select=_SELECT,
    postgresql=_POSTGRESQL,
)
