"""models export and quantise: files out of the database, and faster ones into it."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database
from db.base.schema import models as models_table
from db.nightly import runs, schedules
from db.registry import aliases, engines, models, rates
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.worker import samples
from trainer import card as cards
from worker.engine import speed


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of films without labels."""
    root = tmp_path_factory.mktemp("films")
    for name, data in samples.films(96, seed=6):
        (root / Path(name).name).write_bytes(data)
    return root


def test_an_exported_file_is_the_registered_one(
    model_id: int, real_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out.onnx"
    result = run("models", "export", "champion", file)
    assert result.exit_code == 0
    assert file.read_bytes() == real_model.read_bytes()
    digest = hashlib.sha256(real_model.read_bytes()).hexdigest()
    assert only_line(result.stdout) == (
        f"{file}: model {model_id} (real) in fp32, {real_model.stat().st_size / 1e6:.1f} MB, "
        f"SHA-256 {digest}"
    )
    told = json.loads(run("models", "export", "champion", file, "--json").stdout)
    assert (told["sha256"], told["precision"]) == (digest, "fp32")


def test_a_precision_that_is_not_there_cannot_be_exported(model_id: int, tmp_path: Path) -> None:
    result = run("models", "export", model_id, tmp_path / "out.onnx", "--precision", "int8")
    assert result.exit_code == 2
    assert f"model {model_id} has no int8 file; `pneumoq models quantise" in only_line(
        result.stderr
    )
    assert not (tmp_path / "out.onnx").exists()


def test_an_export_to_where_nothing_can_be_written_says_so(model_id: int, tmp_path: Path) -> None:
    result = run("models", "export", model_id, tmp_path / "gone" / "out.onnx")
    assert result.exit_code == 2
    assert "cannot be written: No such file or directory" in only_line(result.stderr)


def test_a_model_is_quantised_and_what_passed_is_used(
    engine: sa.Engine, model_id: int, films: Path, tmp_path: Path
) -> None:
    result = run("models", "quantise", model_id, films)
    assert result.exit_code == 0, result.stderr
    detail = models.detail(engine, model_id)
    passed = {row["precision"] for row in detail["engines"] if row["passed"]}
    assert {f["precision"] for f in detail["files"]} == {"fp32", *(passed - {"bf16"})}
    best = engines.best_precision(engine, model_id)
    *verdicts, last = result.stdout.splitlines()
    assert len(verdicts) == 3
    assert last == (
        f"model {model_id} (real) is computed in {best} from now on, as a rule "
        "the fastest that passed its parity gate"
    )
    assert models.detail(engine, model_id)["events"][-1]["event"] == "quantised"

    shown = run("models", "show", model_id).stdout
    for word in ("agreement", "delta_p99", "films_per_s", *passed):
        assert word in shown
    for precision in passed - {"bf16"}:
        file = tmp_path / f"{precision}.onnx"
        assert run("models", "export", model_id, file, "--precision", precision).exit_code == 0
        assert cards.read(file).precision == precision


def test_what_a_model_s_precisions_reach_here_is_measured_shown_and_used(
    engine: sa.Engine, model_id: int, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("models", "quantise", model_id, films).exit_code == 0
    monkeypatch.setattr(speed, "SLICE_S", 0.02)
    result = run("models", "measure", "champion")
    assert result.exit_code == 0, result.stderr
    measured = {row["precision"]: row for row in rates.of_model(engine, model_id)}
    usable = engines.usable_precisions(engine, model_id) & {"int8", "bf16"}
    assert measured.keys() == {*usable, "fp32"}
    (best,) = (name for name, row in measured.items() if row["chosen"])
    *_, last = result.stdout.splitlines()
    assert last.endswith(f" jobs compute in {best}, measured to be fastest where it will run.")
    assert last.startswith(f"On {measured[best]['kind']} jobs")
    shown = run("models", "show", model_id).stdout
    for word in ("Measured", measured[best]["kind"], *measured):
        assert word in shown
    emitted = json.loads(run("models", "measure", model_id, "--json").stdout)
    assert {row["precision"] for row in emitted} == measured.keys()
    assert {row["rounds"] for row in emitted} == {12}


def test_a_model_that_has_an_int8_file_keeps_it(engine: sa.Engine, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_bytes(name.encode())
    files = {"fp32": tmp_path / "a.onnx", "int8": tmp_path / "b.onnx"}
    model = rows.a_model(engine, tmp_path, files=files)
    result = run("models", "quantise", model, tmp_path)
    assert result.exit_code == 2
    assert only_line(result.stderr) == (
        f"Error: model {model} has an int8 file already; see `pneumoq models show {model}`"
    )


def test_a_folder_without_films_quantises_nothing(
    engine: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "readme.txt").write_text("no film")
    result = run("models", "quantise", model_id, empty)
    assert result.exit_code == 2
    assert "holds 0 films, of which 0 show what activations look like and 60 are" in result.stderr
    assert [f["precision"] for f in models.detail(engine, model_id)["files"]] == ["fp32"]


def test_a_rollback_makes_the_champion_before_the_champion_again(
    engine: sa.Engine, tmp_path: Path
) -> None:
    first, second, third = (rows.a_model(engine, tmp_path, n) for n in ("one", "two", "three"))
    run("models", "promote", second)
    run("models", "promote", third)
    back = run("models", "rollback", "--reason", "false alarms")
    assert back.exit_code == 0
    assert only_line(back.stdout) == (
        f"model {second} (two) is the champion again, instead of model {third}"
    )
    told = json.loads(run("models", "rollback", "--json").stdout)
    assert told == {
        "model_id": first, "name": "one", "champion": True, "champion_before": second
    }  # fmt: skip
    history = run("models", "show", second).stdout
    assert "to champion: false alarms" in history
    assert f"as champion by model {first}: rolled back by " in history


def test_a_rollback_with_nothing_to_go_back_to_says_so(engine: sa.Engine, tmp_path: Path) -> None:
    none = run("models", "rollback")
    assert none.exit_code == 2
    assert only_line(none.stderr) == ("Error: no model is champion; `pneumoq models ls` lists them")
    first = rows.a_model(engine, tmp_path)
    result = run("models", "rollback")
    assert result.exit_code == 2
    assert only_line(result.stderr) == (
        f"Error: model {first} is the first champion there was; `pneumoq models promote` takes any "
        "other model"
    )


def test_a_rollback_to_a_retired_model_is_refused_and_the_champion_stays(
    engine: sa.Engine, tmp_path: Path
) -> None:
    first, second = (rows.a_model(engine, tmp_path, name) for name in ("one", "two"))
    run("models", "promote", second)
    retired = sa.update(models_table).where(models_table.c.id == first).values(state="retired")
    database.write(engine, lambda c: c.execute(retired))
    result = run("models", "rollback")
    assert result.exit_code == 2
    assert f"model {first} is retired: its files may be gone" in only_line(result.stderr)
    assert aliases.resolve(engine, "champion")["id"] == second


def test_a_model_of_another_disease_becomes_champion_only_where_that_is_said(
    engine: sa.Engine, tmp_path: Path
) -> None:
    first = rows.a_model(engine, tmp_path, "one")
    flipped = rows.a_model(engine, tmp_path, "flipped", positive="NORMAL")
    result = run("models", "promote", flipped)
    assert result.exit_code == 2
    assert only_line(result.stderr) == (
        f"Error: model {flipped} has the classes NORMAL, PNEUMONIA and the disease NORMAL; model "
        f"{first}, the champion, has the classes NORMAL, PNEUMONIA and the disease PNEUMONIA. Jobs "
        "that name no model would be scored for other classes; if you mean that: `pneumoq models "
        f"promote {flipped} --other-classes`"
    )
    assert aliases.resolve(engine, "champion")["id"] == first
    meant = run("models", "promote", flipped, "--other-classes")
    assert meant.exit_code == 0
    assert f"instead of model {first}: model {flipped} has the classes" in only_line(meant.stdout)
    assert "`pneumoq models rollback --other-classes`" in run("models", "rollback").stderr
    assert aliases.resolve(engine, "champion")["id"] == flipped
    back = run("models", "rollback", "--other-classes")
    assert f"model {flipped}, the former champion, has" in only_line(back.stdout)
    assert aliases.resolve(engine, "champion")["id"] == first


def test_the_list_says_what_each_model_came_from(engine: sa.Engine, tmp_path: Path) -> None:
    first = rows.a_model(engine, tmp_path, "one")
    job = rows.a_queued_job(engine, "train")
    second = rows.a_model(engine, tmp_path, "two", parent_id=first, job_id=job)

    def night(connection: sa.Connection) -> int | None:
        schedule = schedules.add(
            connection, name="nightly", cron="0 2 * * *", tz="UTC", kind="train",
            spec={"job": {"data": "/films"}, "night": {}}, catch_up_s=60, created_by="tests",
        )  # fmt: skip
        at = datetime(2026, 1, 1, 2, tzinfo=timezone.utc)
        return runs.begin(connection, schedule, at, "clock", "proving", candidate_id=third)

    third = rows.a_model(engine, tmp_path, "three", parent_id=second)
    run_id = database.write(engine, night)
    told = json.loads(run("models", "ls", "--json").stdout)
    lineage = [(m["model_id"], m["parent_id"], m["made_by"], m["champion"]) for m in told]
    assert lineage == [
        (third, second, f"nightly, run {run_id}", 0),
        (second, first, f"job {job}", 0),
        (first, None, None, 1),
    ]
    table = run("models", "ls").stdout
    for word in ("parent", "films", "made_by", f"nightly, run {run_id}", f"job {job}"):
        assert word in table
