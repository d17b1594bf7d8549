"""One worker of two cannot see the share: the other scores every film, and none is in error."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from tests.faults import harm
from tests.support.broken import mounts
from tests.support.site import Site

#: Each film is in the folder so many times.
COPIES = 6


def test_a_worker_that_cannot_see_a_share_leaves_it_to_the_one_that_can(
    here: Site, few: Path, tmp_path: Path
) -> None:
    films = sorted(path for path in few.rglob("*") if path.is_file())
    real = tmp_path / "real"
    (real / "films").mkdir(parents=True)
    names = [f"{n}-{film.name}" for n in range(COPIES) for film in films]
    with (
        zipfile.ZipFile(real / "films.zip", "w") as archive,
        tarfile.open(real / "films.tar.gz", "w:gz") as tar,
    ):
        for name, film in zip(names, films * COPIES, strict=True):
            (real / "films" / name).write_bytes(film.read_bytes())
            archive.write(film, name)
            tar.add(film, name)
    with mounts.share(real, tmp_path / "share") as share:
        blind = here.worker(within=mounts.without(share.at))
        job_ids = [
            harm.submit(here, share.at / name) for name in ("films", "films.zip", "films.tar.gz")
        ]
        # Alone it has every chance to do harm: it plans, and claims what there is.
        for job_id in job_ids:
            here.wait(
                lambda j=job_id: here.events(j, "source_away"),  # type: ignore[misc]
                "the worker to find that it cannot see the share",
            )
            assert here.state(job_id) in ("planning", "queued")
        sees = here.worker()
        for job_id in job_ids:
            harm.completed(here, job_id, len(names))
        by = here.rows("SELECT DISTINCT worker_id FROM shards")
        assert [row.worker_id for row in by] == [here.hello(sees)]
        assert here.rows("SELECT * FROM outages") == [], "one worker is no outage"
        harm.alive(blind, sees)
        harm.calm(here)
