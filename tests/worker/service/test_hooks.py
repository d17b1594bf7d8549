"""Hooks: a real server and a real command are told, at least once, and nothing of patients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import outbox, workers
from db.base.database import write
from db.base.schema import notices as table
from db.base.types import now
from db.queue import jobs
from tests.scheduler import rows
from tests.support import servers
from tests.support.site import site
from tests.worker import samples
from worker import config
from worker.config import Settings
from worker.service import hooks

#: A patient's name, as a path may have it.
PATIENT = "MEIER^ANNA"

#: Part of the webhook's path that nobody may read elsewhere.
TOKEN = "B0F7secretXYZ"


class Listener(ThreadingHTTPServer):
    """A web server that keeps what it is told, and answers as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.raw = b""
        self.status = 204
        self.headers: dict[str, str] = {}
        #: Called before the answer.
        self.before: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/{TOKEN}"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.raw += body
        self.server.heads.append(dict(self.headers))
        self.server.heard.append(json.loads(body))
        self.server.before()
        self.send_response(self.server.status, f"as {PATIENT} said")
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[sa.Engine]:
    made = connecting.connect(sqlite_url)
    yield made
    made.dispose()


def a_command(folder: Path, *lines: str) -> str:
    """A command line that appends its input and variables to `told` in `folder`."""
    script = folder / "tell it.py"
    script.write_text(
        "import json, os, sys, time\n"
        "told = json.load(sys.stdin)\n"
        "told['variables'] = {k: v for k, v in os.environ.items() if k.startswith('PNEUMOQ_')}\n"
        f"with open({str(folder / 'told')!r}, 'a') as file:\n"
        "    file.write(json.dumps(told) + '\\n')\n"
        f"print({PATIENT!r})\n" + "\n".join(lines)
    )
    return f"{sys.executable} '{script}'"


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "told").read_text().splitlines()]


def add(engine: sa.Engine, event: str = "kept", **facts: Any) -> int:
    return write(engine, lambda c: outbox.add(c, event, **facts))


def settings(tmp_path: Path, **values: str) -> Settings:
    return replace(config.load({"PNEUMOQ_HOME": str(tmp_path)}), **values)  # type: ignore[arg-type]


def pass_time(engine: sa.Engine) -> None:
    write(engine, lambda c: c.execute(sa.update(table).values(not_before=now(-1))))


def test_a_server_and_a_command_are_told_the_same(
    engine: sa.Engine, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOQ_SITE_KEY", "a secret of this site")
    both = settings(tmp_path, hook_url=listener.url, hook_command=a_command(tmp_path))
    number = add(engine, text="the champion stays: 0.91 ≤ 0.98", auroc=0.912)
    assert hooks.deliver(both, engine, "w1") == 1
    (heard,) = listener.heard
    at = outbox.get(engine, number)["at"].isoformat(timespec="seconds")
    assert heard == {
        "id": number, "at": at, "event": "kept", "text": "the champion stays: 0.91 ≤ 0.98",
        "auroc": 0.912,
    }  # fmt: skip
    assert listener.heads[0]["Content-Type"] == "application/json"
    (row,) = told(tmp_path)
    variables = row.pop("variables")
    assert row == heard
    for name in ("PNEUMOQ_HOME", "PNEUMOQ_TRAIN_THREADS", "PNEUMOQ_ENGINE_THREADS"):
        assert variables.pop(name) == os.environ[name]  # as of the tests
    assert variables == {
        "PNEUMOQ_EVENT": "kept", "PNEUMOQ_TEXT": heard["text"], "PNEUMOQ_ID": str(number),
        "PNEUMOQ_AT": at,
    }  # fmt: skip
    assert outbox.get(engine, number)["state"] == "delivered"
    assert hooks.deliver(both, engine, "w1") == 0


def test_without_hooks_notices_are_unheard_at_once(engine: sa.Engine, tmp_path: Path) -> None:
    number = add(engine)
    assert hooks.deliver(settings(tmp_path), engine, "w1") == 0
    assert outbox.get(engine, number)["state"] == "unheard"


def test_a_hook_that_took_a_notice_is_not_told_again_when_another_did_not(
    engine: sa.Engine, listener: Listener, tmp_path: Path
) -> None:
    both = settings(tmp_path, hook_url=listener.url, hook_command=a_command(tmp_path))
    listener.status = 503
    number = add(engine)
    hooks.deliver(both, engine, "w1")
    row = outbox.get(engine, number)
    assert (row["state"], row["last_error"]) == ("waiting", "webhook: it answered 503")
    listener.status = 200
    pass_time(engine)
    hooks.deliver(both, engine, "w2")
    row = outbox.get(engine, number)
    assert (row["state"], row["attempts"], row["last_error"]) == ("delivered", 2, None)
    assert (len(listener.heard), len(told(tmp_path))) == (2, 1)


def test_errors_hold_neither_the_address_nor_foreign_words(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.status = 404
    said = [hooks.post(listener.url, {"event": "test"})]
    listener.status, listener.headers = 302, {"Location": listener.url + "/elsewhere"}
    said.append(hooks.post(listener.url, {"event": "test"}))
    with servers_gone() as url:
        said.append(hooks.post(url, {"event": "test"}))
    said.append(hooks.post(f"https://127.0.0.1:{listener.server_port}/{TOKEN}", {"a": 1}))
    said.append(hooks.post(f"http://no-such-host.invalid/{TOKEN}", {"event": "test"}))
    assert said[0] == "it answered 404"
    assert said[1] == "it answered 302, a redirect: set the address that it leads to"
    assert said[2] == "it cannot be reached: Connection refused"
    assert said[3] is not None and said[3].startswith("TLS failed: ")
    assert said[4] == "its host is not known"
    for secret in (TOKEN, PATIENT):
        assert secret not in " ".join(map(str, said)) + caplog.text
    assert len(listener.heard) == 2  # nobody followed the redirect


class servers_gone:
    """The address of a server that is no more."""

    def __enter__(self) -> str:
        with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
            return f"http://127.0.0.1:{server.server_port}/{TOKEN}"

    def __exit__(self, *_: object) -> None:
        pass


def test_a_password_in_the_address_is_sent_as_such(listener: Listener) -> None:
    url = listener.url.replace("127.0.0.1", "ward:p%40ss@127.0.0.1")
    assert hooks.post(url, {"event": "test"}) is None
    assert listener.heads[0]["Authorization"] == "Basic d2FyZDpwQHNz"  # ward:p@ss
    assert "ward" not in listener.heads[0]["Host"]


def test_an_answer_that_trickles_in_is_not_waited_for(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "WEB_S", 0.3)
    ended = threading.Event()
    listener.before = lambda: ended.wait(20)
    began = time.monotonic()
    assert hooks.post(listener.url, {"event": "test"}) == "no answer within 0 s"
    assert time.monotonic() - began < 10
    ended.set()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("/no/such/program --at all", "it cannot be run: No such file or directory"),
        ("sh -c 'cat >/dev/null; echo MEIER; exit 3'", "it ended with status 3"),
        ("sh -c 'kill -9 $$'", "it ended with status -9"),
        ("true 'needs no input'", None),
    ],
)
def test_a_command_s_end_is_told_in_words_of_ours(command: str, why: str | None) -> None:
    assert hooks.run(command, {"event": "test", "text": "x" * 200_000}) == why


