"""From what was typed to a job on the queue. Start with `submit`, which inserts a job, wakes
workers and follows it; `sources` says what a scoring job reads, `precision`, `uncertain` and
`judging` what their options mean.
"""
