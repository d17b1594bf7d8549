"""report MODEL, NIGHT and DATASET: figures that are the database's, charts that are the films'."""

from __future__ import annotations

import json
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from sklearn import metrics as reference

from db.base import database
from db.base.schema import identities
from db.registry import models
from scheduler.pages import card, floors, html, judged
from scheduler.pages import model as model_page
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.scheduler.pages import learned, made, parsed
from tests.support import drawn
from tests.support.browser import Browser
from trainer.judging import figures, gate, verdict

NAMES = [f"ward {n % 3}/film {n:03}.jpeg" for n in range(60)]
NAMES[3 : 3 + len(made.HOSTILE)] = made.HOSTILE


def report(of: str, file: Path, *more: str | int) -> parsed.Element:
    result = run("report", of, file, *more)
    assert result.exit_code == 0, result.output
    return parsed.page(file)


def check(file: Path, chromium: Browser) -> None:
    """Nothing is wrong with a page, wide or narrow, light or dark."""
    for width, dark in ((1440, True), (360, False)):
        page = chromium.open(file, width=width, dark=dark)
        assert (page.faults(), page.wide()) == ([], [])
        assert (page.complaints, page.requests, page.dialogs) == ([], [], 0)
        page.close()


@pytest.fixture
def model(engine: sa.Engine, tmp_path: Path) -> int:
    return learned.a_trained_model(engine, tmp_path)


def test_the_page_of_a_model_has_its_curves_and_opens_without_complaint(
    engine: sa.Engine, model: int, tmp_path: Path, chromium: Browser
) -> None:
    learned.a_labelled_job(engine, model, tmp_path, NAMES)
    root = report("model:tonight", tmp_path / "model.html")
    check(tmp_path / "model.html", chromium)
    loss = parsed.table(root, "Loss by epoch")[1:]
    with database.reading(engine) as connection:
        stored = connection.execute(
            sa.text("SELECT epoch, train_loss, val_loss FROM v_epochs ORDER BY epoch")
        ).all()
    assert loss == [[str(e), f"{t:.4f}", f"{v:.4f}"] for e, t, v in stored]
    (chart,) = [f for f in root.all("figure", "chart") if f.all("h3")[0].text == "Loss by epoch"]
    assert "kept; overfitting begins" in chart.all("svg")[-1].text
    said = root.all("main")[0].text
    assert "Overfitting begins after epoch 5" in said
    # The headings of both cards, and what only the site can say is not made up.
    for heading in ("Release", "Summary and uses", "Warnings", "Trust: data", "Key metrics"):
        assert heading in [h.text for h in root.all("h3")]
    assert "Not known to PneumoQ: the site must say." in said
    assert parsed.table(root, "Where CLAIM 2024 is answered")
    dressed = parsed.table(root, "AUROC where films look acquired otherwise")[1:]
    assert [line[0] for line in dressed] == ["as they are", "group 1", "counter-shift full"]
    assert dressed[2][3:6] == ["0.8300", "0.7800", "0.8800"]


def test_figures_of_labelled_films_are_those_of_the_database_and_of_scikit_learn(
    engine: sa.Engine, model: int, tmp_path: Path
) -> None:
    job = learned.a_labelled_job(engine, model, tmp_path, NAMES)
    root = report("tonight", tmp_path / "model.html", "--films", 6)
    with database.reading(engine) as connection:
        labelled = connection.execute(
            sa.text("SELECT item_no, probability, truth, label FROM v_labelled WHERE job_id = :j"),
            {"j": job},
        ).all()
    truth = np.array([row.truth == "PNEUMONIA" for row in labelled])
    score = np.array([row.probability for row in labelled])
    matrix = parsed.table(root, "Confusion matrix at the operating point 0.4000")
    counts = [[int(cell.split()[0]) for cell in line[1:3]] for line in matrix[1:3]]
    called = score >= 0.4
    assert counts == [
        [int((called & truth).sum()), int((~called & truth).sum())],
        [int((called & ~truth).sum()), int((~called & ~truth).sum())],
    ]
    area = reference.roc_auc_score(truth, score)
    (roc,) = [f for f in root.all("figure", "chart") if f.all("h3")[0].text == "ROC curve"]
    assert f"AUROC {area:.3f}" in roc.all("p")[0].text
    points = {
        float(at): (float(up), float(off)) for at, up, off in parsed.table(root, "ROC curve")[1:]
    }
    for at, (sensitivity, specificity) in points.items():
        above = score >= at - 5e-5
        assert sensitivity == pytest.approx(above[truth].mean(), abs=1e-4)
        assert specificity == pytest.approx(1 - above[~truth].mean(), abs=1e-4)
    bins = parsed.table(root, "Calibration")[1:]
    assert sum(int(line[1]) for line in bins) == len(labelled)
    spread = parsed.table(root, "Scores by true class")[1:]
    assert [sum(int(line[n]) for line in spread) for n in (1, 2)] == [
        int((~truth).sum()), int(truth.sum()),
    ]  # fmt: skip
    wrong = [
        row.item_no
        for row in sorted(labelled, key=lambda r: -abs(r.probability - 0.4))
        if (row.probability >= 0.4) != (row.truth == "PNEUMONIA")
    ]
    shown = [
        int(figure.all("p", "why")[0].text.removeprefix("Item ").split(":")[0])
        for figure in root.all("figure", "film")
    ]
    assert shown == wrong[:6]
    assert all(", truly " in f.text for f in root.all("figure", "film"))


