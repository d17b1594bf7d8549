"""Archives: the same films from every kind, and a name for all that can be wrong with one."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from worker import archive
from worker.errors import ArchiveError, MemberError

#: Name → bytes: text that deflates, noise that does not, an empty file, deep folders, no extension.
FILES = {
    "NORMAL/IM-0001.jpeg": random.Random(1).randbytes(30_000),
    "NORMAL/IM-0002.jpeg": b"a film that deflates well " * 2_000,
    "PNEUMONIA/bacteria/deep/er/person1.jpeg": random.Random(2).randbytes(70_000),
    "PNEUMONIA/empty.jpeg": b"",
    "no-extension": b"x",
    "größe Ä.png": b"umlauts",
}


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return path


def as_tar_zst(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(
        zstandard.ZstdCompressor(write_checksum=True).compress(as_tar(path, files).read_bytes())
    )
    return path


def as_tar(path: Path, files: dict[str, bytes], compress: str = "") -> Path:
    with tarfile.open(path, f"w:{compress}") as out:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": as_folder,
    "zip": as_zip,
    "zip stored": lambda p, f: as_zip(p, f, zipfile.ZIP_STORED),
    "tar": as_tar,
    "tar.gz": lambda p, f: as_tar(p, f, "gz"),
    "tar.zst": as_tar_zst,
}


def listed(path: Path) -> list[archive.Member]:
    with archive.open_source(str(path)) as source:
        return list(source.members())


@contextmanager
def reading(path: Path) -> Iterator[archive.Reader]:
    """A reader, whatever the kind: a compressed tar through one window of the whole stream."""
    kind = archive.kind(str(path))
    if kind not in archive.WINDOWED:
        reader = archive.open_reader(kind, str(path))
        yield reader
        reader.close()
        return
    end = max(m.offset + m.size for m in listed(path))
    spool = archive.open_spool(archive.kind(str(path)), str(path), None)
    fd = spool.window(0, end)
    yield archive.ExtentReader(fd)
    os.close(fd)
    spool.close()


def contents(path: Path) -> dict[str, bytes]:
    with reading(path) as reader:
        return {m.name: reader.read(m) for m in listed(path)}


def refusal(path: Path) -> ArchiveError:
    """The error that the whole archive is refused with, on opening or while listing."""
    with pytest.raises(ArchiveError) as caught:
        listed(path)
    assert str(path) in str(caught.value)
    return caught.value


def failure(path: Path, member: archive.Member | None = None, **options: int) -> MemberError:
    """The error of reading one member (the first), given by name."""
    with reading(path) as reader, pytest.raises(MemberError) as caught:
        reader.read(member or listed(path)[0], **options)
    return caught.value


def lock(path: Path) -> None:
    """Take all permissions away; skip the test where that stops nobody."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(0o700)
        pytest.skip("this user may read everything")


def patched(path: Path, where: bytes, skip: int, new: bytes, *, last: bool = True) -> Path:
    """Overwrite bytes `skip` after a signature."""
    data = bytearray(path.read_bytes())
    at = (data.rindex(where) if last else data.index(where)) + skip
    data[at : at + len(new)] = new
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("maker", MAKERS)
def test_every_kind_gives_the_same_names_and_bytes(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "films", FILES)
    assert archive.kind(str(path)) == maker.split()[0]
    assert contents(path) == FILES


@pytest.mark.parametrize("maker", MAKERS)
def test_a_listing_is_the_same_twice_and_can_start_anywhere(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "films", {"a/": b"", **FILES} if "zip" in maker else FILES)
    with archive.open_source(str(path)) as source:
        whole = list(source.members())
        passed = dict(source.passed_over)
        assert list(source.members()) == whole
        assert list(source.members(start=4)) == whole[4:]
        assert list(source.members(start=99)) == []
        assert dict(source.passed_over) == passed


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
        assert source.passed_over["macos_metadata"] == 3
        assert source.passed_over["windows_metadata"] == 2


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


