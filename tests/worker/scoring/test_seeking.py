"""Seek indexes: what they hold of an archive is the site's to read, and all lead to the films."""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from worker import archive
from worker.machine.privacy import Privacy
from worker.scoring import seeking

SITE, OTHER = Privacy(b"the key of one site"), Privacy(b"the key of another")

NAME = b"SMITH^JOHN"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar.gz of 12 MiB, each of whose KiB names a patient."""
    path = tmp_path_factory.mktemp("packed") / "a.tar.gz"
    rng = np.random.default_rng(3)
    with tarfile.open(path, "w:gz") as made:
        for number in range(6):
            data = b"".join(NAME + rng.bytes(1014) for _ in range(2048))
            member = tarfile.TarInfo(f"{number}.dcm")
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def index(packed: Path) -> bytes:
    with archive.open_source(str(packed)) as source:
        assert len(list(source.members())) == 6
        found = source.index()
    assert found is not None
    return found


def last_member(packed: Path, index: bytes | None) -> tuple[bytes, int]:
    """The last member's bytes by an index, and how many bytes were inflated for it."""
    with archive.open_source(str(packed)) as source:
        *_, member = source.members()
    spool = archive.open_spool("tar.gz", str(packed), index)
    try:
        fd, base = spool.holding([member], cap=1 << 30)
        reader = archive.ExtentReader(fd, base=base, owned=True)
        data = reader.read(member)
        reader.close()
        return data, spool.inflated
    finally:
        spool.close()


def test_what_is_kept_holds_nothing_of_the_content_and_the_site_has_all_of_it(
    packed: Path, index: bytes
) -> None:
    assert NAME in zlib.decompress(index), "there is something to be sealed"
    kept = seeking.sealed(index, SITE)
    assert kept is not None
    inflater = zlib.decompressobj()
    assert NAME not in inflater.decompress(kept)
    assert NAME not in inflater.unused_data
    assert kept != seeking.sealed(index, SITE), "no two seals are alike"
    assert seeking.opened(kept, SITE) == index


@pytest.mark.parametrize("how", ["another site's key", "none", "release 0.2.0", "damaged"])
def test_without_the_key_the_archive_is_read_from_its_beginning(
    packed: Path, index: bytes, how: str
) -> None:
    kept = seeking.sealed(index, SITE)
    assert kept is not None
    plain, inflated = last_member(packed, index)
    used = {
        "another site's key": lambda: seeking.opened(kept, OTHER),
        "none": lambda: seeking.opened(kept, None),
        "release 0.2.0": lambda: kept,  # which ignores what is behind
        "damaged": lambda: seeking.opened(kept[:-1], SITE),
    }[how]()
    found, more = last_member(packed, used)
    assert found == plain
    assert more > 3 * inflated


def test_an_index_of_before_and_one_without_content_stay_as_they_are(index: bytes) -> None:
    assert seeking.opened(index, SITE) == index
    without = archive.without_windows(index)
    assert without is not None
    assert seeking.sealed(without, SITE) == without
    assert seeking.sealed(None, SITE) is None is seeking.opened(None, SITE)
