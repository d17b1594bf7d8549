"""models evaluate and train --evaluate: a model measured on labelled films."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sklearn import metrics as reference  # type: ignore[import-untyped]  # ships no hints

from db.base import database
from db.base.schema import datasets
from db.base.schema import models as models_table
from db.queue import jobs
from db.registry import models
from scheduler import session
from tests.scheduler import rows as scheduled
from tests.scheduler.console import only_line, run
from tests.support import drawn
from tests.worker import samples
from trainer.data.names import Names
from trainer.film import rules
from worker.machine import privacy


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ of phantoms."""
    root = tmp_path_factory.mktemp("labelled")
    for split, seed in (("train", 1), ("test", 2)):
        for made in drawn.films(24, seed):
            path = root / split / made.label / Path(made.name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made.data)
    return root


def test_the_figures_are_those_of_the_films(
    engine: sa.Engine, model_id: int, real_model: Path, data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "films.csv"
    result = run("models", "evaluate", model_id, data, "--csv", table, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = sorted(p for p in (data / "test").rglob("*") if p.is_file())
    assert sorted(row["path"] for row in rows) == [str(p) for p in files]
    truth = np.array([Path(row["path"]).parent.name == "PNEUMONIA" for row in rows])
    score = np.array([float(row["probability"]) for row in rows])
    called = score >= 0.4
    found = told["metrics"]
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(truth, score))
    assert found["auprc"] == pytest.approx(reference.average_precision_score(truth, score))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, called))
    assert found["sensitivity"] == pytest.approx(reference.recall_score(truth, called))
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    assert told["prevalence"] == pytest.approx(truth.mean())
    matrix = reference.confusion_matrix(truth, called)
    names = ("NORMAL", "PNEUMONIA")
    assert [[told["confusion"][t][c] for c in names] for t in names] == matrix.tolist()

    # The same film by the same model, scored alone.
    one = json.loads(run("classify", files[0], "--json").stdout)
    by_path = {row["path"]: row for row in rows}
    assert float(by_path[str(files[0])]["probability"]) == pytest.approx(one["probability"])

    (kept,) = models.detail(engine, model_id)["evaluations"]
    assert kept["split"] == f"test of {data.name}"
    assert kept["n_films"] == len(rows)
    assert kept["metrics"]["auroc"] == found["auroc"]
    assert (
        kept["metrics"]["basis"] == told["basis"] == ("films of a test split, which chose nothing")
    )
    shown = run("models", "show", model_id).stdout
    assert f"test of {data.name}" in shown
    asked = run("query", "SELECT split, films FROM v_evaluations", "--format", "csv").stdout
    assert f"test of {data.name},{len(rows)}" in asked


