"""What is kept: the SQL database in which jobs, results, models and schedules are rows.

Folders, each of which may import those after it: `work` (claiming and ending jobs), `nightly`
(schedules and their runs), `queue` (jobs, leases, results), `registry` (models) and `base` (schema,
connections). It runs on SQLite and PostgreSQL, reads no environment, and knows nothing of Celery,
of images or of the terminal. Start with `base.schema`, which says what each table and column
means, then `queue.jobs` and `work.claims`.
"""
