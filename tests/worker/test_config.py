"""Settings: what the environment says, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from db.base import database as connecting
from worker import config
from worker.errors import ConfigError

#: A value other than the default for each setting.
OTHER = {
    "PNEUMOQ_HOME": "/srv/films of the ward",
    "PNEUMOQ_DATABASE_URL": "postgresql://pneumoq:secret@db.example/films",
    "PNEUMOQ_BROKER_URL": "redis://:secret@broker.example:6380/2",
    "PNEUMOQ_READER_URL": "postgresql://reader:secret@db.example/films",
    "PNEUMOQ_SITE_KEY": "a secret of this site",
    "PNEUMOQ_LEASE_S": "12.5",
    "PNEUMOQ_SWEEP_S": "3",
    "PNEUMOQ_DECODERS": "7",
    "PNEUMOQ_ENGINE_THREADS": "5",
    "PNEUMOQ_BATCH": "16",
    "PNEUMOQ_ENGINE": "tensorrt",
    "PNEUMOQ_GPU_BATCH": "32",
    "PNEUMOQ_GPU_WORKSPACE_MB": "256",
    "PNEUMOQ_DECODE": "gpu",
    "PNEUMOQ_FILM_DEADLINE_S": "9.5",
    "PNEUMOQ_FILM_MEMORY_MB": "512",
    "PNEUMOQ_TRAIN_THREADS": "3",
    "PNEUMOQ_HOOK_URL": "https://user:secret@chat.example:8443/hooks/secret?key=secret",
    "PNEUMOQ_HOOK_COMMAND": "/usr/local/bin/tell 'the ward'",
    "PNEUMOQ_LOG_LEVEL": "DEBUG",
}


def test_without_a_variable_everything_is_in_the_home_folder() -> None:
    settings = config.load({})
    assert settings.home == Path.home() / ".pneumoq"
    assert settings.database_path == settings.home / "pneumoq.db"
    assert settings.embedded_broker
    assert settings.broker_url == f"redis+socket://{settings.home}/broker/valkey.sock"
    assert settings.reader_url is None
    cores = len(os.sched_getaffinity(0))
    assert (settings.decoders, settings.engine_threads, settings.train_threads) == (cores,) * 3


def test_every_setting_has_its_variable() -> None:
    assert OTHER.keys() == {row["variable"] for row in config.describe(config.load({}))}
    default, other = config.load({}), config.load(OTHER)
    for variable in OTHER:
        name = variable.removeprefix(config.PREFIX).lower()
        assert type(getattr(default, name)) is type(getattr(other, name)) or name in (
            "reader_url",
            "site_key",
            "hook_url",
            "hook_command",
        )
        assert getattr(default, name) != getattr(other, name)
    assert other.home == Path("/srv/films of the ward")
    assert (other.lease_s, other.batch) == (12.5, 16)
    assert other.database_path is None
    assert not other.embedded_broker


def test_a_setting_of_a_few_words_takes_no_other() -> None:
    with pytest.raises(ConfigError, match="'cuda': give one of auto, tensorrt, onnx"):
        config.load({"PNEUMOQ_ENGINE": "cuda"})


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert config.load({"PNEUMOQ_BATCH": "", "PNEUMOQ_NOTHING": ""}) == config.load({})


def test_a_variable_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="PNEUMOQ_DATABASE, PNEUMOQ_LEASE: no such setting"):
        config.load({"PNEUMOQ_LEASE": "1", "PNEUMOQ_DATABASE": "x", "HOME": "/root"})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PNEUMOQ_BATCH", "eight"),
        ("PNEUMOQ_BATCH", "2.5"),
        ("PNEUMOQ_BATCH", "0"),
        ("PNEUMOQ_LEASE_S", "-1"),
        ("PNEUMOQ_LEASE_S", "nan"),
        ("PNEUMOQ_LEASE_S", "inf"),
    ],
)
def test_a_value_that_is_no_useful_number_is_refused_with_its_variable(
    variable: str, text: str
) -> None:
    with pytest.raises(ConfigError, match=f"{variable}='{text}'"):
        config.load({variable: text})


def test_a_tilde_and_a_relative_home_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.load({"PNEUMOQ_HOME": "here"}).home == tmp_path / "here"
    assert config.load({"PNEUMOQ_HOME": "~/there"}).home == Path.home() / "there"


def test_a_child_process_loads_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOQ_READER_URL", "postgresql://not/this")
    monkeypatch.setenv("BYSTANDER", "stays")
    for given in ({}, OTHER):
        settings = config.load(given)
        environment = config.child_environment(settings, LANG="C.UTF-8")
        assert environment["LANG"] == "C.UTF-8"
        assert environment["BYSTANDER"] == "stays"
        code = "from worker import config; import sys; sys.stdout.write(repr(config.load()))"
        child = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert child.stdout == repr(settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://pneumoq:secret@db/films", "postgresql://pneumoq:***@db/films"),
        ("postgresql://pneumoq:s:ecr:et@db/films", "postgresql://pneumoq:***@db/films"),
        (
            "postgresql://db/films?user=x&password=secret",
            "postgresql://db/films?user=x&password=***",
        ),
        (
            "postgresql://db/films?sslkey=k&sslpassword=secret",
            "postgresql://db/films?sslkey=k&sslpassword=***",
        ),
        ("postgresql://pneumoq@db/films", "postgresql://pneumoq@db/films"),
        ("sqlite:////srv/pneumoq.db", "sqlite:////srv/pneumoq.db"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    rows = config.describe(config.load({"PNEUMOQ_DATABASE_URL": url}))
    assert {r["variable"]: r["value"] for r in rows}["PNEUMOQ_DATABASE_URL"] == shown
    assert not any("secret" in r["value"] for r in rows)


def test_what_was_set_is_told_from_what_is_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOQ_BATCH", "3")
    rows = {r["variable"]: r for r in config.describe(config.load())}
    assert (rows["PNEUMOQ_BATCH"]["set"], rows["PNEUMOQ_BATCH"]["value"]) == ("yes", "3")
    assert rows["PNEUMOQ_LEASE_S"]["set"] == ""
    assert all(r["meaning"] for r in rows.values())


def test_a_socket_path_too_long_for_the_system_goes_to_the_temporary_folder() -> None:
    short, long = Path("/srv/pneumoq"), Path("/srv") / ("long" * 40)
    assert config.broker_folder(short) == short / "broker"
    folder = config.broker_folder(long)
    assert folder.parent != long
    assert len(os.fsencode(folder / "valkey.sock")) <= 107
    assert str(os.getuid()) in folder.name
    assert config.broker_folder(long / "other") != folder
    assert config.broker_folder(long) == folder
    # Bytes count, not characters.
    assert config.broker_folder(Path("/srv") / ("ä" * 50)).name != "broker"
    settings = config.load({"PNEUMOQ_HOME": str(long)})
    assert settings.embedded_broker
    assert str(folder) in settings.broker_url


def test_a_sqlite_file_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url, path in (
        ("sqlite:///films.db", tmp_path / "films.db"),
        ("sqlite:///~/films.db", Path.home() / "films.db"),
        ("sqlite:////srv/100%25 of?them#.db", Path("/srv/100%25 of?them#.db")),
    ):
        settings = config.load({"PNEUMOQ_DATABASE_URL": url})
        assert settings.database_path == path
        assert connecting.connect(settings.database_url).url.database == str(path)


@pytest.mark.parametrize(
    "url", ["localhost", "http://broker.example", "valkey://broker.example/0", "redis://host:port"]
)
def test_a_broker_url_that_nobody_could_use_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="PNEUMOQ_BROKER_URL"):
        config.load({"PNEUMOQ_BROKER_URL": url})


#: Settings that may be a file.
SECRETS = [
    "PNEUMOQ_DATABASE_URL",
    "PNEUMOQ_BROKER_URL",
    "PNEUMOQ_READER_URL",
    "PNEUMOQ_SITE_KEY",
    "PNEUMOQ_HOOK_URL",
]


@pytest.mark.parametrize("variable", SECRETS)
def test_a_secret_may_be_the_content_of_a_file(tmp_path: Path, variable: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"\n  {OTHER[variable]}\n")
    assert config.load({f"{variable}_FILE": str(file)}) == config.load({variable: OTHER[variable]})


def test_only_secrets_may_be_files() -> None:
    with pytest.raises(ConfigError, match="PNEUMOQ_BATCH_FILE: no such setting"):
        config.load({"PNEUMOQ_BATCH_FILE": "/run/secrets/batch"})


def test_a_secret_and_its_file_together_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("of the file")
    given = {"PNEUMOQ_SITE_KEY": "of the variable", "PNEUMOQ_SITE_KEY_FILE": str(file)}
    with pytest.raises(ConfigError, match="PNEUMOQ_SITE_KEY_FILE are both set"):
        config.load(given)
    # An empty variable is as good as none, here too.
    assert config.load(given | {"PNEUMOQ_SITE_KEY": ""}).site_key == "of the file"
    assert config.load(given | {"PNEUMOQ_SITE_KEY_FILE": ""}).site_key == "of the variable"


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot be read"), (b" \n", "empty"), (b"\xff\xfe", "no text")]
)
def test_the_file_of_a_secret_that_holds_none_is_named(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"PNEUMOQ_BROKER_URL_FILE: .*secret .*{reason}"):
        config.load({"PNEUMOQ_BROKER_URL_FILE": str(file)})


def test_a_child_process_is_handed_the_secret_and_not_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret of this site\n")
    monkeypatch.setenv("PNEUMOQ_SITE_KEY_FILE", str(file))
    settings = config.load()
    environment = config.child_environment(settings)
    assert environment["PNEUMOQ_SITE_KEY"] == "a secret of this site"
    assert "PNEUMOQ_SITE_KEY_FILE" not in environment
    assert config.load(environment) == settings


def test_a_secret_from_a_file_is_told_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in SECRETS:
        file = tmp_path / variable
        file.write_text(OTHER[variable])
        monkeypatch.setenv(f"{variable}_FILE", str(file))
    rows = {row["variable"]: row for row in config.describe(config.load())}
    assert {rows[variable]["set"] for variable in SECRETS} == {"file"}
    assert "secret" not in "".join(row["value"] for row in rows.values())


@pytest.mark.parametrize(
    "url", ["chat.example/hook", "file:///etc/passwd", "https://", "http://host:x/", "http://a b/"]
)
def test_a_hook_that_is_no_web_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError, match="PNEUMOQ_HOOK_URL is no URL of the form") as refused:
        config.load({"PNEUMOQ_HOOK_URL": url})
    assert str(refused.value).count(url) == (url == "https://")


@pytest.mark.parametrize("command", ["tell 'the ward", "   "])
def test_a_hook_that_is_no_command_line_is_refused(command: str) -> None:
    with pytest.raises(ConfigError, match="PNEUMOQ_HOOK_COMMAND"):
        config.load({"PNEUMOQ_HOOK_COMMAND": command})


def test_of_a_hook_only_the_host_is_shown() -> None:
    rows = {row["variable"]: row for row in config.describe(config.load(OTHER))}
    assert rows["PNEUMOQ_HOOK_URL"]["value"] == "https://chat.example:8443/***"


def test_what_a_hook_is_told_is_no_setting() -> None:
    assert config.load({"PNEUMOQ_EVENT": "failed", "PNEUMOQ_JOB": "3"}) == config.load({})
    assert not set(config.PAYLOAD) & set(config.Settings.__dataclass_fields__)
