"""Whose trouble an error of the system is, by where it occurred."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.support.broken import mounts
from worker import archive
from worker.archive import trouble
from worker.archive.member import STORED, UNEXAMINED, Member
from worker.errors import ArchiveError, MemberError, SourceTrouble

ERRNOS = [
    errno.ENOENT, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTDOWN,
]  # fmt: skip


@pytest.mark.parametrize("number", ERRNOS)
def test_at_the_root_it_is_the_sources_and_at_a_member_the_films(number: int) -> None:
    error = OSError(number, os.strerror(number))
    root = trouble.at_root("/share/films.zip", error)
    assert isinstance(root, SourceTrouble) and root.whose == "source"
    assert "/share/films.zip" in str(root)
    member = trouble.at_member(error)
    assert member.whose == "film"


@pytest.mark.parametrize("number", sorted(trouble.MACHINE))
def test_what_a_machine_has_run_out_of_is_the_machines_wherever_it_shows(number: int) -> None:
    error = OSError(number, os.strerror(number))
    root = trouble.at_root("/share", error)
    assert isinstance(root, SourceTrouble) and root.whose == "machine"
    assert trouble.at_member(error).whose == "machine"


def test_a_path_that_no_file_can_have_is_nobodys_trouble() -> None:
    with pytest.raises(ArchiveError) as caught:
        archive.open_source("a\0b")
    assert trouble.whose(caught.value) == ""
    assert trouble.at_member(OSError(errno.ENAMETOOLONG, "too long")).whose == ""


def test_a_folder_that_loses_all_that_was_seen_in_it_while_it_is_listed_is_in_trouble(
    tmp_path: Path,
) -> None:
    films = tmp_path / "films"
    for name in ("a.png", "b.png", "sub/c.png"):
        (films / name).parent.mkdir(parents=True, exist_ok=True)
        (films / name).write_bytes(b"x")
    with archive.open_source(str(films)) as source:
        members = source.members()
        assert next(members).name == "a.png"
        shutil.rmtree(films)
        films.mkdir()  # as an unmounted mount point is left
        with pytest.raises(SourceTrouble):
            list(members)


def test_the_folder_of_a_list_that_the_system_does_not_let_us_examine_is_in_trouble(
    tmp_path: Path,
) -> None:
    real = tmp_path / "real"
    (real / "films").mkdir(parents=True)
    (real / "films" / "a.png").write_bytes(b"x")
    with mounts.share(real, tmp_path / "share") as share:
        for number in set(ERRNOS) - {errno.ENOENT}:
            share.errs(number, names="films")
            with pytest.raises(SourceTrouble):
                archive.open_reader("list", str(share.at / "films" / "list.txt"))
        share.recovers()
        archive.open_reader("list", str(share.at / "films" / "list.txt")).close()
        share.die()
        with pytest.raises(SourceTrouble):
            archive.open_reader("list", str(share.at / "list.txt"))


def test_films_of_a_list_that_is_gone_are_read_and_none_beside_a_folder_that_is(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    film = Member(name="a.png", offset=0, stored=1, size=1, method=STORED, crc=None)
    whole = film._replace(name=f"{tmp_path}/a.png")
    for uri in (tmp_path / "gone", tmp_path / "gone" / "list.txt"):
        reader = archive.open_reader("list", str(uri))
        assert reader.read(whole) == b"x"
        if uri.parent.exists():
            assert reader.read(film) == b"x"
        else:
            with pytest.raises(MemberError) as caught:
                reader.read(film)
            assert (caught.value.code, caught.value.whose) == ("missing", "film")
        reader.close()
    with pytest.raises(SourceTrouble, match="there is no such file or folder"):
        archive.open_reader("folder", str(tmp_path / "gone"))


def test_a_folder_that_is_empty_now_is_in_trouble_only_if_it_was_not_when_submitted(
    tmp_path: Path,
) -> None:
    with archive.open_source(str(tmp_path)) as source:
        empty = source.fingerprint()
        assert not source.has_changed(empty)
    (tmp_path / "a.png").write_bytes(b"x")
    with archive.open_source(str(tmp_path)) as source:
        filled = source.fingerprint()
        assert not source.has_changed(empty)
    (tmp_path / "a.png").unlink()
    with archive.open_source(str(tmp_path)) as source, pytest.raises(SourceTrouble, match="empty"):
        source.has_changed(filled)
    with pytest.raises(SourceTrouble, match="empty"):
        archive.open_reader("folder", str(tmp_path))


def test_a_file_that_could_not_be_examined_is_read_whatever_size_it_turns_out_to_have(
    tmp_path: Path,
) -> None:
    (tmp_path / "here.png").write_bytes(b"x")
    with archive.open_source(str(tmp_path), "list", ["here.png", "late.png"]) as source:
        here, late = archive.unpack(archive.pack(list(source.members())))
    assert (here.crc, late.crc, late.size) == (None, UNEXAMINED, 0)
    reader = archive.open_reader("folder", str(tmp_path))
    with pytest.raises(MemberError) as caught:
        reader.read(late)
    assert caught.value.whose == "film"
    (tmp_path / "late.png").write_bytes(b"12345")
    assert reader.read(late) == b"12345"
    with pytest.raises(MemberError, match="at most 3 are read"):
        reader.read(late, max_bytes=3)
    reader.close()
