"""The broker dies, forgets, is absent, hangs or repeats itself; the database knows what is due."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.faults import harm
from tests.support import servers, soak
from tests.support.site import Site, site
from trainer.card import Card
from worker import wakeup

#: Folders of films in each of three jobs.
SOURCES = soak.repetitions(quick=5, full=8)

#: The list that holds wake-ups.
WAKE_UPS = "pneumoq:score"


@pytest.fixture
def with_broker(
    broker: servers.Valkey, database_url: str, tmp_path: Path, model: tuple[Path, Card]
) -> Iterator[Site]:
    """A site with a model, on Valkey and on Redis."""
    with harm.with_model(site(database_url, broker, tmp_path / "site"), model) as made:
        yield made


def _hears(here: Site, broker: servers.Valkey) -> None:
    """Wait until a worker takes a wake-up off a broker that works again."""
    with broker.client() as client:
        assert wakeup.notify(here.settings, "score")
        here.wait(lambda: client.llen(WAKE_UPS) == 0, "a wake-up to be taken")


@contextmanager
def _at_each_bell(broker: servers.Valkey, do: Callable[[], object]) -> Iterator[None]:
    """Do something whenever a wake-up is put on the list."""
    ended = threading.Event()
    patient = redis.Redis(unix_socket_path=str(broker.socket), socket_timeout=None)
    with patient, patient.monitor() as commands:

        def watch() -> None:
            for command in commands.listen():
                if command["command"].startswith(f"LPUSH {WAKE_UPS} "):
                    do()
                elif ended.is_set():
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            with broker.client() as client:
                client.ping()
            thread.join()


def test_a_broker_killed_in_the_middle_comes_back_empty_and_is_heard_again(
    with_broker: Site, broker: servers.Valkey, few: Path
) -> None:
    here = with_broker
    # No sweep helps: what is taken afterwards is a wake-up.
    worker = here.worker(sweep_s=600.0)
    job_id = harm.submit(here, *[few] * 10)
    harm.in_the_middle(here, job_id)
    for _ in range(3):
        broker.kill()
        broker.start(keep_data=False)
    harm.completed(here, job_id, 10 * harm.count(few))
    _hears(here, broker)
    harm.completed(here, harm.submit(here, few), harm.count(few))
    harm.alive(worker)


def test_a_broker_that_is_emptied_again_and_again_loses_no_work(
    here: Site, valkey: servers.Valkey, few: Path
) -> None:
    pair = [here.begin_worker(), here.begin_worker()]
    for worker in pair:
        here.hello(worker)
    job_ids = [harm.submit(here, *[few] * SOURCES) for _ in range(3)]
    with valkey.client() as client:
        for shards in range(1, 10, 2):
            harm.in_the_middle(here, job_ids[-1], 0)
            here.wait(
                lambda shards=shards: sum(map(here.done, job_ids)) >= shards, "shards to be final"
            )
            client.flushall()
    for job_id in job_ids:
        harm.completed(here, job_id, SOURCES * harm.count(few))
    harm.alive(*pair)


def test_a_job_is_taken_and_done_while_there_is_no_broker_at_all(
    with_broker: Site, broker: servers.Valkey, few: Path
) -> None:
    here = with_broker
    early = here.worker()
    broker.kill()
    answer = here.run("score", str(few))
    assert answer.returncode == 0, answer.stderr
    assert "broker does not answer" in answer.stderr
    assert "Traceback" not in answer.stderr
    harm.completed(here, 1, harm.count(few))

    # The same for a worker that has never seen a broker.
    harm.alive(early)
    early.kill()
    late = here.worker()
    harm.completed(here, harm.submit(here, few, notify=False), harm.count(few))

    broker.start()
    _hears(here, broker)
    harm.alive(late)


def test_a_broker_that_hangs_delivers_no_bell_and_stops_nobody(
    here: Site, valkey: servers.Valkey, few: Path
) -> None:
    worker = here.worker()
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        assert not wakeup.notify(here.settings, "score")
        harm.completed(here, harm.submit(here, few, few, notify=False), 2 * harm.count(few))
    finally:
        os.kill(valkey.pid, signal.SIGCONT)
    _hears(here, valkey)
    harm.alive(worker)


def test_a_bell_that_is_never_rung_is_made_up_for_by_an_idle_worker(here: Site, few: Path) -> None:
    here.worker()
    harm.completed(here, harm.submit(here, few, notify=False), harm.count(few))
    harm.calm(here)


@soak.on_postgresql
def test_every_bell_delivered_ten_times_does_nothing_twice(
    here: Site, valkey: servers.Valkey, few: Path
) -> None:
    with valkey.client() as client:
        assert wakeup.notify(here.settings, "score")
        message = client.lindex(WAKE_UPS, 0)
        delivered = 0

        def again() -> None:
            nonlocal delivered
            client.rpush(WAKE_UPS, *[message] * 9)
            delivered += 9

        with _at_each_bell(valkey, again):
            pair = [here.begin_worker(lease_s=60.0), here.begin_worker(lease_s=60.0)]
            for worker in pair:
                here.hello(worker)
            job_ids = [harm.submit(here, *[few] * 5) for _ in range(2)]
            for job_id in job_ids:
                harm.completed(here, job_id, 5 * harm.count(few))
        assert delivered >= 9 * 4
        here.wait(lambda: client.llen(WAKE_UPS) == 0, "all wake-ups to be taken")
    attempts = here.rows("SELECT DISTINCT attempts, lease_token FROM shards")
    assert attempts == [(1, 1)], "a shard was claimed twice"
    harm.alive(*pair)
    harm.calm(here)
