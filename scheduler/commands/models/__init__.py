"""`pneumoq models`: `group` lists its commands; `look` reads, `champion` chooses, and each of
the others is a command of its own, but for `calibrated`, which registers what `calibrate` makes.
"""
