"""Planning: what is listed, in which shards, and what a planner that was stopped leaves behind."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
import zstandard

from db.base import database as connecting
from db.base.schema import jobs as jobs_table
from db.base.schema import shard_listings, shards, sources
from db.queue import jobs, leases, listings
from db.queue.leases import Shard
from db.work import claims, control
from tests.support.broken import mounts
from tests.worker import archives, samples
from worker import archive
from worker.archive import apart, stall
from worker.machine.heartbeat import Heartbeat
from worker.machine.privacy import Privacy
from worker.scoring import seeking
from worker.scoring.away import Away
from worker.scoring.cutting import FLUSH_SHARDS, LARGEST, PARTS, SMALLEST, WINDOW_BYTES
from worker.scoring.planning import Planner, Planners

#: The site, whose key seals what an index holds of films.
SITE = Privacy(b"the key of a site")


class Row(NamedTuple):
    """What a planner writes of a shard."""

    shard_no: int
    source_no: int
    first_item: int
    n_items: int
    listing: bytes


class Desk:
    """A place where jobs are planned, one after another, and what was heard meanwhile."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.heartbeat = Heartbeat(engine, "planner", lease_s=60)
        self.stop = threading.Event()
        self.away = Away()
        self.notified: list[int] = []
        self.woken = 0
        self.on_notify: Callable[[], object] = lambda: None

    def plan(self, job_id: int) -> None:
        """Claim the job and plan it until the planner ends."""
        claimed = connecting.write(
            self.engine, lambda c: claims.claim_job(c, "score", "planner", lease_s=60)
        )
        assert claimed is not None
        assert claimed.lease.job_id == job_id

        def notify(times: int) -> None:
            self.notified.append(times)
            self.on_notify()

        def wake() -> None:
            self.woken += 1

        self.heartbeat.hold(claimed.lease)
        planner = Planner(
            self.engine, claimed, self.heartbeat, self.stop, notify, wake, SITE, self.away
        )
        planner.join()
        assert not planner.running

    def shards(self, job_id: int) -> list[Row]:
        """A job's shards in order."""
        columns = [
            (shard_listings if name == "listing" else shards).c[name] for name in Row._fields
        ]
        with connecting.reading(self.engine) as connection:
            found = connection.execute(
                sa.select(*columns)
                .join_from(shards, shard_listings)
                .where(shards.c.job_id == job_id)
                .order_by(shards.c.shard_no)
            )
            return [Row(*values) for values in found]

    def names(self, job_id: int) -> list[str]:
        """All items' names in order; proves that the shards follow each other without a gap."""
        found: list[str] = []
        for number, row in enumerate(self.shards(job_id)):
            members = archive.unpack(row.listing)
            assert (row.shard_no, row.first_item, row.n_items) == (number, len(found), len(members))
            found.extend(m.name for m in members)
        return found

    def job(self, job_id: int) -> sa.RowMapping:
        """The job's row."""
        return jobs.get(self.engine, job_id)


@pytest.fixture
def desk(database: sa.Engine) -> Desk:
    """A desk on `database`."""
    return Desk(database)


def listed(uri: Path) -> list[str]:
    """The names in an archive."""
    with archive.open_source(str(uri)) as source:
        return [m.name for m in source.members()]


