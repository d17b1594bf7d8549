"""`pneumoq schedule`: jobs that the clock makes, such as a retraining every night."""

from __future__ import annotations

import click

from scheduler.commands.schedule import add, look, steer


@click.group("schedule")
def command() -> None:
    """Let the clock make jobs: retrain every night, score what arrives in a folder.

    Workers make the jobs (`pneumoq up`, or workers on several machines); each time of a schedule is
    dealt with once, however many there are.

    \b
    Examples:
      pneumoq schedule add nightly --cron "0 2 * * *" --tz Europe/Paris train /data/chest_xray
      pneumoq schedule add inbox --cron "*/10 * * * *" score /data/inbox
      pneumoq schedule ls
      pneumoq schedule show nightly
    """


for _command in (
    add.add, look.ls, look.show, look.runs_, steer.run, steer.pause, steer.resume, steer.rm,
):  # fmt: skip
    command.add_command(_command)
