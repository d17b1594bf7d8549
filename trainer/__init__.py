"""The science, usable as a library: labelled films in, one model file out.

`film` makes pixels of a film's bytes, `data` reads labelled folders and keeps their pixels,
`checking` says whether these are fit to train on, `judging` measures decisions, `network` is the
ResNet18 and what it is fed, `learning` is one training run and `modelfile` writes, converts and
imports model files. Start at `learning.loop`, which is a run from top to bottom. What lies beside
the folders (`card`, `errors`, …) any of them may use. Nothing here knows of SQL, of the queue, or
of the environment.
"""