def test_a_zip_fingerprint_sees_other_films_of_equal_size_and_time(tmp_path: Path) -> None:
    prints = []
    for content in (b"one", b"two"):
        path = as_zip(tmp_path / "a.zip", {"a.png": content}, zipfile.ZIP_STORED)
        os.utime(path, (0, 0))
        with archive.open_source(str(path)) as source:
            prints.append(source.fingerprint())
    assert prints[0] != prints[1]


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


def test_a_folder_goes_depth_first_by_name(tmp_path: Path) -> None:
    names = ["b/2", "b/1/x", "a", "c", "b/10", "B"]
    as_folder(tmp_path, dict.fromkeys(names, b""))
    assert [m.name for m in listed(tmp_path)] == ["B", "a", "b/1/x", "b/10", "b/2", "c"]


def test_links_to_files_are_read_and_linked_folders_not_entered(tmp_path: Path) -> None:
    films = as_folder(tmp_path / "films", {"a/1.png": b"one"})
    as_folder(tmp_path / "elsewhere", {"2.png": b"two"})
    (films / "2.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (films / "a" / "loop").symlink_to(films)
    (films / "further").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(films / "pipe")
    assert contents(films) == {"2.png": b"two", "a/1.png": b"one"}
    with archive.open_source(str(films)) as source:
        list(source.members())
    assert source.passed_over == {"directory": 1, "linked_directory": 2, "special_file": 1}


def test_a_link_that_leads_nowhere_is_a_member_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    dangling, circle = listed(tmp_path)
    assert failure(tmp_path, dangling).code == "missing"
    assert failure(tmp_path, circle).code == "unreadable"


def test_a_file_that_changed_since_the_listing_is_named(tmp_path: Path) -> None:
    as_folder(
        tmp_path, {"gone": b"1", "grown": b"1", "shrunk": b"123", "swapped": b"", "same": b"1"}
    )
    gone, grown, same, shrunk, swapped = listed(tmp_path)
    (tmp_path / "gone").unlink()
    (tmp_path / "grown").write_bytes(b"12")
    (tmp_path / "shrunk").write_bytes(b"12")
    (tmp_path / "swapped").unlink()
    os.mkfifo(tmp_path / "swapped")
    assert failure(tmp_path, gone).code == "missing"
    for member in (grown, shrunk, swapped):
        assert failure(tmp_path, member).code == "changed"
    with reading(tmp_path) as reader:
        assert reader.read(same) == b"1"


def test_a_file_and_a_folder_without_permission_cost_themselves_only(tmp_path: Path) -> None:
    as_folder(tmp_path, {"closed/1.png": b"1", "secret.png": b"2", "z.png": b"3"})
    lock(tmp_path / "closed")
    lock(tmp_path / "secret.png")
    closed, secret, readable = listed(tmp_path)
    codes = [failure(tmp_path, m).code for m in (closed, secret)]
    with reading(tmp_path) as reader:
        assert reader.read(readable) == b"3"
    (tmp_path / "closed").chmod(0o700)
    assert (closed.name, codes) == ("closed/", ["unreadable", "unreadable"])


def test_a_very_deep_folder_is_listed(tmp_path: Path) -> None:
    path = str(tmp_path)
    for _ in range(1_200):  # step by step: pathlib itself recurses
        path += "/d"
        os.mkdir(path)  # noqa: PTH102
    (Path(path) / "film.png").write_bytes(b"deep")
    sizes = [m.size for m in listed(tmp_path)]
    (Path(path) / "film.png").unlink()
    while path != str(tmp_path):  # pytest's own cleaning recurses too
        os.rmdir(path)  # noqa: PTH106
        path = path.rpartition("/")[0]
    assert sizes == [4]


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


def test_a_zip_name_without_the_utf8_flag_is_code_page_437(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {"AAAA.png": b"1"})
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"gr\x94\xe1"))
    assert list(contents(path)) == ["größ.png"]


