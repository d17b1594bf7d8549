"""Measuring this machine and an archive: `bench` runs the stages of `stages` alone and together
on a `scratch` site, `survey` samples an archive, `rehearse` is `score --dry-run`.
"""
