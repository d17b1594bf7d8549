"""One worker process and its chores. Start at `daemon`, which lives as long as the process and puts
the others together: `registration` (its row among the workers, and the heartbeat),
`scoring_work` (scoring, warm between jobs), `engine_checks` (new models are tried before they
are promoted), `rates` (and measured, while nothing else is to be done), `found_work` (work that
was found without a wake-up), `sweep` (finds due work, and closes jobs) and `chores` (what any
worker does now and then: schedules, promotion, `hooks` that send notices, sums over finished
shards, and `retention`, which removes what nothing will read again).
"""
