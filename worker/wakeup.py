"""Wake-ups: messages that say "work is due on this queue" and carry nothing else.

The database is the truth; a wake-up that is lost, doubled or late changes only when a worker looks.
The app is imported only here and in the worker, so that commands which enqueue nothing do not
import Celery.
"""

from __future__ import annotations

import logging

from kombu.exceptions import OperationalError

from worker.config import Settings

log = logging.getLogger(__name__)

#: No queue ever holds more wake-ups than this: each wakes one idle worker, and a worker that is
#: awake works until nothing is due.
MOST = 32

#: A broker that takes longer to answer counts as away: whoever notifies has better things to do.
PATIENCE_S = 5.0


def notify(settings: Settings, queue: str, times: int = 1) -> bool:
    """Wake up to `times` idle workers of a queue (`score` or `train`).

    Returns whether the broker took it; if not, the work waits for a sweep.
    """
    from worker.app import make

    limits = {"socket_connect_timeout": PATIENCE_S, "socket_timeout": PATIENCE_S}
    with make(settings) as app, app.connection_for_write(transport_options=limits) as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=PATIENCE_S)
            with connection.channel() as channel:
                waiting = channel.queue_declare(queue).message_count
            for _ in range(max(0, min(times, MOST - waiting))):
                app.send_task(f"worker.tasks.work_{queue}", connection=connection, retry=False)
        except (
            OperationalError,
            *connection.connection_errors,
            *connection.channel_errors,  # its memory is full, or it lets us only read
        ) as error:
            log.warning("the broker took no wake-up (%s); the work waits for a sweep", error)
            return False
    return True
