"""models calibrate: a second hospital's films choose the operating point of a model anew."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sqlalchemy as sa

from db.base.database import reading, write
from db.queue import results, reuse
from db.queue.results import Prediction
from db.registry import aliases, engines, models
from db.work import claims, endings
from scheduler import session
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.support import once
from tests.worker import samples, spots
from trainer import card as cards
from trainer.data import decoding
from trainer.data.labelled import TEST, Entry
from trainer.folded import Network
from trainer.modelfile import quantise, recalibrated
from worker.engine import open_engine, store
from worker.training import evaluation

TARGET = "sensitivity=0.95"

#: Films of the site, and others of the same source.
FILMS = 300

#: What lets a calibration through that gives up much specificity.
GENEROUS = ("--margin-auroc", "0.2", "--margin-sensitivity", "0.2", "--margin-specificity", "1")


def scored(model: Path, files: list[Path]) -> list[float]:
    """P(positive) of films by a model file."""
    engine = open_engine(model, batch=16, threads=1)
    entries = [Entry(file=f, name="NORMAL", split=TEST, stem=f.stem) for f in files]
    found = [f.probability for f in evaluation.score(engine, entries, decoding.threads(1))]
    engine.close()
    return [p for p in found if p is not None]


def write_source(root: Path, model: Path) -> None:
    """Films of a source on which the model's threshold is wrong, `ward7` and `fresh`.

    Which are sick follows from the network's own evidence: it is right about them, in the main, and
    its threshold is not.
    """
    root.mkdir()
    files = []
    for number in range(2 * FILMS):
        path = root / f"person{number:04d}_1.png"
        spots.film(np.random.default_rng([7, number]), bool(number % 2)).save(path)
        files.append(path)
    p = np.array(scored(model, files))
    evidence = np.log(p) - np.log1p(-p)
    evidence = (evidence - np.median(evidence)) / evidence.std()
    noise = np.random.default_rng(1).normal(0, 0.6, len(files))
    sick = evidence + noise > 0
    for number, (path, is_sick) in enumerate(zip(files, sick, strict=True)):
        part = root / ("ward7" if number < FILMS else "fresh")
        folder = part / ("PNEUMONIA" if is_sick else "NORMAL")
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)


@pytest.fixture(scope="session")
def source(real_model: Path) -> Path:
    """The source's films; nobody may change them."""
    return once.made("shifted source", lambda root: write_source(root, real_model))


