"""What a film that takes a decoder over could do with it: decode films, and nothing else.

A film takes a real decoder over where this file's sabotage runs in it: started as ever, it does at
a film with a mark in it what an attacker would try there, and answers how each try ended.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import drawn, hostile
from tests.support import processes as running
from tests.support.absent import absent
from tests.support.broken import kernels, mounts
from tests.support.paths import ROOT
from tests.worker import samples
from tests.worker.decoding.test_pool import SIDE, given, members, pixels, place, through
from trainer.film import rules
from worker import archive, config
from worker.decoding import jail
from worker.decoding.pool import Decoders, OnGpu, Place

#: Stands before a film's orders; and what only the site may know.
MARK, SECRET = b"do as I say: ", "c0ffee-the-key-of-this-site"

#: Runs in decoders: at a film with orders it tries everything, and answers with what came of it.
SABOTAGE = """
import ctypes, json, os, socket, subprocess, sys, tempfile
from pathlib import Path

MARK, SECRET = {mark!r}, {secret!r}
libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def spawn():
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {{}}), 0)


def fork_and_exec():
    pid = os.fork()
    if not pid:
        try:
            os.execv("/bin/true", ["true"])
        finally:
            os._exit(9)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9:
        raise PermissionError(1, "exec")


def environment():
    if SECRET in Path("/proc/self/environ").read_text() + repr(os.environ):
        return
    raise PermissionError(1, "not there")


def thread():
    import threading
    done = []
    one = threading.Thread(target=lambda: done.append(1))
    one.start(); one.join()
    assert done


def tries(o):
    iov = (ctypes.c_void_p * 2)()
    yield "internet", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    yield "packets", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    yield "netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    yield "unix", lambda: socket.socket(socket.AF_UNIX).connect(o["socket"])
    yield "datagrams", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    yield "key", environment
    yield "keyfile", lambda: Path(o["home"], "site.key").read_text()
    yield "home", lambda: os.listdir(o["home"])
    yield "own", lambda: Path(o["film"]).read_bytes()
    yield "listing", lambda: os.listdir(Path(o["film"]).parent)
    yield "neighbour", lambda: Path(o["neighbour"]).read_bytes()
    yield "environ", lambda: Path(f"/proc/{{o['parent']}}/environ").read_bytes()
    yield "cmdline", lambda: Path(f"/proc/{{o['parent']}}/cmdline").read_bytes()
    yield "mem", lambda: open(f"/proc/{{o['parent']}}/mem", "rb")
    yield "passwd", lambda: Path("/etc/passwd").read_text()
    yield "write", lambda: Path(o["home"], "new").write_text("x")
    yield "append", lambda: open(o["film"], "ab")
    yield "temporary", lambda: Path("/tmp", f"new-{{os.getpid()}}").write_text("x")
    yield "library", lambda: open(json.__file__, "ab")
    yield "mkdir", lambda: os.mkdir(o["home"] + "/folder")
    yield "remove", lambda: os.unlink(o["neighbour"])
    yield "rename", lambda: os.rename(o["neighbour"], o["home"] + "/moved")
    yield "truncate", lambda: os.truncate(o["neighbour"], 0)
    yield "chmod", lambda: os.chmod(o["neighbour"], 0o777)
    yield "utime", lambda: os.utime(o["neighbour"], (0, 0))
    yield "spawn", spawn
    yield "exec", fork_and_exec
    yield "signal", lambda: os.kill(o["parent"], 0)
    yield "trace", lambda: call("ptrace", 16, o["parent"], 0, 0)
    yield "memory", lambda: call("process_vm_readv", o["parent"], iov, 1, iov, 1, 0)
    yield "shared", lambda: call("shmget", 0, 4096, 0o1600)
    yield "unshare", lambda: call("unshare", 0x10000000)
    yield "uring", lambda: call("syscall", 425, 1, ctypes.create_string_buffer(120))
    yield "bpf", lambda: call("syscall", 321, 5, ctypes.create_string_buffer(64), 64)
    yield "+thread", thread
    yield "+import", lambda: __import__("xml.dom.minidom")
    yield "+self", lambda: Path("/proc/self/statm").read_text()


def outcome(act):
    try:
        act()
    except OSError as error:
        return error.errno
    except BaseException as error:
        return repr(error)[:20]
    return 0


if {module!r} in " ".join(sys.orig_argv):
    from worker.decoding import reading
    from worker.decoding.protocol import Failure

    def decode(data, *arguments, _decode=reading.decode):
        if MARK not in data:
            return _decode(data, *arguments)
        orders = json.loads(data.partition(MARK)[2])
        said = [[name, outcome(act)] for name, act in tries(orders)]
        return Failure("taken", ";".join(f"{{n}}={{r}}" for n, r in said), False)

    reading.decode = decode
