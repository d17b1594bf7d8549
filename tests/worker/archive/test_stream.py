"""Compressed tars: proved whole in one pass, and read through windows from anywhere."""

from __future__ import annotations

import gzip
import itertools
import os
import random
import tarfile
import zlib
from pathlib import Path

import pytest
import zstandard

from tests.worker.archives import FILES, as_tar, contents, refusal
from worker import archive
from worker.archive import deflate
from worker.archive.stream import StreamSource
from worker.errors import ArchiveError, MemberError


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
        fd = spool.window([(base, end)])
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
        spool.window([(0, 1_001)], cap=1_000)
    with pytest.raises(ValueError, match="no window"):
        spool.window([(2, 1)])
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
        spool.window([(members[30].offset, members[31].offset)])
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


def plain_of(path: Path) -> bytes:
    """The uncompressed stream."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    with zstandard.open(path, "rb", read_across_frames=True) as file:  # type: ignore[call-overload]
        data: bytes = file.read()
    return data


def inflated_to_score(path: Path, workers: int) -> tuple[int, dict[str, bytes]]:
    """Bytes that a whole job inflates, and what its workers read, taking turns at the shards."""
    kind = archive.kind(str(path))
    with archive.open_source(str(path)) as source:
        members = list(source.members())
        index = source.index()
        assert isinstance(source, StreamSource)
        inflated = source.inflated
        shards = [list(run) for _, run in itertools.groupby(members, source.part)]
    spools = [archive.open_spool(kind, str(path), index) for _ in range(workers)]
    found = {}
    for spool, shard in zip(itertools.cycle(spools), shards, strict=False):
        base = shard[0].offset - 512
        fd = spool.window(archive.spans(shard))
        reader = archive.ExtentReader(fd, base=base)
        found.update({m.name: reader.read(m) for m in shard})
        os.close(fd)
    for spool in spools:
        inflated += spool.inflated
        spool.close()
    return inflated, found


def as_frames(path: Path, plain: bytes, each: int) -> Path:
    """Zstandard as `pzstd` writes it: many frames, with frames to be skipped in between."""
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0size"
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
    frames = [compressor.compress(plain[at : at + each]) for at in range(0, len(plain), each)]
    path.write_bytes(skipped + skipped.join(frames))
    return path


def test_a_job_of_one_worker_inflates_an_archive_at_most_twice(
    big_tar_gz: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    path, files = big_tar_gz
    plain = plain_of(path)
    frames = as_frames(tmp_path / "frames.tar.zst", plain, 2 << 20)
    one = tmp_path / "one.tar.zst"
    one.write_bytes(zstandard.compress(plain))
    for archived in (path, frames, one):
        inflated, found = inflated_to_score(archived, 1)
        assert found == files
        assert inflated <= 2 * len(plain)


def test_workers_that_take_turns_inflate_hardly_more(
    big_tar_gz: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """A shard begins right behind a point: what lies between is part of one film at most."""
    path, files = big_tar_gz
    plain = plain_of(path)
    for archived in (path, as_frames(tmp_path / "frames.tar.zst", plain, 4 << 20)):
        inflated, found = inflated_to_score(archived, 3)
        assert found == files
        assert inflated <= 2.1 * len(plain)


@pytest.mark.parametrize("level", [1, 6])
@pytest.mark.parametrize("content", ["noise", "text", "levels", "zeros"])
def test_every_point_leads_to_the_right_bytes(content: str, level: int, tmp_path: Path) -> None:
    rng = random.Random(level)
    data = {
        "noise": lambda: rng.randbytes(14 << 20),
        "text": lambda: b"".join(b"%d: %d\n" % (n, rng.randrange(n)) for n in range(1, 900_000)),
        "levels": lambda: rng.randbytes(14 << 20).translate(bytes(n * n >> 8 for n in range(256))),
        "zeros": lambda: bytes(16 << 20),
    }[content]()
    files = {f"{n}.png": data[at : at + 90_000] for n, at in enumerate(range(0, len(data), 90_000))}
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(as_tar(tmp_path / "a.tar", files).read_bytes(), level))
    with archive.open_source(str(path)) as source:
        members = list(source.members())
        index = source.index()
        firsts = [next(run) for _, run in itertools.groupby(members, source.part)]
    assert len(firsts) >= 2
    for first in firsts:
        spool = archive.open_spool("tar.gz", str(path), index)
        fd = spool.window(archive.spans([first]))
        assert archive.ExtentReader(fd, base=first.offset - 512).read(first) == files[first.name]
        assert spool.inflated < 1 << 20
        os.close(fd)
        spool.close()


@pytest.mark.parametrize("bit", range(8))
def test_inflating_starts_at_any_bit(bit: int) -> None:
    before = b"what came before"
    packer = zlib.compressobj(wbits=-15, zdict=before)
    packed = packer.compress(b"and " + before * 3) + packer.flush()
    number = int.from_bytes(packed, "little") << bit | (1 << bit) - 1
    shifted = number.to_bytes(len(packed) + 1, "little")
    inflater = deflate.start(before, bit)
    assert inflater.decompress(deflate.join(bit, shifted)) == b"and " + before * 3
    assert inflater.eof


def test_a_gzip_of_many_streams_has_an_index_without_windows(
    big_tar_gz: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    plain = plain_of(big_tar_gz[0])
    path = tmp_path / "a.tar.gz"
    each = 64 << 10
    path.write_bytes(
        b"".join(gzip.compress(plain[at : at + each], 1) for at in range(0, len(plain), each))
    )
    with archive.open_source(str(path)) as source:
        list(source.members())
        index = source.index()
    assert index is not None and len(index) < 500
    inflated, found = inflated_to_score(path, 2)
    assert found == big_tar_gz[1]
    assert inflated <= 2.1 * len(plain)


def test_only_a_long_frame_makes_a_stream_that_one_worker_should_read(tmp_path: Path) -> None:
    plain = as_tar(tmp_path / "a.tar", {f"{n}.png": bytes(1 << 20) for n in range(40)}).read_bytes()
    one = tmp_path / "one.tar.zst"
    one.write_bytes(zstandard.compress(plain))
    many = as_frames(tmp_path / "many.tar.zst", plain, 8 << 20)
    gzipped = tmp_path / "a.tar.gz"
    gzipped.write_bytes(gzip.compress(plain, 1))
    for path, streams in ((one, True), (many, False), (gzipped, False)):
        with archive.open_source(str(path)) as source:
            members = list(source.members())
            assert source.streams is streams
            assert len({source.part(m) for m in members}) > 1


def test_a_spool_starts_again_only_for_bytes_that_it_passed(tmp_path: Path) -> None:
    plain = as_tar(tmp_path / "a.tar", FILES).read_bytes() * 1
    path = tmp_path / "a.tar.zst"
    path.write_bytes(zstandard.compress(plain))
    spool = archive.open_spool("tar.zst", str(path), None)
    for first, end, inflated in ((0, 1_000, 1_000), (5_000, 6_000, 6_000), (5_500, 6_000, 12_000)):
        fd = spool.window([(first, end)])
        assert os.pread(fd, 9_999, 0) == plain[first:end]
        assert spool.inflated == inflated
        os.close(fd)
    spool.close()


@pytest.mark.parametrize("frames", [1, 5])
def test_a_zstandard_tar_cut_or_changed_anywhere_is_refused(frames: int, tmp_path: Path) -> None:
    plain = as_tar(tmp_path / "a.tar", FILES).read_bytes()
    whole = as_frames(tmp_path / "a", plain, -(-len(plain) // frames)).read_bytes()
    path = tmp_path / "cut.tar.zst"
    for cut in [*range(30, len(whole), 1_999), *range(len(whole) - 7, len(whole))]:
        path.write_bytes(whole[:cut])
        assert refusal(path).code == "truncated", cut
    rng = random.Random(frames)
    for _ in range(40):
        data = bytearray(whole)
        at = rng.randrange(len(data) // 2, len(data))
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            assert contents(path) == FILES, at  # within a frame that is skipped
        except ArchiveError as error:
            assert error.code in ("corrupt", "truncated", "unsupported"), at


def test_bytes_behind_a_zstandard_tar_are_tolerated(tmp_path: Path) -> None:
    plain = as_tar(tmp_path / "a.tar", FILES).read_bytes()
    path = tmp_path / "a.tar.zst"
    path.write_bytes(zstandard.compress(plain) + b"signature")
    assert contents(path) == FILES


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"\x00\x90", "256 MiB of memory"),
        (b"\x00\xa8", "2,048 MiB of memory"),
        (b"\x01\x58\x07", "with a dictionary"),
    ],
)
def test_a_zstandard_frame_that_asks_for_too_much_is_refused(
    header: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + header + bytes(99))
    error = refusal(path)
    assert error.code == "unsupported"
    assert says in str(error)


def test_a_compressed_tar_that_grows_a_thousandfold_is_a_bomb(tmp_path: Path) -> None:
    info = tarfile.TarInfo("film.png")
    info.size = 1 << 40
    head = info.tobuf()
    # A raw block, then blocks that say: 128 KiB of this byte.
    zeros = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    first = (len(head) << 3).to_bytes(3, "little") + head
    path = tmp_path / "bomb.tar.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00\x58" + first + zeros * 10_000)
    assert archive.kind(str(path)) == "tar.zst"
    error = refusal(path)
    assert error.code == "bomb"
    assert "made to do harm" in str(error)
