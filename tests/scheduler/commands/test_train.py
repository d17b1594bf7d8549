"""What `train` puts on the queue, and what `--resume` continues."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database
from db.queue import jobs
from db.work import endings
from tests.scheduler import rows
from tests.scheduler.console import run


def test_options_of_the_reference_keep_their_short_names(engine: sa.Engine, tmp_path: Path) -> None:
    words = ("-b", "16", "-j", "3", "--learning-rate", "1e-4", "--wd", "0.1", "--epochs", "7")
    more = ("--model-dir", "models/new", "--seed", "5", "--balance", "sampling", "--ema", "0")
    result = run("train", tmp_path, "--later", *words, *more, "--patience", "2")
    assert result.exit_code == 0, result.stderr
    spec = jobs.get(engine, 1)["spec"]
    expected = {
        "batch_size": 16, "workers": 3, "lr": 1e-4, "weight_decay": 0.1, "epochs": 7, "seed": 5,
        "balance": "sampling", "ema": 0, "patience": 2, "data": str(tmp_path),
        "model_dir": str(Path.cwd() / "models/new"),
    }  # fmt: skip
    assert {name: spec[name] for name in expected} == expected
    assert not (Path.cwd() / "models/new").exists(), "it is the worker that makes it"


def test_what_has_no_effect_beside_an_evaluation_is_refused_by_name(
    engine: sa.Engine, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n")
    words = ("--labels", labels, "-b", "9", "--no-defend", "--positive", "NORMAL", "--wait")
    result = run("train", tmp_path, "-e", "champion", "--json", *words)
    assert result.exit_code == 2
    assert "leave out --batch-size, --labels, --no-defend, --positive, --wait" in " ".join(
        result.stderr.split()
    )


@pytest.mark.parametrize("state", ["cancelled", "failed"])
def test_a_job_that_ended_early_is_continued_by_a_new_one_with_its_options(
    engine: sa.Engine, tmp_path: Path, state: str
) -> None:
    assert run("train", tmp_path, "--later", "--epochs", "9").exit_code == 0
    database.write(engine, lambda c: endings.finish(c, 1, state, "tester"))
    result = run("train", "--resume", "1", "--later", "--priority", "4")
    assert result.exit_code == 0, result.stderr
    first, second = jobs.get(engine, 1), jobs.get(engine, 2)
    assert second["spec"] == first["spec"]
    assert (second["parent_job_id"], second["state"], second["priority"]) == (1, "queued", 4)


def test_what_cannot_be_continued_is_refused_with_the_reason(
    engine: sa.Engine, tmp_path: Path
) -> None:
    assert run("train", tmp_path, "--later").exit_code == 0
    scored = rows.a_scored_job(engine, rows.a_model(engine, tmp_path, "first"))
    for words, says in (
        (("--resume", "1"), "job 1 is queued; --resume continues a training job that was"),
        (("--resume", str(scored)), f"job {scored} is no training job"),
        (("--resume", "99"), "there is no job 99"),
        (("--resume", "1", "--epochs", "9", "--wd", "0"), "leave out --epochs, --weight-decay"),
        ((str(tmp_path), "--resume", "1"), "leave out DATA"),
        ((), "give DATA, a labelled folder or manifest, or --resume JOB"),
    ):
        result = run("train", *words, "--later")
        assert result.exit_code == 2, words
        assert says in result.stderr
    assert len(jobs.recent(engine)) == 2


def test_a_warm_start_begins_from_the_champion_of_the_moment_it_is_submitted(
    engine: sa.Engine, tmp_path: Path
) -> None:
    refused = run("train", tmp_path, "--warm-start", "--later")
    assert refused.exit_code == 2
    assert "there is no model 'champion'; train one with" in refused.stderr
    first, second = (rows.a_model(engine, tmp_path, name) for name in ("first", "second"))
    assert run("train", tmp_path, "--warm-start", "--later").exit_code == 0
    assert run("models", "promote", str(second)).exit_code == 0
    assert run("train", tmp_path, "--warm-start", "--lr", "1e-5", "--later").exit_code == 0
    assert run("train", tmp_path, "--later").exit_code == 0
    specs = [jobs.get(engine, number)["spec"] for number in (1, 2, 3)]
    assert [spec["positive"] for spec in specs] == ["PNEUMONIA", "PNEUMONIA", None]
    assert [spec.get("warm_start") for spec in specs] == [first, second, None]
    assert [spec["lr"] for spec in specs] == [3e-4, 1e-5, 3e-4]
    assert "warm_start" not in specs[2]
    refused = run("train", tmp_path, "--warm-start", "--init", "scratch", "--later")
    assert refused.exit_code == 2
    assert "--warm-start begins from the champion; leave out --init" in refused.stderr


def test_the_disease_is_said_or_asked_for_before_anything_is_submitted(
    engine: sa.Engine, tmp_path: Path
) -> None:
    for name in ("COVID", "NORMAL"):
        (tmp_path / name).mkdir()
    said = run("train", tmp_path, "--later")
    assert "The disease is COVID, against NORMAL: probabilities" in said.stderr
    assert jobs.get(engine, 1)["spec"]["positive"] == "COVID"
    (tmp_path / "NORMAL").rename(tmp_path / "TB")
    asked = run("train", tmp_path, "--later")
    assert asked.exit_code == 2
    assert "neither COVID nor TB is known as a name of healthy films; name the" in asked.stderr
    assert "--positive CLASS" in asked.stderr
    (tmp_path / "NORMAL").mkdir()
    asked = run("train", tmp_path, "--later")
    assert "there are 3 classes (COVID, NORMAL, TB); name the one that is" in asked.stderr
    said = run("train", tmp_path, "--positive", "TB", "--later")
    assert "The disease is TB, against COVID, NORMAL together: probabilities" in said.stderr
    assert len(jobs.recent(engine)) == 2


def test_a_warm_start_goes_on_with_the_champion_s_disease(
    engine: sa.Engine, tmp_path: Path
) -> None:
    for name in ("A", "B"):
        (tmp_path / "films" / name).mkdir(parents=True)
    rows.a_model(engine, tmp_path, labels=["A", "B"], positive="A")
    said = run("train", tmp_path / "films", "--warm-start", "--later")
    assert "The disease is A, against B" in said.stderr
    said = run("train", tmp_path / "films", "--warm-start", "--positive", "B", "--later")
    assert "The disease is B, against A" in said.stderr
    assert [jobs.get(engine, n)["spec"]["positive"] for n in (1, 2)] == ["A", "B"]
