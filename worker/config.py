"""Settings: the only place that reads the environment. `pneumoq doctor` prints all of them."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import math
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from worker import urls
from worker.errors import ConfigError

PREFIX = "PNEUMOQ_"

#: Longest path of a unix socket, less the terminating zero (Linux: sun_path is 108 bytes).
_SOCKET_PATH_MAX = 107

_SQLITE = "sqlite:///"

#: What a setting may be, where it is one of a few words.
CHOICES = {"engine": ("auto", "tensorrt", "onnx"), "decode": ("cpu", "gpu")}

#: The largest value of a setting, where it has one. Of a lease it is `leases.LONGEST_S`: what runs
#: longer is taken to be of a clock that was wrong.
MOST = {"lease_s": 3600.0}

#: A setting that may hold a secret may be a file instead, as containers are handed secrets:
#: `PNEUMOQ_SITE_KEY_FILE` names a file that holds what `PNEUMOQ_SITE_KEY` would be.
SECRETS = ("database_url", "broker_url", "reader_url", "site_key", "hook_url")
_FILE = "_FILE"

#: What a hook's command gets as variables: `event` is `PNEUMOQ_EVENT`. They are no settings, but
#: may be there: such a command may call `pneumoq`.
PAYLOAD = (
    "event", "text", "id", "at", "schedule", "scheduled_for", "kind", "run", "job", "model",
    "model_name",
)  # fmt: skip


def _setting(meaning: str, default: Any = None) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One value per variable: `lease_s` is `PNEUMOQ_LEASE_S`."""

    home: Path = _setting("Folder of the database, broker, logs, model cache and training runs")
    database_url: str = _setting("SQLite or PostgreSQL, as an SQLAlchemy URL")
    broker_url: str = _setting("Redis or Valkey, as a Celery URL; embedded Valkey if not set")
    reader_url: str | None = _setting("PostgreSQL login that `pneumoq query` uses instead")
    site_key: str | None = _setting(
        "Secret under which patients and names are hashed; PNEUMOQ_HOME/site.key if not set"
    )
    lease_s: float = _setting("Seconds until the work of a vanished worker is taken over", 60.0)
    sweep_s: float = _setting("Seconds between sweeps that wake workers again for due work", 15.0)
    decoders: int = _setting("Processes that decode films, per scoring worker")
    engine_threads: int = _setting("Threads that the CPU engine computes with")
    batch: int = _setting("Films per call of the CPU engine", 8)
    engine: str = _setting(
        "What films are scored with: tensorrt, onnx (the file as it is), or auto", "auto"
    )
    gpu_batch: int = _setting("Films per call of a GPU engine; halved where memory is short", 64)
    gpu_workspace_mb: int = _setting("GPU memory that TensorRT may work in, in MiB", 1024)
    decode: str = _setting("cpu, or gpu: one more decoder, which decodes JPEG on the GPU", "cpu")
    film_deadline_s: float = _setting(
        "Seconds after which one film, or a disk or share that gives no answer, is given up", 30.0
    )
    film_memory_mb: int = _setting("Memory that decoding one film may take, in MiB", 2048)
    train_threads: int = _setting("Threads that training computes with")
    hook_url: str | None = _setting(
        "Where failures, errors, outages, verdicts on models and drift are POSTed to, as JSON"
    )
    hook_command: str | None = _setting(
        "Command line that is run for each of these, with the JSON on its standard input"
    )
    log_level: str = _setting("Log level of the workers", "INFO")

    @property
    def embedded_broker(self) -> bool:
        """Whether the broker is the Valkey that `pneumoq up` starts."""
        return self.broker_url == embedded_broker_url(self.home)

    @property
    def database_path(self) -> Path | None:
        """The SQLite file, or None on PostgreSQL."""
        url = self.database_url
        return Path(url[len(_SQLITE) :]) if url.startswith(_SQLITE) else None


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment, defaults filled in.

    Raises ConfigError for a malformed value, a `PNEUMOQ_` variable that does not exist, or the file
    of a secret that cannot be read.
    """
    environ = os.environ if environ is None else environ
    payload = {PREFIX + name.upper() for name in PAYLOAD}
    given = {
        k: v for k, v in environ.items() if k.startswith(PREFIX) and v != "" and k not in payload
    }
    for name in SECRETS:
        variable = PREFIX + name.upper()
        file = given.pop(variable + _FILE, None)
        if file is None:
            continue
        if variable in given:
            raise ConfigError(f"{variable} and {variable}{_FILE} are both set: keep one of them")
        given[variable] = _secret(variable + _FILE, Path(file))
    fields = {PREFIX + f.name.upper(): f for f in dataclasses.fields(Settings)}
    unknown = sorted(given.keys() - fields.keys())
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: no such setting; `pneumoq doctor` lists them all")
    values: dict[str, Any] = {}
    for variable, text in given.items():
        name = fields[variable].name
        values[name] = _parse(variable, str(fields[variable].type), text)
        if name in CHOICES and text not in CHOICES[name]:
            raise ConfigError(f"{variable}={text!r}: give one of {', '.join(CHOICES[name])}")
        if name in MOST and values[name] > MOST[name]:
            raise ConfigError(f"{variable}={text!r} is too long; give at most {MOST[name]:g}")
    try:
        home = values.get("home", Path("~/.pneumoq")).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"this user has no home folder; set {PREFIX}HOME to a path") from error
    values["home"] = home
    values["database_url"] = _absolute(values.get("database_url", f"{_SQLITE}{home}/pneumoq.db"))
    for name in ("database_url", "reader_url"):
        if name in values:
            urls.check_database(PREFIX + name.upper(), values[name])
    own = embedded_broker_url(home)
    if values.setdefault("broker_url", own) != own:
        values["broker_url"] = urls.broker(f"{PREFIX}BROKER_URL", values["broker_url"])
    _check_hooks(values.get("hook_url"), values.get("hook_command"))
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    for name in ("decoders", "engine_threads", "train_threads"):
        values.setdefault(name, cores)
    return Settings(**values)


def _secret(variable: str, file: Path) -> str:
    """What the file holds, without the white space around it."""
    try:
        text = file.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"{variable}: {file} cannot be read ({error.strerror}); it must be readable by user "
            f"{os.getuid()}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{variable}: {file} holds no text") from error
    if not text:
        raise ConfigError(f"{variable}: {file} is empty")
    return text


def _parse(variable: str, kind: str, text: str) -> Any:
    try:
        if kind == "Path":
            return Path(text)
        if kind == "float":
            number = float(text)
        elif kind == "int":
            number = int(text)
        else:
            return text
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not a number") from None
    if not 0 < number < math.inf:
        raise ConfigError(f"{variable}={text!r} must be greater than 0, and finite")
    return number


def _absolute(url: str) -> str:
    """The URL of a SQLite file with its path made absolute: workers have another folder."""
    path = url.removeprefix(_SQLITE)
    if path == url or path in ("", ":memory:"):
        return url
    return f"{_SQLITE}{Path(path).expanduser().absolute()}"


def _check_hooks(url: str | None, command: str | None) -> None:
    # Never with the URL itself: what follows the host is often all the password that it has.
    if url is not None:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or not url.isascii() or not url.isprintable() or " " in url:
            raise ConfigError(f"{PREFIX}HOOK_URL is no URL of the form https://host/path")
    if command is not None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"{PREFIX}HOOK_COMMAND is no command line: {error}") from error
        if not words:
            raise ConfigError(f"{PREFIX}HOOK_COMMAND names no program")


def time_zone() -> str | None:
    """The value of `TZ`, which gives containers their zone; a colon before it is POSIX's."""
    return os.environ.get("TZ", "").removeprefix(":") or None


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give a child process the same settings."""
    values = dataclasses.asdict(settings)
    return {PREFIX + k.upper(): str(v) for k, v in values.items() if v is not None}


def child_environment(settings: Settings, **extra: str) -> dict[str, str]:
    """This process's environment with these settings in it, for starting a child."""
    rest = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    return rest | environment(settings) | extra


