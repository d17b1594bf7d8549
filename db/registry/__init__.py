"""Models: registered with their files, named by aliases, checked, watched for drift, and retired.

Start with `models` (registering and reading) and `aliases` (champion and other names). `engines`
says in which precisions a model may be used, `rates` which one is fastest, `engine_checks` is the
trial of a new model on every kind of worker, `events` its history. `drift` compares a job's scores
with a model's reference by `divergence`, `measures` are metrics of labelled jobs, and `retention`
decides which models stay.
"""
