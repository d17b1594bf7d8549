"""The Celery app: it carries wake-ups, nothing else. Every setting has its reason."""

from __future__ import annotations

from celery import Celery

from worker import config
from worker.config import Settings
from worker.errors import ConfigError

QUEUES = ("score", "train")

#: A wake-up that its worker did not acknowledge is delivered again after this many seconds. Work
#: may take longer: then the second one finds nothing to claim. Leases, not this clock, decide.
VISIBILITY_TIMEOUT_S = 3600


def make(settings: Settings) -> Celery:
    """An app for these settings. Nothing is connected yet."""
    app = Celery("pneumoq", broker=settings.broker_url, include=["worker.tasks"])
    app.conf.update(
        # Messages hold no data; JSON cannot run code as pickle could.
        task_serializer="json",
        accept_content=["json"],
        # Results are rows. A result backend on the same server loses tasks when it goes down.
        task_ignore_result=True,
        result_backend=None,
        # A wake-up whose worker is killed is delivered again, to another one.
        task_acks_late=True,
        # One piece of work at a time, in a thread: a forked process would have no heartbeat.
        worker_pool="threads",
        worker_concurrency=1,
        # A busy worker must not hold wake-ups that an idle one could take.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # Repeating what killed a worker is the lease's decision, with a count and a wait.
        task_reject_on_worker_lost=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # A broker may be away for hours; the default gives up after 100 tries.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            # The shortest timeout of all apps that share a prefix wins: keep to ourselves.
            "global_keyprefix": "pneumoq:",
            # A half-open connection is noticed instead of waited on.
            "socket_keepalive": True,
            "health_check_interval": 15,
        },
        task_default_queue="score",
        task_create_missing_queues=True,
        task_routes={f"worker.tasks.work_{q}": {"queue": q} for q in QUEUES},
        beat_schedule={
            f"sweep-{q}": {
                "task": "worker.tasks.sweep",
                "schedule": settings.sweep_s,
                # A sweep that was not begun is worthless once the next one is there.
                "options": {"queue": q, "expires": settings.sweep_s},
            }
            for q in QUEUES
        },
        # The workers log through the standard logger; stdout stays stdout.
        worker_hijack_root_logger=True,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        enable_utc=True,
    )
    return app


def _of_this_process() -> Celery:
    try:
        return make(config.load())
    except ConfigError as error:
        # Celery would print a traceback of whatever else is raised here.
        raise SystemExit(f"Error: {error}") from None


#: What `celery -A worker.app` finds.
app = _of_this_process()
