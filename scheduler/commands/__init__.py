"""One module, or folder, per command of `pneumoq`; each defines `command`. Start with `score`:
options, the rows that they become, and `submitting.submit`.
"""
