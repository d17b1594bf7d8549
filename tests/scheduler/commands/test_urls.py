"""A URL that cannot be used costs one line, before anything is made, and shows no password."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.queue import jobs
from scheduler import session
from tests.scheduler.console import only_line, run
from tests.support import servers
from tests.support.absent import absent
from tests.support.paths import ROOT
from tests.worker.test_urls import BROKERS, DATABASES
from worker import config, wakeup

#: Commands that read the settings; `{}` is a folder.
COMMANDS = [
    "score {} --later",
    "score {} --local",
    "train {} --later",
    "up",
    "jobs ls",
    "jobs watch 1",
    "schedule ls",
    "schedule run nightly",
    "models ls",
    "labels import {}/labels.csv --job 1",
    "export 1 {}/out.csv",
    "notices ls",
    "notices test",
    "query SELECT+1",
    "db upgrade",
    "bench {}",
]

HOOKS = [
    ("no scheme", "hunter2"),
    ("a port too large", "https://user:hunter2@host:65536/hunter2"),
    ("no host", "https://user:hunter2@/hunter2"),
    ("a blank", "https://host/hunter2 hunter2"),
    ("an address that is none", "https://user:hunter2@[::zz]/hunter2"),
]

BAD = [
    *(("PNEUMOQ_BROKER_URL", b.name, b.url) for b in BROKERS),
    *(("PNEUMOQ_DATABASE_URL", b.name, b.url) for b in DATABASES),
    *(("PNEUMOQ_READER_URL", b.name, b.url) for b in DATABASES[:5]),
    *(("PNEUMOQ_HOOK_URL", name, url) for name, url in HOOKS),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_makes_anything_with_a_bad_url_or_shows_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    (tmp_path / "labels.csv").write_text("name,label\n")
    words = [word.format(tmp_path).replace("+", " ") for word in command.split()]
    home = session.settings().home
    for variable, name, url in BAD:
        with monkeypatch.context() as patch:
            patch.setenv(variable, url)
            result = run(*words)
        said = f"{variable}, {name}: {result.output}"
        assert result.exit_code == 2, said
        assert only_line(result.stderr).startswith(f"Error: {variable}"), said
        assert "hunt" not in result.output and "Traceback" not in result.output, said
        assert list(home.iterdir()) == [], said


def test_doctor_names_the_variable_of_each_bad_url_and_shows_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psycopg")
    for variable, name, url in BAD[:: max(1, len(BAD) // 6)]:
        with monkeypatch.context() as patch:
            patch.setenv(variable, url)
            result = run("doctor")
        assert result.exit_code == 1, name
        assert "settings" in result.output and variable in result.output, name
        assert "hunt" not in result.output, name


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("PNEUMOQ_BROKER_URL", "redis://:hunt/er2@host:6379/0"),
        ("PNEUMOQ_DATABASE_URL", "postgresql://user:p@hunter2@host:x/films"),
    ],
)
def test_a_worker_with_a_bad_url_ends_with_one_line(
    variable: str, url: str, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "--app", "worker.app", "worker"],
        cwd=ROOT, env={**os.environ, variable: url}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode != 0
    assert only_line(ended.stderr.strip()).startswith(f"Error: {variable}")
    assert "hunt" not in ended.stdout + ended.stderr


class Tls:
    """A Redis that speaks TLS only, with a certificate that an authority of its own signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = folder / "authority.pem"
        self.port = 0

    def url(self, options: str = "") -> str:
        """Its URL by name, with the right password."""
        return f"rediss://:hunter2@localhost:{self.port}/0{options and '?'}{options}"

    def certify(self) -> None:
        """Make the authority, and a certificate for `localhost`."""
        openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                   "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]  # fmt: skip
        for command in (
            [*openssl, "-subj", "/CN=authority", "-keyout", self.folder / "authority.key",
             "-out", self.authority],
            [*openssl, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-addext", "basicConstraints=critical,CA:FALSE",
             "-CA", self.authority, "-CAkey", self.folder / "authority.key",
             "-keyout", self.folder / "key.pem", "-out", self.folder / "certificate.pem"],
        ):  # fmt: skip
            subprocess.run(list(map(str, command)), check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls() -> Iterator[Tls]:
    """The server; the machine's own Redis, for the embedded Valkey is built without TLS."""
    try:
        program = servers.redis_program()
    except servers.NotInstalled as error:
        absent(str(error))
    with servers.short_folder("pneumoq-tls-") as folder:
        made = Tls(folder)
        made.certify()
        options = {"tls-cert-file": folder / "certificate.pem", "tls-key-file": folder / "key.pem",
                   "tls-ca-cert-file": made.authority, "tls-auth-clients": "no",
                   "requirepass": "hunter2"}  # fmt: skip
        with servers.listening(program, folder, "tls-port", options) as made.port:
            yield made


def _all_say(settings: config.Settings, monkeypatch: pytest.MonkeyPatch) -> set[bool]:
    """Whether the broker answers: a wake-up, doctor, and a worker's connection."""
    from worker.app import make

    with make(settings) as app, app.connection_for_read() as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=5)
            worker = True
        except connection.connection_errors + connection.channel_errors:
            worker = False
        except Exception as error:  # noqa: BLE001
            assert type(error).__name__ == "OperationalError"
            worker = False
    monkeypatch.setenv("PNEUMOQ_BROKER_URL", settings.broker_url)
    doctor = run("doctor")
    assert "hunter2" not in doctor.output
    said = next(line for line in doctor.stdout.splitlines() if " broker " in line[:20])
    return {worker, wakeup.notify(settings, "score"), said.startswith("ok")}


