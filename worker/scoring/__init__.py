"""Scoring: from due work in the database to outcomes in it. Start with `loop`: the Scorer claims
shards (`claims`, which `opening` makes readable), lets their films through the `pipeline`,
commits what came through (`commits`), and starts a planner where a job is claimed (`planning`,
the thread; `listing`, what it does; `resuming`, where it goes on; `cutting`, the shards it
writes; `seeking`, how an index into an archive is kept). The pipeline is films in, outcomes out
and knows no database: decoder processes fill `batches`, `engine_thread` computes them, and a
`shard` keeps the outcomes of its films. `serving` opens engines that agree with the processor's,
for the worker by `loading`. Beside it: `reread` reads items of a job again, `engine_check` tries
a new model on this machine, and `measuring` finds the precision that it computes fastest.
"""