def folder(root: Path, count: int) -> Path:
    """A folder of so many small files."""
    root.mkdir()
    for n in range(count):
        (root / f"film{n:05}.png").write_bytes(b"x")
    return root


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip of so many entries that it is written in several transactions."""
    path = tmp_path_factory.mktemp("large") / "large.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for n in range(40_000):
            packed.writestr(f"ward{n % 7}/film{n:06}.png", b"x")
    return path


def test_a_small_job_still_has_several_shards(desk: Desk, model_id: int, tmp_path: Path) -> None:
    films = folder(tmp_path / "films", 94)
    job_id = samples.submit_score(desk.engine, model_id, films)
    desk.plan(job_id)
    sizes = [row.n_items for row in desk.shards(job_id)]
    assert len(sizes) >= 4
    assert all(size >= SMALLEST for size in sizes[:-1])
    assert desk.names(job_id) == listed(films)
    job = desk.job(job_id)
    assert (job["state"], job["planned_items"], job["planned_shards"]) == (
        "running",
        94,
        len(sizes),
    )
    assert sum(desk.notified) == len(sizes)
    assert desk.woken >= 2


def test_jobs_of_several_keys_are_planned_at_the_same_time(
    desk: Desk, model_id: int, large: Path, tmp_path: Path
) -> None:
    ann = samples.submit_score(desk.engine, model_id, large, share="ann")
    bob = samples.submit_score(desk.engine, model_id, folder(tmp_path / "films", 10), share="bob")
    samples.submit_score(desk.engine, model_id, large, share="ann")
    planners, planned = Planners(), threading.Event()

    def claim() -> Shard | claims.Claimed | None:
        return connecting.write(
            desk.engine,
            lambda c: claims.claim_best(c, "planner", 60, planning=True, planned=planners.keys),
        )

    def begin(wait: Callable[[int], object]) -> None:
        # Shards of the archive may be claimed before, but two of them at most.
        found = next(one for one in (claim() for _ in range(3)) if not isinstance(one, Shard))
        assert found is not None
        desk.heartbeat.hold(found.lease)
        planners.add(
            Planner(desk.engine, found, desk.heartbeat, desk.stop, wait, lambda: None, SITE)
        )

    # The first shards of the archive are there, and it is listed no further for now.
    begin(lambda _: planned.wait(30))
    samples.wait(lambda: bool(desk.shards(ann)), "the first shards of the archive")
    begin(lambda _: None)
    samples.wait(lambda: desk.job(bob)["planned_at"] is not None, "the other's job to be planned")

    samples.wait(lambda: planners.keys == {"ann"}, "the other's planner to end")
    assert not planners.full
    assert claim_is_a_shard(desk), "of one key one job is planned at a time"
    planned.set()
    planners.join()
    assert planners.keys == frozenset()
    assert desk.names(ann) == listed(large)


def claim_is_a_shard(desk: Desk) -> bool:
    """Whether a worker that plans for ann gets a shard next."""
    found = connecting.write(
        desk.engine, lambda c: claims.claim_best(c, "w", 60, planning=True, planned={"ann"})
    )
    return isinstance(found, Shard)


def test_shards_of_a_large_job_grow_to_their_largest_size(
    desk: Desk, model_id: int, large: Path
) -> None:
    job_id = samples.submit_score(desk.engine, model_id, large)
    desk.plan(job_id)
    sizes = [row.n_items for row in desk.shards(job_id)]
    assert sizes[0] == SMALLEST
    assert max(sizes) == LARGEST
    assert sizes[:-1] == sorted(sizes[:-1])
    for n, size in enumerate(sizes[:-1]):
        assert size <= max(SMALLEST, sum(sizes[:n]) // PARTS)
    assert len(desk.notified) >= 2, "shards are there to be scored before the listing is over"
    assert desk.names(job_id) == listed(large)


def test_a_planner_that_was_stopped_is_continued_to_the_same_shards(
    desk: Desk, model_id: int, large: Path, tmp_path: Path
) -> None:
    small = folder(tmp_path / "films", 50)
    undisturbed = samples.submit_score(desk.engine, model_id, small, large, small)
    desk.plan(undisturbed)

    job_id = samples.submit_score(desk.engine, model_id, small, large, small)
    desk.notified.clear()

    def stop() -> None:
        if len(desk.notified) == 2:
            desk.stop.set()

    desk.on_notify = stop
    desk.plan(job_id)
    some = desk.job(job_id)["planned_shards"]
    assert FLUSH_SHARDS <= some < len(desk.shards(undisturbed))
    assert desk.job(job_id)["state"] == "planning"
    assert desk.job(job_id)["attempts"] == 0, "stopping in good order is no failed attempt"

    desk.stop.clear()
    desk.on_notify = lambda: None
    desk.plan(job_id)
    assert desk.job(job_id)["state"] == "running"
    assert desk.shards(job_id) == desk.shards(undisturbed)
    assert desk.job(job_id)["passed_over"] == desk.job(undisturbed)["passed_over"]


def test_a_planner_whose_worker_died_is_continued_to_the_same_shards(
    desk: Desk, model_id: int, large: Path
) -> None:
    undisturbed = samples.submit_score(desk.engine, model_id, large)
    desk.plan(undisturbed)

    job_id = samples.submit_score(desk.engine, model_id, large)
    desk.notified.clear()

    def die() -> None:
        # Whoever has it from now on writes nothing: its lease was taken over.
        if len(desk.notified) == 1:
            with connecting.writing(desk.engine) as connection:
                connection.exec_driver_sql(
                    f"UPDATE jobs SET lease_until = finished_at, lease_token = lease_token + 1, "
                    f"state = 'queued' WHERE id = {job_id}"
                )

    desk.on_notify = die
    desk.plan(job_id)
    assert 0 < desk.job(job_id)["planned_shards"] < len(desk.shards(undisturbed))
    desk.plan(job_id)
    assert desk.shards(job_id) == desk.shards(undisturbed)


@contextmanager
def away(engine: sa.Engine) -> Iterator[None]:
    """Nobody can open the database meanwhile."""
    engine.dispose()
    if engine.dialect.name == "sqlite":
        file = Path(str(engine.url.database))
        kept = file.rename(file.with_suffix(".kept"))
        file.mkdir()
        yield
        file.rmdir()
        kept.rename(file)
        return
    server = sa.create_engine(engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        statement = f'ALTER DATABASE "{engine.url.database}" ALLOW_CONNECTIONS'
        connection.exec_driver_sql(f"{statement} false")
        yield
        connection.exec_driver_sql(f"{statement} true")
    server.dispose()


def test_a_planner_whose_database_goes_while_it_reads_is_continued_by_the_next(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    films = folder(tmp_path / "one", 20), folder(tmp_path / "other", 30)
    undisturbed = samples.submit_score(desk.engine, model_id, *films)
    desk.plan(undisturbed)
    job_id = samples.submit_score(desk.engine, model_id, *films)

    with ExitStack() as gone:
        # The first source's shards are written; of the second it reads how far it is listed.
        desk.on_notify = lambda: gone.enter_context(away(desk.engine))
        desk.plan(job_id)

    assert desk.shards(job_id) == [row for row in desk.shards(undisturbed) if row.source_no == 0]
    with connecting.writing(desk.engine) as connection:
        connection.execute(
            sa.update(jobs_table)
            .where(jobs_table.c.id == job_id)
            .values(lease_until=None, state="queued")
        )
    desk.on_notify = lambda: None
    desk.plan(job_id)
    assert desk.shards(job_id) == desk.shards(undisturbed)


def test_a_planner_whose_database_is_away_for_a_moment_fails_no_job(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    films = folder(tmp_path / "one", 20), folder(tmp_path / "other", 30)
    job_id = samples.submit_score(desk.engine, model_id, *films)
    with ExitStack() as gone:
        back = threading.Timer(1.0, gone.close)

        def go() -> None:
            gone.enter_context(away(desk.engine))
            back.start()

        desk.on_notify = go  # as above: what it reads next is not to be had
        desk.plan(job_id)
        back.join()
    assert desk.job(job_id)["state"] == "planning"


def test_several_sources_make_one_listing_and_no_shard_has_two(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    one, other = folder(tmp_path / "one", 20), folder(tmp_path / "other", 30)
    (one / ".DS_Store").write_bytes(b"x")
    (other / "Thumbs.db").write_bytes(b"x")
    empty = folder(tmp_path / "empty", 0)
    single = tmp_path / "single.jpeg"
    single.write_bytes(samples.films(1)[0][1])
    job_id = samples.submit_score(desk.engine, model_id, one, empty, other, single, one)
    desk.plan(job_id)
    assert desk.names(job_id) == [
        *listed(one),
        *listed(other),
        "single.jpeg",
        *listed(one),
    ]
    per_source: dict[int, int] = {}
    for row in desk.shards(job_id):
        per_source[row.source_no] = per_source.get(row.source_no, 0) + row.n_items
    assert per_source == {0: 20, 2: 30, 3: 1, 4: 20}
    passed_over = desk.job(job_id)["passed_over"]
    assert passed_over == {"macos_metadata": 2, "windows_metadata": 1}


def test_the_index_of_a_compressed_tar_is_there_as_soon_as_its_shards(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "films.tar.gz"
    files = sorted(folder(tmp_path / "films", 60).iterdir())
    with tarfile.open(path, "w:gz") as tar:
        for file in files:
            tar.add(file, file.name)
    job_id = samples.submit_score(desk.engine, model_id, path)
    indexed: list[bool] = []
    desk.on_notify = lambda: indexed.append(index_of(desk.engine, job_id) is not None)
    desk.plan(job_id)
    assert indexed == [True]
    assert desk.names(job_id) == [f.name for f in files]
    spool = archive.open_spool("tar.gz", str(path), index_of(desk.engine, job_id))
    for row in desk.shards(job_id):
        members = archive.unpack(row.listing)
        first = members[0].offset - 512
        fd = spool.window([(first, members[-1].offset + members[-1].stored)])
        reader = archive.ExtentReader(fd, base=first)
        assert [reader.read(m) for m in members] == [b"x"] * len(members)
        os.close(fd)
    spool.close()


def index_of(engine: sa.Engine, job_id: int) -> bytes | None:
    """The seek index of a job's first source."""
    with connecting.reading(engine) as connection:
        return seeking.opened(listings.seek_index(connection, job_id, 0), SITE)


