"""Hooks: notices are sent to a web address and to a command of the site's own.

What is sent was written in the transaction of what happened, so nothing that happened goes untold;
it is sent outside of any, and marked afterwards. So a hook may get the same twice, with the
same `id`. A hook that took a notice does not get it again because another did not.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import shlex
import signal
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import sqlalchemy as sa

from db.base import database, outbox
from db.base.outbox import Notice
from worker import config
from worker.config import Settings

log = logging.getLogger(__name__)

#: Seconds from the connection's beginning to the end of the answer's head.
WEB_S = 10.0

#: Seconds that a command may take; then it and what it started are killed.
COMMAND_S = 30.0

#: What a hook is called in notices.last_error, and how it is reached.
_WEB, _COMMAND = "webhook", "command"

#: Sends a notice; returns why it did not arrive, or None.
Hook = Callable[[Mapping[str, Any]], str | None]


def of(settings: Settings) -> dict[str, Hook]:
    """The hooks that are set, by name."""
    hooks: dict[str, Hook] = {}
    url, command = settings.hook_url, settings.hook_command
    if url is not None:
        hooks[_WEB] = lambda payload: post(url, payload)
    if command is not None:
        hooks[_COMMAND] = lambda payload: run(command, payload)
    return hooks


def deliver(settings: Settings, engine: sa.Engine, who: str) -> int:
    """Send every notice that is due, one after the other; returns how many were tried.

    Where no hook is set, here or at any worker, what waits is marked as undelivered.
    """
    hooks = of(settings)
    if not hooks:
        if outbox.waiting(engine):
            database.write(engine, outbox.mark_undelivered)
        return 0
    tried = 0
    while True:
        notice = database.write(engine, lambda c: outbox.claim(c, who))
        if notice is None:
            return tried
        send(engine, notice, hooks)
        tried += 1


def send(engine: sa.Engine, notice: Notice, hooks: Mapping[str, Hook]) -> dict[str, str | None]:
    """Send a claimed notice and mark it: why each hook that was tried did not take it, or None."""
    failed = (notice.last_error or "").splitlines()
    again = [name for name in hooks if any(line.startswith(f"{name}: ") for line in failed)]
    results = {name: hooks[name](notice.sent) for name in again or hooks}
    errors = [f"{name}: {error}" for name, error in results.items() if error is not None]
    state = database.write(engine, lambda c: outbox.record_result(c, notice, errors))
    if errors:
        log.warning("notice %d is %s: %s", notice.id, state, "; ".join(errors))
    return results


def run(command: str, payload: Mapping[str, Any]) -> str | None:
    """Run a command line, without a shell, with the notice as JSON on its standard input.

    What it prints is neither kept nor logged. Returns why it failed, or None.
    """
    try:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=config.hook_environment(payload),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    try:
        process.communicate(_json(payload), timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        # With all that it started. Of one that ended in time that goes on: mailers send behind it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"it did not end within {COMMAND_S:.0f} s"
    return None if process.returncode == 0 else f"it ended with status {process.returncode}"


def post(url: str, payload: Mapping[str, Any]) -> str | None:
    """POST the notice as JSON. Returns why it did not arrive, without the URL, or None.

    Any answer of 200 to 299 is a yes. A redirect is not followed: it may lead anywhere.
    """
    address, credentials = _without_credentials(url)
    request = urllib.request.Request(address, data=_json(payload), method="POST")
    request.add_header("Content-Type", "application/json")
    request.add_header("User-Agent", "pneumoq")
    if credentials is not None:
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    web = _Web()
    # The time limit of a socket is of each read: an answer may come by single bytes.
    late = threading.Timer(WEB_S, web.abort)
    late.start()
    try:
        with web.opener.open(request, timeout=WEB_S):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            return f"it answered {error.code}, a redirect: set the address that it leads to"
        return f"it answered {error.code}"
    except urllib.error.URLError as error:
        return _why(error.reason, web)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _why(error, web)
    finally:
        late.cancel()


def _why(error: object, web: _Web) -> str:
    """In words of the system, never of the other side, nor with the address."""
    if web.aborted or isinstance(error, TimeoutError):
        return f"no answer within {WEB_S:.0f} s"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    if isinstance(error, socket.gaierror):
        return "its host is not known"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be reached: {os.strerror(error.errno)}"
    return f"it cannot be reached: {type(error).__name__}"


def _json(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload, ensure_ascii=False).encode()


def _without_credentials(url: str) -> tuple[str, str | None]:
    """The URL without `user:password@`, and those as HTTP has them."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    address = urlunsplit(parts._replace(netloc=host, fragment=""))
    return address, base64.b64encode(unquote(user).encode()).decode() if at else None


class _Web:
    """An opener that speaks HTTP and HTTPS, follows no redirect, and can be cut off."""

    def __init__(self) -> None:
        self.aborted = False
        self._connections: list[http.client.HTTPConnection] = []
        self.opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Http(self._connections),
            _Https(self._connections),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self.opener.add_handler(handler)

    def abort(self) -> None:
        """Let whoever waits for the other side go."""
        self.aborted = True
        for connection in self._connections:
            with suppress(OSError, AttributeError):  # not connected yet, or no more
                connection.sock.shutdown(socket.SHUT_RDWR)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connect(host: str, **kw: Any) -> http.client.HTTPConnection:
            self._connections.append(made := http.client.HTTPConnection(host, **kw))
            return made

        return self.do_open(connect, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connections: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._connections = connections

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connect(host: str, **kw: Any) -> http.client.HTTPConnection:
            self._connections.append(made := http.client.HTTPSConnection(host, **kw))
            return made

        return self.do_open(connect, req)
