"""Whether this container does its work: its worker answers in the database, or its beat keeps time.

It asks what the process itself wrote lately, not whether the process is there: that the container's
manager sees. Exit status 0 is healthy, 1 is not, with the reason on stderr.
"""

from __future__ import annotations

import socket
import sys
import time

from db.base import database, workers
from worker import config
from worker.errors import ConfigError

#: beat writes its schedule to disk at the first sweep after this many seconds (Celery's
#: `Scheduler.sync_every`). While the broker is away it does not.
BEAT_SYNC_S = 180.0


def main(arguments: list[str]) -> str | None:
    """The reason why not, or None. `beat` looks at beat, nothing at a worker."""
    try:
        settings = config.load()
    except ConfigError as error:
        return str(error)
    if arguments == ["beat"]:
        written = [p.stat().st_mtime for p in settings.home.glob("beat-schedule*")]
        age_s = time.time() - max(written, default=0.0)
        if age_s < BEAT_SYNC_S + 2 * settings.sweep_s + 60:
            return None
        return "beat has not kept its schedule for some minutes"
    host = socket.gethostname()
    engine = database.connect(settings.database_url)
    if any(worker["host"] == host for worker in workers.alive(engine)):
        return None
    return f"no worker of {host} was seen in the database within {workers.GONE_AFTER_S:.0f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