def test_a_shard_of_a_compressed_tar_fits_into_memory(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "films.tar.gz"
    zeros = bytes(WINDOW_BYTES * 5 // 8)
    with (
        gzip.open(path, "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for n in range(3):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = len(zeros)
            tar.addfile(info, io.BytesIO(zeros))
    job_id = samples.submit_score(desk.engine, model_id, path)
    desk.plan(job_id)
    assert [row.n_items for row in desk.shards(job_id)] == [1, 1, 1]


def test_sources_without_a_file_fail_the_job_and_say_so(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    empty = folder(tmp_path / "empty", 0)
    (empty / ".DS_Store").write_bytes(b"x")
    job_id = samples.submit_score(desk.engine, model_id, empty)
    desk.plan(job_id)
    job = desk.job(job_id)
    assert job["state"] == "failed"
    assert job["reason"] == "the sources hold no files to be scored"


def test_an_archive_that_is_cut_short_fails_the_job_and_is_named(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "films.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder(tmp_path / "films", 30).iterdir()):
            tar.add(file, file.name)
    os.truncate(path, 20 * 1024 + 700)
    job_id = samples.submit_score(desk.engine, model_id, path)
    desk.plan(job_id)
    job = desk.job(job_id)
    assert job["state"] == "failed"
    assert str(path) in job["reason"]
    assert "cut short" in job["reason"]


@pytest.mark.parametrize("change", ["other bytes", "another kind"])
def test_an_archive_that_changed_since_it_was_submitted_fails_the_job(
    desk: Desk, model_id: int, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "films"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.png", b"x")
    job_id = samples.submit_score(desk.engine, model_id, path)
    if change == "other bytes":
        with zipfile.ZipFile(path, "a") as packed:
            packed.writestr("b.png", b"x")
    else:
        path.unlink()
        folder(path, 3)
    desk.plan(job_id)
    job = desk.job(job_id)
    assert job["state"] == "failed"
    assert str(path) in job["reason"]
    assert "was changed" in job["reason"]


def test_a_cancelled_job_is_planned_no_further(desk: Desk, model_id: int, large: Path) -> None:
    job_id = samples.submit_score(desk.engine, model_id, large)

    def cancel() -> None:
        connecting.write(desk.engine, lambda c: control.cancel(c, job_id, "tester"))
        desk.heartbeat.beat()

    desk.on_notify = cancel
    desk.plan(job_id)
    assert len(desk.notified) == 1
    assert desk.job(job_id)["state"] == "cancelled"
    assert len(desk.shards(job_id)) == desk.notified[0]


@pytest.mark.parametrize("kind", ["tar.gz", "tar.zst"])
def test_shards_of_a_compressed_tar_end_where_reading_can_start(
    desk: Desk, model_id: int, tmp_path: Path, kind: str
) -> None:
    """So the workers together inflate each byte once, beside the listing."""
    rng = random.Random(8)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for n in range(300):
            info = tarfile.TarInfo(f"{n}.png")
            info.size = 60_000
            tar.addfile(info, io.BytesIO(rng.randbytes(info.size)))
    data = plain.getvalue()
    path = tmp_path / f"films.{kind}"
    if kind == "tar.gz":
        path.write_bytes(gzip.compress(data, 1))
    else:
        frames = range(0, len(data), 4 << 20)
        path.write_bytes(b"".join(zstandard.compress(data[at : at + (4 << 20)]) for at in frames))
    job_id = samples.submit_score(desk.engine, model_id, path)
    desk.plan(job_id)
    shards = desk.shards(job_id)
    assert len(shards) >= 4
    inflated = 0
    for row in shards:
        members = archive.unpack(row.listing)
        # Each by a worker of its own.
        spool = archive.open_spool(kind, str(path), index_of(desk.engine, job_id))
        os.close(spool.window(archive.spans(members)))
        inflated += spool.inflated
        spool.close()
    assert inflated <= 1.05 * len(data)


def raising(error: Exception) -> Callable[[], object]:
    """What raises that when it is called."""

    def call() -> object:
        raise error

    return call


def test_what_nobody_foresaw_fails_the_job_at_once_and_its_traceback_is_in_the_log(
    desk: Desk, model_id: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = samples.submit_score(desk.engine, model_id, folder(tmp_path / "films", 9))
    desk.on_notify = raising(KeyError("no such thing"))
    desk.plan(job_id)
    row = desk.job(job_id)
    assert (row["state"], row["attempts"]) == ("failed", 1)
    assert row["reason"] == ("planning the job failed (KeyError: …); a worker's log says why")
    assert "Traceback" in caplog.text
    desk.on_notify = lambda: None
    other = samples.submit_score(desk.engine, model_id, tmp_path / "films")
    desk.plan(other)
    assert desk.job(other)["state"] == "running"


def test_a_machine_that_runs_out_of_something_leaves_the_job_to_others_and_no_attempt_counts(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    job_id = samples.submit_score(desk.engine, model_id, folder(tmp_path / "films", 9))
    desk.on_notify = raising(OSError(24, "Too many open files"))
    desk.plan(job_id)
    row = desk.job(job_id)
    assert (row["state"], row["attempts"]) == ("planning", 0)
    with connecting.reading(desk.engine) as connection:
        here = claims.due("score", sa.select(jobs_table.c.id), desk.away.now())
        assert connection.execute(here).first() is None, "after a while, and not at once"
        elsewhere = claims.due("score", sa.select(jobs_table.c.id))
        assert connection.execute(elsewhere).scalar() == job_id


def test_an_archive_of_chained_headers_fails_its_job_at_the_first_attempt(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "chained.tar.gz"
    path.write_bytes(gzip.compress(archives.chained(1_200)))
    job_id = samples.submit_score(desk.engine, model_id, path)
    desk.plan(job_id)
    row = desk.job(job_id)
    assert (row["state"], row["attempts"]) == ("failed", 1)
    assert "the archive is damaged after 0 entries" in row["reason"]


def submit(
    desk: Desk,
    model_id: int,
    path: Path,
    pattern: str = "",
    kind: archive.Kind = "folder",
    *,
    kept: bool = False,
) -> int:
    """Submit a job over a list, a folder, or what a pattern matches in it.

    What a list names is `kept`, or read again by the planner, as release 0.2.0 submits.
    """
    uri, kind = (f"{path}/{pattern}", "glob") if pattern else (str(path), kind)
    with archive.open_source(uri, kind) as source:
        rows = [{"uri": uri, "kind": kind, "fingerprint": source.fingerprint()}]
        if kept:
            rows[0]["listed"] = source.listed()
    return connecting.write(
        desk.engine,
        lambda c: jobs.submit(
            c, kind="score", spec={}, submitted_by="tests", model_id=model_id, source_rows=rows
        ),
    )


def begin(desk: Desk, job_id: int, count: int) -> None:
    """List the first members of a job's only source, as a planner does that ends then."""
    row = jobs.source_rows(desk.engine, job_id)[0]
    with archive.open_source(row["uri"], row["kind"]) as source:
        members = list(itertools.islice(source.members(), count))
    claimed = connecting.write(
        desk.engine, lambda c: claims.claim_job(c, "score", "before", lease_s=60)
    )
    assert claimed is not None
    lease = claimed.lease
    new = [
        listings.NewShard(source_no=0, n_items=len(part), listing=archive.pack(part))
        for part in (members[: count // 2], members[count // 2 :])
    ]
    connecting.write(desk.engine, lambda c: listings.add(c, lease, new))
    connecting.write(
        desk.engine, lambda c: leases.hand_back(c, lease, "stopped", in_good_order=True)
    )


def changes(desk: Desk, job_id: int) -> list[str]:
    """What a job's history says of changed sources."""
    events = jobs.events(desk.engine, job_id)
    return [str(e["detail"]) for e in events if e["event"] == "source_changed"]


#: Whose order by folders is another one than that of the paths as text.
WARDS = ("a/1", "a/2", "a/b/3", "a-b/4", "a.b/5", "c", "d/6", "d/7", "e")


@pytest.mark.parametrize("pattern", ["", "**"])
@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_folder_that_changed_is_listed_on_behind_the_name_that_was_listed_last(
    desk: Desk, model_id: int, tmp_path: Path, pattern: str, count: int
) -> None:
    root = tmp_path / "films"
    for name in WARDS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    job_id = submit(desk, model_id, root, pattern)
    begin(desk, job_id, count)

    # One that was listed goes, as does one that was not; three come, of which one sorts before all.
    (root / "a/1").unlink()
    (root / "e").unlink()
    for name in ("a/0", "d/61", "f"):
        (root / name).write_bytes(b"x")
    desk.plan(job_id)

    wanted = [*WARDS[:count], *(n for n in [*WARDS[count:-1], "d/61"] if n not in WARDS[:count])]
    if count > WARDS.index("d/7"):
        wanted.remove("d/61")  # it sorts before what was listed last
    wanted.sort(key=archive.place)
    assert desk.names(job_id) == [*wanted, "f"]
    assert desk.job(job_id)["state"] == "running"
    new = 1 + (count > WARDS.index("d/7"))
    (said,) = changes(desk, job_id)
    assert str(root) in said
    assert f"gone now: 1; new among those listed before, and not scored: {new}" in said


@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_folder_that_stayed_as_it_was_has_not_changed(
    desk: Desk, model_id: int, tmp_path: Path, pattern: str
) -> None:
    films = folder(tmp_path / "films", 50)
    job_id = submit(desk, model_id, films, pattern)
    begin(desk, job_id, 20)
    (films / "film99999.png").write_bytes(b"x")  # not looked at yet when it came
    desk.plan(job_id)
    assert desk.names(job_id) == listed(films)
    assert changes(desk, job_id) == []


@pytest.mark.parametrize("pattern", ["", "*.png"])
def test_of_a_folder_whose_films_are_gone_those_are_items_that_were_listed(
    desk: Desk, model_id: int, tmp_path: Path, pattern: str
) -> None:
    films = folder(tmp_path / "films", 30)
    names = listed(films)[:20]
    job_id = submit(desk, model_id, films, pattern)
    begin(desk, job_id, 20)
    for file in films.iterdir():
        file.unlink()
    (films / ".DS_Store").write_bytes(b"x")
    desk.plan(job_id)
    assert desk.names(job_id) == names
    assert desk.job(job_id)["state"] == "running"
    (said,) = changes(desk, job_id)
    assert said.endswith("gone now: 20")


def test_a_retry_lists_no_archive_on_that_was_changed_once_its_listing_had_begun(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    path = tmp_path / "films.zip"

    def zipped(*names: str) -> None:
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, b"x")

    zipped("a.png", "b.png")
    first = samples.submit_score(desk.engine, model_id, path)
    connecting.write(desk.engine, lambda c: control.cancel(c, first, "tester"))
    zipped("b.png", "c.png", "d.png", "e.png")  # mended before the retry
    job_id = connecting.write(desk.engine, lambda c: control.retry(c, first, "tester"))
    begin(desk, job_id, 2)
    # As the planner notes it that lists it.
    with archive.open_source(str(path)) as source, connecting.writing(desk.engine) as connection:
        connection.execute(
            sa.update(sources)
            .where(sources.c.job_id == job_id)
            .values(fingerprint=source.fingerprint(), content_id=source.content_id())
        )
    zipped("a.png", "b.png", "c.png", "d.png", "e.png")
    desk.plan(job_id)
    job = desk.job(job_id)
    assert job["state"] == "failed"
    assert job["reason"] == f"{path} was changed while it was listed; submit again"
    assert desk.names(job_id) == ["b.png", "c.png"]


def test_a_table_whose_first_film_is_gone_is_not_listed_on_one_row_too_late(
    desk: Desk, model_id: int, tmp_path: Path
) -> None:
    films = folder(tmp_path / "films", 0)
    names = [f"film{n}" for n in range(20)]
    for name in names:
        (films / name).write_bytes(b"x")
    table = films / "films.csv"
    table.write_text("".join(f"{name},1\n" for name in names))
    job_id = submit(desk, model_id, table, kind="list")
    begin(desk, job_id, 10)
    (films / names[0]).unlink()  # the first row is a head now, by all that can be seen
    desk.plan(job_id)
    assert desk.job(job_id)["state"] == "failed"
    assert "changed while it was listed" in desk.job(job_id)["reason"]


@pytest.mark.parametrize("change", ["gone", "changed", "its folder is gone"])
@pytest.mark.parametrize("begun", [False, True])
def test_what_a_list_named_when_it_was_submitted_is_planned_and_tried_again(
    desk: Desk, model_id: int, tmp_path: Path, change: str, begun: bool
) -> None:
    films = folder(tmp_path / "films", 6)
    names = sorted(str(path) for path in films.rglob("*") if path.is_file())
    table = folder(tmp_path / "lists", 0) / "films.txt"
    table.write_text("".join(f"{name}\n" for name in names))
    job_id = submit(desk, model_id, table, kind="list", kept=True)
    if begun:
        begin(desk, job_id, 2)
    match change:
        case "gone":
            table.unlink()
        case "changed":
            table.write_text(names[0] + "\n")
        case _:
            shutil.rmtree(table.parent)
    desk.plan(job_id)
    assert desk.job(job_id)["state"] == "running"
    assert desk.names(job_id) == names
    connecting.write(desk.engine, lambda c: control.cancel(c, job_id, "tester"))
    again = connecting.write(
        desk.engine, lambda c: control.retry(c, job_id, "tester", failed_only=True)
    )
    desk.plan(again)
    assert desk.names(again) == names


@pytest.mark.parametrize(
    ("kind", "hanging", "on"),
    [("folder", "1.png", "examine"), ("folder", "ward", "list"), ("glob", "1.png", "examine"),
     ("glob", "ward", "list"), ("list", "1.png", "examine")],
)  # fmt: skip
def test_what_of_a_source_gives_no_answer_is_an_item_and_keeps_no_other_from_being_planned(
    desk: Desk, model_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: str, hanging: str, on: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(stall, "STALL_S", 3.0)
    real = folder(tmp_path / "real", 0)
    names = ["0.png", "1.png", "2.png", "ward/3.png"]
    for name in names:
        (real / name).parent.mkdir(exist_ok=True)
        (real / name).write_bytes(b"x")
    expected = [hanging if name.startswith(hanging) else name for name in names]
    with mounts.share(real, tmp_path / "share") as share:
        if kind == "list":
            path = tmp_path / "films.txt"
            expected = [f"{share.at}/{name}" for name in names]
            path.write_text("".join(f"{name}\n" for name in expected))
            job_id = submit(desk, model_id, path, kind="list", kept=True)
        else:
            job_id = submit(desk, model_id, share.at, "**" if kind == "glob" else "")
        apart.reach(str(share.at), 60.0)  # who asks has started, which may take as long
        share.hangs(names=hanging, on=[on])
        desk.plan(job_id)
        assert desk.job(job_id)["state"] == "planning"
        assert apart.left_behind() == 1
        desk.plan(job_id)
        assert desk.job(job_id)["state"] == "running", jobs.events(desk.engine, job_id)
        assert desk.names(job_id) == expected
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
        apart._silent.clear()
