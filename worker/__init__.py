"""What runs on the machine with the GPU. A Celery message wakes a worker (`tasks`, by the app in
`app`; `wakeup` sends such messages), whose one process (`service.daemon`) claims due work from
the database: jobs to score (`scoring`) or to train (`training`), and what schedules make due
(`schedules`). Scoring reads members of archives in place (`archive`), decodes them in child
processes (`decoding`) and computes with the engine of this machine (`engine`); `classify` does so
here and now, without the queue. `machine` knows
its GPU and processes; `config` is the only reader of the environment; `errors` opens with the
tree of what is raised; `logs` keeps names out of what is logged. Start at `tasks`, then
`service.daemon`. Imports point down in the order of the contract in pyproject.toml.
"""