#: Variables of this process that one which reads films is handed: whoever takes it over by a film
#: has them. By name, or by how it begins (`*`). None of PneumoQ's: it is told what it needs.
_FOR_READING_FILMS = (
    "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*", "PYTHON*", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*",
    "CUDA_*", "CUDNN_*", "CUBLAS_*", "NVIDIA_*", "TORCH_*", "PYTORCH_*",
)  # fmt: skip

#: Beside these, what chooses by which instructions OpenVINO computes.
_FOR_COMPUTING = ("ONEDNN_*", "DNNL_*", "OV_*")

#: Beside these, what downloads of initial weights need (`train --init imagenet`).
_FOR_DOWNLOADS = (
    "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "all_proxy",
    "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
)  # fmt: skip


def _handed(names: Iterable[str]) -> dict[str, str]:
    return {
        variable: value
        for variable, value in os.environ.items()
        if any(fnmatch.fnmatchcase(variable, name) for name in names)
    }


def decoder_environment() -> dict[str, str]:
    """The variables of a decoder, which computes with one thread beside many of its kind."""
    return _handed(_FOR_READING_FILMS) | dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
    )


def computing_environment() -> dict[str, str]:
    """The variables of a process that decodes and computes one film."""
    return decoder_environment() | instructions()


def instructions() -> dict[str, str]:
    """The variables that choose by which instructions OpenVINO computes."""
    return _handed(_FOR_COMPUTING)


