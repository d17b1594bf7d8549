"""Wake-ups reach the broker, never pile up, and a broker that takes none stops nobody."""

from __future__ import annotations

import socket
import time

from tests.support import servers
from worker import config, wakeup


def _settings(url: str) -> config.Settings:
    return config.load({"PNEUMOQ_BROKER_URL": url})


def _waiting(broker: servers.Valkey, queue: str) -> object:
    with broker.client() as client:
        return client.llen(f"pneumoq:{queue}")


def test_wake_ups_wait_on_their_queue_and_no_more_of_them_than_there_may_be_workers(
    valkey: servers.Valkey,
) -> None:
    assert wakeup.notify(_settings(valkey.url), "train")
    assert _waiting(valkey, "train") == 1
    assert wakeup.notify(_settings(valkey.url), "score", times=10 * wakeup.MOST)
    assert wakeup.notify(_settings(valkey.url), "score", times=10 * wakeup.MOST)
    assert _waiting(valkey, "score") == wakeup.MOST


def test_a_broker_that_is_not_there_takes_no_wake_up() -> None:
    assert not wakeup.notify(_settings("redis://127.0.0.1:1/0"), "score")


def test_a_broker_whose_memory_is_full_takes_no_wake_up(valkey: servers.Valkey) -> None:
    with valkey.client() as client:
        client.config_set("maxmemory", 1)
    assert not wakeup.notify(_settings(valkey.url), "score")


def test_a_server_that_never_answers_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        port = silent.getsockname()[1]
        assert not wakeup.notify(_settings(f"redis://127.0.0.1:{port}/0"), "score")
        assert time.monotonic() - started < 6 * wakeup.PATIENCE_S
