"""Opening: a claimed shard has its model's card, and reads a compressed archive by its window."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.queue import listings
from db.queue.leases import Shard
from db.work import claims
from tests.support.broken import mounts
from tests.worker import archives, samples
from trainer.card import Card
from worker import archive, config
from worker.archive import apart
from worker.errors import MemberError
from worker.machine.heartbeat import Heartbeat
from worker.machine.privacy import Privacy
from worker.scoring.claims import Claims
from worker.scoring.engine_thread import Model
from worker.scoring.opening import Opener
from worker.scoring.shard import ShardRun


def test_opened_shards_of_a_compressed_archive_read_their_window_and_close_it(
    database: sa.Engine, model_id: int, card: Card, tmp_path: Path
) -> None:
    films = samples.films(4)
    with tarfile.open(tmp_path / "films.tar.gz", "w:gz") as tar:
        for name, data in films:
            (tmp_path / name).write_bytes(data)
            tar.add(tmp_path / name, name)
    job_id = samples.submit_score(database, model_id, tmp_path / "films.tar.gz")
    uri = str(tmp_path / "films.tar.gz")
    with archive.open_source(uri) as source:
        listing = list(source.members())
        index = source.index()
    claimed = connecting.write(database, lambda c: claims.claim_job(c, "score", "w", 60))
    assert claimed is not None
    connecting.write(database, lambda c: listings.set_seek_index(c, claimed.lease, 0, index))
    shard = Shard(
        job_id=job_id, shard_no=0, token=1, worker_id="w", attempt=1, source_no=0, first_item=2,
        n_items=3, listing=archive.pack(listing[2:5]), model_id=model_id, priority=0,
        spec={"accept": ["lateral"]},
    )  # fmt: skip
    before = samples.descriptors()
    opener = Opener(database, Privacy(b"the key of a site"))
    opened = opener.open(shard)
    assert opened.place.window_fd is not None
    assert list(opened.waiting) == [0, 1, 2]
    assert (opened.model, opened.card.to_json()) == (Model(model_id, "fp32"), card.to_json())
    assert opened.accept == ("lateral",)
    # A reader of its own, as a decoder process has.
    reader = archive.ExtentReader(opened.place.window_fd, base=opened.place.base)
    assert [reader.read(m) for m in opened.members] == [data for _, data in films[2:5]]
    opened.close()
    opener.close()
    database.dispose()
    assert samples.descriptors() <= before


def opened(
    database: sa.Engine, model_id: int, path: Path, opener: Opener
) -> tuple[list[archive.Member], ShardRun]:
    """All members of a compressed archive as one shard, opened by `opener`."""
    job_id = samples.submit_score(database, model_id, path)
    with archive.open_source(str(path)) as source:
        listing = list(source.members())
    return listing, opener.open(
        Shard(
            job_id=job_id, shard_no=0, token=1, worker_id="w", attempt=1, source_no=0, first_item=0,
            n_items=len(listing), listing=archive.pack(listing), model_id=model_id, priority=0,
            spec={},
        )
    )  # fmt: skip


def read(run: ShardRun, member: archive.Member) -> bytes:
    """A member's bytes, by a reader such as a decoder process has."""
    assert run.place.window_fd is not None
    return archive.ExtentReader(run.place.window_fd, base=run.place.base).read(member)


def test_what_lies_between_the_films_of_a_shard_takes_no_memory(
    database: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    """Of what is skipped (the left-overs of a Mac, say) nothing is held, however large it is."""
    large = 48 << 20
    with tarfile.open(tmp_path / "films.tar.gz", "w:gz", compresslevel=1) as tar:
        for name, size in (("one.png", 3), ("__MACOSX/._one.png", large), ("two.png", 3)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    opener = Opener(database, Privacy(b"the key of a site"))
    listing, run = opened(database, model_id, tmp_path / "films.tar.gz", opener)
    assert [m.name for m in listing] == ["one.png", "two.png"]
    assert listing[1].offset > large
    assert [read(run, m) for m in listing] == [bytes(3), bytes(3)]
    assert run.place.window_fd is not None
    assert os.fstat(run.place.window_fd).st_blocks * 512 <= 1 << 20
    run.close()
    opener.close()


@pytest.mark.parametrize("last", [True, False])
def test_a_sparse_member_of_a_compressed_archive_costs_itself_only(
    last: bool, database: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    whole = archives.as_tar(tmp_path / "films.tar", {"one.png": b"one"}).read_bytes()
    film, end = whole[:1024], whole[1024:]
    holes = archives.sparse("holes.png", 1 << 20, b"data")
    path = tmp_path / "films.tar.gz"
    path.write_bytes(gzip.compress((film + holes if last else holes + film) + end))
    opener = Opener(database, Privacy(b"the key of a site"))
    listing, run = opened(database, model_id, path, opener)
    by_name = {member.name: member for member in listing}
    assert read(run, by_name["one.png"]) == b"one"
    with pytest.raises(MemberError, match="sparse"):
        read(run, by_name["holes.png"])
    run.close()
    opener.close()


def compressed(path: Path) -> Path:
    """A small compressed archive of two members."""
    path.write_bytes(
        gzip.compress(archives.as_tar(path, {"1.png": b"1", "2.png": b"2"}).read_bytes())
    )
    return path


def test_an_archive_whose_share_hangs_when_it_is_closed_is_not_waited_for(
    database: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    compressed(tmp_path / "real" / "films.tar.gz")
    opener = Opener(database, Privacy(b"the key of a site"))
    with mounts.share(tmp_path / "real", tmp_path / "share") as share:
        _, run = opened(database, model_id, share.at / "films.tar.gz", opener)
        run.close()
        share.hangs(on=["close"])
        closing = threading.Thread(target=opener.close, daemon=True)
        closing.start()
        closing.join(10)
        ended = not closing.is_alive()
        left = apart.left_behind()
        share.recovers()
        assert ended and left == 1
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")


def test_a_shard_whose_opening_fails_after_its_window_was_made_leaves_nothing_open(
    database: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    path = compressed(tmp_path / "films.tar.gz")
    job_id = samples.submit_score(database, model_id, path)
    with archive.open_source(str(path)) as source:
        listing = list(source.members())
    shard = Shard(
        job_id=job_id, shard_no=0, token=1, worker_id="w", attempt=1, source_no=0, first_item=0,
        n_items=2, listing=archive.pack(listing), model_id=model_id, priority=0, spec={},
    )  # fmt: skip
    settings = config.load({"PNEUMOQ_HOME": str(tmp_path)})
    scored = Claims(settings, database, "w", Heartbeat(database, "w", lease_s=60), lambda: None)
    with connecting.writing(database) as connection:
        connection.exec_driver_sql("ALTER TABLE films RENAME TO gone")
    try:
        with pytest.raises(sa.exc.DBAPIError):
            scored._open(shard)
        files = [str(fd.resolve()) for fd in Path("/proc/self/fd").iterdir()]
        assert not any("pneumoq-window" in file for file in files)
    finally:
        with connecting.writing(database) as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO films")
        scored.close()
