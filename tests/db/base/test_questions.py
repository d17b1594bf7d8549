"""The page of questions is asked as it stands, and answers come without a scan of all there is."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import query, views
from db.base.database import reading, write
from db.base.schema import datasets, evaluations
from db.base.schema import runs as runs_table
from db.base.types import now
from db.nightly import runs, schedules, watched
from db.queue import labels, listings, measured, results
from db.registry import models
from db.work import claims, control, endings, totals
from tests.bench import questions as bench
from tests.db import given
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "guides" / "questions.md"

#: Number → statement.
ASKED = {
    int(number): statement
    for number, statement in re.findall(
        r"^(\d+)\. [^`]*?(?:`[^`\n]*`[^`]*?)*```sql\n(.*?)^```", PAGE.read_text(), re.M | re.S
    )
}

ARCHIVE = "/archive/2026.zip"


def _scored(database: sa.Engine, model_id: int, shift: float = 0.0, *, errors: int = 0) -> int:
    """A job over the archive of twelve films, of which some are in error."""
    source = {"uri": ARCHIVE, "kind": "zip", "fingerprint": "1"}
    job_id = given.running(database, shards=2, items=6, model_id=model_id, source_rows=[source])
    for _ in range(2):
        shard = given.claimed(database)
        made: list[results.Outcome] = []
        for n in range(shard.first_item, shard.first_item + shard.n_items):
            name = f"film-{n}.png"
            if n < errors:
                made.append(results.NotPredicted(n, name, "truncated", "ends", False))
                continue
            probability = min((n + 0.5) / 12 + shift, 1.0)
            made.append(
                results.Prediction(
                    n, name, int(probability >= 0.5), probability, probability >= 0.5,
                    ood=4.0 if n == 11 else 1.0, unusual=n == 11,
                    content=_CONTENT if n == 3 else f"film {n:011d}".encode(),
                )
            )  # fmt: skip
        write(database, lambda c, s=shard, m=made: results.commit(c, s, m, 2.0))  # type: ignore[misc]
    given.close(database, job_id)
    return job_id


#: That of film-3.png, as question 7 has it.
_CONTENT = bytes.fromhex("66696c6d20303330303030303030303030")


@pytest.fixture
def site(database: sa.Engine, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Two models, and jobs of both over one archive; `a` and `b` are such jobs."""
    second = given.model(tmp_path, "second")
    write(database, lambda c: models.register(c, second, "tests"))
    other_id = 2
    a, b = _scored(database, 1, errors=1), _scored(database, other_id, 0.2)

    def judged(connection: sa.Connection) -> None:
        for model_id, auroc in ((1, 0.91), (other_id, 0.95)):
            connection.execute(
                sa.insert(evaluations).values(
                    model_id=model_id, split="validation", n_films=40, created_at=now(),
                    metrics={"auroc": auroc, "sensitivity": 0.9, "specificity": 0.8,
                             "same_films": "a"},
                )
            )  # fmt: skip

    write(database, judged)
    write(
        database,
        lambda c: labels.import_rows(c, a, [(n, "NORMAL") for n in range(12)], "kim@ward"),
    )
    measured.metrics(database, a)
    totals.add_all(database)
    with reading(database) as connection:
        day = connection.exec_driver_sql("SELECT MAX(day) FROM day_totals").scalar_one()
    yield {"a": a, "b": b, "day": day, "other": other_id}


def _ask(database: sa.Engine, statement: str) -> list[tuple[Any, ...]]:
    url = database.url.render_as_string(hide_password=False)
    with query.run(url, statement) as answer:
        return list(answer.rows)


def _of(site: dict[str, Any], number: int, dialect: str) -> str:
    """A question of the page, about what is in this database."""
    statement = ASKED[number]
    statement = statement.replace("job_id = 7", f"job_id = {site['a']}")
    pair = f"job_a = {site['a']} AND job_b = {site['b']}"
    statement = statement.replace("job_a = 7 AND job_b = 8", pair)
    statement = statement.replace("'2026-01-30'", f"'{site['day']}'")
    statement = statement.replace("'2026-01-31'", "'9999-01-01'")
    if dialect == "postgresql":
        statement = re.sub(r"x'([0-9a-f]+)'", r"'\\x\1'", statement)
    return statement