def test_a_zip_name_in_the_unicode_field_wins_unless_stale(tmp_path: Path) -> None:
    for crc, expected in ((zlib.crc32(b"\x94.png"), "Ж.png"), (1, "ö.png")):
        info = zipfile.ZipInfo("A.png")
        unicode_name = "Ж.png".encode()
        field = struct.pack("<BI", 1, crc) + unicode_name
        info.extra = struct.pack("<2H", 0x7075, len(field)) + field
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as out:
            out.writestr(info, b"1")
        path.write_bytes(path.read_bytes().replace(b"A.png", b"\x94.png"))
        (name,) = contents(path)
        assert name == expected


def test_a_name_is_shown_without_anything_that_could_harm() -> None:
    assert archive.display("NORMAL/größe Ж 胸.png") == "NORMAL/größe Ж 胸.png"
    assert archive.display("a\0b\x1b[2J\n\udcff\u202egnp") == r"a\x00b\x1b[2J\n\xff\u202egnp"
    assert archive.display("\ud800") == r"\ud800"
    assert archive.display("a\0\udc80\ud812").encode().isascii()


def test_names_that_climb_out_are_only_names(tmp_path: Path) -> None:
    files = {"../../etc/passwd": b"1", "/absolute.png": b"2", "a\\b.png": b"3"}
    assert contents(as_zip(tmp_path / "a.zip", files)) == files


def test_long_names_of_both_tar_formats_are_read(tmp_path: Path) -> None:
    name = "/".join(["a long folder name of forty characters ö"] * 9) + "/film.png"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=form) as out:
            info = tarfile.TarInfo(name)
            info.size = 3
            out.addfile(info, io.BytesIO(b"one"))
        assert contents(path) == {name: b"one"}


@pytest.mark.parametrize("before", [1, 70_000])
def test_a_zip_behind_a_program_is_read(before: int, tmp_path: Path) -> None:
    path = as_zip(tmp_path / "setup.exe", FILES)
    path.write_bytes(b"MZ" * before + path.read_bytes())
    assert archive.kind(str(path)) == "zip"
    assert contents(path) == FILES


def test_a_zip_with_a_comment_or_bytes_after_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a.png", b"1")
        out.comment = b"PK\x05\x06" + b"looks like an end record" * 2
    assert contents(path) == {"a.png": b"1"}
    path.write_bytes(path.read_bytes() + b"trailing")
    assert contents(path) == {"a.png": b"1"}