def training_environment() -> dict[str, str]:
    """The variables of a training process."""
    return _handed((*_FOR_READING_FILMS, *_FOR_DOWNLOADS))


def library_path() -> list[str]:
    """Folders in which the system looks for shared libraries first."""
    return [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f.startswith("/")]


#: Characters of such a variable: the system refuses one of 128 KiB.
_PAYLOAD_CHARACTERS = 10_000


def hook_environment(payload: Mapping[str, Any]) -> dict[str, str]:
    """This process's environment for a hook's command: no secrets, and PAYLOAD."""
    secret = {PREFIX + name.upper() for name in SECRETS}
    return {k: v for k, v in os.environ.items() if k not in secret} | {
        PREFIX + name.upper(): str(payload[name]).replace("\0", "")[:_PAYLOAD_CHARACTERS]
        for name in PAYLOAD
        if payload.get(name) is not None
    }


def describe(settings: Settings) -> list[dict[str, str]]:
    """Every setting: variable, value, whether it was set (`yes`, `file`), and its meaning."""
    rows = []
    for f in dataclasses.fields(Settings):
        value = getattr(settings, f.name)
        rows.append(
            {
                "variable": PREFIX + f.name.upper(),
                "value": _shown(f.name, value),
                "set": _how_set(PREFIX + f.name.upper()),
                "meaning": f.metadata["meaning"],
            }
        )
    return rows


def _how_set(variable: str) -> str:
    if os.environ.get(variable):
        return "yes"
    return "file" if os.environ.get(variable + _FILE) else ""


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "hook_url":
        return without_path(str(value))
    return "***" if name == "site_key" else _without_password(str(value))


def without_path(url: str) -> str:
    """`https://host:port/***`: of a hook's URL the rest may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/***"


def _without_password(text: str) -> str:
    text = re.sub(r"(?i)([?&][a-z_]*password=)[^&]*", r"\1***", text)
    scheme, separator, rest = text.partition("://")
    if not separator or "@" not in rest:
        return text
    credentials, _, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}:***@{place}" if ":" in credentials else text


def broker_folder(home: Path) -> Path:
    """Folder of the embedded Valkey's socket.

    In the home, or under the temporary folder where the home's path is too long for a socket.
    """
    folder = home / "broker"
    if len(os.fsencode(folder / "valkey.sock")) <= _SOCKET_PATH_MAX:
        return folder
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pneumoq-{os.getuid()}-{digest}"


def embedded_broker_url(home: Path) -> str:
    """Celery URL of the embedded Valkey."""
    return f"redis+socket://{quote(str(broker_folder(home)), safe='/ ')}/valkey.sock"