def test_there_are_twenty_questions_and_each_view_is_asked_for() -> None:
    assert sorted(ASKED) == list(range(1, 21))
    text = "\n".join(ASKED.values())
    for view in views.questions.VIEWS:
        assert view.name in text


@pytest.mark.parametrize("number", range(1, 21))
def test_a_question_of_the_page_has_an_answer(
    database: sa.Engine, site: dict[str, Any], number: int
) -> None:
    found = _ask(database, _of(site, number, database.dialect.name))

    assert found, "nothing was found"
    expected = EXPECTED.get(number)
    if expected is not None:
        assert [tuple(_plain(v) for v in row) for row in found][: len(expected)] == expected


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int)) or value is None else round(float(value), 4)


#: Answers, as far as no clock is in them: their first rows.
EXPECTED: dict[int, list[tuple[Any, ...]]] = {
    1: [("NORMAL", 5, 0.2917), ("PNEUMONIA", 6, 0.75)],
    2: [("film-11.png", 0.9583, 4.0), ("film-10.png", 0.875, 1.0)],
    3: [("film-11.png", "PNEUMONIA", 4.0)],
    6: [("first", "fp32", "NORMAL", 0.2917, 1), ("second", "fp32", "NORMAL", 0.4917, 2)],
    7: [
        ("first", "film-3.png", "NORMAL", 0.2917, 1),
        ("second", "film-3.png", "NORMAL", 0.4917, 2),
    ],
    15: [("", 24, 3.0)],
    17: [(1, "second", 0, 0.95, 0.9, 0.8, 40), (2, "first", 1, 0.91, 0.9, 0.8, 40)],
    18: [("first", 11, 11, 0.4545), ("second", 12, 0, None)],
    19: [
        ("film-4.png", "NORMAL", 0.375, "PNEUMONIA", 0.575),
        ("film-5.png", "NORMAL", 0.4583, "PNEUMONIA", 0.6583),
    ],
    20: [(ARCHIVE, "first", "fp32", "whole", 12, 11, 0, 0, 1, 0)],
}


@pytest.mark.parametrize("number", range(1, 21))
def test_no_question_of_the_page_reads_a_whole_table_of_jobs_rows(
    database: sa.Engine, site: dict[str, Any], number: int
) -> None:
    statement = _of(site, number, database.dialect.name)
    with reading(database) as connection:
        if database.dialect.name == "postgresql":
            # Of a few rows PostgreSQL reads all, unless there is another way and it is told to.
            connection.exec_driver_sql("SET LOCAL enable_seqscan TO off")
        lines = bench.plan(connection, statement)

    assert bench.scans(lines) == [], lines


def test_a_retry_of_what_failed_completes_the_archive(
    database: sa.Engine, site: dict[str, Any]
) -> None:
    def completeness() -> list[tuple[Any, ...]]:
        return _ask(
            database,
            "SELECT jobs, newest_job, listed, scored, reused, refused, failed, missing "
            "FROM v_completeness WHERE model_id = 1",
        )

    assert completeness() == [(1, site["a"], 12, 11, 0, 0, 1, 0)]
    retry = write(database, lambda c: control.retry(c, site["a"], "kim@ward", failed_only=True))
    claimed = write(database, lambda c: claims.claim_job(c, "score", "p", given.LEASE_S))
    assert claimed is not None
    write(database, lambda c: listings.add(c, claimed.lease, given.new_shards(1, 1)))
    assert completeness() == [(1, site["a"], 12, 11, 0, 0, 1, 0)], "its listing is not complete"
    write(database, lambda c: listings.complete(c, claimed.lease, {}))
    assert completeness() == [(2, retry, 12, 11, 0, 0, 0, 1)]
    given.commit(database, given.claimed(database))
    given.close(database, retry)
    assert completeness() == [(2, retry, 12, 12, 0, 0, 0, 0)]

    again = _scored(database, 1)
    assert completeness() == [(1, again, 12, 12, 0, 0, 0, 0)], "all of it, once more"


def _again(
    database: sa.Engine, job_id: int, items: int, errors: int, *, failed_only: bool = True
) -> int:
    """A retry of a job's items, of which some are in error: its number."""
    again = write(database, lambda c: control.retry(c, job_id, "kim", failed_only=failed_only))
    _planned(database, again, items)
    given.commit(database, given.claimed(database), errors=errors)
    given.close(database, again)
    return again


