"""Zip archives: what writers make of the format, and all that can be wrong with one."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from tests.worker.archives import (
    FILES,
    as_tar,
    as_zip,
    contents,
    failure,
    listed,
    patched,
    reading,
    refusal,
)
from worker import archive
from worker.errors import MemberError


def test_a_zip_fingerprint_sees_other_films_of_equal_size_and_time(tmp_path: Path) -> None:
    prints = []
    for content in (b"one", b"two"):
        path = as_zip(tmp_path / "a.zip", {"a.png": content}, zipfile.ZIP_STORED)
        os.utime(path, (0, 0))
        with archive.open_source(str(path)) as source:
            prints.append(source.fingerprint())
    assert prints[0] != prints[1]


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


def test_a_wholly_encrypted_zip_is_refused_at_once(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {"a/": b"", "a/1.png": b"1", "a/2.png": b"2", "b.png": b"3"})
    with zipfile.ZipFile(path) as there:
        names = [i.filename for i in there.infolist() if not i.is_dir()]
    data = bytearray(path.read_bytes())
    for name in names[:2]:
        data[data.rindex(name.encode()) - 46 + 8] |= 1
    path.write_bytes(data)
    assert [m.name for m in listed(path)] == names, "one that is open is worth the job"
    data[data.rindex(names[2].encode()) - 46 + 8] |= 1
    path.write_bytes(data)
    error = refusal(path)
    assert error.code == "encrypted"
    assert "without a password" in str(error)


def test_a_member_that_grows_a_thousandfold_is_a_bomb_and_not_inflated(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "a.zip", {"bomb.png": bytes(70 << 20), "film.png": b"film"})
    bomb, film = listed(path)
    tracemalloc.start()
    assert failure(path, bomb).code == "bomb"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    with reading(path) as reader:
        assert reader.read(film) == b"film"


def test_a_zip_whose_members_overlap_to_fill_a_disk_is_a_bomb(tmp_path: Path) -> None:
    """Many entries of the directory lead to the same few bytes, each of which would be fine."""
    path = as_zip(tmp_path / "a.zip", {"0000.png": bytes(10 << 20)})
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    for count, refused in ((20, False), (300, True)):
        directory = b"".join(
            data[start:end].replace(b"0000.png", b"%04d.png" % n) for n in range(count)
        )
        record = (b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
        path.write_bytes(data[:start] + directory + struct.pack("<4s4H2IH", *record))
        if refused:
            assert refusal(path).code == "bomb"
        else:
            with reading(path) as reader:
                assert all(len(reader.read(m)) == 10 << 20 for m in listed(path))


def test_a_content_id_names_the_content_not_the_file(tmp_path: Path) -> None:
    films = {"a.png": b"one", "b.png": b"two"}
    one = as_zip(tmp_path / "one.zip", films)
    copy = tmp_path / "copy.zip"
    copy.write_bytes(one.read_bytes())
    os.utime(copy, (0, 0))
    other = as_zip(tmp_path / "other.zip", {**films, "b.png": b"TWO"})
    ids = []
    for path in (one, copy, other):
        with archive.open_source(str(path)) as source:
            ids.append(source.content_id())
    assert ids[0] == ids[1] != ids[2]
    assert ids[0] is not None and ids[0].startswith(f"zip:{one.stat().st_size}:")
    with archive.open_source(str(as_tar(tmp_path / "a.tar", films))) as source:
        assert source.content_id() is None


@pytest.mark.parametrize(
    ("raw", "name"),
    [("Röntgen/胸.png".encode(), "Röntgen/胸.png"), ("ä.png".encode("cp437"), "ä.png")],
    ids=["utf8", "cp437"],
)
def test_a_name_that_says_no_encoding_is_utf8_where_it_can_be(
    tmp_path: Path, raw: bytes, name: str
) -> None:
    path = as_zip(tmp_path / "a.zip", {"A" * len(raw): b"film"})
    path.write_bytes(path.read_bytes().replace(b"A" * len(raw), raw))
    assert contents(path) == {name: b"film"}


@pytest.mark.parametrize(
    ("names", "version"),
    [
        (["NORMAL/a.png", "b.c/d.jpeg", "e~f/$g.png", "h.tar/i"], "zip"),
        (["a.png", "__MACOSX/._a.png", ".DS_Store", "x/Thumbs.db", ".Trash-1/b.png"], "zip"),
        (["größe.png", "胸.png"], "zip"),
        (["a.png", "#recycle/b.png"], "zip2"),
        (["a.png", ".hidden.png"], "zip2"),
        (["a.png", "x/.cache/b.png"], "zip2"),
        (["a.png", "x\\.cache\\b.png"], "zip2"),
        (["a.png", "x/Lost+Found/b.png"], "zip2"),
    ],
)
def test_an_archive_that_older_releases_listed_alike_keeps_its_content_id(
    tmp_path: Path, names: list[str], version: str
) -> None:
    """Or what they stored of it would answer for none that is scored again."""
    path = as_zip(tmp_path / "a.zip", dict.fromkeys(names, b"1"))
    with archive.open_source(str(path)) as source:
        before = source.content_id()
    assert before is not None
    assert before.partition(":")[0] == version


@pytest.mark.parametrize(
    ("raw", "version"),
    [(b"gr\x94\xe1", "zip"), ("größ".encode(), "zip2"), (b"AAAA", "zip")],
    ids=["cp437", "utf8", "ascii"],
)
def test_an_archive_whose_names_older_releases_read_otherwise_has_another_content_id(
    tmp_path: Path, raw: bytes, version: str
) -> None:
    path = as_zip(tmp_path / "a.zip", {"A" * len(raw): b"1", "b.png": b"2"})
    path.write_bytes(path.read_bytes().replace(b"A" * len(raw), raw))
    with archive.open_source(str(path)) as source:
        found = source.content_id()
    assert found is not None and found.partition(":")[0] == version


def test_the_names_of_a_long_directory_are_all_looked_at(tmp_path: Path) -> None:
    names = [f"ward {n % 7}/film {n}{'x' * (n % 50)}.png" for n in range(9_000)]
    for odd, version in (("plain.png", "zip"), (".odd.png", "zip2")):
        path = as_zip(tmp_path / "a.zip", dict.fromkeys([*names, odd, *names[:1]][:-1], b""))
        with archive.open_source(str(path)) as source:
            assert str(source.content_id()).partition(":")[0] == version


GIB = 1 << 30


def wrapped(path: Path, places: list[int], lengths: list[int] | None = None) -> Path:
    """A zip of films at such places whose directory keeps 32 bits of each, as macOS packs it.

    With holes between them, which take no room; of one film `lengths` are of what it states.
    """
    directory = b""
    with path.open("wb") as out:
        for n, place in enumerate(places):
            name, data = b"film %d.png" % n, b"film of place %d" % place
            size = lengths[n] if lengths else len(data)
            sizes = (zlib.crc32(data), size % 2**32, size % 2**32)
            out.seek(place)
            out.write(
                struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 8, 0, 0, 0, 0, 0, 0, len(name), 0)
            )
            out.write(name + data)
            directory += struct.pack(
                "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 8, 0, 0, 0, *sizes,
                len(name), 0, 0, 0, 0, 0, place % 2**32,
            ) + name  # fmt: skip
        start = places[-1] + (lengths[-1] if lengths else 0) + 200
        out.seek(start)
        n = len(places)
        end = (b"PK\x05\x06", 0, 0, n, n, len(directory), start % 2**32, 0)
        out.write(directory + struct.pack("<4s4H2IH", *end))
    return path


@pytest.mark.parametrize(
    "places",
    [
        [0, 3 * GIB, 5 * GIB, 6 * GIB],
        [0, 4 * GIB, 8 * GIB - 100],
        [0, 1000, 4 * GIB + 500, 4 * GIB + 900, 8 * GIB, 11 * GIB],
    ],
)
def test_films_of_a_zip_of_more_than_4_gib_without_zip64_are_found(
    tmp_path: Path, places: list[int]
) -> None:
    path = wrapped(tmp_path / "mac.zip", places)
    assert contents(path) == {
        f"film {n}.png": b"film of place %d" % place for n, place in enumerate(places)
    }
    with archive.open_source(str(path)) as source:
        assert str(source.content_id()).startswith("zip2:")


def test_a_zip_of_more_than_4_gib_whose_films_cannot_be_told_apart_is_refused_once(
    tmp_path: Path,
) -> None:
    # What follows a member of more than 4 GiB may be anywhere.
    path = wrapped(tmp_path / "mac.zip", [0, 5 * GIB, 6 * GIB], [5 * GIB - 300, 15, 15])
    error = refusal(path)
    assert error.code == "unsupported"
    assert "more than 4 GiB without Zip64" in str(error)
    assert "pack it again" in str(error)
    path = wrapped(tmp_path / "other.zip", [0, 5 * GIB, 3 * GIB, 6 * GIB])
    assert refusal(path).code == "unsupported"
