"""Decoder processes: films go in, pixels come out in place, and whoever dies costs one film."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from PIL import Image

from tests.support import processes as running
from tests.support.broken import mounts
from tests.worker import samples
from trainer.film import rules
from worker import archive
from worker.archive import apart
from worker.decoding import handle, protocol
from worker.decoding.pool import Decoded, Decoders, Film, Place
from worker.decoding.protocol import Hash

SIDE = samples.SIZE * samples.SIZE

Pool = Callable[..., Decoders]


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Makes pools with room for 600 films, and closes them."""
    made: list[Decoders] = []

    def make(count: int = 1, deadline_s: float = 30.0, limit_mb: int = 2048) -> Decoders:
        decoders = Decoders(count, 600 * SIDE, deadline_s=deadline_s, limit_mb=limit_mb)
        made.append(decoders)
        return decoders

    yield make
    for decoders in made:
        decoders.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of some films."""
    root = tmp_path_factory.mktemp("films")
    for name, data in samples.films(6):
        (root / name).write_bytes(data)
    return root


def members(uri: Path) -> list[archive.Member]:
    """The listing of an archive."""
    with archive.open_source(str(uri)) as source:
        return list(source.members())


def place(uri: Path, edition: str = "1", **window: int) -> Place:
    """Where the films of an archive are."""
    return Place(kind=archive.kind(str(uri)), uri=str(uri), edition=edition, **window)


def given(where: Place, listing: list[archive.Member], first: int = 0) -> list[Film]:
    """Films to be decoded side by side from place `first` of the memory on."""
    return [
        Film(
            token=n,
            place=where,
            member=member,
            rule=rules.DEFAULT_RULE,
            size=samples.SIZE,
            offset=n * SIDE,
        )
        for n, member in enumerate(listing, first)
    ]


def through(
    decoders: Decoders, count: int, meanwhile: Callable[[], object] = lambda: None
) -> list[Decoded]:
    """Collect until so many films are through."""
    found: list[Decoded] = []
    deadline = time.monotonic() + samples.PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} films came through"
        found.extend(decoders.collect(0.1))
        meanwhile()
    found.extend(decoders.collect(0.0))
    assert len(found) == count
    return found


def pixels(decoders: Decoders, place: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What is at one place of the memory."""
    return decoders.pixels[place * SIDE : (place + 1) * SIDE].reshape(samples.SIZE, samples.SIZE)


def processes(parent: int | None = None) -> list[int]:
    """The decoder processes of this process, or of another."""
    return running.children(parent or os.getpid(), "worker.decoding.child")


def blocked() -> list[int]:
    """Decoder processes of this process whose opener waits in opening a FIFO."""
    waiting = []
    for decoder in processes():
        for pid in processes(decoder):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/wchan").read_text() in ("wait_for_partner", "fifo_open"):
                    waiting.append(decoder)
    return waiting


def reading() -> int:
    """Decoder processes of this process that wait for a share (FUSE)."""
    waiting = 0
    for pid in processes():
        with contextlib.suppress(OSError):
            waiting += Path(f"/proc/{pid}/wchan").read_text() == "request_wait_answer"
    return waiting


