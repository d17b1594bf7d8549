"""From what was typed to a job on the queue. Start with `submit`, which inserts a job, wakes
workers and follows it; `sources` says what a scoring job reads, `precision` and `uncertain` what
their options mean.
"""
