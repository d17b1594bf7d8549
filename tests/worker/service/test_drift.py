"""Drift as it happens: a worker scores films like a model's reference, and films that are not."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from db.base import database as connecting
from db.base.schema import models as models_table
from db.base.schema import rollups
from db.queue import jobs, listings, results
from db.registry import divergence, drift
from db.work import claims
from tests.support import servers
from tests.support.site import Site, site
from tests.worker import samples
from trainer.card import Card
from worker.engine import gate, open_engine
from worker.training import reference


def measured(model_file: Path, films: list[tuple[str, bytes]]) -> dict[str, object]:
    """The reference of a model over films, as its training would have measured it."""
    engine = open_engine(model_file, batch=8, threads=1)
    said = gate.answers(engine, samples.pixels([data for _, data in films]))
    engine.close()
    assert said.ood is not None
    return {
        "of": "validation",
        "n": len(said.scores),
        "histogram": reference.counted(said.scores[:, engine.card.positive_index]).tolist(),
        "unusual": int((said.ood > engine.card.ood_threshold).sum()),
    }


def packed(path: Path, films: list[tuple[str, bytes]]) -> Path:
    """These films as a zip."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in films:
            archive.writestr(name, data)
    return path


@pytest.fixture
def here(valkey: servers.Valkey, sqlite_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site on SQLite."""
    with site(sqlite_url, valkey, tmp_path / "site") as made:
        yield made


def test_a_worker_warns_of_films_unlike_the_reference_and_of_no_others(
    here: Site, model_file: Path, card: Card, tmp_path: Path
) -> None:
    model_id = samples.register(here.engine, model_file, card)
    films = samples.films(44, seed=8)
    known, new = films[: len(films) // 2], films[len(films) // 2 :]
    with connecting.writing(here.engine) as connection:
        connection.execute(sa.update(models_table).values(reference=measured(model_file, known)))
    here.worker()
    alike = packed(tmp_path / "alike.zip", new)
    turned = packed(tmp_path / "turned.zip", [(name, sideways(data)) for name, data in new])

    same, other = (here.score(source, model_id=model_id) for source in (alike, turned))
    assert (here.ended(same), here.ended(other)) == ("completed", "completed")

    quiet, loud = (drift.of_job(here.engine, job_id) for job_id in (same, other))
    assert quiet is not None
    assert loud is not None
    assert (quiet["n"], loud["n"]) == (len(new),) * 2
    assert not quiet["warned"], quiet["detail"]
    assert loud["warned"], loud["detail"]
    assert loud["unusual"] > quiet["unusual"]
    assert (here.events(same, "drift"), here.events(other, "drift")) == (0, 1)
    assert jobs.events(here.engine, other)[-1]["detail"] == loud["detail"]
    shown = here.run("jobs", "show", str(other))
    assert f"warning: these {loud['n']} films" in shown.stdout
    told = here.rows("SELECT payload FROM notices WHERE event = 'drift'")
    assert len(told) == 1
    assert "turned" not in told[0].payload


def sideways(data: bytes) -> bytes:
    """The film lying on its side, as a picture of the same kind."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as film:
        film.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_reference_counts_scores_as_a_jobs_shards_do(
    database: sa.Engine, model_file: Path, card: Card, tmp_path: Path
) -> None:
    edges = np.linspace(0, 1, 21, dtype=np.float32)
    scores = np.concatenate([edges, np.nextafter(edges[1:], np.float32(0)), edges[:-1] + 1e-3])
    model_id = samples.register(database, model_file, card)
    films = packed(tmp_path / "films.zip", [("a.jpg", b"never read")])
    samples.submit_score(database, model_id, films)

    def commit(connection: sa.Connection) -> None:
        claimed = claims.claim_job(connection, "score", "w", 60)
        assert claimed is not None
        new = listings.NewShard(source_no=0, n_items=len(scores), listing=b"")
        listings.add(connection, claimed.lease, [new])
        listings.complete(connection, claimed.lease, {})
        shard = claims.claim_shard(connection, "w", 60)
        assert shard is not None
        made = [
            results.Prediction(n, "x", 0, score, False) for n, score in enumerate(scores.tolist())
        ]
        results.commit(connection, shard, made)

    connecting.write(database, commit)

    with connecting.reading(database) as connection:
        rows = connection.execute(sa.select(rollups.c.bucket, rollups.c.n)).all()
    assert {row.bucket: row.n for row in rows} == dict(enumerate(reference.counted(scores)))
    assert reference.BUCKETS == divergence.BUCKETS