def _planned(database: sa.Engine, job_id: int, items: int) -> None:
    """List the items of the only job that is queued."""
    claimed = write(database, lambda c: claims.claim_job(c, "score", "p", given.LEASE_S))
    assert claimed is not None and claimed.lease.job_id == job_id
    write(database, lambda c: listings.add(c, claimed.lease, given.new_shards(1, items)))
    write(database, lambda c: listings.complete(c, claimed.lease, {}))


def _complete(database: sa.Engine) -> list[tuple[Any, ...]]:
    """What model 1 lacks: jobs, the newest, listed, scored, failed, missing."""
    return _ask(
        database,
        "SELECT jobs, newest_job, listed, scored, failed, missing FROM v_completeness "
        "WHERE model_id = 1",
    )


def test_of_two_retries_of_the_same_failures_the_newer_counts(database: sa.Engine) -> None:
    first = _scored(database, 1, errors=3)
    older = _again(database, first, items=3, errors=3)
    below = _again(database, older, items=3, errors=1)
    assert _complete(database) == [(3, below, 12, 11, 1, 0)]

    newer = _again(database, first, items=3, errors=0)
    assert _complete(database) == [(2, newer, 12, 12, 0, 0)], "nor does the older one's retry"


def test_retries_of_retries_go_with_the_job_that_they_began_with(database: sa.Engine) -> None:
    first = _scored(database, 1, errors=3)
    whole = _scored(database, 1, errors=1)
    retry = _again(database, first, items=3, errors=2)
    _again(database, retry, items=2, errors=1)
    assert _complete(database) == [(1, whole, 12, 11, 1, 0)]

    last = _again(database, whole, items=1, errors=1)
    last = _again(database, last, items=1, errors=0)
    assert _complete(database) == [(3, last, 12, 12, 0, 0)]


def test_what_another_model_failed_at_is_not_added_to_a_job_over_all(
    database: sa.Engine, tmp_path: Path
) -> None:
    second = given.model(tmp_path, "second")
    write(database, lambda c: models.register(c, second, "tests"))
    whole = _scored(database, 1)
    other = _scored(database, 2, errors=3)
    retry = write(database, lambda c: control.retry(c, other, "kim", failed_only=True, model_id=1))
    _planned(database, retry, 3)

    assert _complete(database) == [(1, whole, 12, 12, 0, 0)]


#: The files of a watched folder, as a job has them.
_WATCHED = {"uri": "/in", "kind": "list", "fingerprint": "1", "paths": b"packed"}


def _look(database: sa.Engine, schedule_id: int, number: int, errors: int, state: str) -> int:
    """A job over so many files of a watched folder, of which some are in error: its number."""
    at = schedules.database_clock(database)

    def take(connection: sa.Connection) -> int:
        many = connection.execute(sa.select(sa.func.count()).select_from(runs_table)).scalar_one()
        run = runs.begin(connection, schedule_id, at + timedelta(days=many), "clock", "due")
        assert run is not None
        assert watched.claim(connection, run, "looker", (), 60.0)
        return run

    run_id = write(database, take)
    files = [watched.Seen(f"/in/{n}.jpg", 10, n) for n in range(number)]
    watched.observe(database, run_id, "looker", schedule_id, files)
    paths = [file.path for file in watched.waiting(database, schedule_id)]
    job_id = write(
        database,
        lambda c: watched.take(
            c, run_id, "looker", schedule_id, paths, spec={}, submitted_by="schedule",
            model_id=1, precision="fp32", source_rows=[_WATCHED],
        ),
    )  # fmt: skip
    _planned(database, job_id, len(paths))
    given.commit(database, given.claimed(database), errors=errors)
    write(database, lambda c: endings.finish(c, job_id, state, "looker"))
    return job_id


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_files_that_a_watched_folders_next_job_took_again_count_once(
    database: sa.Engine, inbox: int, state: str
) -> None:
    first = _look(database, inbox, 10, 3, state)
    assert _complete(database) == [(1, first, 10, 7, 3, 0)], "they wait"
    by_hand = _again(database, first, items=10, errors=1, failed_only=False)
    assert _complete(database) == [(1, by_hand, 10, 9, 1, 0)]

    second = _look(database, inbox, 12, 0, "completed")
    assert _complete(database) == [(1, second, 12, 12, 0, 0)]
    third = _look(database, inbox, 13, 1, "completed_with_errors")
    assert _complete(database) == [(2, third, 13, 12, 1, 0)]
    third = _again(database, third, items=1, errors=0, failed_only=False)
    assert _complete(database) == [(2, third, 13, 13, 0, 0)]


