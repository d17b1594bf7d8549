"""compose.yaml: valid, careful, and what it starts works, with the secrets that are made."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from ruamel.yaml import YAML

from tests.support import servers
from tests.support.paths import ROOT
from worker import app, config, wakeup

DOCKER = ROOT / "docker"
FILE = DOCKER / "compose.yaml"
BIN = Path(sys.executable).parent

SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(FILE)["services"]
TOP: dict[str, Any] = YAML(typ="safe", pure=True).load(FILE)
OURS = {name: s for name, s in SERVICES.items() if str(s["image"]).startswith("pneumoq/")}
READ_FILMS = [
    "control",
    "worker-cpu",
    "worker-jetson",
    "trainer-jetson",
    "worker-x86",
    "trainer-x86",
]
ON_GPU = [name for name in READ_FILMS if "jetson" in name or "x86" in name]


def test_it_is_a_compose_file() -> None:
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_service_of_no_profile_would_start_everywhere() -> None:
    profiles = {profile for s in SERVICES.values() for profile in s.get("profiles", ["none"])}
    assert profiles == {"server", "cli", "cpu", "jetson", "jetson-train", "x86", "x86-train"}
    named = re.search(
        r"^# What runs here, of: (.*?)\. One", _example_text(), re.DOTALL | re.MULTILINE
    )
    assert named is not None
    words = set(re.findall(r"[a-z0-9-]+", re.sub(r"\([^)]*\)", "", named[1])))
    assert words == profiles - {"cli"}


def _example_text() -> str:
    return (DOCKER / "env.example").read_text()


def test_every_variable_that_it_asks_for_is_in_the_example_and_none_else() -> None:
    asked = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    lines = [line for line in _example_text().splitlines() if line and not line.startswith("#")]
    assert asked | {"COMPOSE_PROFILES"} == {line.partition("=")[0] for line in lines}


def test_defaults_are_those_of_the_example() -> None:
    example = dict(
        line.split("=", 1) for line in _example_text().splitlines() if line[:1].isupper()
    )
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", FILE.read_text()):
        assert example[name] == default


@pytest.mark.parametrize("name", SERVICES)
def test_it_comes_back_and_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("no" if name in ("migrate", "control") else "unless-stopped")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    # JetPack's runtime may have to write where it brings the driver in.
    assert service["read_only"] is ("jetson" not in name)
    assert "privileged" not in service
    assert set(service.get("cap_add", [])) <= {
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "SETGID",
        "SETUID",
    }


def test_servers_are_pinned_to_a_version() -> None:
    for name in ("valkey", "postgres"):
        assert re.fullmatch(r"docker\.io/[a-z/]+:\d+\.\d+[a-z0-9.-]*", SERVICES[name]["image"])


def test_images_are_built_from_dockerfiles_that_are_there() -> None:
    for service in OURS.values():
        file = ROOT / service["build"]["dockerfile"]
        assert (DOCKER / service["build"]["context"]).resolve() == ROOT
        kind = service["image"].removeprefix("pneumoq/").partition(":")[0]
        assert file.name == f"{kind}.Dockerfile"
        arguments = set(re.findall(r"^ARG (\w+)", file.read_text(), re.MULTILINE))
        assert set(service["build"].get("args", {})) <= arguments


@pytest.mark.parametrize("name", OURS)
def test_its_settings_exist_and_hold_no_secret(name: str, tmp_path: Path) -> None:
    environment = OURS[name]["environment"]
    values = {}
    for variable, value in environment.items():
        if variable.endswith("_FILE"):
            secret = Path(value)
            assert secret.parent == Path("/run/secrets")
            assert secret.name in OURS[name]["secrets"]
            values[variable] = str(tmp_path / secret.name)
            url = f"{'postgresql' if 'DATABASE' in variable else 'redis'}://server.example/0"
            (tmp_path / secret.name).write_text(url)
        else:
            values[variable] = re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
    assert {f"PNEUMOQ_{s.upper()}_FILE" for s in ("database_url", "broker_url", "site_key")} <= set(
        values
    )
    config.load(values)


def test_every_secret_is_declared_and_used_and_made(tmp_path: Path) -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == TOP["secrets"].keys()
    subprocess.run([DOCKER / "make-secrets.sh", tmp_path / "s"], check=True, capture_output=True)
    assert {file.name for file in (tmp_path / "s").iterdir()} == used
    for name, secret in TOP["secrets"].items():
        assert secret["file"].endswith(f"/{name}")


@pytest.mark.parametrize("name", READ_FILMS)
def test_films_have_one_path_and_cannot_be_written(name: str) -> None:
    (films,) = (
        v for v in SERVICES[name]["volumes"] if isinstance(v, dict) and "ARCHIVES" in v["source"]
    )
    assert films["source"].startswith("${ARCHIVES:?")
    assert films["target"] == "${ARCHIVES}"
    assert films["read_only"] is True
    assert "home:/var/lib/pneumoq" in SERVICES[name]["volumes"]


@pytest.mark.parametrize("name", ON_GPU)
def test_who_computes_with_a_gpu_sees_the_lease_of_the_others(name: str) -> None:
    targets = [v["target"] for v in SERVICES[name]["volumes"] if isinstance(v, dict)]
    assert "/run/lock" in targets


def test_a_worker_waits_for_the_schema_and_the_broker_where_they_are_here() -> None:
    for name in [name for name in READ_FILMS if name != "control"]:
        waits = SERVICES[name]["depends_on"]
        assert waits["migrate"]["condition"] == "service_completed_successfully"
        assert waits["valkey"]["condition"] == "service_healthy"
        assert not any(wait["required"] for wait in waits.values())


def test_each_queue_has_a_worker_on_each_kind_of_gpu() -> None:
    for kind in ("jetson", "x86"):
        heard = {
            command[command.index("--queues") + 1]
            for name, service in SERVICES.items()
            if kind in name
            for command in [service["command"]]
        }
        assert heard == set(app.QUEUES)


# What follows is started as compose.yaml would, without containers.


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets, as docker/make-secrets.sh makes them."""
    folder = tmp_path_factory.mktemp("deployment") / "secrets"
    subprocess.run([DOCKER / "make-secrets.sh", folder], check=True, capture_output=True)
    return folder


