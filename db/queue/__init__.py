"""Jobs and what they hold: shards, leases and listings, outcomes, labels, epochs.

Start with `jobs` (submitting and looking), then `leases`: the fencing token that each write of a
worker carries. `listings` is what a planner writes, `results` what scoring writes, in one
transaction a shard; `reuse` answers from earlier predictions. `training` keeps datasets and epochs,
`labels` true classes, `measured` what a job was worth by them, `uncertain` finds the films to be
labelled next, and `budget` says how many errors a job may have. Which job comes next is decided
above, in `db.work.claims`.
"""