def test_a_command_that_does_not_end_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "COMMAND_S", 0.5)
    child = tmp_path / "child"
    command = f"sh -c 'sleep 300 & echo $! > {child}; wait'"
    assert hooks.run(command, {"event": "test"}) == "it did not end within 0 s"
    pid = int(child.read_text())
    samples.wait(lambda: not _lives(pid), "the command's child to end")


def test_what_a_command_leaves_behind_it_goes_on(tmp_path: Path) -> None:
    """As mailers do, which send after they have ended."""
    sent = tmp_path / "sent"
    command = f"sh -c '(sleep 0.3; touch {sent}) > /dev/null 2>&1 &'"
    assert hooks.run(command, {"event": "test"}) is None
    samples.wait(sent.exists, "what was left behind")


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_a_sender_killed_between_sending_and_marking_sends_the_same_again(
    engine: sa.Engine, sqlite_url: str, listener: Listener, tmp_path: Path
) -> None:
    chosen = settings(tmp_path, hook_url=listener.url, database_url=sqlite_url)
    number = add(engine)
    code = (
        "from db.base import database\n"
        "from worker import config\n"
        "from worker.service import hooks\n"
        "settings = config.load()\n"
        "hooks.deliver(settings, database.connect(settings.database_url), 'killed')\n"
    )
    arrived, over = threading.Event(), threading.Event()
    listener.before = lambda: (arrived.set(), over.wait(60))
    sender = subprocess.Popen([sys.executable, "-c", code], env=config.child_environment(chosen))
    assert arrived.wait(60)
    sender.send_signal(signal.SIGKILL)
    assert sender.wait() == -signal.SIGKILL
    over.set()
    row = outbox.get(engine, number)
    assert (row["state"], row["worker_id"], row["attempts"]) == ("waiting", "killed", 1)
    assert hooks.deliver(chosen, engine, "w2") == 0  # it may be alive yet
    pass_time(engine)
    assert hooks.deliver(chosen, engine, "w2") == 1
    assert [heard["id"] for heard in listener.heard] == [number, number]
    assert outbox.get(engine, number)["state"] == "delivered"


def test_a_worker_tells_of_a_job_that_failed_and_not_of_whom(
    sqlite_url: str,
    valkey: servers.Valkey,
    listener: Listener,
    tmp_path: Path,
) -> None:
    archive = tmp_path / f"{PATIENT}.zip"
    archive.write_bytes(b"PK\x03\x04 cut short")
    command = a_command(tmp_path)
    with site(
        sqlite_url, valkey, tmp_path / "site", hook_url=listener.url, hook_command=command
    ) as here:
        model_id = rows.a_model(here.engine, tmp_path)
        row = {"uri": str(archive), "kind": "zip", "fingerprint": "1:2:3"}
        job_id = write(
            here.engine,
            lambda c: jobs.submit(
                c, kind="score", spec={"sources": [str(archive)]}, submitted_by="tests",
                model_id=model_id, source_rows=[row],
            ),
        )  # fmt: skip
        process = here.worker()
        assert [worker["versions"]["hooks"] for worker in workers.alive(here.engine)] == ["yes"]
        assert here.ended(job_id) == "failed"
        here.wait(lambda: here.rows("SELECT 1 FROM notices WHERE state = 'delivered'"), "hooks")
        reason = str(jobs.get(here.engine, job_id)["reason"])
        log = here.log(process).read_text()
    assert PATIENT in reason
    (heard,) = listener.heard
    assert (heard["event"], heard["job"], heard["kind"]) == ("failed", job_id, "score")
    assert f"pneumoq jobs show {job_id}" in heard["text"]
    everything = listener.raw.decode() + (tmp_path / "told").read_text()
    assert PATIENT not in everything.replace(str(tmp_path), "")
    assert str(tmp_path) not in listener.raw.decode()
    assert TOKEN not in log
