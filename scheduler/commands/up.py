"""`pneumoq up`: broker, workers and beat on this machine, until Ctrl-C."""

from __future__ import annotations

import importlib.util
import signal
import threading
from types import FrameType

import click

from scheduler import engines, session


@click.command("up")
@click.option(
    "--scoring-workers",
    type=click.IntRange(0, 64),
    default=1,
    show_default=True,
    help="Scoring workers; each has decoder processes of its own.",
)
@click.option("--no-train", is_flag=True, help="Start no training worker.")
@engines.here
@click.option("--no-beat", is_flag=True, help="Start no beat; the workers sweep by themselves.")
def command(scoring_workers: int, no_train: bool, asked_engine: str | None, no_beat: bool) -> None:
    """Start broker, workers and beat on this machine; Ctrl-C ends them.

    The broker is an embedded Valkey unless PNEUMOQ_BROKER_URL names one. Logs are in
    PNEUMOQ_HOME/logs.

    \b
    Examples:
      pneumoq up --scoring-workers 2
      pneumoq up --engine tensorrt
    """
    from scheduler.local import stack

    settings = engines.settings_of(session.settings(), asked_engine)
    ended = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        ended.set()

    queues = (["score"] if scoring_workers else []) + ([] if no_train else ["train"])
    if "train" in queues and importlib.util.find_spec("torch") is None:
        click.echo("No training worker: it needs PyTorch (pip install 'pneumoq[train]').", err=True)
        queues.remove("train")
    if "score" in queues:
        from worker import engine as scoring

        click.echo(f"Films are scored with {scoring.choose(settings)}")
    with stack.sole(settings):
        engine = session.database()
        click.echo(f"Starting workers ({', '.join(queues)}) in {settings.home} …")
        running = stack.Stack(
            settings, engine,
            queues=queues, scoring_workers=scoring_workers, beat=not no_beat, report=click.echo,
        )  # fmt: skip
        with running:
            signal.signal(signal.SIGINT, end)
            signal.signal(signal.SIGTERM, end)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` leaves it
                signal.signal(signal.SIGHUP, end)
            click.echo("Ready. Put work on the queue from another terminal:")
            click.echo("  pneumoq score FOLDER_OR_ARCHIVE --wait")
            click.echo("Ctrl-C ends the workers; what they were at goes on at the next start.")
            while not ended.wait(0.5):
                running.watch()
            click.echo("Ending …")
    click.echo("Ended.")
