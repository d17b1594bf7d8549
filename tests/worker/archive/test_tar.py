"""Tar archives: headers of every format, and archives that were cut short or changed."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from tests.worker.archives import (
    FILES,
    MAKERS,
    as_tar,
    chained,
    contents,
    failure,
    listed,
    patched,
    reading,
    refusal,
    sparse,
)
from worker import archive
from worker.errors import MemberError


def test_long_names_of_both_tar_formats_are_read(tmp_path: Path) -> None:
    name = "/".join(["a long folder name of forty characters ö"] * 9) + "/film.png"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=form) as out:
            info = tarfile.TarInfo(name)
            info.size = 3
            out.addfile(info, io.BytesIO(b"one"))
        assert contents(path) == {name: b"one"}


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


def test_links_in_a_tar_are_members_that_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as out:
        for name, form in (("s", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE), ("p", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = form, "a.png"
            out.addfile(info)
    assert [failure(path, m).code for m in listed(path)] == ["link", "link"]
    assert "--dereference --hard-dereference" in str(failure(path))


def test_a_sparse_file_is_a_member_that_is_not_read_and_takes_no_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    plain = as_tar(path, {"one.png": b"one"}).read_bytes()
    path.write_bytes(plain[:1024] + sparse("holes.png", 1 << 30, b"data") + plain[1024:])
    assert [(m.name, m.stored) for m in listed(path)] == [("one.png", 3), ("holes.png", 0)]
    assert failure(path, listed(path)[1]).code == "unreadable"


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


def test_a_long_chain_of_long_names_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(chained(1_200)))
    assert path.stat().st_size < 6_000
    assert refusal(path).code == "corrupt"
    path.write_bytes(chained(1_200))
    assert refusal(path).code == "corrupt"


def test_a_header_that_claims_gigabytes_for_itself_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 4 << 30
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf() + bytes(2_000))
    assert refusal(path).code in ("corrupt", "truncated")
