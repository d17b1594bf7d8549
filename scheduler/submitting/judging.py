"""Judging: the options that say what the gate demands of a new model, at night and of a
calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from scheduler import numbers
from trainer.judging.margins import NAMES, Margins

F = TypeVar("F", bound=Callable[..., Any])

_SHARE = numbers.Real(0, 1)

#: Margin → what it is on, in words.
_ON = {
    "auroc": "a new model may be worse by this on AUROC.",
    "sensitivity": "… on sensitivity at the operating point.",
    "specificity": "… on specificity at the operating point.",
    "shift": "… on AUROC under the worst dressing of its shift report.",
}

#: Parameters that the options give, as a schedule's rules have them.
RULES = (*(f"margin_{name}" for name in _ON), "floor")


def options(prefix: str) -> Callable[[F], F]:
    """Give a command `--margin-…` and `--floor`; help begins with `prefix`."""

    def add(command: F) -> F:
        command = click.option(
            "--floor", multiple=True, callback=_floors, metavar="FIGURE=SHARE",
            help=f"{prefix}what the 95 % lower bound of a new model's auroc, sensitivity or "
            "specificity must reach, as sensitivity=0.90. May be repeated.",
        )(command)  # fmt: skip
        for name, text in reversed(_ON.items()):
            command = click.option(
                f"--margin-{name}", type=_SHARE, default=getattr(Margins, name), show_default=True,
                help=f"{prefix}{text}",
            )(command)  # fmt: skip
        return command

    return add


def _floors(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    """`sensitivity=0.90`, any number of them."""
    found: dict[str, float] = {}
    for one in given:
        name, _, value = one.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = -1.0
        if name not in NAMES or not 0 < found[name] < 1:
            raise click.BadParameter(
                f"give auroc, sensitivity or specificity, and what it must reach between 0 and 1, "
                f"as sensitivity=0.90, not {one!r}",
                ctx,
                param,
            )
    return found
