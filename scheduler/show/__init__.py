"""What is printed and drawn. Start with `output` (tables, JSON, times); `follow` watches a job
on a `display` until its `summary`, with `curves` for training; `picture` draws a film with its
map.
"""
