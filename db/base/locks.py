"""Locks on PostgreSQL: the one order in which all that write lock rows.

Two that lock the same rows in different orders wait for each other, until the server ends one of
them. Whoever locks several rows in one transaction therefore locks them in this order, whatever it
goes on to do with them:

1. schedules;
2. jobs: one, and after it the older one that it copies from;
3. shards, by number; then sources;
4. films, by their contents;
5. aliases, by name; then models;
6. runs; then watched files, by their paths;
7. outages; then notices, by number.

Sums over shards (`db.work.totals`) are added under a lock of their own, taken first: whoever adds
locks shards, and after them nothing that another one wants.

So whoever writes to a job's shards, sources, history or outage locks the job's row first: for
itself alone (`jobs.locked`), or so that nobody else changes the job's state (`jobs.scoring`,
`jobs.hold`).
A row that refers to another by a foreign key locks that one weakly when it is inserted; what is
locked here for a change that leaves its key alone does not keep it waiting (`key_share=True`).
A run whose folders are looked through has no job yet: the job that is made of it is unknown to
others until commit, and may come after it. Rows that are skipped where they are locked
(`skip_locked`) are waited for by nobody, and may come in any order.

A claim writes to no row but the job to be planned, or the shard: what a shard takes of whose share
is in its own row, and weights (`shares`) are only read there. Whoever sets one locks nothing else.
The place that it takes with its key (`db.work.turns`) is a lock that nobody waits for.

`tests/db/test_locks.py` runs every pair of calls that write against each other. SQLite has one
lock.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def in_order(connection: sa.Connection, rows: sa.Select[Any]) -> None:
    """Lock the rows of a SELECT one after another in its order, however many there are.

    A statement that changes many rows locks them as it comes by them.
    """
    if connection.dialect.name == "postgresql":
        locked = rows.with_for_update().subquery()
        connection.execute(sa.select(sa.func.count()).select_from(locked))
