"""The judge finds nothing wrong with a job that went well, and whatever is planted in it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from db.base import database
from tests.faults import harm
from tests.faults.chaos import films, judge
from tests.support import servers, soak
from tests.support.site import site
from tests.worker import samples

database_url = soak.database_url

#: Each way to be bad is among them.
COUNT = 8 * films.ONE_BAD_IN

_ELSEWHERE = "SELECT job_id, item_no, shard_no, name, '{code}', '' FROM {table} WHERE name LIKE "

#: What is done to films after the job, and what the judge must say of each.
PLANTED = {
    "UPDATE predictions SET probability = probability + 0.0001 WHERE name LIKE '%00001.jpeg'":
        "00001.jpeg: prediction",
    "UPDATE predictions SET label_no = 1 - label_no WHERE name LIKE '%00002.jpg'":
        "00002.jpg: prediction",
    "DELETE FROM predictions WHERE name LIKE '%00150.png'":
        "00150.png: lost; it should be prediction",
    "INSERT INTO refusals (job_id, item_no, shard_no, name, code, detail) "
    + _ELSEWHERE.format(code="colour", table="predictions") + "'%00004.jpeg'":
        "00004.jpeg: prediction",
    "UPDATE item_errors SET code = 'worker_died' WHERE name LIKE '%00007.png'":
        "00007.png: error worker_died; it should be error truncated",
    "UPDATE predictions SET name = '99999.png' WHERE name LIKE '%00300.png'":
        "99999.png: there is no such film",
}  # fmt: skip


def test_the_judge_sees_a_wrong_a_lost_and_a_second_outcome_and_nothing_else(
    database_url: str, valkey: servers.Valkey, tmp_path: Path
) -> None:
    made = list(films.make(COUNT, seed=3))
    expected = {film.name: film.outcome for film in made}
    sources = films.write(tmp_path, made)
    card = films.write_model(tmp_path / "known.onnx")
    with site(database_url, valkey, tmp_path / "site") as here:
        samples.register(here.engine, tmp_path / "known.onnx", card)
        here.worker()
        job_id = here.score(*sources, model_id=1, spec=harm.ANEW)
        here.ended(job_id)
        assert judge.wrong(here, job_id, expected, films.LABELS) == []

        with database.writing(here.engine) as connection:
            for statement in PLANTED:
                assert connection.execute(sa.text(statement)).rowcount == 1, statement
        said = judge.wrong(here, job_id, expected, films.LABELS)
        for words in PLANTED.values():
            assert [text for text in said if text.startswith(f"job {job_id}: {words}")], words
        # The film that has another's name is lost besides, and two outcomes are one item's.
        assert len(said) == len(PLANTED) + 2, said
