"""Names in archives: in any encoding, shown safely, and none that could do harm."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
from pathlib import Path

import pytest
import zstandard

from tests.worker.archives import MAKERS, as_tar, as_zip, contents, listed, patched, reading
from worker import archive
from worker.archive.names import Seen, skipped_as
from worker.errors import MemberError


def test_names_keep_bytes_that_are_no_text(tmp_path: Path) -> None:
    raw = b"caf\xe9\xff.png"
    folder, tar = tmp_path / "folder", tmp_path / "a.tar"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/" + raw)).write_bytes(b"1")
    as_tar(tar, {raw.decode("utf-8", "surrogateescape"): b"1"})
    # As long as the raw name, so that it can be put in its place, in the directory and before data.
    plain = b"A" * len(raw)
    zipped = as_zip(tmp_path / "a.zip", {plain.decode(): b"1"})
    data = zipped.read_bytes().replace(plain, raw)
    zipped.write_bytes(data)
    patched(zipped, b"PK\x01\x02", 8, struct.pack("<H", 0x800))
    for path in (folder, tar, zipped):
        (name,) = contents(path)
        assert name == raw.decode("utf-8", "surrogateescape")
        assert archive.display(name) == r"caf\xe9\xff.png"
        members = listed(path)
        assert archive.unpack(archive.pack(members)) == members


def test_a_name_is_shown_without_anything_that_could_harm() -> None:
    assert archive.display("NORMAL/größe Ж 胸.png") == "NORMAL/größe Ж 胸.png"
    assert archive.display("a\0b\x1b[2J\n\udcff\u202egnp") == r"a\x00b\x1b[2J\n\xff\u202egnp"
    assert archive.display("\ud800") == r"\ud800"
    assert archive.display("a\0\udc80\ud812").encode().isascii()


#: Kinds whose names are the archive's own invention.
INVENTED = [maker for maker in MAKERS if maker != "folder"]


@pytest.mark.parametrize("maker", INVENTED)
def test_names_that_climb_out_or_are_absolute_are_refused(maker: str, tmp_path: Path) -> None:
    unsafe = ["../../etc/passwd", "/absolute.png", "a/../b.png", "C:\\film.png", "a\\..\\b", "d:f"]
    safe = ["a\\b.png", "..film.png", "a..b/c.png", "./d.png", ".../e.png", "12:30.png"]
    path = MAKERS[maker](tmp_path / "a", {name: b"film" for name in unsafe + safe})
    members = listed(path)
    with reading(path) as reader:
        assert [reader.read(m) for m in members[len(unsafe) :]] == [b"film"] * len(safe)
        for member in members[: len(unsafe)]:
            with pytest.raises(MemberError) as caught:
                reader.read(member)
            assert caught.value.code == "unsafe_name", member.name
    assert archive.unpack(archive.pack(members)) == members


@pytest.mark.parametrize("maker", INVENTED)
def test_only_the_first_member_of_a_name_is_read(maker: str, tmp_path: Path) -> None:
    # Names of equal length in place of the repeated one, since writers warn of repetitions.
    path = MAKERS[maker](tmp_path / "a", {"a.png": b"1", "B.png": b"2", "C.png": b"3", "d": b"4"})
    if "zip" in maker:
        data = path.read_bytes().replace(b"B.png", b"a.png").replace(b"C.png", b"a.png")
        path.write_bytes(data)
    else:
        again = [("a.png", b"1"), ("a.png", b"2"), ("a.png", b"3"), ("d", b"4")]
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as out:
            for name, data in again:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
        pack = {"tar": bytes, "tar.gz": gzip.compress, "tar.zst": zstandard.compress}[maker]
        path.write_bytes(pack(plain.getvalue()))
    found = []
    members = listed(path)
    assert [m.name for m in members] == ["a.png", "a.png", "a.png", "d"]
    with reading(path) as reader:
        for member in members:
            try:
                found.append(reader.read(member).decode())
            except MemberError as error:
                found.append(error.code)
    assert found == ["1", "duplicate_name", "duplicate_name", "4"]


def test_names_that_came_before_are_known_exactly_and_in_little_memory() -> None:
    rng = random.Random(7)
    seen, known = Seen(), set[str]()
    for size in [1, 1, 2, 700, *[512] * 200]:
        names = [f"ward{rng.randrange(9)}/film{rng.randrange(150_000)}.png" for _ in range(size)]
        expected = []
        for n, name in enumerate(names):
            if name in known:
                expected.append(n)
            known.add(name)
        assert seen.again(names).tolist() == expected
    assert seen.again([]).tolist() == []
    assert seen.nbytes == 8 * len(known)


@pytest.mark.parametrize("maker", ["zip", "tar", "tar.gz", "tar.zst"])
def test_names_with_line_breaks_and_the_like_are_read(maker: str, tmp_path: Path) -> None:
    files = {"a\nb.png": b"1", "c\r\n/d\t.png": b"2", " ": b"3", "\x1b[2J": b"4", "e\u202ef": b"5"}
    assert contents(MAKERS[maker](tmp_path / "a", files)) == files


def test_a_zip_name_with_a_zero_byte_is_read_and_shown(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {"AAAA.png": b"1"})
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"A\0\0A"))
    (name,) = contents(path)
    assert (name, archive.display(name)) == ("A\0\0A.png", r"A\x00\x00A.png")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/.directory", "linux_metadata"),
        (".Trash-1000/files/film.png", "trash"),
        ("$RECYCLE.BIN/film.png", "trash"),
        ("a/@eaDir/film.png/SYNOFILE_THUMB_M.jpg", "nas_metadata"),
        ("a\\__MACOSX\\._film.png", "macos_metadata"),
        (".Spotlight-V100/store", "macos_metadata"),
        ("a/Desktop.INI", "windows_metadata"),
        ("System Volume Information/x", "windows_metadata"),
        ("a/b/", "directory"),
        ("DICOMDIR", None),
        ("films.md5", None),
        ("@eaDir.png", None),
        ("a__MACOSX/film.png", None),
        (".hidden.png", "hidden"),
        ("./film.png", None),
        ("../film.png", None),
        (".cache/film.png", "hidden"),
        ("a/#recycle/film.png", "trash"),
        ("a/.snapshot/hourly.0/film.png", "snapshot"),
        ("lost+found/film.png", "linux_metadata"),
        (".ipynb_checkpoints/film.png", "notebook"),
    ],
)
def test_clutter_is_told_by_its_name(name: str, reason: str | None) -> None:
    assert skipped_as(name) == reason
