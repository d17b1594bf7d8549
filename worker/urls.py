"""URLs of broker and database: read once, where settings are, and refused before anything is made.

What is refused is never repeated: of a URL that cannot be read, any part may be the password.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from worker.errors import ConfigError

if TYPE_CHECKING:
    # Imported where it is used: most settings name a file.
    import sqlalchemy as sa

#: What kombu reaches a single Redis or Valkey by.
_SCHEMES = ("redis", "rediss", "redis+socket")

#: Options of `rediss://`, by redis-py's names.
_TLS = ("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile",
        "ssl_keyfile", "ssl_password")  # fmt: skip

#: Names of one thing: kombu knows both, redis-py the short ones.
_CERTIFICATE = {
    "required": "required", "CERT_REQUIRED": "required",
    "optional": "optional", "CERT_OPTIONAL": "optional",
    "none": "none", "CERT_NONE": "none",
}  # fmt: skip

#: What SQLAlchemy takes for user and password.
_CREDENTIALS = re.compile("^[^:/]*(:[^@]*)?@")

_ENCODE = "in a user or password write @ : / ? # [ ] % as %40 %3A %2F %3F %23 %5B %5D %25"
_BROKER = "give redis://:password@host:6379/0 (for Valkey too), rediss:// or redis+socket:///path"
_DATABASE = "write sqlite:////path/of/file.db or postgresql://user:password@host/database"


def broker(variable: str, url: str) -> str:
    """The URL of a broker as kombu and redis-py read it alike; TLS checks certificates by default.

    Raises ConfigError, which names the variable, for one that nobody could use.
    """
    if not _is_text(url):
        raise ConfigError(f"{variable} has characters that no URL has; {_BROKER}")
    if ";" in url.partition("?")[0]:
        raise ConfigError(
            f"{variable}: several brokers are not supported; name one. A ; in a password is %3B"
        )
    scheme = url.partition("://")[0].lower()
    if scheme == "sentinel":
        raise ConfigError(f"{variable}: sentinel:// is not supported yet; name the server itself")
    if "://" not in url or scheme not in _SCHEMES:
        raise ConfigError(f"{variable} is no URL of a broker; {_BROKER}")
    try:
        # As kombu reads it: by the rules of HTTP, whatever the scheme.
        parts = urlsplit("http" + url[len(scheme) :])
        host, port = unquote(parts.hostname or ""), parts.port
        host.encode("idna")
    except ValueError:
        raise ConfigError(
            f"{variable} has no host and port that could be read; {_BROKER}; {_ENCODE}"
        ) from None
    if parts.fragment or "@" in parts.path or not _is_text(host + unquote(parts.path)):
        raise ConfigError(f"{variable} cannot be read; {_ENCODE}")
    if parts.username and parts.password is None:
        raise ConfigError(f"{variable}: a password stands after a colon: redis://:password@host")
    options = _options(variable, parts.query)
    if scheme == "redis+socket":
        _check_socket(variable, parts, options)
        return url if url.startswith(scheme) else scheme + url[len(scheme) :]
    if "/" in host or any(c.isspace() for c in host):
        raise ConfigError(f"{variable} names no host; {_BROKER}; {_ENCODE}")
    if port == 0:
        raise ConfigError(f"{variable}: no server has port 0; Redis' own is 6379")
    if not re.fullmatch(r"/?|/[0-9]{1,4}", parts.path):
        raise ConfigError(f"{variable}: a broker's database is a number, as in redis://host:6379/0")
    if scheme == "redis":
        if options:
            raise ConfigError(
                f"{variable} has options that redis:// does not take; those of TLS need rediss://"
            )
        return scheme + url[len(scheme) :]
    query = urlencode(_tls(variable, options), safe="/")
    return f"{scheme}://{parts.netloc}{parts.path}?{query}"


def _is_text(text: str) -> bool:
    """Whether it has no control characters, and no bytes that were no UTF-8."""
    return re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text) is None


def _options(variable: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = (unquote(t.replace("+", " ")) for t in pair.partition("="))
        if not (name and equals and value) or name in options or not _is_text(value):
            raise ConfigError(f"{variable}: what follows ? is no list of option=value; {_ENCODE}")
        options[name] = value
    return options


def _check_socket(variable: str, parts: SplitResult, options: dict[str, str]) -> None:
    if parts.hostname or parts.port is not None or len(parts.path) < 2:
        raise ConfigError(f"{variable} names no socket; give redis+socket:///absolute/path")
    if set(options) - {"virtual_host"}:
        raise ConfigError(f"{variable}: redis+socket:// takes no option but virtual_host=NUMBER")
    if not re.fullmatch(r"[0-9]{1,4}", options.get("virtual_host", "0")):
        raise ConfigError(f"{variable}: virtual_host is the number of a database, such as 0")


def _tls(variable: str, options: dict[str, str]) -> dict[str, str]:
    """The options of TLS, with how certificates are checked spelt out."""
    if set(options) - set(_TLS):
        raise ConfigError(f"{variable}: rediss:// takes no options but {', '.join(_TLS)}")
    checked = {"ssl_cert_reqs": "required"} | options
    if checked["ssl_cert_reqs"] not in _CERTIFICATE:
        raise ConfigError(f"{variable}: ssl_cert_reqs is one of required, optional, none")
    checked["ssl_cert_reqs"] = _CERTIFICATE[checked["ssl_cert_reqs"]]
    named = checked.get("ssl_check_hostname", "true").lower()
    if named not in ("true", "false"):
        raise ConfigError(f"{variable}: ssl_check_hostname is true or false")
    if "ssl_check_hostname" in checked:
        checked["ssl_check_hostname"] = named
    import ssl  # most brokers are reached without it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ssl_ca_certs" in checked:
        try:
            context.load_verify_locations(checked["ssl_ca_certs"])
        except OSError as error:
            raise ConfigError(_unusable(variable, "ssl_ca_certs", error)) from None
    if "ssl_ca_path" in checked and not Path(checked["ssl_ca_path"]).is_dir():
        raise ConfigError(f"{variable}: ssl_ca_path is no folder; ssl_ca_certs names a file")
    if "ssl_keyfile" in checked or "ssl_certfile" in checked:
        if "ssl_certfile" not in checked:
            raise ConfigError(f"{variable}: ssl_keyfile needs ssl_certfile beside it")
        password = checked.get("ssl_password", "")
        try:
            # Always with a password: OpenSSL would ask for one at the terminal.
            context.load_cert_chain(
                checked["ssl_certfile"], checked.get("ssl_keyfile"), lambda: password
            )
        except OSError as error:
            raise ConfigError(_unusable(variable, "ssl_certfile or ssl_keyfile", error)) from None
    return checked


def _unusable(variable: str, option: str, error: OSError) -> str:
    import ssl

    why = "" if isinstance(error, ssl.SSLError) else f" ({error.strerror})"
    return f"{variable}: the file of {option} cannot be used{why}; it is PEM, and readable here"


def check_database(variable: str, url: str) -> None:
    """Raise ConfigError, which names the variable, for a URL of no SQLite file or PostgreSQL."""
    if url.startswith("sqlite:///"):
        if not _is_text(url):
            raise ConfigError(f"{variable} has characters that no path should have; {_DATABASE}")
        if str(Path(url.removeprefix("sqlite:///"))) in (".", ":memory:"):
            raise _no_file(variable)
        return
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"{variable} is no database URL; {_DATABASE}; {_ENCODE}") from None
    if not _is_text(url) or "%00" in url:
        raise ConfigError(f"{variable} has characters that no URL has; {_DATABASE}")
    if backend == "sqlite":
        raise _no_file(variable)
    if backend not in ("postgresql", "postgres"):
        raise ConfigError(f"{variable} names {backend!r}; PneumoQ keeps SQLite or PostgreSQL")
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigError(f"{variable}: PneumoQ reaches PostgreSQL by psycopg; write postgresql://")
    host = parsed.host or ""
    if {"@", "#"} & {*host, *(parsed.database or "")} or any(map(str.isspace, host)):
        # What SQLAlchemy takes for a host or database may be the rest of a password.
        raise ConfigError(f"{variable} cannot be read; {_ENCODE}")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ConfigError(f"{variable}: a port is a number from 1 to 65535; PostgreSQL's is 5432")
    query = _CREDENTIALS.sub("", url.partition("://")[2]).partition("?")[2]
    if any(not all(pair.partition("=")) for pair in query.split("&") if query):
        raise ConfigError(f"{variable}: what follows ? is no list of option=value; {_ENCODE}")
    _have_driver_read(variable, parsed.set(drivername="postgresql+psycopg"))


def _no_file(variable: str) -> ConfigError:
    return ConfigError(f"{variable} names no file, and workers could not share what is in memory")


def _have_driver_read(variable: str, url: sa.URL) -> None:
    """Have the driver read the URL, where there is one: nothing is connected."""
    import sqlalchemy as sa

    try:
        import psycopg
        from psycopg.conninfo import make_conninfo
    except ImportError:
        return  # whoever connects says what to install
    try:
        _, options = url.get_dialect()().create_connect_args(url)
        make_conninfo("", **options)
    except (sa.exc.ArgumentError, psycopg.Error, ValueError, TypeError):
        raise ConfigError(
            f"{variable} has an option or a value that PostgreSQL does not take; {_DATABASE}"
        ) from None
