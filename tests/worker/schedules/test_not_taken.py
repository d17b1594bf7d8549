"""Files of a watched folder that no job can take: which they are, what is said, and how it ends."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.schema import notices
from db.nightly import runs
from db.work import endings
from tests.worker.schedules.inboxes import Inbox, films, told


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite: nothing here has to do with the database."""
    return sqlite_url


def zipped(*data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number, film in enumerate(data):
            archive.writestr(f"{number}.jpg", film)
    return target.getvalue()


def tarred(*data: bytes) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for number, film in enumerate(data):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(film)
            archive.addfile(info, io.BytesIO(film))
    return target.getvalue()


#: Name → content, and a word of what is said of it.
UNREADABLE = {
    "cut.zip": (lambda one: zipped(one)[:-200], "cut short"),
    "cut.tar": (lambda one: tarred(one)[:300], "cut short"),
    "a.tar.bz2": (lambda one: bz2.compress(tarred(one)), "bzip2 -d"),
    "a.tar.xz": (lambda one: lzma.compress(tarred(one)), "xz -d"),
    "film.jpeg.gz": (gzip.compress, "no tar is inside"),
    "a.7z": (lambda one: b"7z\xbc\xaf\x27\x1c\0\4" + one, "a 7z archive"),
    "a.rar": (lambda one: b"Rar!\x1a\x07\x01\0" + one, "a RAR archive"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_archive_that_cannot_be_opened_is_no_item_and_tried_three_times(
    inbox: Inbox, name: str
) -> None:
    one, two = films(2)
    make, word = UNREADABLE[name]
    inbox.put(name, make(two))
    inbox.put("good.jpg", one)
    run = inbox.night()
    assert inbox.takes(run) == {"list": ["good.jpg"]}, "which waits for nothing"
    assert inbox.files() == {name: ("seen", 1), "good.jpg": ("taken", 1)}
    said = inbox.untaken()
    assert f"{inbox.folder}/{name}" in said and word in said
    inbox.close(run, "completed")
    for attempts in (2, 3):
        run = inbox.night()
        assert run["outcome"] == "skipped"
        assert "1 not taken: archives that cannot be read; copy them again" in run["reason"]
        assert inbox.files()[name][1] == attempts
    assert inbox.files()[name] == ("given_up", 3)
    assert told(inbox.engine) == ["not_taken", "given_up"]
    assert "1 not taken: given up after 3 attempts" in inbox.night()["reason"]
    assert f"{inbox.folder}/{name}" in inbox.untaken()
    inbox.put(name, zipped(two))
    assert inbox.takes(inbox.night()) == {"zip": [name]}, "it was copied again"


def test_what_is_neither_a_film_nor_an_archive_is_an_item_with_an_error_of_its_own(
    inbox: Inbox,
) -> None:
    inbox.put("report.txt", b"Keine Infiltrate.\n" * 9)
    inbox.put("report.pdf", b"%PDF-1.7\n" + bytes(90))
    inbox.put("zeros.zip", bytes(3000))
    inbox.put("folder.zip.001", b"half of an archive" * 9)
    names = ["folder.zip.001", "report.pdf", "report.txt", "zeros.zip"]
    assert inbox.takes(inbox.night()) == {"list": names}


def test_of_several_damaged_archives_each_is_named_and_given_up(inbox: Inbox) -> None:
    one, two = films(2)
    locked = bytearray(zipped(two))
    locked[6] |= 1  # encrypted, says the member
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1  # and so does the directory
    inbox.put("locked.zip", bytes(locked))
    inbox.put("cut.zip", zipped(two)[:-200])
    inbox.put("cut.tar.gz", gzip.compress(tarred(two, one))[: len(two)])
    inbox.put("good.jpg", one)
    run = inbox.night()
    assert "1 not taken: archives" in run["reason"]
    inbox.close(run, "failed")
    run = inbox.night()
    assert "3 not taken: archives" in run["reason"]
    assert inbox.takes(run) == {"list": ["good.jpg"]}
    for name in ("locked.zip", "cut.zip", "cut.tar.gz"):
        assert f"{inbox.folder}/{name}" in inbox.untaken()
    inbox.close(run, "completed")
    inbox.night()
    assert {state for name, state in inbox.files().items() if name != "good.jpg"} == {
        ("given_up", 3)
    }
    assert told(inbox.engine) == ["not_taken", "failed", "given_up"]


def test_a_run_that_makes_a_job_says_what_it_did_not_take(inbox: Inbox) -> None:
    one, two = films(2)
    inbox.put("a.jpg", one)
    inbox.put("two\nlines.jpg", two)
    inbox.put("cut.zip", zipped(two)[:-200])
    run = inbox.night()
    said = ["1 not taken: names", "1 not taken: archives", "names/schedule-1.csv on "]
    assert [part in run["reason"] for part in said] == [True] * 3
    inbox.close(run, "completed")
    ended = runs.get(inbox.engine, run["id"])
    assert (ended["outcome"], ended["reason"]) == ("completed", run["reason"])

    inbox.put("b.jpg", two)
    run = inbox.night()
    reason = "the disk is gone"
    write(inbox.engine, lambda c: endings.finish(c, run["job_id"], "failed", "w", reason))
    ended = runs.get(inbox.engine, run["id"])
    assert ended["reason"] == f"{reason}; {run['reason']}"
    inbox.put("two\nlines.jpg", one)
    (inbox.folder / "two\nlines.jpg").unlink()
    (inbox.folder / "cut.zip").unlink()
    assert inbox.night()["reason"] is None, "there is nothing to be said"


def test_films_whose_jobs_failed_three_times_are_told_of_once_and_named(inbox: Inbox) -> None:
    for number, data in enumerate(films(2)):
        inbox.put(f"{number}.jpg", data)
    for _ in range(3):
        inbox.close(inbox.night(), "failed")
    assert told(inbox.engine) == ["failed", "failed", "given_up", "failed"]
    with reading(inbox.engine) as connection:
        payloads = connection.execute(sa.select(notices.c.payload)).scalars().all()
    (told_of,) = [payload for payload in payloads if payload["event"] == "given_up"]
    assert told_of["files"] == 2 and "given up after three attempts" in told_of["text"]
    assert str(inbox.folder) not in str(payloads)
    for _ in range(2):
        run = inbox.night()
        assert run["outcome"] == "skipped"
        assert "2 not taken: given up after 3 attempts; copy them again" in run["reason"]
        assert f"{inbox.folder}/1.jpg" in inbox.untaken()
    assert len(told(inbox.engine)) == 4
