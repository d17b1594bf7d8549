"""`pneumoq models`: `group` lists its commands; `look` reads, `champion` chooses, and each of
the others is a command of its own, but for `calibrated`, which registers what `calibrate` makes,
and `made_with`, which knows films that a model has learned.
"""