def test_the_curves_of_a_million_films_are_two_hundred_points() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(1_000_000) < 0.3
    found = judged.Judged(
        of="many", score=np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0, 1), truth=truth,
        number=np.arange(1_000_000),
    )  # fmt: skip
    drawn_charts = judged.figures(found, 0.4, "PNEUMONIA")
    assert sum(map(len, drawn_charts)) < 60_000
    assert len(found.worst(0.4, 12)) == 12


@pytest.mark.parametrize("films", [0, 1, 2])
def test_few_labelled_films_have_a_page(
    engine: sa.Engine, model: int, tmp_path: Path, films: int
) -> None:
    if films:
        learned.a_labelled_job(engine, model, tmp_path, NAMES[:films])
    said = report("tonight", tmp_path / "model.html").all("main")[0].text
    assert ("need films one by one" in said) == (films == 0)


def test_a_model_that_was_imported_has_a_page_without_curves(
    engine: sa.Engine, tmp_path: Path, chromium: Browser
) -> None:
    rows.a_model(engine, tmp_path, "<b>bold", origin="imported", metrics={}, evaluations={})
    root = report("champion", tmp_path / "model.html")
    assert "<b>bold" in root.all("h1")[0].text
    said = root.all("main")[0].text
    assert "No epochs are known" in said and "It was not measured" in said
    check(tmp_path / "model.html", chromium)


