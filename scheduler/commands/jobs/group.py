"""`pneumoq jobs`: what was asked of the workers, how far it is, and what went wrong."""

from __future__ import annotations

import click

from scheduler.commands.jobs import look, steer


@click.group("jobs")
def command() -> None:
    """List, follow and steer jobs; see their errors.

    \b
    Examples:
      pneumoq jobs ls --open
      pneumoq jobs watch 5
      pneumoq jobs errors 5
      pneumoq jobs retry 5 --failed-only
    """


for _command in (*look.COMMANDS, *steer.COMMANDS):
    command.add_command(_command)
