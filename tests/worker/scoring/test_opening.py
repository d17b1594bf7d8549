"""Opening: a claimed shard has its model's card, and reads a compressed archive by its window."""

from __future__ import annotations

import tarfile
from pathlib import Path

import sqlalchemy as sa

from db.base import database as connecting
from db.queue import listings
from db.queue.leases import Shard
from db.work import claims
from tests.worker import samples
from trainer.card import Card
from worker import archive
from worker.machine.privacy import Privacy
from worker.scoring.engine_thread import Model
from worker.scoring.opening import Opener


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