def test_secrets_are_kept_once_they_are_made(secrets: Path) -> None:
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    done = subprocess.run(
        [DOCKER / "make-secrets.sh", secrets], check=True, capture_output=True, text=True
    )
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before
    assert "is new" not in done.stdout


def test_nobody_else_enters_their_folder_and_each_container_can_read_its_own(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets.iterdir()} == {0o644}


def test_the_broker_is_told_no_password_but_its_hash(secrets: Path) -> None:
    password = (secrets / "broker_url").read_text().split(":")[2].partition("@")[0]
    assert len(password) == 64
    assert password not in (secrets / "valkey_users").read_text()


@pytest.fixture(scope="module")
def broker_url(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The broker of compose.yaml, on a port of this machine; yields the URL of the secret."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tmp_path_factory.mktemp("valkey")
    command = list(SERVICES["valkey"]["command"])
    command[0] = servers.valkey_program()
    command[command.index("--dir") + 1] = data
    command[command.index("--aclfile") + 1] = secrets / "valkey_users"
    command += ["--port", str(port), "--bind", "127.0.0.1"]
    process = servers.spawn(command, log=data / "log")
    anybody = redis.Redis(port=port)
    deadline = time.monotonic() + servers.PATIENCE_S
    try:
        while True:
            try:
                anybody.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, (data / "log").read_text()
                time.sleep(0.05)
        url = (secrets / "broker_url").read_text().strip()
        assert "@valkey:6379/" in url
        yield url.replace("@valkey:6379/", f"@127.0.0.1:{port}/")
    finally:
        anybody.close()
        servers.end(process)


def test_who_has_not_logged_in_may_only_ask_whether_the_broker_is_there(broker_url: str) -> None:
    assert SERVICES["valkey"]["healthcheck"]["test"] == ["CMD", "valkey-cli", "ping"]
    with redis.Redis.from_url(re.sub(r"//.*@", "//", broker_url)) as anybody:
        assert anybody.ping()
        for command in (["GET", "x"], ["KEYS", "*"], ["INFO"], ["PUBLISH", "x", "y"], ["SHUTDOWN"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                anybody.execute_command(*command)


def test_who_has_logged_in_may_do_what_a_queue_needs_and_no_more(broker_url: str) -> None:
    with redis.Redis.from_url(broker_url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        for command in (
            ["SET", "x", "y"],
            ["FLUSHALL"],
            ["CONFIG", "SET", "save", ""],
            ["SHUTDOWN"],
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def _healthy(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DOCKER / "healthy.py", *arguments],
        env=environment, cwd="/", capture_output=True, text=True,
    )  # fmt: skip


def _becomes_healthy(environment: dict[str, str], *arguments: str, log: Path) -> None:
    deadline = time.monotonic() + servers.PATIENCE_S
    while (done := _healthy(environment, *arguments)).returncode:
        assert time.monotonic() < deadline, done.stderr + log.read_text()
        time.sleep(0.2)


def _as_here(command: list[str]) -> list[str]:
    """The command, with this environment's programs."""
    program = shutil.which(command[0], path=str(BIN))
    assert program is not None, f"{command[0]} is no program of the image"
    return [program, *command[1:]]


def test_what_it_starts_works_and_says_so(broker_url: str, secrets: Path, tmp_path: Path) -> None:
    """A worker and beat on the broker of compose.yaml, with secrets from files; their health."""
    home = tmp_path / "home"
    (tmp_path / "broker_url").write_text(broker_url + "\n")
    rest = {k: v for k, v in os.environ.items() if not k.startswith("PNEUMOQ_")}
    environment = rest | {
        "PNEUMOQ_HOME": str(home),
        "PNEUMOQ_BROKER_URL_FILE": str(tmp_path / "broker_url"),
        "PNEUMOQ_SITE_KEY_FILE": str(secrets / "site_key"),
        "PNEUMOQ_SWEEP_S": "1",
        "PYTHONPATH": str(ROOT),
    }
    migrate = _as_here(SERVICES["migrate"]["command"])
    subprocess.run(migrate, env=environment, cwd="/", check=True, capture_output=True)
    assert _healthy(environment).returncode == 1
    assert _healthy(environment, "beat").returncode == 1

    beat_command = [
        word.replace("/var/lib/pneumoq", str(home)) for word in SERVICES["beat"]["command"]
    ]
    logs = {"worker": tmp_path / "worker.log", "beat": tmp_path / "beat.log"}
    worker = servers.spawn(
        _as_here(SERVICES["worker-cpu"]["command"]),
        log=logs["worker"],
        env=environment,
        cwd=Path("/"),
    )
    beat = servers.spawn(_as_here(beat_command), log=logs["beat"], env=environment, cwd=Path("/"))
    try:
        _becomes_healthy(environment, log=logs["worker"])
        _becomes_healthy(
            environment, *SERVICES["beat"]["healthcheck"]["test"][3:], log=logs["beat"]
        )
        wakeup.notify(
            config.load({k: v for k, v in environment.items() if k[:8] == "PNEUMOQ_"}), "score"
        )
        deadline = time.monotonic() + servers.PATIENCE_S
        while not {"work_score", "sweep"} <= set(
            re.findall(r"worker\.tasks\.(\w+)\[\S+\] succeeded", logs["worker"].read_text())
        ):
            assert time.monotonic() < deadline, logs["worker"].read_text()
            time.sleep(0.1)
    finally:
        servers.end(worker)
        servers.end(beat)
    ended = _healthy(environment)
    assert ended.returncode == 1
    assert f"no worker of {socket.gethostname()} was seen" in ended.stderr
    old = time.time() - 3600
    for file in home.glob("beat-schedule*"):
        os.utime(file, (old, old))
    assert "beat has not kept its schedule" in _healthy(environment, "beat").stderr