def test_files_that_a_schedule_gave_up_are_failed_beside_what_it_took_since(
    database: sa.Engine, inbox: int
) -> None:
    for number in (2, 3, 4):
        last = _look(database, inbox, number, 2, "failed")
    assert _complete(database) == [(1, last, 4, 2, 2, 0)]
    newer = _look(database, inbox, 4, 0, "completed")
    assert _complete(database) == [(2, newer, 4, 2, 2, 0)], "of four, the two oldest"


def test_the_latest_prediction_is_the_last_that_was_committed_not_that_of_the_newest_job(
    database: sa.Engine,
) -> None:
    source = {"uri": ARCHIVE, "kind": "zip", "fingerprint": "1"}
    older, newer = (given.running(database, items=2, source_rows=[source]) for _ in range(2))
    later = "2026-11-30T14:14:56.000Z"
    for job_id, at in ((older, later), (newer, "2026-11-30T14:14:55.000Z")):
        given.commit(database, given.claimed(database))
        write(
            database,
            lambda c, j=job_id, t=at: c.exec_driver_sql(  # type: ignore[misc]
                f"UPDATE shards SET finished_at = '{t}' WHERE job_id = {j}"
            ),
        )
    asked = f"SELECT DISTINCT job_id FROM v_latest_prediction WHERE source = '{ARCHIVE}'"
    assert _ask(database, asked) == [(older,)]
    # Of the same moment the newer job is later.
    write(database, lambda c: c.exec_driver_sql(f"UPDATE shards SET finished_at = '{later}'"))
    assert _ask(database, asked) == [(newer,)]


def test_a_film_that_failed_since_its_newest_prediction_is_found(
    database: sa.Engine, site: dict[str, Any]
) -> None:
    page = (ROOT / "docs/reference/sql.md").read_text().partition("## Films that failed since")[2]
    asked = page.partition("```sql\n")[2].partition("```")[0]
    _pass(database)
    # Model 1 could not read film-0, and model 2 has scored it since.
    assert _ask(database, asked) == []

    again = _scored(database, 1, errors=2)

    found = [(row[0], row[1], row[2], row[3]) for row in _ask(database, asked)]
    error = ("error", "truncated", again)
    assert found == [("film-0.png", *error), ("film-1.png", *error)]
    latest = f"SELECT DISTINCT job_id FROM v_latest_prediction WHERE source = '{ARCHIVE}'"
    assert (site["a"],) in _ask(database, f"{latest} AND model_id = 1 AND name = 'film-1.png'")


def _pass(database: sa.Engine) -> None:
    """Let what was committed be a while ago."""
    long_ago = "2026-01-01T00:00:00.000Z"
    write(
        database,
        lambda c: c.exec_driver_sql(
            f"UPDATE shards SET finished_at = '{long_ago}' WHERE finished_at IS NOT NULL"
        ),
    )


def test_the_latest_prediction_is_that_of_the_newest_job(
    database: sa.Engine, site: dict[str, Any]
) -> None:
    again = _scored(database, 1, 0.02)

    found = _ask(
        database,
        "SELECT DISTINCT job_id FROM v_latest_prediction "
        f"WHERE source = '{ARCHIVE}' AND model_id = 1",
    )

    # The film that was in error before has one now.
    assert found == [(again,)]
    assert _ask(
        database,
        "SELECT COUNT(*) FROM v_latest_prediction "
        f"WHERE source = '{ARCHIVE}' AND name = 'film-0.png'",
    ) == [(2,)]