def test_a_person_sees_every_figure_with_its_interval(model_id: int, data: Path) -> None:
    result = run("models", "evaluate", model_id, data)
    assert result.exit_code == 0
    for word in ("accuracy", "auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "ece"):
        assert f"\n{word}" in result.stdout
    assert "called PNEUMONIA" in result.stdout
    assert "PNEUMONIA at or above 0.4000" in result.stdout
    assert "films of a test split, which chose nothing" in result.stdout
    result = run("models", "evaluate", model_id, data, "--split", "train", "--no-shift")
    assert "films as given: too good where the model has learned from them" in result.stdout


def told_of(model_id: int, data: Path, *options: str) -> dict[str, Any]:
    """What evaluating says, as JSON."""
    result = run("models", "evaluate", model_id, data, "--no-shift", "--json", *options)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def films_of(data: Path, split: str) -> list[Path]:
    return sorted(path for path in (data / split).rglob("*") if path.is_file())


@pytest.mark.parametrize("split", ["train", "val"])
def test_films_that_the_model_was_made_with_are_counted_and_nothing_is_promised_of_them(
    engine: sa.Engine, model_id: int, data: Path, split: str
) -> None:
    """A test split that was divided anew may hold them, and others of their patients."""
    there = films_of(data, "test")
    mine = {path.name.partition("_")[0] for path in there[:3]}
    n = sum(path.name.partition("_")[0] in mine for path in there)
    assert n > len(mine)
    scheduled.made_with(engine, model_id, [(path, split, "any") for path in there[:3]])
    told = told_of(model_id, data)
    assert told["made_with"] == n
    assert told["basis"].startswith("films as given: too good where")
    said = run("models", "evaluate", model_id, data, "--no-shift").stderr
    assert (
        f"{n} of these films, or others of their patients, the model was made with: the figures "
        "are too good" in said
    )
    other = run("models", "evaluate", model_id, data, "--split", "train", "--no-shift")
    assert "was made with" not in other.stderr
    assert told_of(model_id, data, "--split", "train")["made_with"] == 0
    both = [*there, *films_of(data, "train")]  # whose patients are called the same
    n = sum(path.name.partition("_")[0] in mine for path in both)
    assert told_of(model_id, data, "--split", "all")["made_with"] == n


def test_other_films_of_patients_whom_the_model_learned_count_as_such(
    engine: sa.Engine, model_id: int, data: Path, tmp_path: Path
) -> None:
    """train/ has one film of each patient, and test/ the others."""
    (other, *_) = films_of(data, "train")
    there = films_of(data, "test")
    patient = there[0].name.partition("_")[0]
    n = sum(path.name.startswith(f"{patient}_") for path in there)
    key = privacy.load(session.settings()).key_of_manifests()
    for name in (patient, Names(key=key, everything=True).patient(patient, dicom=False)):
        with database.writing(engine) as connection:
            connection.execute(sa.update(models_table).values(dataset_id=None))
            connection.execute(sa.delete(datasets))
        assert told_of(model_id, data)["made_with"] is None, "nobody knows"
        scheduled.made_with(engine, model_id, [(other, "train", name)])
        told = told_of(model_id, data)
        assert told["made_with"] == n
        assert told["basis"].startswith("films as given: too good where")


def test_the_patients_are_those_that_the_training_was_told_to_find(
    engine: sa.Engine, model_id: int, data: Path, tmp_path: Path
) -> None:
    (other, *_) = films_of(data, "train")
    root = tmp_path / "called otherwise"
    for n, path in enumerate(films_of(data, "test")):
        copy = root / path.parent.name / f"z{n % 4} of {n}{path.suffix}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    scheduled.made_with(engine, model_id, [(other, "train", "z1")])
    assert told_of(model_id, root)["made_with"] == 0
    spec = {"data": "/films", "patient_pattern": "^(z[0-9]+)"}
    with database.writing(engine) as connection:
        job_id = jobs.submit(connection, kind="train", spec=spec, submitted_by="tests")
        connection.execute(sa.update(models_table).values(job_id=job_id))
    assert told_of(model_id, root)["made_with"] == len(
        [path for path in root.rglob("z1 *") if path.is_file()]
    )


def test_intervals_are_by_the_patients_of_the_films_names(
    model_id: int, data: Path, tmp_path: Path
) -> None:
    for copies in (1, 5):
        for n, film in enumerate(sorted((data / "test").rglob("*.*"))):
            folder = tmp_path / str(copies) / film.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(copies):
                shutil.copy(film, folder / f"person{n}_{copy}{film.suffix}")
    one, five = (
        json.loads(run("models", "evaluate", model_id, root, "--no-shift", "--json").stdout)[
            "metrics"
        ]
        for root in (tmp_path / "1", tmp_path / "5")
    )
    assert five["films"] in (one["films"], 5 * one["films"])
    assert five["sensitivity"] == one["sensitivity"]
    for name in ("auroc", "accuracy", "sensitivity"):
        widths = [of[f"{name}_high"] - of[f"{name}_low"] for of in (one, five)]
        assert widths[1] > 0.9 * widths[0], name  # as of five times as many films: 0.45


def test_films_are_dressed_as_others_look_and_what_is_left_is_kept(
    engine: sa.Engine, model_id: int, data: Path
) -> None:
    told = json.loads(run("models", "evaluate", model_id, data, "--json").stdout)
    shift = told["shift"]
    assert shift["films"] == shift["held_out"] == told["metrics"]["films"]
    assert shift["plain"]["value"] == pytest.approx(told["metrics"]["auroc"])
    assert {"counter-shift half", "counter-shift full"} < {d["name"] for d in shift["dressings"]}
    (kept,) = models.detail(engine, model_id)["evaluations"]
    assert kept["shift"] == shift
    assert (kept["shift_worst"], kept["shift_worst_auroc"]) == (
        shift["worst"]["name"], shift["worst"]["auroc"],
    )  # fmt: skip
    result = run("models", "evaluate", model_id, data)
    assert "\nDressed as others look" in result.stdout
    assert "\ncounter-shift full" in result.stdout
    assert len(result.stdout.splitlines()) < 40
    plain = run("models", "evaluate", model_id, data, "--no-shift")
    assert "Dressed" not in plain.stdout
    assert models.detail(engine, model_id)["evaluations"][-1]["shift"] is None


def test_train_evaluates_where_that_is_asked_for(
    engine: sa.Engine, model_id: int, data: Path
) -> None:
    by_train = run("train", data, "--evaluate", model_id)
    assert by_train.exit_code == 0, by_train.stderr
    assert by_train.stdout == run("models", "evaluate", model_id, data).stdout
    assert len(models.detail(engine, model_id)["evaluations"]) == 2
    assert run("train", data, data, "--evaluate", model_id).exit_code == 2


def test_files_that_cannot_be_read_are_counted_and_named(
    model_id: int, data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "films"
    shutil.copytree(data / "test", root)
    whole = next((root / "NORMAL").iterdir())
    (root / "NORMAL" / "cut.jpeg").write_bytes(whole.read_bytes()[:300])
    (root / "PNEUMONIA" / "notes.txt").write_text("no film")
    (root / "PNEUMONIA" / "gone.png").symlink_to(tmp_path / "nowhere")
    table = tmp_path / "films.csv"
    result = run("models", "evaluate", model_id, root, "--csv", table)
    assert result.exit_code == 3
    assert "could not be read: 3 of " in result.stderr
    for name in ("cut.jpeg", "notes.txt", "gone.png"):
        assert name in result.stderr
        assert name in table.read_text()


def test_films_are_known_to_be_the_same_by_what_they_are_not_by_their_folders_name(
    engine: sa.Engine, model_id: int, data: Path, tmp_path: Path
) -> None:
    def same_films(folder: Path) -> str:
        result = run("models", "evaluate", model_id, folder, "--no-shift")
        assert result.exit_code in (0, 3), result.output
        newest = max(models.detail(engine, model_id)["evaluations"], key=lambda e: e["id"])
        return str(newest["metrics"]["same_films"])

    here = data / "test"
    moved, fewer, relabelled = (tmp_path / name / "test" for name in ("moved", "fewer", "other"))
    for folder in (moved, fewer, relabelled):
        shutil.copytree(here, folder)
    film = next((moved / "NORMAL").iterdir())
    film.rename(film.with_name(f"z-{film.name}"))
    next((fewer / "NORMAL").iterdir()).unlink()
    film = next((relabelled / "NORMAL").iterdir())
    film.rename(relabelled / "PNEUMONIA" / film.name)
    assert same_films(here) == same_films(moved)
    (moved / "NORMAL/cut.jpeg").write_bytes(b"\xff\xd8\xff")  # not measured
    assert same_films(here) == same_films(moved)
    assert len({same_films(folder) for folder in (here, fewer, relabelled)}) == 3


def test_only_the_split_that_is_asked_for_is_measured(model_id: int, data: Path) -> None:
    def films(*args: object) -> float:
        told = json.loads(run("models", "evaluate", model_id, *args, "--json").stdout)
        return float(told["metrics"]["films"])

    test, train = films(data), films(data, "--split", "train")
    assert films(data, "--split", "all") == test + train
    assert films(data / "test") == test
    result = run("models", "evaluate", model_id, data, "--split", "val")
    assert result.exit_code == 2
    assert "has no films to measure on in val" in only_line(result.stderr)


def test_a_class_that_the_model_lacks_is_an_error(
    model_id: int, data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "films"
    shutil.copytree(data / "test", root)
    (root / "NORMAL").rename(root / "HEALTHY")
    result = run("models", "evaluate", model_id, root)
    assert result.exit_code == 2
    assert "HEALTHY" in only_line(result.stderr)


def test_an_imported_rule_makes_the_pixels_that_are_measured(
    engine: sa.Engine, data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "nearest.onnx"
    rule = "gray-nearest-1"
    samples.write_model(
        path, ("NORMAL", "PNEUMONIA"), seed=1, film_rule=rule, golden=tuple(rules.golden(rule))
    )
    model = samples.register(engine, path)
    result = run("models", "evaluate", model, data, "--json")
    assert result.exit_code == 0, result.stderr