@pytest.mark.parametrize(
    ("options", "answers"),
    [
        ("", False),
        ("ssl_ca_certs={}", True),
        ("ssl_cert_reqs=required&ssl_ca_certs={}", True),
        ("ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={}", True),
        ("ssl_cert_reqs=required", False),
        ("ssl_cert_reqs=none", True),
        ("ssl_cert_reqs=CERT_NONE", True),
        ("ssl_check_hostname=false", False),
    ],
    ids=["nothing", "authority", "required", "kombu's word", "no authority", "unchecked",
         "unchecked, kombu's word", "any name"],
)  # fmt: skip
def test_command_line_worker_and_doctor_check_certificates_alike(
    tls: Tls, options: str, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tls.url(options.format(tls.authority))
    assert _all_say(config.load({"PNEUMOQ_BROKER_URL": url}), monkeypatch) == {answers}


@pytest.mark.parametrize(
    ("options", "answers"),
    [("ssl_ca_certs={}", False), ("ssl_ca_certs={}&ssl_check_hostname=false", True)],
    ids=["checked", "any name"],
)
def test_a_certificate_of_another_name_is_refused_unless_told_otherwise(
    tls: Tls, options: str, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tls.url(options.format(tls.authority)).replace("localhost", "127.0.0.1")
    assert _all_say(config.load({"PNEUMOQ_BROKER_URL": url}), monkeypatch) == {answers}


def test_a_broker_that_cannot_be_reached_is_told_of_and_a_repeat_finds_the_job(
    engine: sa.Engine, model_id: int, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, url in {
        "unchecked": tls.url(),
        "password": tls.url("ssl_cert_reqs=none").replace("hunter2", "hunter3"),
        "no TLS": tls.url().replace("rediss", "redis"),
        "nobody": "redis://:hunter3@127.0.0.1:1/0",
        "no socket": "redis+socket://:hunter3@/none/valkey.sock",
    }.items():
        monkeypatch.setenv("PNEUMOQ_BROKER_URL", url)
        words = ("score", tmp_path, "--model", model_id, "--later", "--key", key)
        first, again = run(*words), run(*words)
        assert first.exit_code == again.exit_code == 0
        for result in (first, again):
            assert "The broker does not answer; the job is kept" in result.stderr
            assert "hunter" not in result.output and "Traceback" not in result.output
    assert len(jobs.recent(engine)) == 5
