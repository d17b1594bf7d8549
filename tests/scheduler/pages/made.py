"""Scoring jobs over real archives with outcomes that a test chose, maps among them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from db.base import database
from db.queue import listings, results
from db.queue.results import Cam, NotPredicted, Outcome, Prediction
from db.work import claims, endings
from tests.scheduler import rows
from tests.support import drawn
from worker import archive

#: Names that strangers might give to films.
HOSTILE = (
    "<script>alert(1)</script>.jpeg",
    '"><img src=x onerror=alert(2)>.jpeg',
    "line\nbreak\r\x1b[31mred.jpeg",
    "\u202egpj.exe \u0627\u0644\u0623\u0634\u0639\u0629.jpeg",
    "n" * 3990 + "-end.jpeg",
    "</title></style><!--.jpeg",
    "'; DROP TABLE jobs; -- & &lt; \ufffe.jpeg",
)


def cam(seed: int, side: int = 7) -> Cam:
    """A map with a hill somewhere, and evidence against the class elsewhere."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(1, side - 1, 2)
    y, x = np.mgrid[:side, :side]
    values = 6 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 3) - 1.5
    low, high = float(values.min()), float(values.max())
    levels = np.round((values - low) / (high - low) * 255).astype(np.uint8)
    return Cam(side, side, low, high, levels.tobytes())


def films(n: int, seed: int = 3) -> list[bytes]:
    """Encoded phantoms."""
    found = [film.data for film in drawn.films(max(2, n // 2), seed)]
    return (found * n)[:n]


def an_archive(path: Path, names: Sequence[str], seed: int = 3) -> Path:
    """A zip of phantoms under these names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, data in zip(names, films(len(names), seed), strict=True):
            file.writestr(zipfile.ZipInfo(name), data)
    return path


def a_job(
    engine: sa.Engine,
    model_id: int,
    path: Path,
    outcome: Callable[[int, str], Outcome],
    *,
    shard: int = 25,
    **spec: object,
) -> int:
    """A scoring job over an archive that has ended with these outcomes."""
    with archive.open_source(str(path)) as source:
        members = list(source.members())
        row = {"uri": str(path), "kind": source.kind, "fingerprint": source.fingerprint()}
    job_id = rows.a_queued_job(engine, model_id=model_id, source_rows=[row])
    parts = [members[n : n + shard] for n in range(0, len(members), shard)]

    def plan(connection: sa.Connection) -> None:
        claimed = claims.claim_job(connection, "score", rows.WORKER, rows.LEASE_S)
        assert claimed is not None
        new = [
            listings.NewShard(source_no=0, n_items=len(part), listing=archive.pack(part))
            for part in parts
        ]
        listings.add(connection, claimed.lease, new)
        listings.complete(connection, claimed.lease, {"folder": 1} if members else {})
        if not members:
            endings.close_if_done(connection, job_id, rows.WORKER)

    def score(connection: sa.Connection) -> None:
        claimed = claims.claim_shard(connection, rows.WORKER, rows.LEASE_S)
        assert claimed is not None
        items = range(claimed.first_item, claimed.first_item + claimed.n_items)
        found = [outcome(n, archive.display(members[n].name)) for n in items]
        results.commit(connection, claimed, found)
        endings.close_if_done(connection, job_id, rows.WORKER)

    database.write(engine, plan)
    for _ in parts:
        database.write(engine, score)
    return job_id


def plain(n: int, name: str) -> Outcome:
    """What a model might say: every tenth film is broken or refused, some are unusual."""
    if n % 20 == 19:
        return NotPredicted(n, name, "truncated", f"{name}: ends after 12 bytes")
    if n % 20 == 9:
        return NotPredicted(n, name, "lateral", "a side view", refused=True)
    rng = np.random.default_rng([7, n])
    probability = float(rng.beta(0.6, 0.9))
    unusual = n % 13 == 5
    return Prediction(
        n, name, int(probability >= 0.4), probability, probability >= 0.4,
        ood=2.5 + n / 100 if unusual else float(rng.uniform(0.7, 1.4)), unusual=unusual,
        cam=cam(n) if probability >= 0.4 or n % 3 == 0 else None,
    )  # fmt: skip