def test_a_model_that_was_never_evaluated_is_right_as_often_as_its_labels_say(
    database: sa.Engine, site: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("third", "unused"):
        new = given.model(tmp_path, name)
        write(database, lambda c, n=new: models.register(c, n, "tests"))  # type: ignore[misc]
    job_id = _scored(database, 3)
    rows = [(n, "NORMAL" if n < 5 else "PNEUMONIA") for n in range(12)]
    write(database, lambda c: labels.import_rows(c, job_id, rows, "kim@ward"))
    measured.metrics(database, job_id)

    answer = _ask(database, ASKED[18])
    assert [tuple(_plain(v) for v in row) for row in answer] == [
        ("first", 11, 11, 0.4545), ("second", 12, 0, None), ("third", 12, 12, 0.9167),
    ]  # fmt: skip
    ranks = _ask(
        database, "SELECT model, rank, split, films, auroc FROM v_model_leaderboard ORDER BY model"
    )
    assert ranks == [
        ("first", 2, "validation", 40, 0.91),
        ("second", 1, "validation", 40, 0.95),
        ("third", None, None, None, None),
    ]


def test_models_are_ranked_where_their_films_are_known_to_be_the_same_and_only_there(
    database: sa.Engine, tmp_path: Path
) -> None:
    for number in (2, 3):
        new = given.model(tmp_path, f"m{number}")
        write(database, lambda c, n=new: models.register(c, n, "tests"))  # type: ignore[misc]
    dataset = write(
        database,
        lambda c: c.execute(
            sa.insert(datasets).values(
                hash="d" * 64, root="/d", n_train=1, n_val=1, n_patients=2, classes={}, notes=[],
                manifest=b"", created_at=now(),
            )
        ).inserted_primary_key[0],
    )  # fmt: skip

    def measured_on(model_id: int, split: str, auroc: float, films: str | None, **of: Any) -> None:
        found = {"n_films": 4, "auroc": auroc} | ({} if films is None else {"same_films": films})
        write(database, lambda c: models.record_evaluation(c, model_id, split, found, **of))

    for model_id, auroc, films in ((1, 0.9, "a"), (2, 0.8, "a"), (3, 0.7, "b"), (1, 0.6, "b")):
        measured_on(model_id, "all of cal", auroc, films)
    measured_on(2, "all of cal", 0.85, "a")  # anew
    for model_id in (1, 2):
        measured_on(model_id, "all of old", 0.5 + model_id / 10, None)
        measured_on(model_id, "frozen", 0.5 + model_id / 10, None, dataset_id=dataset)
    found = _ask(
        database,
        "SELECT split, same_films, rank, model_id, auroc FROM v_model_leaderboard "
        "ORDER BY split, same_films, rank, model_id",
    )
    assert found == [
        ("all of cal", "a", 1, 1, 0.9),
        ("all of cal", "a", 2, 2, 0.85),
        ("all of cal", "b", 1, 3, 0.7),
        ("all of cal", "b", 2, 1, 0.6),
        ("all of old", None, None, 1, 0.6),
        ("all of old", None, None, 2, 0.7),
        ("frozen", None, 1, 2, 0.7),
        ("frozen", None, 2, 1, 0.6),
    ]


def test_films_of_other_sources_or_of_the_same_model_do_not_disagree(
    database: sa.Engine, site: dict[str, Any]
) -> None:
    a = site["a"]
    again = _scored(database, 1, 0.2)
    write(
        database,
        lambda c: c.exec_driver_sql(
            f"UPDATE sources SET uri = '/other.zip' WHERE job_id = {again}"
        ),
    )

    for pair in (f"job_a = {a} AND job_b = {again}", f"job_a = {again} AND job_b = {site['b']}"):
        assert _ask(database, f"SELECT * FROM v_disagreements WHERE {pair}") == []
    both = _ask(database, "SELECT job_a, job_b FROM v_disagreements WHERE name = 'film-4.png'")
    assert sorted(both) == [(a, site["b"]), (site["b"], a)]


def test_a_source_of_any_path_is_submitted_scored_and_found(database: sa.Engine) -> None:
    by_chance = random.Random(7)
    longest = "/" + "/".join(by_chance.randbytes(100).hex() for _ in range(20))
    source = {"uri": longest, "kind": "folder", "fingerprint": "1"}
    given.running(database, source_rows=[source])
    given.commit(database, given.claimed(database))

    assert _ask(database, "SELECT source FROM v_predictions") == [(longest,)]
    for view in ("v_latest_prediction", "v_completeness"):
        statement = f"SELECT source FROM {view} WHERE source = '{longest}'"
        assert _ask(database, statement) == [(longest,)]
        with reading(database) as connection:
            if database.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL enable_seqscan TO off")
            lines = "\n".join(bench.plan(connection, statement))
        if database.dialect.name == "postgresql":
            assert "ix_sources_long_uri" in lines
