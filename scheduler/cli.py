"""The `pneumoq` command: which commands there are, and how errors reach a person.

A command's module is imported when the command is called, so that help needs nothing but click.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys

import click

from scheduler import errors

#: Heading → command → module that defines it as `command`, and its line in the help.
COMMANDS = {
    "Run": {
        "demo": ("scheduler.commands.demo", "See all of it work once, on made-up films."),
        "up": ("scheduler.commands.up", "Start broker and workers on this machine."),
    },
    "Score and train": {
        "score": ("scheduler.commands.score", "Score folders and archives of films."),
        "classify": ("scheduler.commands.classify", "Score films here and now, without the queue."),
        "train": ("scheduler.commands.train", "Train a model on labelled films."),
        "dataset": ("scheduler.commands.dataset", "Check labelled films; divide them by patient."),
    },
    "Look": {
        "jobs": ("scheduler.commands.jobs.group", "List, follow and steer jobs; see their errors."),
        "report": ("scheduler.commands.report", "Write a page: which films to look at, and why."),
        "review": ("scheduler.commands.review", "Write a page on which a person labels films."),
        "export": ("scheduler.commands.export", "Write a job's predictions to a file."),
        "labels": ("scheduler.commands.labels", "Bring in true labels; see how a job did by them."),
        "models": ("scheduler.commands.models.group", "List models; choose the champion."),
        "schedule": (
            "scheduler.commands.schedule.group",
            "Retrain every night; score what arrives.",
        ),
        "shares": ("scheduler.commands.shares", "See who shares the workers; give more or less."),
        "query": ("scheduler.commands.query", "Ask the database a question in SQL."),
    },
    "Maintain": {
        "bench": ("scheduler.commands.bench", "Measure how much of this machine scoring uses."),
        "doctor": ("scheduler.commands.doctor", "Check this machine and print every setting."),
        "notices": ("scheduler.commands.notices", "See what hooks were told, and try them."),
        "db": ("scheduler.commands.db", "Bring the schema up to date, or explain it."),
    },
}


class Commands(click.Group):
    """A group whose commands are imported on use, and that turns expected errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for group in COMMANDS.values():
            if cmd_name in group:
                from importlib import import_module

                command = import_module(group[cmd_name][0]).command
                assert isinstance(command, click.Command)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            from difflib import get_close_matches

            close = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`pneumoq --help` lists them"
            ctx.fail(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, group in COMMANDS.items():
            with formatter.section(heading):
                # Names are padded so that the columns of all headings stand under each other.
                formatter.write_dl([(f"{name:<8}", line) for name, (_, line) in group.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            answer: object = super().invoke(ctx)
            sys.stdout.flush()
            return answer
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(errors.INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (`| head`) has enough. What is still buffered must not fail at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise click.exceptions.Exit(errors.PIPE_CLOSED) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            message = errors.explain(error)
            if message is None:
                raise
            raise errors.Failure(message) from error


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib import metadata

        click.echo(f"pneumoq {metadata.version('pneumoq')}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """PneumoQ scores archives of chest X-rays for pneumonia, and trains the model it uses.

    \b
    Commands put jobs on a queue; workers (`pneumoq up`) do them, on CPU or GPU.
    Every prediction, error and metric becomes a row that `pneumoq query` reads.
    Research software, not a medical device.

    \b
    Example:
      pneumoq demo                 the whole journey on made-up films
      pneumoq score films.zip      put a scoring job on the queue
      pneumoq jobs --help          what a command does, with examples
    """


def main() -> None:
    """Run the command line; what the console script `pneumoq` calls."""
    # What modules make as they load stays: looking through it again and again for what could go
    # would be a tenth of a command's start.
    gc.set_threshold(50_000)
    # A command that is told to end takes with it what it started, and removes what it made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a film's name gets it escaped; the command does not fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    cli(prog_name="pneumoq")