def test_labelled_films_can_be_named_to_judge_a_model_by(
    engine: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    drawn.write_folder(tmp_path / "films", 6)
    root = report("champion", tmp_path / "model.html", "--data", str(tmp_path / "films"))
    said = root.all("main")[0].text
    assert "all of films, scored for this page" in said
    answer = json.loads(run("models", "evaluate", "champion", tmp_path / "films", "--json").stdout)[
        "metrics"
    ]
    (roc,) = [f for f in root.all("figure", "chart") if f.all("h3")[0].text == "ROC curve"]
    assert f"AUROC {answer['auroc']:.3f}" in roc.all("p")[0].text


def test_figures_of_named_films_say_how_many_the_model_was_made_with_and_how_many_are_not_in_them(
    engine: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    data = tmp_path / "films"
    drawn.write_folder(data, 6)
    intact = sorted(path for path in data.rglob("*") if path.is_file())
    plain = report("champion", tmp_path / "before.html", "--data", str(data)).all("main")[0].text
    assert "the model was made with" not in plain
    assert judged.GIVEN in plain
    rows.made_with(engine, model_id, [(path, "train", path.stem) for path in intact[:5]])
    mine = {path.name.partition("_")[0] for path in intact[:5]}
    n = sum(path.name.partition("_")[0] in mine for path in intact)
    broken = next((data / "NORMAL").iterdir()).with_name("broken.png")
    broken.write_bytes(b"no film")
    file = tmp_path / "model.html"
    result = run("report", "champion", file, "--data", str(data), "--json")
    assert result.exit_code == 3
    assert sum(json.loads(result.stdout)["unreadable"].values()) == 1
    said = parsed.page(file).all("main")[0].text
    assert (
        f"{n} of these films, or others of their patients, the model was made with: the figures "
        "are too good." in said
    )
    assert "Not in the figures, as they could not be read: 1 (" in said
    again = run("report", "champion", file, "--data", str(data), "--force")
    assert again.exit_code == 3
    assert "could not be read: 1 (" in again.stderr


def test_intervals_of_a_labelled_job_are_by_patient_where_names_or_tags_say_whose_films_are(
    engine: sa.Engine, model: int, tmp_path: Path
) -> None:
    row = models.get(engine, model)
    learned.a_labelled_job(engine, model, tmp_path, NAMES)
    unknown = judged.of_job(engine, row)
    assert unknown is not None
    assert len(set(unknown.patients)) == len(unknown.score)
    assert judged.NOBODYS in unknown.notes
    assert judged.NOBODYS in report("tonight", tmp_path / "model.html").all("main")[0].text
    names = [f"person{n // 6}_virus_{n}.jpeg" for n in range(60)]
    job = learned.a_labelled_job(engine, model, tmp_path, names)
    by_name = judged.of_job(engine, row)
    assert by_name is not None
    assert len(set(by_name.patients)) == 10
    assert judged.NOBODYS not in by_name.notes
    with engine.begin() as connection:
        connection.execute(
            sa.insert(identities),
            [
                {"job_id": job, "item_no": n, "patient": f"hash{n // 12}", "study": None}
                for n in range(60)
            ],
        )
    by_tag = judged.of_job(engine, row)
    assert by_tag is not None
    assert len(set(by_tag.patients)) == 5


@pytest.mark.parametrize(
    ("patients", "divided"),
    [
        ("known", "divided by patient"),
        ("folders", "divided by folder, each taken for a patient's"),
        ("unknown", "divided film by film, as patients are not known"),
        ("", "divided; whether by patient is not said"),
    ],
)
def test_the_card_says_how_films_were_divided_and_which_had_no_part_in_the_model(
    engine: sa.Engine, tmp_path: Path, patients: str, divided: str
) -> None:
    of = {
        "validation": {"auroc": 0.9, "basis": "cross-fitted over patients: 40 held-out films"},
        "all of p": {"auroc": 0.9, "basis": figures.GIVEN},
        "test of p3": {"auroc": 0.9, "basis": figures.TESTED},
    }
    model_id = rows.a_model(
        engine, tmp_path, card={"labels": ["NORMAL", "PNEUMONIA"], "patients": patients},
        evaluations={split: {**found, "n_films": 40} for split, found in of.items()},
    )  # fmt: skip
    rows.made_with(engine, model_id, [])
    row, detail = models.get(engine, model_id), models.detail(engine, model_id)
    said = unescape(html.safe(card.of(engine, row, detail["evaluations"])))
    assert divided in said
    assert "test of p3; measured also on films of which that is not known: all of p<" in said
    assert "each division" not in said


def test_a_night_has_both_models_side_by_side_and_why(
    engine: sa.Engine, model: int, tmp_path: Path, chromium: Browser
) -> None:
    champion = learned.a_trained_model(engine, tmp_path, "before")
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.5
    sides = [
        verdict.Side(score=np.clip(rng.normal(0.3 + gap * truth, 0.2), 0, 1), threshold=0.45)
        for gap in (0.3, 0.4)
    ]
    slices = {"ward <b>": np.arange(300) < 150, "few": np.arange(300) < 5}
    judged_ = gate.judge(
        truth, [f"p{n // 2}" for n in range(300)], *sides, gate.Rules(floors={"sensitivity": 0.9}),
        slices=slices, anchor=gate.Anchor(side=sides[1], model=champion),
    )  # fmt: skip
    run_id = learned.a_night(engine, champion, model, judged_.figures)
    root = report("nightly", tmp_path / "night.html")
    check(tmp_path / "night.html", chromium)
    said = root.all("header")[0].text
    assert "kept" in root.all("h1")[0].text and "The new model's AUROC is lower." in said
    stored = judged_.figures
    for name, title in verdict.NAMES.items():
        line = parsed.table(root, f"Difference in {title}")[1]
        assert line[1:3] == [f"{stored[name][k]:.4f}" for k in ("candidate", "champion")]
        assert line[3:6] == [f"{stored[name][k]:+.4f}" for k in ("difference", "low", "high")]
        assert line[6] == f"{-stored['margins'][name]:+.4f}"
    both = parsed.table(root, "The models")
    sides_ = [f"new model ({model})", f"champion ({champion})", f"anchor ({champion})"]
    assert both[0][1:] == sides_
    assert parsed.table(root, "Difference in AUROC to the anchor")[1][1:3] == [
        f"{stored['anchor']['auroc'][k]:.4f}" for k in ("candidate", "champion")
    ]
    (floor,) = parsed.table(root, "Floors")[1:]
    expected = stored["floors"]["sensitivity"]
    assert floor[1:4] == [f"{expected[k]:.4f}" for k in ("floor", "value", "low")]
    assert (floor[4] == "yes") != ("floor" in judged_.text)
    at = next(t for t in report("model:tonight", tmp_path / "model.html").all("caption")
              if t.text.startswith("Floors of the night of "))  # fmt: skip
    assert parsed.table(parsed.page(tmp_path / "model.html"), at.text)[1] == floor
    parts = parsed.table(root, "AUROC by part")[1:]
    assert [(line[0], line[2]) for line in parts] == [("ward <b>", "yes"), ("few", "too few")]
    answer = json.loads(run("report", f"run:{run_id}", tmp_path / "b.html", "--json").stdout)
    assert answer["run_id"] == run_id


@pytest.mark.parametrize(
    ("value", "low", "reached"),
    [(0.95, 0.90, "yes"), (0.95, 0.8999, "not shown"), (0.90, 0.85, "no"), (0.80, 0.70, "no")],
)
def test_a_floor_is_said_to_be_reached_where_the_bound_reaches_it(
    value: float, low: float, reached: str
) -> None:
    found = {"floors": {"sensitivity": {"floor": 0.90, "value": value, "low": low}}}
    markup = str(floors.table(found, "Floors"))
    assert markup.rpartition("<td")[2].partition(">")[2].startswith(reached)


def test_a_night_without_a_comparison_has_a_page(
    engine: sa.Engine, model: int, tmp_path: Path
) -> None:
    learned.a_night(engine, model, model, {})
    said = report("run:1", tmp_path / "night.html").all("main")[0].text
    assert "The two models were not compared" in said


def test_a_dataset_has_what_the_check_finds(
    engine: sa.Engine, tmp_path: Path, chromium: Browser
) -> None:
    data = tmp_path / "films"
    drawn.write_folder(data, 8)
    copied = next((data / "NORMAL").iterdir())
    shutil.copy(copied, data / "NORMAL" / "again<script>.jpeg")
    (data / "NORMAL" / "broken.jpeg").write_bytes(b"\xff\xd8nothing")
    root = report(str(data), tmp_path / "dataset.html")
    found = json.loads(run("dataset", "check", data, "--json").stdout)
    lines = parsed.table(root, "Findings, the worst first")[1:]
    assert [(line[1], line[2]) for line in lines] == [
        (one["code"], one["text"]) for one in found["findings"]
    ]
    counted = parsed.table(root, "Films of each division")
    assert counted[1][1:] == [str(n) for n in next(iter(found["films"].values())).values()]
    check(tmp_path / "dataset.html", chromium)


def test_a_folder_without_classes_has_no_page_and_is_told_what_to_do(
    engine: sa.Engine, tmp_path: Path
) -> None:
    films = tmp_path / "ward films"
    drawn.write_folder(films / "all", 2)
    shutil.copytree(films / "all" / "NORMAL", films / "one")
    page = tmp_path / "dataset.html"
    for data, said in ((films / "one", "no class folders"), (tmp_path / "empty", "no class")):
        data.mkdir(exist_ok=True)
        result = run("report", data, page)
        assert result.exit_code == 2
        line = only_line(result.stderr)
        assert said in line and "pneumoq score " in line, line
    assert not page.exists()
    with database.reading(engine) as connection:
        assert connection.execute(sa.text("SELECT COUNT(*) FROM v_pages")).scalar() == 0


def test_what_a_report_is_of_is_found_or_asked_for_in_a_line(
    engine: sa.Engine, model: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tonight").mkdir()
    waiting = rows.a_queued_job(engine, "train")
    for of, said in (
        ("tonight", "write dataset:tonight or model:tonight"),
        ("nothing", "is no job's number, model, schedule, folder or manifest"),
        ("999", "there is no job 999"),
        ("run:999", "there is no run 999"),
        ("job:x", "is no job's number"),
        ("dataset:nowhere", "there is no folder or manifest"),
        (str(waiting), "has made no model yet"),
    ):
        result = run("report", of, tmp_path / "page.html")
        assert result.exit_code == 2
        assert said in only_line(result.stderr), of
    job = models.get(engine, model)["job_id"]
    answer = json.loads(run("report", job, tmp_path / "page.html", "--json").stdout)
    assert answer["model_id"] == model


def test_overfitting_is_found_where_training_says_that_it_begins() -> None:
    rows_ = [
        {"epoch": n, "train_loss": train, "val_loss": val}
        for n, (train, val) in enumerate(learned.LOSS, start=1)
    ]
    assert model_page.overfitting(rows_) == 5
    assert model_page.overfitting(rows_[:5]) is None
    assert model_page.overfitting(rows_[:1]) is None