"""


@pytest.fixture(autouse=True)
def can() -> None:
    """This kernel can deny all that it is asked to."""
    if jail.lacking():
        absent(f"this kernel cannot lock decoders up: {jail.lacking()}")


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A site with a secret key, and what there is to be read and spoiled."""
    home, films, beside = (tmp_path / name for name in ("home", "films", "beside"))
    for folder in (home, films, beside):
        folder.mkdir()
    (home / "site.key").write_text(SECRET)
    (beside / "other.jpeg").write_bytes(b"another patient")
    monkeypatch.setenv("PNEUMOQ_SITE_KEY", SECRET)
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", f"postgresql://worker:{SECRET}@db/films")
    monkeypatch.setenv("OF_THE_SITE", SECRET)
    return {
        "home": str(home),
        "film": str(films / "film.jpeg"),
        "neighbour": str(beside / "other.jpeg"),
        "parent": os.getpid(),
        "socket": str(home / "no.sock"),
    }


def sabotaged(
    orders: dict[str, Any], module: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """What a decoder, taken over by the film at `film`, could do: name of a try → errno, or 0."""
    folder = Path(orders["home"]).parent / "sabotage"
    folder.mkdir()
    script = SABOTAGE.format(mark=MARK, secret=SECRET, module=module)
    (folder / "sitecustomize.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    film = Path(orders["film"])
    film.write_bytes(MARK + json.dumps(orders).encode())
    on_gpu = "gpu" in module
    decoders = Decoders(
        0 if on_gpu else 1, SIDE, deadline_s=60, limit_mb=2048,
        gpu=OnGpu(device="cpu", at_least=0.0) if on_gpu else None,
    )  # fmt: skip
    try:
        decoders.give(given(place(film.parent), members(film.parent)))
        failure = through(decoders, 1)[0].failure
    finally:
        decoders.close()
    assert failure is not None and failure.code == "taken"
    return dict(said.split("=", 1) for said in failure.message.split(";"))


DENIED = {str(errno.EPERM), str(errno.EACCES)}


def test_a_decoder_that_is_taken_over_has_no_network_no_secret_no_neighbour_and_writes_nothing(
    orders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sabotaged(orders, "worker.decoding.child", monkeypatch)
    allowed = {name for name, result in found.items() if result not in DENIED}
    assert allowed == {"+thread", "+import", "+self"}, found
    assert {found[name] for name in allowed} == {"0"}
    assert len(found) == 37
    assert sorted(p.name for p in Path(orders["home"]).iterdir()) == ["site.key"]
    assert Path(orders["neighbour"]).read_bytes() == b"another patient"


#: What CUDA may need, by which it is not kept from the rest.
OF_A_GPU = {"unix", "datagrams"}


def test_a_decoder_on_a_gpu_is_denied_all_but_devices_and_sockets_within_the_machine(
    orders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = sabotaged(orders, "worker.decoding.gpu_child", monkeypatch)
    allowed = {name for name, result in found.items() if result not in DENIED}
    assert allowed == {"+thread", "+import", "+self", *OF_A_GPU}, found
    assert found["unix"] == str(errno.ENOENT)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of films in every form that is read: JPEG, PNG, DICOM of every transfer syntax."""
    folder = tmp_path_factory.mktemp("every")
    for n, good in enumerate(hostile.good_variants()):
        (folder / f"{n:03}-{good.name}").write_bytes(good.data)
    for film in drawn.films(6, 0):
        (folder / film.name).write_bytes(film.data)
    return folder


def sources(every: Path, there: Path) -> Iterator[tuple[Place, list[archive.Member]]]:
    """The same films as a folder, a zip, a tar, a compressed tar and files by themselves."""
    files = sorted(every.iterdir())
    yield place(every), members(every)
    with zipfile.ZipFile(there / "films.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, file.name)
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz")):
        with tarfile.open(there / f"films{suffix}", mode) as tar:  # type: ignore[call-overload]
            for file in files:
                tar.add(file, file.name)
    for name in ("films.zip", "films.tar"):
        yield place(there / name), members(there / name)
    with archive.open_source(str(there / "films.tar.gz")) as source:
        listing = list(source.members())
        index = source.index()
    spool = archive.open_spool("tar.gz", str(there / "films.tar.gz"), index)
    fd, base = spool.holding(listing)
    spool.close()
    yield place(there / "films.tar.gz", window_fd=fd, base=base), listing
    (there / "linked.jpeg").symlink_to(files[-1])
    (there / "list.txt").write_text(f"linked.jpeg\n{files[0]}\n")
    with archive.open_source(str(there / "list.txt"), "list") as source:
        listing = list(source.members())
    (there / "list.txt").unlink()  # what it named is known
    yield Place(kind="list", uri=str(there / "list.txt"), edition="1"), listing


def test_decoders_that_are_locked_up_decode_every_form_of_film_from_every_kind_of_source(
    every: Path, tmp_path: Path
) -> None:
    expected = {f.name: rules.decode(f.read_bytes(), samples.SIZE) for f in every.iterdir()}
    expected["linked.jpeg"] = expected[max(expected)]
    decoders = Decoders(1, 600 * SIDE, deadline_s=60, limit_mb=2048)
    try:
        for where, listing in sources(every, tmp_path):
            decoders.give(given(where, listing))
            for decoded in through(decoders, len(listing)):
                name = Path(decoded.film.member.name).name
                assert decoded.failure is None, (where.kind, name, decoded.failure)
                assert np.array_equal(pixels(decoders, decoded.film.token), expected[name])
            if where.window_fd is not None:
                os.close(where.window_fd)
    finally:
        decoders.close()


def test_a_decoder_and_its_opener_are_started_without_a_secret_and_get_no_new_rights(
    orders: dict[str, Any],
) -> None:
    decoders = Decoders(1, SIDE, deadline_s=60, limit_mb=2048)
    try:
        list(decoders.collect(samples.PATIENCE_S))
        (decoder,) = running.children(os.getpid(), "worker.decoding.child")
        (opener,) = running.children(decoder, "worker.decoding.child")
        for pid in (decoder, opener):
            process = Path(f"/proc/{pid}")
            assert SECRET not in (process / "environ").read_text()
            assert b"PNEUMOQ" not in (process / "environ").read_bytes()
            assert SECRET not in (process / "cmdline").read_text()
            status = (process / "status").read_text()
            assert "NoNewPrivs:\t1" in status
            assert "Threads:\t1" in status  # what one thread gives up, others keep
    finally:
        decoders.close()


def test_a_window_on_a_compressed_archive_cannot_be_written_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "films.tar.gz", "w:gz") as tar:
        tar.add(__file__, "film.jpeg")
    with archive.open_source(str(tmp_path / "films.tar.gz")) as source:
        listing = list(source.members())
    spool = archive.open_spool("tar.gz", str(tmp_path / "films.tar.gz"), None)
    fd, _ = spool.holding(listing)
    spool.close()
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


#: Decodes a film; what is logged is printed.
DECODING = """
import logging, sys
from pathlib import Path
from tests.worker.decoding.test_pool import SIDE, given, members, place, through
from worker.decoding.pool import Decoders

logging.basicConfig(stream=sys.stdout, format="%(message)s")
films = Path(sys.argv[1])
decoders = Decoders(1, SIDE, deadline_s=60, limit_mb=2048)
decoders.give(given(place(films), members(films)))
assert through(decoders, 1)[0].failure is None
decoders.close()
"""


def test_where_landlock_is_kept_away_decoders_decode_and_the_log_says_what_they_are_not_denied(
    tmp_path: Path,
) -> None:
    name, data = samples.films(1)[0]
    (tmp_path / name).write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-c", kernels.WITHOUT_LANDLOCK + DECODING, tmp_path],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (line,) = ran.stdout.splitlines()
    assert "no Landlock" in line


#: Gives up all files but those of the paths that it is given, and tries one that is not among them.
LOCKED = """
import sys
from pathlib import Path
from worker.machine import landlock

landlock.restrict([(Path(name), landlock.READING) for name in sys.argv[2:]])
print(Path(sys.argv[2], "a").read_text())
Path(sys.argv[1]).read_text()
"""


def test_a_folder_of_libraries_on_a_share_that_is_gone_does_not_leave_all_files_open(
    tmp_path: Path,
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("allowed")
    with mounts.share(tmp_path / "real", tmp_path / "share") as share:
        share.die()
        ran = subprocess.run(
            [sys.executable, "-c", LOCKED, "/etc/passwd", tmp_path / "real", share.at],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    assert ran.stdout == "allowed\n"
    assert "PermissionError" in ran.stderr
    assert "/etc/passwd" in ran.stderr


def test_training_is_handed_no_setting_and_what_downloads_need(
    orders: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    handed = config.training_environment()
    assert SECRET not in "".join(handed.values())
    assert not [name for name in handed if name.startswith(config.PREFIX)]
    assert handed["https_proxy"] == "http://proxy:3128"
    assert handed["OMP_PROC_BIND"] == "close"
    assert "https_proxy" not in config.decoder_environment()
