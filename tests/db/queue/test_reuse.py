"""What was scored before is answered from the store: film by film, or a whole archive at once."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.base.errors import LeaseLost
from db.base.schema import cams, films, identities, predictions, refusals, rollups, shards
from db.base.schema import jobs as jobs_table
from db.queue import jobs, leases, listings, results, reuse
from db.work import claims, control
from tests.db import given

CAM = results.Cam(2, 3, -1.5, 2.5, bytes([0, 1, 2, 253, 254, 255]))
WHOSE = results.Identity("p", "s", None)
#: What reads films now.
READERS = {"JPEG": 1, "PNG": 1, "DICOM": 2}
ZIP = [{"uri": "/films.zip", "kind": "zip", "fingerprint": "1", "content_id": "zip:9:ab"}]


def _content(n: int) -> bytes:
    return n.to_bytes(16, "big")


def _films(shard: leases.Shard, **fields: Any) -> list[results.Outcome]:
    return [
        o._replace(content=_content(o.item_no), **fields)
        for o in given.outcomes(shard)
        if isinstance(o, results.Prediction)
    ]


def _known(database: sa.Engine, *numbers: int, **key: Any) -> dict[bytes, reuse.Known]:
    values = {"model_id": 1, "precision": "fp32"} | key
    with reading(database) as connection:
        return reuse.known(connection, [_content(n) for n in numbers], **values)


def test_a_film_is_known_by_content_model_and_precision(database: sa.Engine) -> None:
    with reading(database) as connection:
        assert not reuse.any_known(connection, 1, "fp32")
    job_id = given.running(database, items=3)
    shard = given.claimed(database)
    made = _films(shard, scores=[0.25, 0.75], ood=1.5)
    made[1] = made[1]._replace(cam=CAM, identity=WHOSE, look=3)  # type: ignore[call-arg]
    write(database, lambda c: results.commit(c, shard, made))

    found = _known(database, 0, 1, 99)

    assert found == {
        _content(0): reuse.Known(job_id, 0, 1, 0.75, [0.25, 0.75], 1.5, None, None, frozenset(), 1),
        _content(1): reuse.Known(
            job_id, 1, 1, 0.75, [0.25, 0.75], 1.5, CAM, WHOSE, frozenset(), 1, look=3
        ),
    }
    assert _known(database, 0, precision="int8") == {}
    assert _known(database, 0, model_id=2) == {}
    with reading(database) as connection:
        assert reuse.any_known(connection, 1, "fp32")
        assert not reuse.any_known(connection, 1, "int8")


def test_many_contents_are_looked_up_at_once(database: sa.Engine) -> None:
    given.running(database, items=5)
    shard = given.claimed(database)
    write(database, lambda c: results.commit(c, shard, _films(shard)))

    assert len(_known(database, *range(2 * results.LOOKUP + 1))) == 5
    assert _known(database) == {}


def test_an_answer_from_the_store_names_the_row_that_was_scored(database: sa.Engine) -> None:
    first = given.running(database)
    shard = given.claimed(database)
    write(database, lambda c: results.commit(c, shard, _films(shard)))
    given.running(database)
    again = given.claimed(database)
    made = _films(again, reused_from=(first, 0))

    write(database, lambda c: results.commit(c, again, made))

    row = given.one(database, predictions, predictions.c.job_id == again.job_id)
    assert (row.reused_from_job, row.reused_from_item) == (first, 0)
    assert _known(database, 0)[_content(0)].job_id == first
    assert given.count(database, films) == 1


def test_a_prediction_is_known_to_be_of_the_bytes_that_it_or_one_like_it_answers_for(
    database: sa.Engine,
) -> None:
    def commit(**fields: Any) -> int:
        given.running(database, items=2)
        shard = given.claimed(database)
        write(database, lambda c: results.commit(c, shard, _films(shard, **fields)))
        return shard.job_id

    def is_of(job_id: int, item_no: int, content: int) -> bool:
        with reading(database) as connection:
            return reuse.is_of(connection, job_id, item_no, _content(content))

    first = commit(probability=0.75)
    repeated = commit(probability=0.75, reused_from=(first, 0))
    anew, another = commit(probability=0.755), commit(probability=0.9)
    otherwise = commit(probability=0.75, label_no=0)
    assert is_of(first, 0, 0)
    assert is_of(repeated, 0, 0)
    assert is_of(anew, 0, 0)  # within rounding
    assert not is_of(another, 0, 0)
    assert not is_of(otherwise, 0, 0)
    assert not is_of(first, 0, 99)  # nobody scored it
    assert is_of(first, 77, 99)  # an item without a prediction
    with database.begin() as connection:
        connection.execute(
            sa.update(predictions).values(probability=0.1).where(predictions.c.job_id == repeated)
        )
    assert is_of(repeated, 0, 0)  # it says which one it repeats
    with database.begin() as connection:
        connection.execute(sa.update(jobs_table).values(precision=None))
    assert is_of(first, 0, 0)  # a job of release 0.1.0 names no precision: it is fp32


def test_the_same_film_twice_in_a_shard_is_kept_once(database: sa.Engine) -> None:
    given.running(database, items=2)
    shard = given.claimed(database)
    made = [o._replace(content=_content(7)) for o in _films(shard)]  # type: ignore[call-arg]

    write(database, lambda c: results.commit(c, shard, made))

    assert given.count(database, predictions) == 2
    assert given.count(database, films) == 1


def _scored(database: sa.Engine, spec: dict[str, Any] | None = None, **fields: Any) -> int:
    """A job that has scored content 0; its number."""
    job_id = given.running(database, spec=spec or {})
    shard = given.claimed(database)
    write(database, lambda c: results.commit(c, shard, _films(shard, **fields)))
    return job_id


def test_a_film_is_known_with_what_it_needed_to_be_overridden(database: sa.Engine) -> None:
    _scored(
        database, {"accept": ["burned_in", "lateral", "colour"]}, overridden=("lateral", "colour")
    )

    assert _known(database, 0)[_content(0)].overridden == {"lateral", "colour"}


@pytest.mark.parametrize("spec", [{}, {"accept": []}, {"accept": ["lateral"]}])
def test_of_a_film_of_an_older_release_all_counts_as_needed_that_its_job_overrode(
    database: sa.Engine, spec: dict[str, Any]
) -> None:
    first = _scored(database, spec)
    # As those write it that know nothing of it.
    write(database, lambda c: c.execute(sa.update(films).values(overridden=None)))

    found = _known(database, 0)[_content(0)]
    assert (found.job_id, found.overridden) == (first, frozenset(spec.get("accept", ())))

    # Who scores it again knows, and answers from then on.
    second = _scored(database)
    found = _known(database, 0)[_content(0)]
    assert (found.job_id, found.overridden) == (second, frozenset())


def test_a_prediction_with_a_map_replaces_one_without(database: sa.Engine) -> None:
    _scored(database)
    second = _scored(database, cam=CAM)
    _scored(database)
    _scored(database, cam=CAM)

    found = _known(database, 0)[_content(0)]
    assert (found.job_id, found.cam) == (second, CAM)
    assert given.count(database, films) == 1


def test_what_a_newer_reader_made_replaces_what_an_older_one_made_and_not_the_other_way(
    database: sa.Engine,
) -> None:
    def made(version: int) -> int:
        return _scored(database, reader=("DICOM", version))

    first = made(1)
    # As those write it that know nothing of it.
    write(database, lambda c: c.execute(sa.update(films).values(reader=None)))
    made(1)
    assert _known(database, 0)[_content(0)][:2] == (first, 0)
    assert _known(database, 0)[_content(0)].reader == 1
    newer = made(2)
    made(1)
    _scored(database, reader=("DICOM", 1), cam=CAM)
    found = _known(database, 0)[_content(0)]
    assert (found.job_id, found.reader) == (newer, 2)
    assert given.count(database, films) == 1


def test_two_that_commit_the_same_films_at_once_both_succeed(database: sa.Engine) -> None:
    given.running(database, shards=6, items=50)
    held = [given.claimed(database) for _ in range(6)]

    def commit(shard: leases.Shard) -> None:
        made = [
            o._replace(content=_content((o.item_no * 7 + shard.shard_no) % 50))  # type: ignore[call-arg]
            for o in _films(shard)
        ]
        write(database, lambda c: results.commit(c, shard, made))

    assert given.together(*[lambda s=s: commit(s) for s in held]) == [None] * 6
    assert given.count(database, films) == 50


def _find(database: sa.Engine, spec: dict[str, Any] | None = None) -> tuple[int, int] | None:
    with reading(database) as connection:
        return reuse.find_copy(connection, "zip:9:ab", 1, "fp32", spec or {})


def test_a_copy_is_the_best_job_with_the_same_archive_and_options(database: sa.Engine) -> None:
    assert _find(database) is None
    given.planning(database, source_rows=ZIP)
    assert _find(database) is None
    given.running(database, source_rows=ZIP, spec={"keep_cam": "all"})
    given.running(database, source_rows=ZIP, spec={"accept": ["lateral"]})
    given.running(database, source_rows=ZIP, spec={"hash_names": True})
    given.running(database, source_rows=ZIP, spec={"failed_only": True})
    given.running(database, source_rows=ZIP, precision="int8")
    given.running(database, source_rows=[{**ZIP[0], "content_id": None}])
    assert _find(database) is None

    done = given.running(database, spec={"keep_cam": "flagged", "force": True}, priority=9,
                         source_rows=[{**ZIP[0], "content_id": "zip:other"}, *ZIP])  # fmt: skip
    given.commit(database, given.claimed(database))
    given.close(database, done)
    assert _find(database, {"accept": []}) == (done, 1)
    newer = given.running(database, source_rows=ZIP)
    assert _find(database) == (done, 1)
    given.running(database, source_rows=ZIP, priority=9)
    assert newer > done


def _origin(database: sa.Engine) -> int:
    """A job of six shards: done, done, with an error, dead, in two halves, open."""
    job_id = given.running(database, shards=6, items=4, source_rows=ZIP)
    for n in range(2):
        shard = given.claimed(database)
        made = given.outcomes(shard, refused=n)
        made = [
            o._replace(identity=results.Identity("p", f"s{n}", None), **(
                {"content": _content(o.item_no), "cam": CAM, "ood": 9.0, "unusual": True,
                 "look": 1}
                if isinstance(o, results.Prediction) else {}
            ))
            for o in made
        ]  # fmt: skip
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m))  # type: ignore[misc]
    given.commit(database, given.claimed(database), errors=1)
    dead = given.claimed(database)
    write(database, lambda c: results.give_up(c, dead, ["x"] * 4, "x", "died"))
    halved = given.claimed(database)
    write(database, lambda c: listings.bisect(c, halved, *given.new_shards(2, items=2)))
    return job_id


def _copy_all(database: sa.Engine, lease: leases.Lease, origin: int, limit: int = 2) -> int:
    calls = 0
    while True:
        calls += 1
        copied = write(
            database, lambda c: reuse.copy_source(c, lease, origin, 0, 0, READERS, limit=limit)
        )
        if copied.complete or not copied.shards:
            assert copied.complete
            return calls


def test_an_unchanged_archive_is_copied_with_its_outcomes(database: sa.Engine) -> None:
    origin = _origin(database)
    write(database, lambda c: control.cancel(c, origin, "x"))
    lease = given.planning(database, source_rows=ZIP).lease

    assert _copy_all(database, lease, origin) == 4

    with reading(database) as connection:
        rows = connection.execute(
            sa.select(shards.c.first_item, shards.c.n_items, shards.c.state)
            .where(shards.c.job_id == lease.job_id).order_by(shards.c.shard_no)
        ).all()  # fmt: skip
    assert [tuple(row) for row in rows] == [
        (0, 4, "done"), (4, 4, "done"), (8, 4, "ready"), (12, 4, "ready"), (16, 2, "ready"),
        (18, 2, "ready"), (20, 4, "ready"),
    ]  # fmt: skip
    for table, count in {predictions: 7, refusals: 1, cams: 7, identities: 8}.items():
        assert given.count(database, table, table.c.job_id == lease.job_id) == count
    mine = given.one(database, predictions, predictions.c.job_id == lease.job_id,
                     predictions.c.item_no == 1)  # fmt: skip
    assert (mine.name, mine.ood, mine.reused_from_job, mine.reused_from_item) == (
        "1.jpg", 9.0, origin, 1,
    )  # fmt: skip
    assert mine.look == 1
    assert given.count(database, rollups, rollups.c.job_id == lease.job_id) == 2
    write(database, lambda c: listings.complete(c, lease, {}))
    for _ in range(5):
        given.commit(database, given.claimed(database))
    assert given.close(database, lease.job_id)
    progress = jobs.progress(database, lease.job_id)
    assert (progress["state"], progress["done"], progress["predictions"]) == ("completed", 24, 23)
    assert (progress["unusual"], progress["refused"], progress["errors"]) == (7, 1, 0)
    assert progress["looks"] == 7


def test_a_copy_of_a_copy_names_the_first(database: sa.Engine) -> None:
    origin = _origin(database)
    second = given.planning(database, source_rows=ZIP).lease
    _copy_all(database, second, origin)
    write(database, lambda c: listings.complete(c, second, {}))
    third = given.planning(database, source_rows=ZIP).lease

    _copy_all(database, third, second.job_id)

    with reading(database) as connection:
        origins = connection.execute(
            sa.select(predictions.c.reused_from_job, predictions.c.reused_from_item)
            .where(predictions.c.job_id == third.job_id).order_by(predictions.c.item_no)
        ).all()  # fmt: skip
    assert [tuple(row) for row in origins] == [(origin, n) for n in (0, 1, 2, 3, 5, 6, 7)]


def test_a_copy_goes_on_after_its_planner_died_and_behind_other_sources(
    database: sa.Engine,
) -> None:
    origin = _origin(database)
    two = [{**ZIP[0], "content_id": None}, *ZIP]
    job_id = given.queued(database, source_rows=two)
    first = write(database, lambda c: claims.claim_job(c, "score", "a", given.EXPIRED_S))
    assert first is not None
    write(database, lambda c: listings.add(c, first.lease, given.new_shards(1, items=5)))
    write(database, lambda c: reuse.copy_source(c, first.lease, origin, 0, 1, READERS, limit=1))
    second = write(database, lambda c: claims.claim_job(c, "score", "b", given.LEASE_S))
    assert second is not None
    with pytest.raises(LeaseLost):
        write(database, lambda c: reuse.copy_source(c, first.lease, origin, 0, 1, READERS))

    copied = write(database, lambda c: reuse.copy_source(c, second.lease, origin, 0, 1, READERS))

    assert copied == reuse.Copied(6, 20, True)
    assert write(database, lambda c: reuse.copy_source(c, second.lease, origin, 0, 1, READERS)) == (
        0, 0, True,
    )  # fmt: skip
    with reading(database) as connection:
        assert listings.planned(connection, job_id) == {0: 5, 1: 24}
        numbers = connection.execute(
            sa.select(predictions.c.item_no).where(predictions.c.job_id == job_id)
            .order_by(predictions.c.item_no)
        ).scalars()  # fmt: skip
        assert list(numbers) == [5, 6, 7, 8, 10, 11, 12]


def test_of_an_archive_that_was_listed_in_two_pieces_the_first_is_copied_and_the_rest_listed(
    database: sa.Engine,
) -> None:
    two = [*ZIP, {**ZIP[0], "uri": "/other.zip", "content_id": None}]
    origin = given.planning(database, source_rows=two).lease

    def plan(connection: sa.Connection) -> None:
        for source_no in (0, 1, 0):
            new = [listings.NewShard(source_no=source_no, n_items=3, listing=b"listing")]
            listings.add(connection, origin, new)
        listings.complete(connection, origin, {})

    write(database, plan)
    lease = given.planning(database, source_rows=ZIP).lease

    def copy() -> reuse.Copied:
        return write(database, lambda c: reuse.copy_source(c, lease, origin.job_id, 0, 0, READERS))

    assert [copy(), copy()] == [(1, 3, False), (0, 0, False)]
    assert jobs.get(database, lease.job_id)["planned_items"] == 3


def test_where_no_shard_begins_nothing_is_copied(database: sa.Engine) -> None:
    origin = _origin(database)
    lease = given.planning(database, source_rows=ZIP).lease
    write(database, lambda c: listings.add(c, lease, given.new_shards(1, items=3)))

    assert write(database, lambda c: reuse.copy_source(c, lease, origin, 0, 0, READERS)) == (
        0,
        0,
        False,
    )


def test_what_other_readers_made_is_not_copied_but_read_again(database: sa.Engine) -> None:
    read_by = [
        {"JPEG": 1}, {"JPEG": 1, "DICOM": 2}, {"DICOM": 1}, {"JPEG": 1, "DICOM": 1}, {"JPEG": 2},
        {"JPEG 2000": 1}, None,
    ]  # fmt: skip
    job_id = given.running(database, shards=len(read_by), items=2, source_rows=ZIP)
    for _ in read_by:
        given.commit(database, given.claimed(database))
    for number, readers in enumerate(read_by):
        stated: Any = sa.null() if readers is None else readers
        mine = shards.c.job_id == job_id, shards.c.shard_no == number
        write(database, lambda c, m=mine, s=stated: c.execute(  # type: ignore[misc]
            sa.update(shards).where(*m).values(readers=s)
        ))  # fmt: skip
    lease = given.planning(database, source_rows=ZIP).lease

    _copy_all(database, lease, job_id)

    with reading(database) as connection:
        rows = connection.execute(
            sa.select(shards.c.state, shards.c.readers)
            .where(shards.c.job_id == lease.job_id).order_by(shards.c.shard_no)
        ).all()  # fmt: skip
    assert [(row.state, row.readers) for row in rows] == [
        ("done", {"JPEG": 1}), ("done", {"JPEG": 1, "DICOM": 2}), *[("ready", None)] * 5,
    ]  # fmt: skip
    assert given.count(database, predictions, predictions.c.job_id == lease.job_id) == 4


def test_a_shard_says_what_read_its_films_where_that_is_known_of_all(database: sa.Engine) -> None:
    def committed(*readers: tuple[str, int] | None) -> Any:
        job_id = given.running(database, items=len(readers))
        shard = given.claimed(database)
        made = given.outcomes(shard, refused=1)
        made = [o._replace(reader=r) for o, r in zip(made, readers, strict=True)]
        write(database, lambda c: results.commit(c, shard, made))
        return given.one(database, shards, shards.c.job_id == job_id).readers

    assert committed(("DICOM", 2), ("JPEG", 1), ("JPEG", 1)) == {"DICOM": 2, "JPEG": 1}
    assert committed(("", 1), ("DICOM", 2), ("DICOM", 1)) == {"": 1, "DICOM": 1}
    assert committed(("DICOM", 2), None) is None
    assert committed(None, ("DICOM", 2)) is None
    with reading(database) as connection:
        unknown = sa.select(sa.func.count()).where(shards.c.readers.is_(None))
        assert connection.execute(unknown).scalar_one() == 2, "NULL, and no `null` of JSON"


def test_a_film_that_is_refused_by_now_is_no_longer_answered_from_the_store(
    database: sa.Engine,
) -> None:
    # 0 is refused now, 1 is broken, 2 needed a refusal to be overridden, 3 was read by a newer
    # reader, of 4 an older release kept nothing, and 5 is as it was.
    given.running(database, items=6)
    shard = given.claimed(database)
    made = _films(shard, reader=("JPEG", 2))
    made[2] = made[2]._replace(overridden=("colour",))  # type: ignore[call-arg]
    made[3] = made[3]._replace(reader=("JPEG", 3))
    write(database, lambda c: results.commit(c, shard, made))
    forgotten = films.c.content == _content(4)
    write(database, lambda c: c.execute(
        sa.update(films).where(forgotten).values(overridden=None, reader=None)
    ))  # fmt: skip
    job_id = given.running(database, items=6)
    again = given.claimed(database)
    assert again.job_id == job_id
    outcomes = _films(again, reader=("JPEG", 2))
    for n in range(5):
        outcomes[n] = results.NotPredicted(
            item_no=n, name=str(n), code="blank", detail="one gray", refused=n != 1,
            content=_content(n), reader=("JPEG", 2),
        )  # fmt: skip

    write(database, lambda c: results.commit(c, again, outcomes))

    assert _known(database, *range(6)).keys() == {_content(n) for n in (2, 3, 5)}


def test_what_was_in_error_is_decided_anew_when_its_archive_is_answered(
    database: sa.Engine,
) -> None:
    job_id = given.running(database, shards=2, items=2, source_rows=ZIP)
    for errors in (0, 1):
        shard = given.claimed(database)
        made = given.outcomes(shard, errors=errors)
        made = [o._replace(reader=("PNG", 1)) for o in made]
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m))  # type: ignore[misc]
    lease = given.planning(database, source_rows=ZIP).lease

    _copy_all(database, lease, job_id)

    with reading(database) as connection:
        states = connection.execute(
            sa.select(shards.c.state).where(shards.c.job_id == lease.job_id)
            .order_by(shards.c.shard_no)
        ).scalars().all()  # fmt: skip
    assert states == ["done", "ready"]
