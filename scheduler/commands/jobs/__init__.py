"""`pneumoq jobs`: `group` lists its commands, `look` has those that read, `steer` those that
change jobs.
"""
