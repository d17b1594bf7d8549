"""Schedules: jobs that the clock makes, and what became of each of their times.

Start with `schedules`, whose `tick` makes a run at each time, and `runs`, which a job or a verdict
ends. `nights` is what a nightly training job knows of those before it, `ends` what becomes of one
that is not done in time, and `unpromoted` counts nights that came to nothing; `watched` holds the
files of watched folders: seen, taken by a job, done.
"""