@pytest.mark.parametrize("before", [b"", b"#!/bin/sh\nexit\n" + bytes(99)])
def test_zip64_records_are_read(before: bytes, tmp_path: Path) -> None:
    """Sizes, offset and the end record all moved to their 64-bit fields, as for a huge archive."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        for name, data in FILES.items():
            with out.open(name, "w", force_zip64=True) as file:
                file.write(data)
    with zipfile.ZipFile(path) as there:
        infos = there.infolist()
        start = there.start_dir
    data = path.read_bytes()[:start]
    directory = b""
    for info in infos:
        raw = info.filename.encode()
        extra = b"\x99\x99\x02\x00ab" + struct.pack(
            "<2H3QI", 1, 28, info.file_size, info.compress_size, info.header_offset, 0
        )
        header = (b"PK\x01\x02", 45, 45, 0x800, info.compress_type, 0, 0, info.CRC)
        full = 0xFFFFFFFF
        directory += struct.pack(
            "<4s6H3I5H2I", *header, full, full, len(raw), len(extra), 0, 0xFFFF, 0, 0, full
        )
        directory += raw + extra
    counts = (len(infos), len(infos), len(directory), start)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *counts)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + len(directory), 1)
    end = b"PK\x05\x06" + b"\xff" * 16 + b"\0\0"
    path.write_bytes(before + data + directory + end64 + locator + end)
    assert contents(path) == FILES


def test_a_zip_of_more_than_65535_members_is_listed_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    entry = b"".join(
        struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 9, 9, 20, 0, 0, 0, 0, 0, n * 59
        )
        + b"NORMAL/%08d.jpeg" % n
        for n in range(70_000)
    )
    # No Zip64 record: writers of old let the count wrap round.
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 4464, 4464, len(entry), 0, 0)
    path.write_bytes(entry + end)
    with archive.open_source(str(path)) as source:
        tracemalloc.start()
        count = sum(1 for _ in source.members())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 70_000
    assert peak < 2_000_000


@pytest.mark.parametrize("maker", ["tar", "tar.gz"])
def test_a_tar_of_many_members_is_listed_in_little_memory(maker: str, tmp_path: Path) -> None:
    path = MAKERS[maker](tmp_path / "many", {f"{n}.png": b"1" for n in range(3_000)})
    with archive.open_source(str(path)) as source:
        tracemalloc.start()
        count = sum(1 for _ in source.members())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 3_000
    assert peak < 4_500_000


def test_a_zip_cut_anywhere_is_truncated(tmp_path: Path) -> None:
    whole = as_zip(tmp_path / "a.zip", FILES).read_bytes()
    for cut in range(5, len(whole), 997):
        (tmp_path / "cut.zip").write_bytes(whole[:cut])
        assert refusal(tmp_path / "cut.zip").code == "truncated"


def test_a_zip_that_lacks_bytes_in_the_middle_is_corrupt(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", FILES)
    data = path.read_bytes()
    path.write_bytes(data[:5_000] + data[6_000:])
    assert refusal(path).code == "corrupt"


def test_a_damaged_zip_directory_is_corrupt_and_says_where(tmp_path: Path) -> None:
    path = patched(as_zip(tmp_path / "a.zip", FILES), b"PK\x01\x02", 0, b"XX")
    assert "damaged after 5 entries" in str(refusal(path))
    path = patched(as_zip(tmp_path / "a.zip", FILES), b"PK\x05\x06", 8, struct.pack("<2H", 9, 9))
    assert "lists 6 entries where 9 are stated" in str(refusal(path))
    path = patched(as_zip(tmp_path / "a.zip", FILES), b"PK\x01\x02", 28, b"\xff\xff")
    assert refusal(path).code == "corrupt"


def test_a_part_of_a_split_zip_says_how_to_join_them(tmp_path: Path) -> None:
    path = patched(as_zip(tmp_path / "a.zip", FILES), b"PK\x05\x06", 4, struct.pack("<2H", 1, 0))
    error = refusal(path)
    assert error.code == "multi_disk"
    assert "zip -s 0" in str(error)


def test_an_encrypted_member_costs_itself_only(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {"a.png": b"1", "b.png": b"2"})
    patched(path, b"PK\x03\x04", 6, b"\x01", last=False)
    first, second = listed(path)
    assert failure(path, first).code == "encrypted"
    with reading(path) as reader:
        assert reader.read(second) == b"2"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_named(method: int, tmp_path: Path) -> None:
    error = failure(as_zip(tmp_path / "a.zip", {"a.png": b"1" * 99}, method))
    assert error.code == "unsupported_compression"
    assert "bzip2" in str(error) or "LZMA" in str(error)


def test_a_wrong_checksum_is_named(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {"a.png": b"film" * 99}, zipfile.ZIP_STORED)
    patched(path, b"film", 0, b"FILM")
    assert failure(path).code == "crc_mismatch"


def test_damaged_deflate_data_is_corrupt(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {"a.png": bytes(range(256)) * 9})
    patched(path, b"a.png", 5, b"\xff" * 9, last=False)
    assert failure(path).code == "corrupt"


def test_a_member_that_lies_about_its_size_is_not_inflated(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "bomb.zip", {"a.png": bytes(50_000_000)})
    patched(path, b"PK\x01\x02", 24, struct.pack("<I", 1_000))
    tracemalloc.start()
    error = failure(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.code == "too_large"
    assert peak < 5_000_000
    patched(path, b"PK\x01\x02", 24, struct.pack("<I", 0))
    assert failure(path).code == "too_large"
    patched(path, b"PK\x01\x02", 24, struct.pack("<I", 50_000_001))
    assert failure(path).code == "truncated"


def test_a_zip_replaced_or_cut_after_its_listing_is_noticed(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", FILES)
    members = listed(path)
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    reader = archive.open_reader("zip", str(path))
    with pytest.raises(MemberError) as caught:
        reader.read(members[0])
    assert caught.value.code == "changed"
    path.write_bytes(data[: members[2].offset + 500])
    for member in members[2:]:
        with pytest.raises(MemberError) as caught:
            reader.read(member)
        assert caught.value.code == "truncated"
    reader.close()


def test_a_member_with_a_very_long_local_header_is_read(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a.png")
    info.extra = struct.pack("<2H", 0x9999, 60_000) + bytes(60_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(info, b"film")
    assert contents(path) == {"a.png": b"film"}


def test_a_link_in_a_zip_is_a_member_that_is_not_read(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.png")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(info, "a.png")
    assert failure(path).code == "link"


def test_links_in_a_tar_are_members_that_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as out:
        for name, form in (("s", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE), ("p", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = form, "a.png"
            out.addfile(info)
    assert [failure(path, m).code for m in listed(path)] == ["link", "link"]


@pytest.mark.parametrize("maker", ["tar", "tar.gz"])
def test_a_tar_cut_anywhere_is_truncated(maker: str, tmp_path: Path) -> None:
    whole = MAKERS[maker](tmp_path / "a", FILES).read_bytes()
    used = len(whole) if maker == "tar.gz" else len(whole.rstrip(b"\0"))
    cuts = [*range(600, used, 4_999), used // 512 * 512]
    if maker == "tar.gz":
        cuts += [len(whole) - 12, len(whole) - 8, len(whole) - 1]
    for cut in cuts:
        (tmp_path / "cut").write_bytes(whole[:cut])
        assert refusal(tmp_path / "cut").code == "truncated", cut


def test_a_tar_cut_between_two_members_is_truncated(tmp_path: Path) -> None:
    whole = as_tar(tmp_path / "a.tar", FILES)
    border = listed(whole)[2].offset - 512
    for data in (whole.read_bytes()[:border], gzip.compress(whole.read_bytes()[:border])):
        (tmp_path / "cut").write_bytes(data)
        error = refusal(tmp_path / "cut")
        assert error.code == "truncated"
        assert f"after 2 entries, at byte {border:,}" in str(error)


def test_a_damaged_tar_header_is_corrupt_and_says_where(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "a.tar", FILES)
    patched(path, b"no-extension", 2, b"X")
    error = refusal(path)
    assert error.code == "corrupt"
    assert "after 4 entries" in str(error)


def test_a_second_tar_behind_the_first_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    first = as_tar(tmp_path / "a.tar", FILES).read_bytes()
    for data in (first + first, gzip.compress(first) + gzip.compress(first)):
        (tmp_path / "both").write_bytes(data)
        error = refusal(tmp_path / "both")
        assert error.code == "corrupt"
        assert "another tar follows" in str(error)


def test_a_tar_that_changed_since_its_listing_is_noticed(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "a.tar", FILES)
    members = listed(path)
    as_tar(path, {"first": bytes(3_000), **FILES})
    with pytest.raises(MemberError) as caught, reading(path) as reader:
        reader.read(members[2])
    assert caught.value.code == "changed"
    path.write_bytes(path.read_bytes()[:4_000])
    assert archive.kind(str(path)) == "tar"
    reader = archive.open_reader("tar", str(path))
    with pytest.raises(MemberError) as caught:
        reader.read(members[2])
    reader.close()
    assert caught.value.code == "truncated"


def test_a_header_that_claims_gigabytes_for_itself_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf() + bytes(2_000))
    assert refusal(path).code in ("corrupt", "truncated")


@pytest.fixture(scope="module")
def big_tar_gz(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """24 MB of stream: enough for several seek points. Noise and text take turns."""
    rng = random.Random(4)
    files = {}
    for n in range(60):
        noise = rng.randbytes(200_000)
        files[f"{n:03}.png"] = noise + (f"text {n} ".encode() * 30_000)[:200_000]
    return as_tar(tmp_path_factory.mktemp("big") / "a.tar.gz", files, "gz"), files


def test_a_window_from_the_middle_is_read_with_the_index(
    big_tar_gz: tuple[Path, dict[str, bytes]],
) -> None:
    path, files = big_tar_gz
    with archive.open_source(str(path)) as source:
        members = list(source.members())
        index = source.index()
    assert index is not None and len(index) < 300_000
    spool = archive.open_spool(archive.kind(str(path)), str(path), index)
    for first, last in ((40, 50), (10, 12), (59, 59), (0, 3)):
        wanted = members[first : last + 1]
        base, end = wanted[0].offset, wanted[-1].offset + wanted[-1].size
        fd = spool.window(base, end)
        assert os.fstat(fd).st_size == end - base
        reader = archive.ExtentReader(fd, base=base)
        assert all(reader.read(m) == files[m.name] for m in wanted)
        with pytest.raises(MemberError) as caught:
            reader.read(members[-1] if last < 59 else wanted[-1], max_bytes=1)
        assert caught.value.code == "too_large"
        os.close(fd)
    spool.close()


def test_a_window_beyond_the_cap_must_be_split(big_tar_gz: tuple[Path, dict[str, bytes]]) -> None:
    spool = archive.open_spool("tar.gz", str(big_tar_gz[0]), None)
    with pytest.raises(ValueError, match="split it"):
        spool.window(0, 1_001, cap=1_000)
    with pytest.raises(ValueError, match="no window"):
        spool.window(2, 1)
    spool.close()


def test_an_archive_that_does_not_fit_its_index_has_changed(
    big_tar_gz: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    path, _ = big_tar_gz
    with archive.open_source(str(path)) as source:
        members = list(source.members())
        index = source.index()
    other = as_tar(tmp_path / "other.tar.gz", FILES, "gz")
    for wrong in (index, b"no index"):
        with pytest.raises(ArchiveError) as caught:
            archive.open_spool("tar.gz", str(other), wrong)
        assert caught.value.code == "changed"
    spool = archive.open_spool("tar.gz", str(other), None)
    with pytest.raises(ArchiveError) as caught:
        spool.window(members[30].offset, members[31].offset)
    assert caught.value.code == "changed"
    spool.close()


@pytest.mark.parametrize("level", [0, 6])
def test_one_flipped_bit_in_a_compressed_tar_is_found(level: int, tmp_path: Path) -> None:
    plain = as_tar(tmp_path / "a.tar", FILES).read_bytes()
    data = bytearray(gzip.compress(plain, level))
    data[len(data) // 2] ^= 1
    (tmp_path / "flip.tar.gz").write_bytes(data)
    assert refusal(tmp_path / "flip.tar.gz").code == "corrupt"
    data = bytearray(gzip.compress(plain, level))
    data[-6] ^= 1  # in the checksum itself
    (tmp_path / "flip.tar.gz").write_bytes(data)
    assert refusal(tmp_path / "flip.tar.gz").code == "corrupt"


def test_a_compressed_tar_in_several_streams_or_with_bytes_behind_it_is_read(
    tmp_path: Path,
) -> None:
    plain = as_tar(tmp_path / "a.tar", FILES).read_bytes()
    half = len(plain) // 2
    streams = gzip.compress(plain[:half]) + gzip.compress(plain[half:])
    for data in (streams, streams + bytes(700), streams + b"signature"):
        (tmp_path / "a.tar.gz").write_bytes(data)
        assert contents(tmp_path / "a.tar.gz") == FILES


def test_a_packed_listing_is_small_quick_and_exact() -> None:
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
    began = time.perf_counter()
    listing = archive.pack(members)
    assert time.perf_counter() - began < 0.1  # some 2 ms on an idle core
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
