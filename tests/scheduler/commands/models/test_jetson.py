"""models import and models export --format: in and out of jetson-inference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch

from db.registry import models
from tests.scheduler.console import only_line, run
from tests.trainer import samples as labelled
from tests.trainer.modelfile import jetson


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as train.py and onnx_export.py leave it."""
    folder = tmp_path_factory.mktemp("models")
    net = jetson.network()
    jetson.write_onnx(jetson.with_softmax(net), folder / "resnet18.onnx")
    jetson.write_checkpoint(net, folder / "model_best.pth.tar")
    (folder / "labels.txt").write_text("NORMAL\nPNEUMONIA\n")
    return folder


@pytest.fixture
def film_file(tmp_path: Path) -> Path:
    path = tmp_path / "film.jpeg"
    path.write_bytes(labelled.film(7, sick=True))
    return path


def expected(prepared: object) -> float:
    with torch.no_grad():
        logits = jetson.network()(torch.tensor(prepared))
        return float(torch.softmax(logits, 1)[0, 1])


@pytest.mark.parametrize("name", ["resnet18.onnx", "model_best.pth.tar"])
def test_an_imported_model_classifies_as_imagenet_does(
    engine: sa.Engine, theirs: Path, film_file: Path, name: str
) -> None:
    result = run("models", "import", theirs / name)
    assert result.exit_code == 0, result.stderr
    assert "NORMAL, PNEUMONIA at 64 px, pixels by gray-nearest-1" in result.stdout
    (row,) = models.listing(engine)
    assert (row["origin"], row["threshold"], row["champion"]) == ("imported", 0.5, 1)
    one = json.loads(run("classify", film_file, "--json").stdout)
    by_imagenet = expected(jetson.imagenet(film_file.read_bytes(), 64))
    assert one["probability"] == pytest.approx(by_imagenet, abs=1e-4)

    again = json.loads(
        run("models", "import", theirs / name, "--preprocess", "torchvision", "--json").stdout
    )
    assert again["name"] == f"{name.split('.')[0]}-2"
    one = json.loads(run("classify", film_file, "--model", again["model_id"], "--json").stdout)
    by_train = expected(jetson.validation(film_file.read_bytes(), 64))
    assert one["probability"] == pytest.approx(by_train, abs=1e-4)


def test_a_labelled_folder_chooses_the_threshold_of_an_imported_model(
    engine: sa.Engine, theirs: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    labelled.fill(films, patients=12)
    rule = ("--operating-point", "sensitivity=0.9")
    result = run("models", "import", theirs / "resnet18.onnx", "--data", films, *rule)
    assert result.exit_code == 0, result.stderr
    (row,) = models.listing(engine)
    assert row["threshold_rule"].startswith("sensitivity=0.9 on 24 films")
    assert row["ood_threshold"] is not None
    assert run("models", "evaluate", 1, films).exit_code == 0


def test_an_import_that_is_refused_says_why_and_registers_nothing(
    engine: sa.Engine, theirs: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "labels.txt"
    wrong.write_text("A\nB\nC\n")
    for file, options, said in (
        (theirs / "resnet18.onnx", ("--labels", wrong), "names 3 classes and the network has 2"),
        (theirs / "resnet18.onnx", ("--positive", "TB"), "none of NORMAL, PNEUMONIA"),
        (theirs / "labels.txt", (), "is not an ONNX file"),
    ):
        result = run("models", "import", file, *options)
        assert result.exit_code == 2
        assert said in only_line(result.stderr)
    assert models.listing(engine) == []


def test_what_is_exported_can_be_imported_again(
    engine: sa.Engine, theirs: Path, film_file: Path, tmp_path: Path
) -> None:
    run("models", "import", theirs / "resnet18.onnx")
    before = json.loads(run("classify", film_file, "--json").stdout)["probability"]
    for form, name in (("jetson-inference", "resnet18.onnx"), ("pytorch", "model_best.pth.tar")):
        out = tmp_path / form
        result = run("models", "export", 1, out, "--format", form)
        assert result.exit_code == 0, result.stderr
        assert sorted(p.name for p in out.iterdir()) == sorted(["labels.txt", name])
        back = json.loads(run("models", "import", out / name, "--name", form, "--json").stdout)
        one = run("classify", film_file, "--model", back["model_id"], "--json").stdout
        assert json.loads(one)["probability"] == pytest.approx(before, abs=1e-4)


def test_a_foreign_format_has_one_precision(
    engine: sa.Engine, theirs: Path, tmp_path: Path
) -> None:
    run("models", "import", theirs / "resnet18.onnx")
    result = run(
        "models", "export", 1, tmp_path / "out", "--format", "pytorch", "--precision", "int8"
    )
    assert result.exit_code == 2
    assert "leave --precision out" in only_line(result.stderr)


def test_an_imported_model_gets_the_faster_precisions_that_pass(
    engine: sa.Engine, theirs: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    labelled.fill(films, patients=24)
    run("models", "import", theirs / "resnet18.onnx")
    result = run("models", "quantise", 1, films)
    assert result.exit_code == 0, result.stderr
    for precision in ("fp16", "int8"):
        assert f"\n{precision} passed" in result.stdout or f"\n{precision} failed its gate" in (
            result.stdout
        )
    assert "fp16" in {file["precision"] for file in models.detail(engine, 1)["files"]}
