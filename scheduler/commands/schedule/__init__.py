"""`pneumoq schedule`: `group` lists its commands; `add` reads a whole `train` or `score` command
as what the clock is to submit.
"""
