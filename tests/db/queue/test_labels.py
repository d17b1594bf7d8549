"""Ground truth comes later: it is matched by name, never guessed, and metrics follow."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from sklearn import metrics as reference

from db.base.database import reading, write
from db.base.errors import Conflict, NotFound, UnknownLabel
from db.base.schema import evaluations
from db.base.schema import labels as table
from db.queue import jobs, labels, results
from db.registry import measures, models
from tests.db import given
from trainer.judging import figures
from trainer.judging import metrics as trained


def _import(database: sa.Engine, job_id: int, *rows: tuple[labels.Item, str]) -> labels.Imported:
    return write(database, lambda c: labels.import_rows(c, job_id, rows, "kim@ward"))


def _scored(database: sa.Engine, probabilities: list[float]) -> int:
    job_id = given.running(database, items=len(probabilities))
    shard = given.claimed(database)
    made = [
        results.Prediction(n, f"{n}.jpg", int(p >= 0.5), p, p >= 0.5)
        for n, p in enumerate(probabilities)
    ]
    write(database, lambda c: results.commit(c, shard, made))
    return job_id


def _labels(database: sa.Engine, job_id: int) -> dict[int, str]:
    with reading(database) as connection:
        rows = connection.execute(sa.select(table).where(table.c.job_id == job_id))
        return {row.item_no: row.label for row in rows}


def test_labels_are_matched_by_name_or_number(database: sa.Engine) -> None:
    job_id = given.running(database, items=5)
    given.commit(database, given.claimed(database), refused=1, errors=1)
    other = given.running(database, items=5)
    given.commit(database, given.claimed(database))

    report = _import(
        database, job_id, ("0.jpg", "NORMAL"), ("2.jpg", "NORMAL"), (3, "PNEUMONIA"),
        ("4.JPG", "NORMAL"), ("elsewhere/4.jpg", "NORMAL"), (99, "NORMAL"),
    )  # fmt: skip

    assert _labels(database, job_id) == {0: "NORMAL", 2: "NORMAL", 3: "PNEUMONIA"}
    assert _labels(database, other) == {}
    assert (report.rows, report.labelled, report.unknown) == (6, 3, 3)
    assert report.examples["unknown"] == ["4.JPG", "elsewhere/4.jpg", "99"]
    row = given.one(database, table, table.c.item_no == 2)
    assert (row.imported_by, row.imported_at is not None) == ("kim@ward", True)
    event = jobs.events(database, job_id)[-1]
    assert (event["event"], event["who"]) == ("labels_imported", "kim@ward")


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**63, 10**30, -1])
def test_a_number_that_no_item_can_have_is_unknown(database: sa.Engine, number: int) -> None:
    job_id = _scored(database, [0.25, 0.75])
    report = _import(database, job_id, (number, "NORMAL"), (1, "NORMAL"), ("x.jpg", "NORMAL"))
    assert (report.rows, report.labelled, report.unknown) == (3, 1, 2)
    assert sorted(report.examples["unknown"]) == sorted([str(number), "x.jpg"])


@pytest.mark.parametrize("name", ["0.jpg\0", "\udcff.jpg", ("\0", "1.jpg")])
def test_a_name_that_is_no_text_for_a_database_is_that_of_no_item(
    database: sa.Engine, name: labels.Item
) -> None:
    job_id = _scored(database, [0.25, 0.75])
    report = _import(database, job_id, ("0.jpg", "NORMAL"), (name, "PNEUMONIA"))
    known = isinstance(name, tuple)
    assert (report.rows, report.labelled, report.unknown) == (2, 1 + known, 1 - known)
    assert len(report.examples["unknown"]) == 1 - known


def test_a_name_that_several_items_have_is_reported_and_not_guessed(database: sa.Engine) -> None:
    job_id = given.running(database, items=3)
    shard = given.claimed(database)
    made = [results.Prediction(n, "same.jpg", 1, 0.75, True) for n in range(2)]
    made.append(results.Prediction(2, "own.jpg", 1, 0.75, True))
    write(database, lambda c: results.commit(c, shard, made))

    report = _import(database, job_id, ("same.jpg", "NORMAL"), ("own.jpg", "NORMAL"))

    assert _labels(database, job_id) == {2: "NORMAL"}
    assert (report.ambiguous, report.unknown) == (1, 0)
    assert report.examples["ambiguous"] == ["same.jpg"]
    assert _import(database, job_id, (0, "NORMAL"), (1, "PNEUMONIA")).labelled == 2


def test_two_labels_of_one_item_in_a_file_are_reported_and_not_guessed(
    database: sa.Engine,
) -> None:
    job_id = _scored(database, [0.1, 0.2])

    report = _import(
        database, job_id, ("0.jpg", "NORMAL"), (0, "PNEUMONIA"), ("1.jpg", "NORMAL"), (1, "NORMAL")
    )

    assert _labels(database, job_id) == {1: "NORMAL"}
    assert (report.labelled, report.contradicted) == (1, 1)
    assert report.examples["contradicted"] == ["0", "0.jpg"]


def test_importing_again_replaces(database: sa.Engine) -> None:
    job_id = _scored(database, [0.1, 0.2])
    _import(database, job_id, ("0.jpg", "NORMAL"), ("1.jpg", "NORMAL"))

    _import(database, job_id, ("1.jpg", "PNEUMONIA"))

    assert _labels(database, job_id) == {0: "NORMAL", 1: "PNEUMONIA"}


def test_a_label_that_is_no_class_is_refused_with_the_classes(database: sa.Engine) -> None:
    job_id = _scored(database, [0.1, 0.2])

    with pytest.raises(UnknownLabel, match=r"row 2 \(1.jpg\) has the label 'pneumonia'.*NORMAL, "):
        _import(database, job_id, ("0.jpg", "NORMAL"), ("1.jpg", "pneumonia"))

    assert _labels(database, job_id) == {}
    assert _import(database, job_id, ("0.jpg", "NORMAL")).labelled == 1


def test_only_scoring_jobs_that_are_there_take_labels(database: sa.Engine) -> None:
    with pytest.raises(NotFound):
        _import(database, 4711, ("0.jpg", "NORMAL"))
    with pytest.raises(Conflict, match="no scoring job"):
        _import(database, given.queued(database, "train"), ("0.jpg", "NORMAL"))


def test_more_rows_than_a_batch_are_imported(
    database: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "BATCH", 7)
    job_id = _scored(database, [0.1] * 50)

    report = _import(database, job_id, *((f"{n}.jpg", "NORMAL") for n in range(50)))

    assert report.labelled == 50


def test_metrics_of_a_job_follow_its_labels(database: sa.Engine, tmp_path: Path) -> None:
    chance = random.Random(0)
    probabilities = [round(chance.random(), 2) for _ in range(400)]
    truth = [chance.random() < p for p in probabilities]
    job_id = _scored(database, probabilities)
    with pytest.raises(NotFound, match="labels import"):
        labels.metrics(database, job_id)
    _import(
        database, job_id,
        *((f"{n}.jpg", "PNEUMONIA" if t else "NORMAL") for n, t in enumerate(truth[:300])),
    )  # fmt: skip

    found = labels.metrics(database, job_id)

    score, true = np.array(probabilities[:300]), np.array(truth[:300])
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(true, score))
    assert found["auprc"] == pytest.approx(reference.average_precision_score(true, score))
    called = score >= 0.5
    assert found["ppv"] == pytest.approx(reference.precision_score(true, called))
    assert found["npv"] == pytest.approx(reference.precision_score(~true, ~called))
    expected = figures.summary(score, true, 0.5)
    both = found.keys() & expected.keys()
    assert both >= {"auroc", "auprc", "accuracy", "sensitivity", "specificity", "ppv", "npv", "ece"}
    assert {k: found[k] for k in both} == pytest.approx({k: expected[k] for k in both})
    assert (found["n_films"], found["unlabelled"], found["not_predicted"]) == (300, 100, 0)
    assert found["positives"] + found["negatives"] == 300
    kept = labels.stored(database, job_id)
    assert kept is not None
    assert (kept["split"], kept["n_films"], kept["model_id"]) == (f"labels of job {job_id}", 300, 1)
    assert kept["metrics"]["auroc"] == pytest.approx(found["auroc"])
    labels.metrics(database, job_id)
    assert given.count(database, evaluations) == 1
    assert models.detail(database, 1)["evaluations"][0]["split"] == f"labels of job {job_id}"


@pytest.mark.parametrize("truth", ["NORMAL", "PNEUMONIA"])
def test_metrics_that_the_labels_do_not_allow_are_absent(database: sa.Engine, truth: str) -> None:
    job_id = _scored(database, [0.1, 0.9])
    _import(database, job_id, (0, truth), (1, truth))

    found = labels.metrics(database, job_id)

    assert found["auroc"] is None
    assert found["accuracy"] == 0.5
    assert (found["sensitivity"] is None) == (truth == "NORMAL")
    assert (found["specificity"] is None) == (truth == "PNEUMONIA")


@pytest.mark.parametrize("seed", range(5))
def test_the_measures_agree_with_scikit_learn_where_scores_are_tied(seed: int) -> None:
    chance = np.random.default_rng(seed)
    score = np.round(chance.random(500), seed % 3)
    truth = chance.random(500) < 0.3

    assert measures.auroc(score, truth) == pytest.approx(reference.roc_auc_score(truth, score))
    assert measures.auprc(score, truth) == pytest.approx(
        reference.average_precision_score(truth, score)
    )
    assert measures.ece(score, truth) == trained.ece(score, truth)


def test_a_view_shows_what_was_right(database: sa.Engine) -> None:
    job_id = _scored(database, [0.1, 0.9])
    _import(database, job_id, (0, "NORMAL"), (1, "NORMAL"))

    with reading(database) as connection:
        rows = connection.execute(sa.text("SELECT * FROM v_labelled ORDER BY item_no")).all()

    assert [tuple(row) for row in rows] == [
        (job_id, 0, "0.jpg", 0.1, "NORMAL", "NORMAL", 1),
        (job_id, 1, "1.jpg", 0.9, "PNEUMONIA", "NORMAL", 0),
    ]
