"""Shift report: what is left of a model where films were acquired otherwise than its own.

Films that it did not learn are dressed as others look, and scored before and after. `units` says
whose looks they get, `dressing` and `counter` change films, `measure` scores them, `report` makes
figures of that and `words` says them; `carried` hands a report on to a model of the same weights.
NumPy and Pillow; whatever scores films can be judged.
"""
