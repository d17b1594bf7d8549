"""The tasks that wake-ups name, and what a worker process does when it starts and ends."""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import signals
from celery.worker import state

from worker import config, logs
from worker.app import QUEUES, app
from worker.service.daemon import Daemon

log = logging.getLogger(__name__)

#: Bulk work goes behind what a person waits for on the same machine.
NICENESS = 10

#: Exit status of a worker that cannot go on.
FAILED = 1

_daemon: Daemon | None = None


def stand_back() -> None:
    """Take `NICENESS`, which decoders and trainers inherit, or stay where that is behind it."""
    os.nice(max(0, NICENESS - os.nice(0)))


@signals.after_setup_logger.connect
@signals.after_setup_task_logger.connect
def log_no_names(logger: logging.Logger, **_: Any) -> None:
    """What is logged names no film; see `worker.logs`."""
    logs.without_names(logger)


@signals.worker_init.connect
def start(sender: Any = None, **_: Any) -> None:
    """Before the first wake-up: register in the database and begin the heartbeat."""
    global _daemon
    stand_back()
    logs.at_the_end()
    queues = [q for q in QUEUES if q in sender.app.amqp.queues.consume_from]
    try:
        _daemon = Daemon(config.load(), queues, _end)
    except Exception as error:
        # Celery drops what a signal's receiver raises, and would take wake-ups for nothing.
        raise SystemExit(f"this worker cannot start: {error}") from error


@signals.worker_shutting_down.connect
def stop(**_: Any) -> None:
    """On SIGTERM: hand back what is in hand instead of finishing it."""
    if _daemon is not None:
        _daemon.stop()


@signals.worker_shutdown.connect
def close(**_: Any) -> None:
    """When the last task has returned."""
    if _daemon is None:
        return
    _daemon.close()
    if _daemon.failed:
        logging.shutdown()
        # What a lost GPU's libraries would still do on the way out may never end.
        os._exit(FAILED)


def _end() -> None:
    """Have this process end itself, with a status that makes its supervisor start another."""
    state.should_stop = FAILED


def _running() -> Daemon:
    assert _daemon is not None, "tasks run in workers only"
    return _daemon


@app.task(name="worker.tasks.work_score")
def work_score() -> None:
    """A wake-up: score what is due."""
    _running().score()


@app.task(name="worker.tasks.work_train")
def work_train() -> None:
    """A wake-up: train what is due."""
    _running().train()


@app.task(name="worker.tasks.sweep")
def sweep() -> None:
    """Beat's tick: notify workers of what is due, and close what is done."""
    _running().sweep()
