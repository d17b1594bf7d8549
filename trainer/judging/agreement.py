"""Agreement: how far two readers of the same films agree beyond chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.judging.metrics import Z


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What two readers said of the films that both labelled."""

    #: Films.
    films: int
    #: Films called `labels[i]` by the first and `labels[j]` by the second, `int64 [C, C]`.
    table: NDArray[np.int64]
    #: Share of films on which they agree, 0 to 1; NaN without films.
    observed: float
    #: The same if each labelled by chance as often as they did.
    expected: float
    #: Cohen's kappa, at most 1; NaN where both gave one and the same label to all films.
    kappa: float
    #: Its 95 % confidence interval, within -1 to 1; NaN with kappa.
    low: float
    high: float


def cohen(first: Sequence[int], second: Sequence[int], classes: int) -> Agreement:
    """Cohen's kappa of two readers, who gave each film a class from 0 on.

    Kappa is (observed - expected) / (1 - expected) of Cohen 1960, unweighted. Its standard error is
    that of Fleiss, Cohen and Everitt 1969, equation 13, which is for many films; with few the
    interval is too narrow, and where the readers agree on every film it has no width. Raises
    ValueError where the two are not of equal length.
    """
    if len(first) != len(second):
        raise ValueError("the two readers must have labelled the same films")
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (np.asarray(first, np.int64), np.asarray(second, np.int64)), 1)
    n = len(first)
    nan = float("nan")
    if not n:
        return Agreement(
            films=0, table=table, observed=nan, expected=nan, kappa=nan, low=nan, high=nan
        )
    p = table / n
    rows, columns = p.sum(1), p.sum(0)
    observed, expected = float(np.trace(p)), float(rows @ columns)
    if 1 - expected < 1e-12:
        return Agreement(
            films=n, table=table, observed=observed, expected=expected, kappa=nan, low=nan, high=nan
        )
    kappa = (observed - expected) / (1 - expected)
    on = np.diag(p) @ (1 - (rows + columns) * (1 - kappa)) ** 2
    # Of a film that the first calls i and the second j: how often the second says i, the first j.
    off = p * (columns[:, None] + rows[None, :]) ** 2
    between = (1 - kappa) ** 2 * (off.sum() - np.trace(off))
    spread = on + between - (kappa - expected * (1 - kappa)) ** 2
    error = math.sqrt(max(0.0, float(spread)) / n) / (1 - expected)
    return Agreement(
        films=n,
        table=table,
        observed=observed,
        expected=expected,
        kappa=kappa,
        low=max(-1.0, kappa - Z * error),
        high=min(1.0, kappa + Z * error),
    )
