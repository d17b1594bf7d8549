"""Archives: the same films from every kind, and a name for what is none."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
import zlib
from pathlib import Path

import pytest
import zstandard

from tests.worker.archives import FILES, MAKERS, as_zip, contents, failure, listed, lock, refusal
from worker import archive
from worker.errors import ArchiveError


@pytest.mark.parametrize("maker", MAKERS)
def test_every_kind_gives_the_same_names_and_bytes(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "films", FILES)
    assert archive.kind(str(path)) == maker.split()[0]
    assert contents(path) == FILES


@pytest.mark.parametrize("maker", MAKERS)
def test_a_listing_is_the_same_twice(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "films", {"a/": b"", **FILES} if "zip" in maker else FILES)
    with archive.open_source(str(path)) as source:
        whole = list(source.members())
        passed = dict(source.skipped)
        assert list(source.members()) == whole
        assert dict(source.skipped) == passed


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_no_film_by_construction_is_counted(maker: str, tmp_path: Path) -> None:
    clutter = {
        "__MACOSX/a/._1.png": b"",
        "a/._1.png": b"",
        ".DS_Store": b"",
        "a/Thumbs.db": b"",
        "a/desktop.ini": b"",
        "a/not__MACOSX.png": b"a film",
        "readme.txt": b"a member: what it is, the film rule says",
    }
    path = MAKERS[maker](tmp_path / "films", clutter)
    with archive.open_source(str(path)) as source:
        names = [m.name for m in source.members()]
        assert sorted(names) == ["a/not__MACOSX.png", "readme.txt"]
        assert source.skipped["macos_metadata"] == 3
        assert source.skipped["windows_metadata"] == 2


@pytest.mark.parametrize("maker", MAKERS)
def test_a_member_larger_than_allowed_is_not_read(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "films", {"a.png": bytes(2_000)})
    assert failure(path, max_bytes=1_999).code == "too_large"
    assert contents(path) == {"a.png": bytes(2_000)}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_fingerprint_changes_only_with_the_archive(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "films", FILES)
    with archive.open_source(str(path)) as source, archive.open_source(str(path)) as again:
        before = source.fingerprint()
        assert again.fingerprint() == before
    if maker == "folder":
        return  # only its path
    status = path.stat()
    MAKERS[maker](path, {**FILES, "more": b"1"})
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with archive.open_source(str(path)) as source:
        assert source.fingerprint() != before


@pytest.mark.parametrize("maker", ["folder", "zip", "tar", "tar.gz"])
def test_an_empty_archive_lists_nothing(maker: str, tmp_path: Path) -> None:
    path = tmp_path / "films"
    if maker == "folder":
        path.mkdir()
    else:
        MAKERS[maker](path, {})
    assert archive.kind(str(path)) == maker
    assert listed(path) == []


def test_one_image_is_an_archive_of_one(tmp_path: Path) -> None:
    path = tmp_path / "chest 1.jpeg"
    path.write_bytes(b"\xff\xd8\xff\xe0 a film")
    assert archive.kind(str(path)) == "file"
    assert contents(path) == {"chest 1.jpeg": b"\xff\xd8\xff\xe0 a film"}


@pytest.mark.parametrize("suffix", [".jpeg", ".tar.gz", ""])
def test_extensions_are_not_trusted(suffix: str, tmp_path: Path) -> None:
    assert contents(as_zip(tmp_path / f"films{suffix}", FILES)) == FILES


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", "empty", "0 bytes"),
        (b"\n <!DOCTYPE html><title>Sign in</title>", "unsupported", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "unsupported", "git lfs pull"),
        (b"7z\xbc\xaf\x27\x1c\0\0", "unsupported", "7z"),
        (b"\x28\xb5\x2f\xfd\0\0", "truncated", "cut short"),
        (zstandard.compress(b"hello"), "unsupported", "no tar is inside"),
        (b"\x28\xb5\x2f\xfd nothing like it", "corrupt", "damaged"),
        (b"hello", "unsupported", "What can be read: a folder, a .zip"),
        (bytes(4096), "unsupported", "unfinished download"),
        (b"Rar!\x1a\x07\x01\0", "unsupported", "a RAR archive; pack it again as .zip"),
        (bytes(32_769) + b"CD001\x01", "unsupported", "an ISO image of a disc; mount it"),
        (b"ER\2" + bytes(32_766) + b"CD001\x01", "unsupported", "an ISO image of a disc"),
        (
            b"\r\n--b1\r\nContent-Type: application/dicom\r\n\r\n" + bytes(128) + b"DICM",
            "unsupported",
            "several parts, as DICOMweb (WADO-RS)",
        ),
        (gzip.compress(b"hello", mtime=0), "unsupported", "no tar is inside"),
        (gzip.compress(random.Random(3).randbytes(5_000), mtime=0)[:200], "truncated", "cut short"),
        (b"\x1f\x8b\x08 nothing like it", "corrupt", "damaged"),
        (b"PK\x03\x04 and nothing more", "truncated", "download it again"),
        (b"PK\x07\x08PK\x03\x04", "multi_disk", "zip -s 0"),
    ],
)
def test_what_is_no_archive_is_refused_with_what_it_is(
    content: bytes, code: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "films.zip"
    path.write_bytes(content)
    error = refusal(path)
    assert error.code == code
    assert says in str(error)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("f.zip.001", b"PK\x03\x04" + bytes(99), "`cat f.zip.* > f.zip`"),
        ("f.zip.002", bytes(99), "`cat f.zip.* > f.zip`"),
        ("f.ZIP.003", b"x" + b"PK\x05\x06" + bytes(18), "`cat f.ZIP.* > f.ZIP`"),
        ("f.7z.001", b"7z\xbc\xaf\x27\x1c", "`cat f.7z.* > f.7z`"),
        ("f.tar.gz.aa", b"\x1f\x8b\x08" + bytes(99), "`cat f.tar.gz.* > f.tar.gz`"),
        ("f.tar.gz.ab", b"hello", "`cat f.tar.gz.* > f.tar.gz`"),
        ("f.z02", b"\x88\x01\x02", "`zip -s 0 first.zip --out whole.zip`"),
        ("f.part2.rar", b"Rar!\x1a\x07\x01\0", "unpack it from its first part"),
        ("f.r00", b"\x01\x02", "unpack it from its first part"),
    ],
)
def test_a_part_of_an_archive_that_was_split_says_how_to_join_them(
    name: str, content: bytes, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert error.code == "multi_disk"
    assert "one part of an archive that was split" in str(error)
    assert says in str(error)


def test_a_first_part_that_is_all_there_is_is_read(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "f.zip.001", FILES)
    assert contents(path) == FILES
    (tmp_path / "IM.r01").write_bytes(b"\xff\xd8\xff\xe0 a film")
    assert archive.kind(str(tmp_path / "IM.r01")) == "file"


def test_a_path_that_leads_nowhere_is_not_found(tmp_path: Path) -> None:
    for uri in ("nothing.zip", "a\0b", str(tmp_path / "a" / "b.zip")):
        with pytest.raises(ArchiveError) as caught:
            archive.open_source(uri)
        assert caught.value.code == "not_found"
    with pytest.raises(ArchiveError, match="own machine"):
        archive.open_source("s3://bucket/films.zip")
    with pytest.raises(ArchiveError) as caught:
        archive.open_reader("zip", str(tmp_path / "gone.zip"))
    assert caught.value.code == "not_found"


def test_a_pipe_is_no_archive_and_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").code == "unsupported"


@pytest.mark.parametrize("maker", MAKERS)
def test_an_archive_without_permission_says_so(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "films", FILES)
    lock(path)
    error = refusal(path)
    path.chmod(0o700)
    assert error.code == "unreadable"
    assert "permission denied" in str(error)


def test_a_packed_listing_is_small_exact_and_as_quick_as_json() -> None:
    rng = random.Random(5)
    members, offset = [], 0
    for n in range(1_000):
        stored = rng.randrange(20_000, 900_000)
        members.append(
            archive.Member(
                name=f"chest_xray/train/PNEUMONIA/person{rng.randrange(2_000)}_bacteria_{n}.jpeg",
                offset=offset,
                stored=stored,
                size=stored + rng.randrange(900),
                method=archive.DEFLATED,
                crc=rng.randrange(1 << 32),
            )
        )
        offset += stored + 120
    ours, theirs = [], []
    for _ in range(5):
        began = time.process_time()
        listing = archive.pack(members)
        ours.append(time.process_time() - began)
        began = time.process_time()
        zlib.compress(json.dumps(members).encode())
        theirs.append(time.process_time() - began)
    assert min(ours) < 2 * min(theirs)
    assert len(listing) < 20_000
    assert archive.unpack(listing) == members


def test_a_packed_listing_keeps_every_field() -> None:
    members = [
        archive.Member(
            name="\udcff\0\ud800 'x' Ж", offset=1 << 50, stored=0, size=9, method=-1, crc=None
        ),
        archive.Member(name="", offset=0, stored=1 << 40, size=0, method=99, crc=0),
    ]
    assert archive.unpack(archive.pack(members)) == members
    assert archive.unpack(archive.pack([])) == []


def test_a_damaged_listing_is_refused() -> None:
    listing = archive.pack([])
    for damaged in (b"", b"nonsense", listing[:-3]):
        with pytest.raises(ValueError, match="damaged"):
            archive.unpack(damaged)