@pytest.fixture(scope="session")
def theirs(real_model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file that came to the site: its threshold calls a quarter of the films sick."""
    path = tmp_path_factory.mktemp("theirs") / "theirs.onnx"
    p = scored(real_model, sorted(source.rglob("*.png")))
    threshold = float(np.quantile(p, 0.75))
    card = dataclasses.replace(cards.read(real_model), threshold=threshold, shift=rows.SHIFT)
    recalibrated.write(real_model, path, card, np.zeros(2))
    return path


@pytest.fixture(scope="session")
def half(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's fp16 file."""
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    quantise.fp16(Network(theirs), path)
    return path


@pytest.fixture
def model_id(engine: sa.Engine, theirs: Path, half: Path) -> int:
    """That model, in two precisions."""
    card = cards.read(theirs)
    new = models.NewModel.of(
        json.loads(card.to_json()),
        name="theirs",
        origin="trained",
        files={"fp32": theirs, "fp16": half},
        engines=[
            {
                "backend": "openvino", "backend_version": "1", "device": "cpu",
                "precision": "fp16", "options": {}, "parity_delta": 0.0, "passed": True,
            }
        ],
    )  # fmt: skip
    return write(engine, lambda c: models.register(c, new, "tests"))


def calibrated(*arguments: object) -> dict[str, Any]:
    """What the command says as JSON; it must have worked."""
    result = run("models", "calibrate", *map(str, arguments), "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def constants(engine: sa.Engine, model_id: int, precision: str = "fp32") -> dict[str, bytes]:
    """The bytes of a registered model's constants."""
    path = store.fetch(engine, session.settings().home, model_id, precision)
    graph = onnx.load(str(path)).graph
    return {one.name: one.SerializeToString(deterministic=True) for one in graph.initializer}


def measured(model: int, data: Path) -> dict[str, float]:
    result = run("models", "evaluate", model, data, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout)["metrics"])


def test_the_stored_threshold_s_sensitivity_moves_to_what_was_asked_with_the_same_weights(
    engine: sa.Engine, model_id: int, source: Path
) -> None:
    site, fresh = source / "ward7", source / "fresh"
    before = measured(model_id, site)
    assert before["sensitivity_high"] < 0.95, "the source is shifted"

    told = calibrated(model_id, "--data", site, "--target", TARGET)
    number, after = told["model_id"], told["metrics"]["after"]
    assert (told["films"], told["patients"], told["rule"]) == (FILMS, FILMS, TARGET)
    assert told["metrics"]["before"]["sensitivity"] == before["sensitivity"]
    assert after["sensitivity_low"] <= 0.95 <= after["sensitivity_high"]
    # On films that nobody has seen, by the file itself: as far as both intervals know it.
    new = measured(number, fresh)
    assert new["sensitivity_low"] <= after["sensitivity_high"]
    assert after["sensitivity_low"] <= new["sensitivity_high"]
    assert new["sensitivity_low"] > measured(model_id, fresh)["sensitivity_high"]
    assert models.get(engine, number)["threshold"] == told["threshold"]["after"]

    # Whether half precision decides alike at the new threshold is measured, and said.
    (said,) = told["precisions"]
    kept = {"fp16"} if said.startswith("fp16 passed") else set()
    for precision in ("fp32", *kept):
        old, now = (constants(engine, one, precision) for one in (model_id, number))
        assert {name for name in old if old[name] != now[name]} == {"temperature", "fc.bias"}
    assert engines.usable_precisions(engine, number, "tensorrt") == kept
    assert engines.usable_precisions(engine, model_id, "tensorrt") == {"fp16"}


def test_what_it_comes_from_is_shown(engine: sa.Engine, model_id: int, source: Path) -> None:
    told = calibrated(model_id, "--data", source / "ward7", "--target", TARGET, "--name", "ours")
    number = told["model_id"]
    row = run(
        "query",
        "SELECT parent_id, calibrated_from, calibrated_on, calibration_films, "
        f"calibration_patients, origin FROM v_models WHERE model_id = {number}",
        "--format", "csv",
    ).stdout.splitlines()[1]  # fmt: skip
    assert row == f"{model_id},{model_id},ward7,{FILMS},{FILMS},trained"
    path = store.fetch(engine, session.settings().home, number)
    said = cards.read(path).provenance["calibrated"]
    parent = models.file_of(engine, model_id)["sha256"]
    assert said["from"] == {"model": model_id, "name": "theirs", "sha256": parent}
    assert (said["on"], said["films"], said["patients"]) == ("labelled films", FILMS, FILMS)
    assert b"ward7" not in path.read_bytes(), "the file may leave the site"
    shown = run("models", "show", number).stdout
    for text in (
        "calibrated_on",
        "calibration_films",
        "calibration films",
        f"from model {model_id}",
    ):
        assert text in shown
    listed = json.loads(run("models", "ls", "--json").stdout)
    assert listed[0]["made_by"] == f"calibrated from {model_id}"
    assert run("models", "calibrate", model_id, "--data", source / "ward7", "--name", "ours",
               "--dry-run").exit_code == 2  # fmt: skip
    # A copy of what the first one's figures were is beside it, on the same films.
    same_films = set()
    for model, name in ((model_id, "before"), (number, "after")):
        (kept,) = models.detail(engine, model)["evaluations"]
        assert (kept["split"], kept["n_films"]) == ("calibration films", FILMS)
        assert kept["metrics"]["sensitivity"] == told["metrics"][name]["sensitivity"]
        same_films.add(kept["metrics"]["same_films"])
    assert len(same_films) == 1 and same_films != {None}


def test_it_goes_through_the_gate_before_it_is_promoted_and_rollback_goes_back(
    engine: sa.Engine, model_id: int, source: Path
) -> None:
    given = (model_id, "--data", source / "ward7", "--target", TARGET, "--promote")
    refused = run("models", "calibrate", *given, "--margin-specificity", "0")
    assert refused.exit_code == 1
    assert "It does not pass the gate against model 1: on 300 films of 300 patients" in (
        refused.stdout
    )
    assert "the new model's specificity is " in refused.stdout
    assert "is a candidate" in refused.stdout
    assert aliases.resolve(engine, aliases.CHAMPION)["id"] == model_id

    told = calibrated(*given, *GENEROUS)
    assert (told["gate"]["accepted"], told["promoted"]) == (True, True)
    assert aliases.resolve(engine, aliases.CHAMPION)["id"] == told["model_id"] == model_id + 2
    events = models.detail(engine, told["model_id"])["events"]
    assert [event["event"] for event in events] == ["registered", "calibrated", "promoted"]
    assert "calibrated from model 1" in events[-1]["detail"]
    with reading(engine) as connection:
        assert aliases.anchor(connection) == told["model_id"], "a person promoted it"
    assert run("models", "rollback").exit_code == 0
    assert aliases.resolve(engine, aliases.CHAMPION)["id"] == model_id


def test_the_gate_compares_with_the_champion_also_where_that_is_another_model(
    engine: sa.Engine, model_id: int, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    samples.write_model(other, ("NORMAL", "PNEUMONIA"), seed=3, threshold=0.5)
    champion = samples.register(engine, other)
    assert run("models", "promote", champion).exit_code == 0
    told = calibrated(model_id, "--data", source / "ward7", "--dry-run")
    assert told["gate"]["against"] == champion
    figures = told["gate"]["figures"]
    assert figures["auroc"]["candidate"] > figures["auroc"]["champion"]


def test_its_shift_report_is_that_of_the_model_it_comes_from_and_says_so(
    engine: sa.Engine, model_id: int, source: Path
) -> None:
    told = calibrated(model_id, "--data", source / "ward7", "--target", TARGET)
    number = told["model_id"]
    kept = cards.read(store.fetch(engine, session.settings().home, number)).shift
    assert kept is not None
    assert kept["measured_with"]["model"] == model_id
    assert (kept["worst"], kept["dressings"]) == (rows.SHIFT["worst"], rows.SHIFT["dressings"])
    figures = told["gate"]["figures"]["shift"]
    assert figures["judged"] and figures["candidate"] == figures["champion"]
    shown = run("models", "show", number).stdout
    assert "300 calibration films" in shown
    assert "Calibration metrics" in shown
    assert (
        f"measured with model {model_id}, of the same weights: AUROCs are this model's too, but "
        "mean P and the decisions that change are at that one's temperature and threshold" in shown
    )
    again = calibrated(number, "--data", source / "ward7", "--target", TARGET)["model_id"]
    assert cards.read(store.fetch(engine, session.settings().home, again)).shift == kept


def test_other_films_of_patients_that_the_model_learned_do_not_count(
    engine: sa.Engine, model_id: int, source: Path
) -> None:
    """A follow-up lies at the site, and the film before it was trained on."""
    there = sorted((source / "ward7").rglob("*.png"))
    (fresh, *_) = sorted((source / "fresh").rglob("*.png"))
    patients = [path.stem.partition("_")[0] for path in there[:5]]
    rows.made_with(engine, model_id, [(fresh, "train", patient) for patient in patients])
    told = calibrated(model_id, "--data", source / "ward7", "--dry-run")
    assert told["films"] == FILMS - 5
    assert (
        f"5 of {FILMS} films do not count, as the model has learned from them, or from films of "
        "their patients" in told["notes"]
    )


def test_a_floor_is_asked_for_as_of_a_schedule(
    engine: sa.Engine, model_id: int, source: Path
) -> None:
    given = (model_id, "--data", source / "ward7", "--target", TARGET, *GENEROUS)
    told = calibrated(*given, "--floor", "sensitivity=0.97", "--dry-run")
    assert not told["gate"]["accepted"]
    assert told["gate"]["reason"].endswith("and the floor is 0.970")
    low = calibrated(*given, "--floor", "sensitivity=0.5", "--dry-run")
    assert low["gate"]["accepted"]
    refused = run("models", "calibrate", *map(str, given), "--floor", "kappa=0.5")
    assert refused.exit_code == 2 and "give auroc, sensitivity or specificity" in refused.stderr


def test_a_dry_run_shows_what_would_change_and_changes_nothing(
    engine: sa.Engine, model_id: int, source: Path
) -> None:
    result = run("models", "calibrate", model_id, "--data", source / "ward7", "--dry-run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"model {model_id} on 300 films of 300 patients (ward7), ")
    assert lines[0].endswith("; operating point by youden, scored in fp32")
    for word in ("threshold", "temperature", "sensitivity", "specificity", "auroc", "ece"):
        assert any(line.startswith(word) for line in lines)
    assert lines[-1] == "Nothing was changed: --dry-run"
    assert len(models.listing(engine)) == 1
    assert models.detail(engine, model_id)["evaluations"] == []


def a_job(engine: sa.Engine, model_id: int, model: Path, folder: Path) -> tuple[int, Path]:
    """A job that has scored these films, and a CSV of their true classes."""
    files = sorted(folder.rglob("*.png"))
    values, threshold = scored(model, files), cards.read(model).threshold
    job_id = rows.a_planned_job(engine, model_id, len(files))

    def work(connection: sa.Connection) -> None:
        shard = claims.claim_shard(connection, "w", 60.0)
        assert shard is not None
        results.commit(
            connection,
            shard,
            [
                Prediction(
                    item_no=n, name=f"{file.parent.name}/{file.name}", label_no=int(p >= threshold),
                    probability=p, positive=p >= threshold, ood=1.0,
                )
                for n, (file, p) in enumerate(zip(files, values, strict=True))
            ],
        )  # fmt: skip
        endings.close_if_done(connection, job_id, "w")

    write(engine, work)
    lines = [f"{file.parent.name}/{file.name},{file.parent.name}" for file in files]
    table = folder.parent / "truth.csv"
    table.write_text("\n".join(["name,label", *lines]))
    return job_id, table


def test_a_finished_job_s_scores_and_labels_choose_the_same_and_no_film_is_read(
    engine: sa.Engine, model_id: int, theirs: Path, source: Path, tmp_path: Path
) -> None:
    site = tmp_path / "films" / "site"
    shutil.copytree(source / "ward7", site)
    job_id, table = a_job(engine, model_id, theirs, site)
    given = (model_id, "--job", job_id, "--target", TARGET)
    nothing = run("models", "calibrate", *given)
    assert nothing.exit_code == 2
    assert "no prediction of job 1 has a label; `pneumoq labels import`" in only_line(
        nothing.stderr
    )
    assert run("labels", "import", table, "--job", job_id).exit_code == 0
    by_data = calibrated(model_id, "--data", site, "--target", TARGET, "--dry-run")
    shutil.rmtree(site)  # nothing is needed of it

    told = calibrated(*given)
    assert (told["calibrated_on"], told["films"]) == ("labels of job 1", FILMS)
    for name in ("threshold", "temperature"):
        assert told[name]["after"] == pytest.approx(by_data[name]["after"], rel=1e-3)
    assert told["metrics"]["after"]["sensitivity"] == by_data["metrics"]["after"]["sensitivity"]
    assert any("`pneumoq models quantise`" in note for note in told["precisions"])
    assert [f["precision"] for f in models.detail(engine, told["model_id"])["files"]] == ["fp32"]

    # A job has no scores of another model: what the version is not compared with is said.
    write(
        engine,
        lambda c: aliases.move(c, aliases.CHAMPION, told["model_id"], "kim", "", anchor=False),
    )
    assert not any("not compared" in note for note in told["notes"])
    beside = calibrated(*given, "--dry-run")
    assert beside["gate"]["against"] == model_id
    (note,) = [note for note in beside["notes"] if "not compared" in note]
    assert note.startswith(
        f"not compared with the champion, model {told['model_id']}, as job {job_id} has no scores "
        "of it: with --data it is"
    )
    assert run("models", "calibrate", *map(str, given), "--promote").exit_code == 2

    # The same of the anchor: a person chose the version, and a night went back.
    write(engine, lambda c: aliases.move(c, aliases.CHAMPION, told["model_id"], "kim", ""))
    write(engine, lambda c: aliases.move(c, aliases.CHAMPION, model_id, "w", "", anchor=False))
    (note,) = [n for n in calibrated(*given, "--dry-run")["notes"] if "not compared" in n]
    assert note.startswith(
        f"not compared with the anchor, model {told['model_id']}, the last that a person promoted, "
    )
    refused = run("models", "calibrate", *map(str, given), "--promote")
    assert refused.exit_code == 2
    assert (
        f"has no scores of the anchor, model {told['model_id']}, the last that a person promoted, "
        in (only_line(refused.stderr))
    )
    other = run("models", "calibrate", told["model_id"], "--job", job_id)
    assert "job 1 was scored by model 1, not by model 2; score its films with --model 2" in (
        only_line(other.stderr)
    )


def test_a_version_s_films_are_never_answered_by_the_model_that_it_comes_from(
    engine: sa.Engine, model_id: int, source: Path
) -> None:
    told = calibrated(model_id, "--data", source / "ward7", "--target", TARGET)
    content = b"c" * 16
    write(
        engine,
        lambda c: c.exec_driver_sql(
            "INSERT INTO films (model_id, precision, content, job_id, item_no) "
            "VALUES (?, 'fp32', ?, 1, 0)", (model_id, content),
        ),
    )  # fmt: skip
    with engine.connect() as connection:
        assert reuse.any_known(connection, model_id, "fp32")
        assert not reuse.any_known(connection, told["model_id"], "fp32")


def test_too_few_films_are_refused_with_how_many_are_needed(
    engine: sa.Engine, model_id: int, source: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(source / "ward7", site)
    for film in sorted((site / "NORMAL").iterdir())[40:]:
        film.unlink()
    result = run("models", "calibrate", model_id, "--data", site)
    assert result.exit_code == 2
    assert only_line(result.stderr) == (
        "Error: 40 films of NORMAL are too few: 50 are needed, of 20 patients or more"
    )
    many = run("models", "calibrate", model_id, "--data", source / "ward7",
               "--target", "sensitivity=0.995")  # fmt: skip
    assert "too few for sensitivity=0.995: 400 are needed" in only_line(many.stderr)
    assert len(models.listing(engine)) == 1


def test_films_whose_labels_tell_nothing_are_refused(
    engine: sa.Engine, model_id: int, source: Path, tmp_path: Path
) -> None:
    for number, film in enumerate(sorted((source / "ward7").rglob("*.png"), key=lambda p: p.name)):
        folder = tmp_path / "site" / ("PNEUMONIA" if number % 2 else "NORMAL")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / film.name).write_bytes(film.read_bytes())
    result = run("models", "calibrate", model_id, "--data", tmp_path / "site")
    assert result.exit_code == 2
    assert "no better than chance on these 300 films (AUROC " in only_line(result.stderr)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "give --data FOLDER, or --job N of a job with labels"),
        (("--job", 1, "--data", "."), "give --data FOLDER, or --job N of a job with labels"),
        (("--job", 1, "--dry-run", "--promote"), "--dry-run changes nothing; leave out --promote"),
        (("--job", 1, "--target", "auroc=1"), "give youden, or one like sensitivity=0.95 or cost"),
        (("--job", 1), "there is no job 1"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(model_id: int, given: tuple[object, ...], said: str) -> None:
    result = run("models", "calibrate", model_id, *map(str, given))
    assert result.exit_code == 2
    assert said in result.stderr
