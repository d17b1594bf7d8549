"""The science, usable as a library: film (bytes to pixels), dataset, model, loop, metrics, export.

It knows nothing of SQL, of the queue, or of the environment.
"""
