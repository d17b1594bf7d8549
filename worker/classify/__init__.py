"""Classifying: films here and now, without the queue. Start at `films`, the one way that is always
open: it asks the database, opens an engine and computes. An `answer` is what comes of it, and its
`result` the part that a person is shown. Of a film alone `ahead` has the answer made ready by a
process of its own (`child`) while the database is asked still, with the model that was used last.
"""