def tarred(path: Path, files: list[Path], mode: str = "w") -> Path:
    """The files in a tar."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for file in files:
            tar.add(file, file.name)
    return path


def never_opening(tmp_path: Path, folder: Path) -> tuple[Path, list[Film]]:
    """A FIFO in the place of a tar, whose opening never returns, and a film said to be in it."""
    fifo = tmp_path / "blocking.tar"
    os.mkfifo(fifo)
    whole = tarred(tmp_path / "whole.tar", sorted(folder.iterdir())[:1])
    where = Place(kind="tar", uri=str(fifo), edition="1")
    return fifo, given(where, members(whole), first=500)


def test_pixels_land_where_they_were_asked_as_the_film_rule_makes_them(
    pool: Pool, folder: Path
) -> None:
    decoders = pool(2)
    films = given(place(folder), members(folder))
    places = random.Random(1).sample(range(600), len(films))
    for chosen, one in zip(places, films, strict=True):
        one.offset = chosen * SIDE
    decoders.give(films)
    assert all(d.failure is None for d in through(decoders, len(films)))
    for chosen, one in zip(places, films, strict=True):
        expected = rules.decode((folder / one.member.name).read_bytes(), samples.SIZE)
        assert np.array_equal(pixels(decoders, chosen), expected)
    untouched = np.ones(600, bool)
    untouched[places] = False
    assert not decoders.pixels.reshape(600, SIDE)[untouched].any()


@pytest.mark.parametrize(
    ("asked", "computed"),
    [
        ("blake3", lambda data: blake3(data).digest(16)),
        ("blake2b", lambda data: hashlib.blake2b(data, digest_size=16).digest()),
        ("sha256", lambda data: hashlib.sha256(data).digest()[:16]),
    ],
)
def test_a_films_content_is_the_hash_of_its_bytes_that_was_asked_for(
    asked: Hash, computed: Callable[[bytes], bytes], pool: Pool, folder: Path
) -> None:
    decoders = pool(2)
    films = given(place(folder), members(folder))
    for film in films:
        film.hash = asked
    decoders.give(films)
    for found in through(decoders, len(films)):
        assert found.content == computed((folder / found.film.member.name).read_bytes())


def test_a_truncated_film_is_named_and_the_others_come_through(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    files = sorted(folder.iterdir())
    for file in files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    bad = files[2].name
    (tmp_path / bad).write_bytes(files[2].read_bytes()[:1000])
    (tmp_path / "icon.png").write_bytes(b"")
    Image.new("L", (16, 16)).save(tmp_path / "icon.png")
    decoders = pool(2)
    films = given(place(tmp_path), members(tmp_path))
    decoders.give(films)
    failures = {d.film.member.name: d.failure for d in through(decoders, len(films)) if d.failure}
    assert failures.keys() == {bad, "icon.png"}
    assert (failures[bad][0], failures[bad][2]) == ("truncated", False)
    assert (failures["icon.png"][0], failures["icon.png"][2]) == ("too_small", True)


def test_a_folder_a_zip_a_tar_and_a_window_give_the_same_pixels(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    files = sorted(folder.iterdir())
    with zipfile.ZipFile(tmp_path / "films.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, file.name)
    tar = tarred(tmp_path / "films.tar", files)
    fd = os.open(tar, os.O_RDONLY)  # the stream of a compressed tar is a tar
    decoders = pool()
    sources = [
        (place(folder), members(folder)),
        (place(tmp_path / "films.zip"), members(tmp_path / "films.zip")),
        (place(tar), members(tar)),
        (Place(kind="tar.gz", uri="gone", edition="1", window_fd=fd, base=0), members(tar)),
    ]
    for round_, (where, listing) in enumerate(sources):
        decoders.give(given(where, listing, first=round_ * 100))
    done = through(decoders, 4 * len(files))
    os.close(fd)
    assert all(d.failure is None for d in done)
    for n in range(len(files)):
        for round_ in (1, 2, 3):
            assert np.array_equal(pixels(decoders, n), pixels(decoders, round_ * 100 + n))


def test_one_decoder_answers_in_the_order_in_which_it_was_given(pool: Pool, folder: Path) -> None:
    decoders = pool(1)
    films = [f for n in range(3) for f in given(place(folder), members(folder), first=100 * n)]
    decoders.give(films)
    assert [d.film for d in through(decoders, len(films))] == films


def test_an_archive_replaced_at_the_same_path_is_opened_anew_for_the_next_job(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    files = sorted(folder.iterdir())
    path = tmp_path / "films.tar"
    decoders = pool(1)
    for number, file in enumerate(files[:2]):
        tarred(tmp_path / "new", [file]).replace(path)
        decoders.give(given(place(path, edition=str(number)), members(path)))
        assert [d.failure for d in through(decoders, 1)] == [None]
        expected = rules.decode(file.read_bytes(), samples.SIZE)
        assert np.array_equal(pixels(decoders, 0), expected)


def test_an_archive_that_has_gone_costs_each_of_its_films_and_no_decoder(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    decoders = pool(1)
    before = processes()
    tar = tarred(tmp_path / "films.tar", sorted(folder.iterdir()))
    listing = members(tar)
    tar.unlink()
    where = Place(kind="tar", uri=str(tar), edition="1")
    decoders.give([*given(where, listing), *given(place(folder), members(folder), first=100)])
    done = through(decoders, 2 * len(listing))
    assert [d.failure and d.failure[0] for d in done] == [
        *["not_found"] * len(listing),
        *[None] * len(listing),
    ]
    assert processes() == before


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_a_share_whose_server_is_gone_costs_no_decoder_and_is_the_sources_trouble(
    kind: archive.Kind, pool: Pool, folder: Path, tmp_path: Path
) -> None:
    with mounts.share(folder, tmp_path / "share") as share:
        uri = share.at / "list.txt" if kind == "list" else share.at
        where = Place(kind=kind, uri=str(uri), edition="1")
        listing = members(folder)
        decoders = pool(1)
        decoders.give(given(where, listing))
        assert {d.failure for d in through(decoders, len(listing))} == {None}
        (decoder,) = processes()
        share.die()
        for edition in ("1", "2"):
            decoders.give(given(replace(where, edition=edition), listing))
            found = through(decoders, len(listing))
        assert {d.whose for d in found} == {"source"}
        assert {d.failure.code for d in found if d.failure} == {"unreadable"}
        assert processes() == [decoder]


def test_an_opener_that_waits_for_a_share_and_cannot_be_ended_is_counted_until_it_has(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    with mounts.share(folder, tmp_path / "share") as share:
        listing = members(folder)[:1]
        decoders = pool(1, deadline_s=1.0)
        share.hangs(on=["open"])
        decoders.give(given(Place(kind="folder", uri=str(share.at), edition="1"), listing))
        (found,) = through(decoders, 1)
        assert found.failure is not None and found.failure.code == "decoder_timeout"
        assert apart.left_behind() == 1
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "it to end")
    for decoder in processes():
        os.kill(decoder, signal.SIGKILL)
    listing = members(folder)
    decoders.give(given(place(folder), listing))
    through(decoders, len(listing))
    assert apart.left_behind() == 0


def test_decoders_that_cannot_be_ended_are_waited_for_together(
    pool: Pool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "REAP_S", 2.0)
    count, deadline_s = 5, 2.0
    with mounts.share(folder, tmp_path / "share") as share:
        listing = members(share.at) * 30  # work for each
        films = given(place(share.at), listing)
        given_up = pool(count, deadline_s=deadline_s)
        ended = Decoders(count, 600 * SIDE, deadline_s=30.0, limit_mb=2048)
        for decoders in (given_up, ended):
            decoders.give(films)
            through(decoders, len(listing))  # they have started
        share.hangs(on=["read"])
        ended.give(films)
        samples.wait(lambda: reading() == count, "all to wait for the share")
        began = time.monotonic()
        ended.close()
        assert time.monotonic() - began < count * handle.REAP_S
        given_up.give(films)
        samples.wait(lambda: reading() == 2 * count, "all to wait for the share")
        began = time.monotonic()
        found: list[Decoded] = []
        while not found:
            found += given_up.collect(1.0)
        assert time.monotonic() - began < count * handle.REAP_S
        assert apart.left_behind() == 2 * count
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "them to end")


def test_a_name_as_long_as_a_zip_allows_is_no_obstacle(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    data = sorted(folder.iterdir())[0].read_bytes()
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as packed:
        for n in range(8):
            packed.writestr(f"{n}" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 32_000, data)
    decoders = pool(1)
    listing = members(tmp_path / "long.zip")
    decoders.give(given(place(tmp_path / "long.zip"), listing))
    assert [d.failure for d in through(decoders, 8)] == [None] * 8


def test_a_film_whose_decoder_is_killed_gets_a_second_chance(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    fifo, blocking = never_opening(tmp_path, folder)
    decoders = pool(1)
    others = given(place(folder), members(folder))
    decoders.give([*blocking, *others])
    killed: list[int] = []

    def kill() -> None:
        if not killed and (waiting := blocked()):
            # Whoever is started next finds a whole archive.
            (tmp_path / "whole.tar").replace(fifo)
            os.kill(waiting[0], signal.SIGKILL)
            killed.extend(waiting)

    done = through(decoders, 1 + len(others), kill)
    assert killed
    assert all(d.failure is None for d in done)
    expected = rules.decode(sorted(folder.iterdir())[0].read_bytes(), samples.SIZE)
    assert np.array_equal(pixels(decoders, 500), expected)


def test_a_film_at_which_two_decoders_die_is_named_and_the_others_come_through(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    _, blocking = never_opening(tmp_path, folder)
    decoders = pool(2)
    others = given(place(folder), members(folder))
    decoders.give([*others[:3], *blocking, *others[3:]])
    killed: set[int] = set()

    def kill() -> None:
        for pid in set(blocked()) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)

    done = through(decoders, 1 + len(others), kill)
    assert len(killed) == 2
    assert [d.film.token for d in done if d.failure] == [500]
    failure = next(d.failure for d in done if d.failure)
    assert failure == ("decoder_died", "the decoder ended at this film (signal 9)", False)
    samples.wait(lambda: len(processes()) == 2, "two decoders to be there again")


#: Makes a decoder answer nonsense about the film of this content, and about those with it.
NONSENSE = """
from worker.decoding.protocol import Reply
pack = Reply.pack
Reply.pack = lambda self: {nonsense} if {content!r} in self.contents else pack(self)
"""


@pytest.mark.parametrize("nonsense", ["b'nonsense'", "pack(self)[:30]", "pack(self) + bytes(16)"])
def test_a_film_about_which_no_decoder_answers_readably_is_named_and_the_others_come_through(
    nonsense: str, pool: Pool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = members(folder)
    bad = listing[2]
    content = blake3((folder / bad.name).read_bytes()).digest(16)
    script = NONSENSE.format(nonsense=nonsense, content=content)
    (tmp_path / "sitecustomize.py").write_text(script)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    decoders = pool(2)
    decoders.give(given(place(folder), listing))
    found = {d.film.member.name: d.failure for d in through(decoders, len(listing))}
    failure = found.pop(bad.name)
    assert failure is not None
    assert failure.code == "decoder_died"
    assert "answer about this film cannot be read" in failure.message
    assert set(found.values()) == {None}


def test_what_no_request_can_hold_costs_itself_only(pool: Pool, folder: Path) -> None:
    listing = members(folder)
    decoders = pool(1)
    nowhere = Place(kind="folder", uri="/x" * protocol.MESSAGE_BYTES, edition="1")
    decoders.give([*given(nowhere, listing[:2]), *given(place(folder), listing[2:], first=2)])
    found = through(decoders, len(listing))
    failed = {d.film.token: d.failure for d in found if d.failure is not None}
    assert {token: failure.code for token, failure in failed.items()} == {
        0: "unreadable",
        1: "unreadable",
    }


def test_a_film_that_never_ends_is_named_after_its_deadline_and_the_others_come_through(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    _, blocking = never_opening(tmp_path, folder)
    decoders = pool(2, deadline_s=0.7)
    others = given(place(folder), members(folder))
    decoders.give([*others[:3], *blocking, *others[3:]])
    done = through(decoders, 1 + len(others))
    assert {d.film.token: d.failure[0] for d in done if d.failure} == {500: "decoder_timeout"}


def test_a_film_that_takes_more_memory_than_allowed_costs_that_film_only(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    for file in sorted(folder.iterdir())[:6]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    Image.linear_gradient("L").resize((9000, 9000)).save(tmp_path / "big.png", compress_level=1)
    decoders = pool(1, limit_mb=64)
    before = processes()
    films = given(place(tmp_path), members(tmp_path))
    decoders.give(films)
    done = through(decoders, len(films))
    failures = {d.film.member.name: d.failure for d in done if d.failure}
    assert failures.keys() == {"big.png"}
    assert failures["big.png"][0] == "too_large"
    assert "PNEUMOQ_FILM_MEMORY_MB" in failures["big.png"][1]
    assert processes() == before
    # The same film is no trouble where there is memory for it.
    roomy = pool(1, limit_mb=512)
    roomy.give([f for f in films if f.member.name == "big.png"])
    assert through(roomy, 1)[0].failure is None


def test_hundreds_of_films_have_one_answer_each_however_many_decoders_are_killed(
    pool: Pool, folder: Path
) -> None:
    decoders = pool(2)
    listing = members(folder)
    films = [
        f
        for n in range(500 // len(listing))
        for f in given(place(folder), listing, first=n * len(listing))
    ]
    decoders.give(films)
    rng = random.Random(3)
    kills = 0

    def kill() -> None:
        nonlocal kills
        if kills < 6 and rng.random() < 0.3:
            os.kill(rng.choice(processes()), signal.SIGKILL)
            kills += 1

    done = through(decoders, len(films), kill)
    assert kills >= 3
    assert sorted(d.film.token for d in done) == list(range(len(films)))
    for decoded in done:
        if decoded.failure is None:
            data = (folder / decoded.film.member.name).read_bytes()
            expected = rules.decode(data, samples.SIZE)
            assert np.array_equal(pixels(decoders, decoded.film.token), expected)
        else:
            assert decoded.failure[0] == "decoder_died"


def test_windows_leave_no_descriptor_open_here_or_in_the_decoder(
    pool: Pool, folder: Path, tmp_path: Path
) -> None:
    tar = tarred(tmp_path / "films.tar", sorted(folder.iterdir()))
    listing = members(tar)
    decoders = pool(1)
    samples.wait(lambda: processes(), "the decoder to start")
    child = processes()[0]

    def score(number: int) -> tuple[int, int]:
        fd = os.open(tar, os.O_RDONLY)
        where = Place(kind="tar.gz", uri="gone", edition="1", window_fd=fd, base=0)
        decoders.give(given(where, listing))
        assert not any(d.failure for d in through(decoders, len(listing)))
        os.close(fd)
        # The last answer comes before the window is closed; the next message comes after.
        decoders.give(given(place(folder), members(folder)[:1]))
        through(decoders, 1)
        return samples.descriptors(), samples.descriptors(child)

    first = score(0)
    for number in range(1, 6):
        assert score(number) == first


def test_closing_ends_the_processes_and_lets_go_of_every_descriptor() -> None:
    before = samples.descriptors()
    decoders = Decoders(3, SIDE, deadline_s=1, limit_mb=256)
    assert len(processes()) == 3
    decoders.close()
    assert not processes()
    del decoders
    assert samples.descriptors() == before


def test_decoders_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from worker.decoding.pool import Decoders\n"
        "decoders = Decoders(2, 4096, deadline_s=30, limit_mb=512)\n"
        "list(decoders.collect(30))\n"
        "sys.stdout.write('ready\\n'); sys.stdout.flush(); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout as out:
        assert out.readline() == b"ready\n"
        children = processes(parent.pid)
        assert len(children) == 2
        parent.kill()
        parent.wait()
    samples.wait(lambda: not any(Path(f"/proc/{c}").exists() for c in children), "them to end")


def test_a_decoder_whose_parent_is_gone_ends_without_a_word(folder: Path) -> None:
    parent, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    requests, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory, marks = os.memfd_create("memory"), os.memfd_create("marks")
    os.ftruncate(memory, 600 * SIDE)
    os.ftruncate(marks, 64)
    with parent, theirs, requests, its:
        inheritance = protocol.Inheritance(
            parent_pid=os.getpid(), socket_fd=theirs.fileno(), requests_fd=its.fileno(),
            memory_fd=memory, memory_bytes=600 * SIDE, marks_fd=marks, number=0, limit_mb=1024,
        )  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.decoding.child", *inheritance.arguments()],
            pass_fds=(theirs.fileno(), its.fileno(), memory, marks),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        its.close()
        assert protocol.Started.unpack(parent.recv(protocol.MESSAGE_BYTES)).ready
        request = protocol.Request(
            source=protocol.Source("folder", str(folder), "1", 0),
            rule=rules.DEFAULT_RULE, size=samples.SIZE, accept=(),
            films=[(n * SIDE, member) for n, member in enumerate(members(folder))],
        )  # fmt: skip
        requests.send(request.pack())
        parent.close()
        requests.close()
        _, errors = process.communicate(timeout=samples.PATIENCE_S)
    os.close(memory)
    os.close(marks)
    assert (process.returncode, errors) == (0, b"")


def test_ctrl_c_and_sigterm_are_left_to_the_parent(pool: Pool, folder: Path) -> None:
    decoders = pool(1)
    films = given(place(folder), members(folder))
    decoders.give(films)
    through(decoders, len(films))
    before = processes()
    for sent in (signal.SIGINT, signal.SIGTERM):
        os.kill(before[0], sent)
    decoders.give(films)
    assert not any(d.failure for d in through(decoders, len(films)))
    assert processes() == before


def test_decoders_that_cannot_start_are_an_error_soon_and_not_a_wait(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    decoders = pool(2)
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="decoder processes do not start"):
        while time.monotonic() - began < samples.PATIENCE_S:
            list(decoders.collect(0.1))
