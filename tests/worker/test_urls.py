"""URLs of broker and database: one that nobody could use is refused, and never repeated."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from worker import config
from worker.errors import ConfigError


class Bad(NamedTuple):
    """A URL that is refused, and what is said of it. Every secret in it has the letters `hunt`."""

    name: str
    url: str
    says: str


BROKERS = [
    Bad("blank", " ", "no URL of a broker"),
    Bad("no scheme", "localhost", "no URL of a broker"),
    Bad("password first", "hunter2:hunt@host", "no URL of a broker"),
    Bad("unknown scheme", "valkey://:hunter2@host/0", "no URL of a broker"),
    Bad("of the web", "https://user:hunter2@host/", "no URL of a broker"),
    Bad("no slashes", "redis:hunter2@host:6379/0", "no URL of a broker"),
    Bad("no host, and a name", "redis:///hunter2", "is a number"),
    Bad("a blank in the host", "redis://:hunter2@my host:6379/0", "names no host"),
    Bad("a line end", "redis://:hunter2@host:6379/0\n", "characters"),
    Bad("bytes of no text", "redis://:hunter2\udcff@host/0", "characters"),
    Bad("a zero byte in the host", "redis://:hunter2@ho%00st/0", "cannot be read"),
    Bad("sentinel", "sentinel://:hunter2@one:26379", "not supported"),
    Bad("sentinels", "sentinel://:hunter2@one:26379;sentinel://two:26379", "not supported"),
    Bad("several", "redis://:hunter2@one/0;redis://two/0", "several brokers"),
    Bad("a database of letters", "redis://:hunter2@host:6379/db0", "is a number"),
    Bad("a database below zero", "redis://:hunter2@host:6379/-1", "is a number"),
    Bad("two databases", "redis://:hunter2@host:6379/1/2", "is a number"),
    Bad("a port of letters", "redis://:hunter2@host:port/0", "no host and port"),
    Bad("a port too large", "redis://:hunter2@host:65536/0", "no host and port"),
    Bad("port zero", "redis://:hunter2@host:0/0", "port 0"),
    Bad("a slash in the password", "redis://:hunt/er2@host:6379/0", "no host and port"),
    Bad("a slash after digits", "redis://:12/hunter2@host:6379/0", "%2F"),
    Bad("a number sign in the password", "redis://:hunt#er2@host:6379/0", "no host and port"),
    Bad("a question mark in the password", "redis://:1?hunter2@host:6379/0", "option=value"),
    Bad("a bracket in the password", "redis://:hunt[er2@host:6379/0", "no host and port"),
    Bad("no colon before the password", "redis://hunter2@host:6379/0", "after a colon"),
    Bad("an address that is none", "redis://:hunter2@[::zz]:6379/0", "no host and port"),
    Bad("an empty label", "redis://:hunter2@a..b:6379/0", "no host and port"),
    Bad("a label too long", f"redis://:hunter2@{'a' * 64}:6379/0", "no host and port"),
    Bad("an option", "redis://host/0?password=hunter2", "options"),
    Bad("an option of TLS without TLS", "redis://:hunter2@host/0?ssl_cert_reqs=none", "rediss://"),
    Bad("an option of TLS that is none", "rediss://:hunter2@host/0?ssl=1", "no options but"),
    Bad("certificates checked how", "rediss://:hunter2@h/?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
    Bad("names checked how", "rediss://:hunter2@h/0?ssl_check_hostname=0", "true or false"),
    Bad("no authorities", "rediss://:hunter2@h/0?ssl_ca_certs=/none.pem", "ssl_ca_certs"),
    Bad("authorities that are none", "rediss://:hunter2@h/0?ssl_ca_certs=/etc/passwd", "PEM"),
    Bad("no folder of authorities", "rediss://:hunter2@h/0?ssl_ca_path=/none", "ssl_ca_path"),
    Bad("no certificate", "rediss://:hunter2@h/0?ssl_certfile=/none.pem", "ssl_certfile"),
    Bad("a key alone", "rediss://:hunter2@h/0?ssl_keyfile=/none.pem", "ssl_certfile"),
    Bad("a socket with a host", "redis+socket://:hunter2@tmp/valkey.sock", "no socket"),
    Bad("no socket", "redis+socket://:hunter2@", "no socket"),
    Bad("a socket's option", "redis+socket:///valkey.sock?password=hunter2", "no option but"),
    Bad("a socket's database", "redis+socket:///valkey.sock?virtual_host=db0", "number"),
]  # fmt: skip

DATABASES = [
    Bad("blank", " ", "no database URL"),
    Bad("no scheme", "hunter2", "no database URL"),
    Bad("only a scheme", "postgresql:", "no database URL"),
    Bad("unknown scheme", "mysql://root:hunter2@localhost/x", "keeps SQLite or PostgreSQL"),
    Bad("the old driver", "postgresql+psycopg2://root:hunter2@localhost/x", "postgresql://"),
    Bad("another driver", "postgresql+asyncpg://root:hunter2@localhost/x", "psycopg"),
    Bad("memory", "sqlite://", "names no file"),
    Bad("memory by name", "sqlite:///:memory:", "names no file"),
    Bad("a host of SQLite", "sqlite://user:hunter2@host/x.db", "names no file"),
    Bad("an at sign in the password", "postgresql://user:p@hunter2@host/x", "%40"),
    Bad("an at sign and a colon", "postgresql://user:p@hunt:er2@host/x", "%3A"),
    Bad("an at sign and a slash", "postgresql://user:p@hunt/er2@host/x", "%2F"),
    Bad("an at sign and a question mark", "postgresql://user:p@hunt?er2@host/x", "%3F"),
    Bad("no at sign", "postgresql://user:hunter2/x", "no database URL"),
    Bad("a number sign", "postgresql://user:pw@host#hunter2/x", "%23"),
    Bad("a port of letters", "postgresql://user:hunter2@host:port/x", "no database URL"),
    Bad("a port too large", "postgresql://user:hunter2@host:65536/x", "1 to 65535"),
    Bad("port zero", "postgresql://user:hunter2@host:0/x", "1 to 65535"),
    Bad("a blank in the host", "postgresql://user:hunter2@my host/x", "cannot be read"),
    Bad("a line end", "postgresql://user:hunter2@host/x\n", "characters"),
    Bad("bytes of no text", "postgresql://user:hunter2\udcff@host/x", "characters"),
    Bad("a password cut in two", "postgresql://host/x?password=p&hunter2", "option=value"),
    Bad("an option that is none", "postgresql://user:pw@host/x?hunter2=1", "option or a value"),
    Bad("a zero byte in the password", "postgresql://user:hunter2%00@host/x", "characters"),
]  # fmt: skip


def _ids(bad: Bad) -> str:
    return bad.name


@pytest.mark.parametrize("bad", BROKERS, ids=_ids)
def test_a_broker_that_nobody_could_use_is_refused_without_its_password(bad: Bad) -> None:
    _is_refused("PNEUMOQ_BROKER_URL", bad)


@pytest.mark.parametrize("variable", ["PNEUMOQ_DATABASE_URL", "PNEUMOQ_READER_URL"])
@pytest.mark.parametrize("bad", DATABASES, ids=_ids)
def test_a_database_that_nobody_could_use_is_refused_without_its_password(
    bad: Bad, variable: str
) -> None:
    if "option or a value" in bad.says:
        pytest.importorskip("psycopg")
    _is_refused(variable, bad)


def _is_refused(variable: str, bad: Bad) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load({variable: bad.url})
    text = str(refused.value)
    assert text.startswith(variable) and bad.says in text and "\n" not in text
    assert "hunt" not in text and "er2" not in text
    # Nor does what led to it, which a traceback would show.
    assert refused.value.__cause__ is None and (
        refused.value.__context__ is None or refused.value.__suppress_context__
    )


@pytest.mark.parametrize(
    "url",
    [
        # What is left out is localhost, port 6379 and database 0, as Celery's documentation says.
        "redis://",
        "redis:///0",
        "redis://:pw@/3",
        "redis://:6380/0",
        "redis://localhost",
        "redis://host:6380/",
        "redis://:p%40ss%2Fw%3Aord@host:6379/15",
        "redis://user:p@ss:word@host:6379/0",
        "redis://[::1]:6379/0",
        "redis://:p;w@h/0".replace(";", "%3B"),
        "redis+socket:///run/my valkey/valkey.sock",
        "redis+socket:///run/valkey.sock?virtual_host=3",
        "redis+socket://user:pw@/run/valkey.sock",
        "rediss://host:6380/0?ssl_cert_reqs=none",
        "rediss://host:6380/0?ssl_cert_reqs=required&ssl_check_hostname=false",
        "rediss:///0?ssl_cert_reqs=required&ssl_ca_path=/etc",
    ],
)
def test_a_broker_that_can_be_used_stays_as_it_is_written(url: str) -> None:
    assert config.load({"PNEUMOQ_BROKER_URL": url}).broker_url == url


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("REDIS://host", "redis://host"),
        ("rediss://:pw@host:6380/0", "rediss://:pw@host:6380/0?ssl_cert_reqs=required"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "rediss://host?ssl_cert_reqs=none"),
    ],
)
def test_what_kombu_and_redis_would_read_differently_is_spelt_out(url: str, read: str) -> None:
    settings = config.load({"PNEUMOQ_BROKER_URL": url})
    assert settings.broker_url == read
    assert config.load({"PNEUMOQ_BROKER_URL": read}) == settings


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///films",
        "postgres://host",
        "postgresql+psycopg://user:p%40ss@host:5432/films",
        "postgresql://user:a:b/c#d?e@host/films",
        "postgresql://user@ward.example:pw@host/films",
        "postgresql://user:pw@one,two/films?target_session_attrs=read-write",
        "postgresql://user:pw@/films?host=one:5432&host=two:5433",
        "postgresql://user:pw@[::1]:5432/films?sslmode=require",
        "postgresql://user@/films?host=/run/postgresql&password=a%26b",
        "sqlite:////srv/films of the ward/a?b#c@d.db",
    ],
)
def test_a_database_that_can_be_used_stays_as_it_is_written(url: str) -> None:
    assert config.load({"PNEUMOQ_DATABASE_URL": url}).database_url == url


def test_the_embedded_brokers_own_path_is_never_refused(tmp_path: Path) -> None:
    home = tmp_path / "a ;b@c?d#e%f"
    settings = config.load({"PNEUMOQ_HOME": str(home)})
    assert settings.embedded_broker
    assert config.load(config.environment(settings)) == settings
