"""doctor: each check says what it found and what to do, and makes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from db.base import database, workers
from scheduler import session
from tests.scheduler import rows
from tests.scheduler.console import run
from tests.support import servers
from tests.support.broken import kernels
from tests.support.paths import ROOT
from worker.config import Settings
from worker.machine import privacy


def checks(status: int = 0) -> dict[str, dict[str, str]]:
    """Findings by name."""
    result = run("doctor", "--json")
    assert result.exit_code == status, result.output
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


@pytest.fixture(autouse=True)
def short_home(monkeypatch: pytest.MonkeyPatch) -> object:
    """A home whose broker's socket would not lie in the machine's temporary folder."""
    with servers.short_folder("pneumoq-dr-") as folder:
        monkeypatch.setenv("PNEUMOQ_HOME", str(folder))
        yield folder


def test_every_setting_is_printed_with_its_meaning() -> None:
    text = run("doctor").stdout
    for field in dataclasses.fields(Settings):
        assert f"PNEUMOQ_{field.name.upper()} " in text
        assert field.metadata["meaning"] in text


def test_a_fresh_machine_has_no_problem_and_nothing_is_made() -> None:
    found = checks()
    assert found["workers"]["status"] == "warning"
    assert found["workers"]["advice"].endswith("start `pneumoq up`")
    assert found["broker, embedded"]["found"] == "not running"
    assert "not there yet" in found["database"]["found"]
    assert list(session.settings().home.iterdir()) == []


def test_a_password_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOQ_BROKER_URL", "redis://user:s3cret@127.0.0.1:1/0")
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", "postgresql://user:s3cret@127.0.0.1:1/x")
    result = run("doctor")
    assert result.exit_code == 1
    assert "s3cret" not in result.output


def test_a_broker_and_a_database_that_do_not_answer_are_problems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("PNEUMOQ_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", "postgresql://user@127.0.0.1:1/x")
    found = checks(status=1)
    for name in ("broker", "database"):
        assert found[name]["status"] == "problem"
        assert "does not answer" in found[name]["found"]


def test_an_unknown_setting_is_a_problem_and_the_settings_are_listed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PNEUMOQ_LEASE", "60")
    result = run("doctor")
    assert result.exit_code == 1
    assert "PNEUMOQ_LEASE: no such setting" in result.stdout
    assert "PNEUMOQ_LEASE_S" in result.stdout


def test_a_broker_that_answers_is_named(
    broker: servers.Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOQ_BROKER_URL", broker.url)
    found = checks()["broker"]
    assert found["status"] == "ok"
    assert found["found"].split()[0] in ("Valkey", "Redis")
    client = broker.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.close()
    assert "noeviction" in checks()["broker"]["advice"]


def test_live_workers_are_listed() -> None:
    engine = session.database()
    rows.a_worker(engine, "score")
    engine.dispose()
    found = checks()
    assert "workers" not in found
    assert found["worker score"]["found"].startswith("process 4321 on gpu1 with openvino, since ")


def test_the_precisions_that_are_fast_here_and_the_dicom_decoders_are_named() -> None:
    found = checks()
    assert found["precisions"]["found"].startswith("fast here: fp32")
    assert found["dicom"]["status"] == "ok"
    for syntax in ("RLE", "JPEG-LS", "JPEG 2000"):
        assert syntax in found["dicom"]["found"]


def test_what_an_older_kernel_cannot_keep_decoders_from_is_a_warning() -> None:
    assert checks()["decoders"]["found"].startswith("locked up by seccomp and Landlock")
    asked = kernels.WITHOUT_LANDLOCK + "from scheduler.cli import cli; cli(['doctor', '--json'])"
    ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=ROOT)
    (found,) = (c for c in json.loads(ran.stdout)["checks"] if c["name"] == "decoders")
    assert found["status"] == "warning"
    assert found["found"].startswith("no Landlock: decoders can read whatever")
    assert "Linux 5.13" in found["advice"]


def test_a_key_that_others_know_or_could_guess_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks()["site key"]["found"] == "not made yet"
    settings = session.settings()
    privacy.load(settings)
    assert checks()["site key"]["status"] == "ok"
    privacy.key_path(settings.home).chmod(0o644)
    assert checks()["site key"]["advice"].startswith("chmod 600 ")
    monkeypatch.setenv("PNEUMOQ_SITE_KEY", "short")
    assert "openssl rand" in checks(status=1)["site key"]["advice"]
    monkeypatch.setenv("PNEUMOQ_SITE_KEY", "s3cret" * 6)
    assert checks()["site key"]["status"] == "ok"
    assert "s3cret" not in run("doctor").output


@pytest.mark.postgres
def test_a_postgresql_without_a_schema_is_a_problem(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", empty_postgres_url)
    assert checks(status=1)["database"]["advice"] == "run `pneumoq db upgrade`"
    run("db", "upgrade")
    assert checks()["database"]["found"].startswith("PostgreSQL ")


def test_nothing_heavy_is_imported_and_no_engine() -> None:
    from tests.scheduler.commands.test_core import HEAVY, imported

    assert os.environ["PNEUMOQ_HOME"]
    # What decides about the engine knows models' cards, which have pixels in them.
    heavy = HEAVY - {"numpy", "PIL"}
    assert not imported("doctor") & (heavy | {"tensorrt", "tensorrt_rtx", "pycuda", "onnxruntime"})


def test_the_health_of_a_workers_machine_is_told() -> None:
    engine = session.database()
    rows.a_worker(engine, "score", health={"temperature_c": 54.5, "power_w": 11.25})
    found = checks()["worker score"]
    assert (found["status"], found["found"].partition("; ")[2]) == ("ok", "54 °C, 11.2 W")

    for state, told in (
        ({"left_behind": 2}, "2 left behind, waiting for a disk or share"),
        ({"silent": "the GPU's driver gives no answer"}, "the GPU's driver gives no answer"),
    ):
        database.write(engine, lambda c, s=state: workers.seen(c, rows.WORKER, s))  # type: ignore[misc]
        found = checks()["worker score"]
        assert (found["status"], found["found"].partition("; ")[2]) == ("warning", told)

    hot = {"temperature_c": 97.0, "throttled": "thermal", "throttled_by": "gpu-throttle-alert"}
    database.write(engine, lambda c: workers.seen(c, rows.WORKER, hot))
    engine.dispose()
    found = checks()["worker score"]
    assert found["status"] == "warning"
    assert found["found"].endswith("; 97 °C, throttled: thermal (gpu-throttle-alert)")
    assert "cooling" in found["advice"]
