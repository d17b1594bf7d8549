"""What a person touches: the `pneumoq` command line. Start reading in `cli`, which names every
command; a command's page is in `commands`, and what commands share stands in the folders below
it: `submitting`, `measure`, `checks`, `local`, `show`. `session` opens settings and database for
all of them.
"""
