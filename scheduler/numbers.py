"""Numbers that a person gives."""

from __future__ import annotations

import math
from typing import Any

import click


class Real(click.FloatRange):
    """A number of a range; `nan`, which click takes to be in any, is in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number; BadParameter where it is none, or out of range."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(
                f"{value!r} is no number that can be meant here; give one like 0.5", param, ctx
            )
        return number
