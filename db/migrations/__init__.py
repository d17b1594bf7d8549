"""The migrations, one file each in `versions/`, and Alembic's entry `env.py`.

Workers of older releases work on while the schema moves on beneath them, and go on afterwards. From
0006 on a migration therefore only adds:

- tables, and columns that may be NULL or have a default; whatever an older release inserts or
  updates without knowing of them must still be accepted;
- indexes; one may be replaced by another that begins with the same column;
- values to a CHECK of the form `column IN (…)`.

It drops, renames and retypes nothing and makes nothing more strict: no NOT NULL, no UNIQUE, no
foreign key and no CHECK for columns that older releases fill in, and no foreign key without
ON DELETE to a table from which they delete. A key never changes, as their `ON CONFLICT` names it:
make a new table instead. Rows are not rewritten so that an older release would read them otherwise.
Views keep their names and columns; new columns come last.

`tests/db/base/test_additive.py` compares the schema before and after each migration, on both
databases; `tests/upgrades` lets workers of older releases finish a job on the newest schema. The
schema states the oldest release that may use it: table `compatibility`, filled from
`db.base.migrate.OLDEST_RELEASE`, which is raised only for what a comparison of schemas does not see
(a new value that older workers would misread, say). Start reading at `versions/0001_initial.py`.
"""
