"""What every other folder of the database stands on: schema, connections, transactions.

Start with `schema` (the tables; those with sums in `totals`) and `database` (connecting, `reading`
and `write`). `views` is what people query, those over the whole archive in `questions` and
`completeness`, and `query` runs their SQL, which may only read. `migrate` brings the schema up to
date, `bulk` inserts many rows, `partitions` makes PostgreSQL's partitions. `locks` is the order in
which rows are locked. `workers` is who is there, and `outbox` holds the notices for hooks, which
are written in the transaction of the event.
"""
