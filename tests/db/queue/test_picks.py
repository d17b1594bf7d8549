"""Which films a person should look at, what a job came to in sums, and which files hold a film."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.queue import labels, overview, pages, picks, results
from db.registry import models
from db.work import endings
from tests.db import given

#: Of the model the threshold is 0.5, and an ood above 3 is unusual.
PROBABILITIES = (0.02, 0.48, 0.99, 0.55, 0.3, 0.7, 0.51, 0.1)
UNUSUAL = (2, 4)

MAP = results.Cam(1, 2, -1.0, 3.0, b"\x00\xff")


def scored(
    database: sa.Engine,
    probabilities: Sequence[float] = PROBABILITIES,
    unusual: Sequence[int] = UNUSUAL,
    **options: object,
) -> int:
    """A job that has ended with these outcomes."""
    job_id = given.running(database, items=len(probabilities), **options)
    shard = given.claimed(database)
    made = [
        results.Prediction(
            n, f"{n}.jpg", int(p >= 0.5), p, p >= 0.5, ood=4.0 + n if n in unusual else 1.0,
            unusual=n in unusual, cam=MAP if p > 0.9 else None,
        )
        for n, p in enumerate(probabilities)
    ]  # fmt: skip

    def work(connection: sa.Connection) -> None:
        results.commit(connection, shard, made)
        endings.close_if_done(connection, job_id, "tests")

    write(database, work)
    return job_id


def items(database: sa.Engine, job_id: int, why: str, most: int = 3, **more: object) -> list[int]:
    return [p.item_no for p in picks.films(database, job_id, why, most, **more)]  # type: ignore[arg-type]


def test_films_come_in_the_order_in_which_they_should_be_looked_at(database: sa.Engine) -> None:
    job_id = scored(database)
    scored(database, [0.5] * 4)  # another job's films are none of it
    assert items(database, job_id, "highest") == [2, 5, 3]
    assert items(database, job_id, "nearest") == [6, 1, 3]
    assert items(database, job_id, "unusual") == [4, 2]
    assert items(database, job_id, "highest", without=[5]) == [2, 3, 6]
    assert items(database, job_id, "highest", 100) == [2, 5, 3, 6, 1, 4, 7, 0]
    pick = picks.films(database, job_id, "highest", 1)[0]
    assert (pick.name, pick.label, pick.threshold, pick.unusual, pick.ood) == (
        "2.jpg", "PNEUMONIA", 0.5, 1, 6.0,
    )  # fmt: skip


def test_films_with_a_true_label_are_left_out_where_that_is_asked(database: sa.Engine) -> None:
    job_id = scored(database)
    write(database, lambda c: labels.import_rows(c, job_id, [(6, "NORMAL")], "kim"))
    assert items(database, job_id, "nearest", unlabelled=True) == [1, 3, 5]
    assert items(database, job_id, "nearest") == [6, 1, 3]


def test_a_control_is_drawn_from_all_films_alike(database: sa.Engine) -> None:
    numbers = [scored(database) for _ in range(60)]
    drawn = [tuple(items(database, job_id, "control", 2)) for job_id in numbers]
    assert all(len(set(two)) == 2 for two in drawn)
    times = [sum(n in two for two in drawn) for n in range(8)]
    assert sum(times) == 120 and min(times) >= 5, times  # 15 each on the average, +- 3.4
    assert sorted(items(database, numbers[0], "control", 99)) == list(range(8))
    assert items(database, numbers[0], "control", 99, without=[0, 7]) == list(range(1, 7))


def test_the_control_of_a_job_is_the_same_films_each_time(database: sa.Engine) -> None:
    job_id = scored(database, [n / 300 for n in range(300)])
    first = items(database, job_id, "control", 20)
    assert items(database, job_id, "control", 20) == first
    # A larger one has the smaller one in it, and a film that is left out changes no other's place.
    assert set(first) < set(items(database, job_id, "control", 40))
    without = set(items(database, job_id, "control", 20, without=[first[3]]))
    assert len(without & set(first)) == 19


def test_models_disagree_about_the_films_of_the_same_sources(
    database: sa.Engine, tmp_path: Path
) -> None:
    job_id = scored(database)
    assert picks.rival(database, job_id) is None
    second = write(
        database,
        lambda c: models.register(c, given.model(tmp_path, "second", threshold=0.6), "tests"),
    )
    other = scored(database, (0.02, 0.9, 0.97, 0.55, 0.3, 0.7, 0.1, 0.1), model_id=second)
    elsewhere = [{"uri": "/other.zip", "kind": "zip", "fingerprint": "1"}]
    scored(database, model_id=second, source_rows=elsewhere)
    assert picks.rival(database, job_id) == other
    assert picks.rival(database, other) == job_id
    # 1 and 6 by their scores, 3 as the second model's threshold is another.
    assert items(database, job_id, "disagreeing", 9, other=other) == [1, 6, 3]


def test_a_job_in_sums_has_each_film_once(database: sa.Engine) -> None:
    job_id = scored(database)
    with reading(database) as connection:
        counted = overview.histogram(connection, job_id)
        spans = overview.finished(connection, job_id, 10)
        maps = overview.maps(connection, job_id, range(8))
        assert overview.finished(connection, 999, 10) == []
    assert sum(n for _, _, n in counted) == 8
    assert {(bucket, label) for bucket, label, _ in counted} == {
        (min(19, int(p * results.BUCKETS)), int(p >= 0.5)) for p in PROBABILITIES
    }
    assert [n for _, n in spans] == [8]
    assert list(maps) == [2] and bytes(maps[2].data) == b"\x00\xff"


def test_what_is_refused_and_in_error_is_counted_by_code_with_examples(
    database: sa.Engine,
) -> None:
    job_id = given.running(database, items=9)
    given.commit(database, given.claimed(database), refused=4, errors=3)
    with reading(database) as connection:
        ((code, n, examples),) = overview.codes(connection, job_id, refused=True)
        assert (n, len(examples)) == (4, overview.EXAMPLES)
        assert code and all(example["name"] for example in examples)
        assert [n for _, n, _ in overview.codes(connection, job_id, refused=False)] == [3]


def test_the_files_that_hold_a_film_can_be_named(database: sa.Engine) -> None:
    job_id = scored(database)

    def work(connection: sa.Connection) -> list[int]:
        return [
            pages.record(connection, "report", "/a.html", "kim", job_id=job_id,
                         films=[(job_id, 2), (job_id, 2), (job_id, 5)]),
            pages.record(connection, "export", "/b.csv", "kim", job_id=job_id, films=None),
            pages.record(connection, "report", "/c.html", "kim", model_id=1),
        ]  # fmt: skip

    first, whole, _ = write(database, work)
    with reading(database) as connection:
        held = [[row["id"] for row in pages.holding(connection, job_id, n)] for n in (2, 3)]
        assert pages.holding(connection, job_id + 1, 2) == []
        films = connection.execute(sa.text("SELECT films FROM v_pages ORDER BY page_id"))
        assert films.scalars().all() == [2, None, 0]
    assert held == [[first, whole], [whole]]


@pytest.mark.parametrize("why", ["highest", "nearest", "unusual", "control"])
def test_a_job_without_films_has_none_to_look_at(database: sa.Engine, why: str) -> None:
    assert items(database, given.running(database), why) == []
