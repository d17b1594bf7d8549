"""jobs, models, query and db: what they print, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database, migrate, schema, views
from db.queue import jobs
from db.registry import models
from scheduler import session
from tests.scheduler import rows
from tests.scheduler.console import only_line, run


def lines(text: str) -> list[list[str]]:
    """Words of each line."""
    return [line.split() for line in text.splitlines()]


def test_jobs_are_listed_newest_first(engine: sa.Engine, tmp_path: Path) -> None:
    model = rows.a_model(engine, tmp_path)
    scored = rows.a_scored_job(engine, model, broken=2)
    queued = rows.a_queued_job(engine, "train")
    header, *listed = lines(run("jobs", "ls").stdout)
    assert header[:5] == ["job", "kind", "state", "progress", "errors"]
    assert listed[0][:5] == [str(queued), "train", "queued", "0", "epochs"]
    assert listed[1][:6] == [
        str(scored), "score", "completed_with_errors", "10/10", "films", "2",
    ]  # fmt: skip


def test_jobs_are_listed_by_state_and_kind_and_number(engine: sa.Engine, tmp_path: Path) -> None:
    model = rows.a_model(engine, tmp_path)
    scored = rows.a_scored_job(engine, model)
    training = rows.a_queued_job(engine, "train")
    scoring = rows.a_queued_job(engine, "score", model_id=model)

    def listed(*options: str | int) -> list[int]:
        found = json.loads(run("jobs", "ls", "--json", *options).stdout)
        return [row["job_id"] for row in found]

    assert listed() == listed("--all") == [scoring, training, scored]
    assert listed("--open") == [scoring, training]
    assert listed("--kind", "score") == [scoring, scored]
    assert listed("--limit", 1) == [scoring]


def test_a_job_is_shown_with_its_options_and_sources(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    text = run("jobs", "show", job).stdout
    assert "/films/chest.zip" in text
    assert ["predictions", "10"] in lines(text)
    shown = json.loads(run("jobs", "show", job, "--json").stdout)
    assert shown["sources"][0]["uri"] == "/films/chest.zip"
    assert shown["passed_over"] == {"folder": 1}


def test_a_training_job_is_shown_with_its_epochs(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_trained_job(engine, tmp_path)
    text = run("jobs", "show", job).stdout
    assert "Epochs" in text and "0.97" in text
    assert "shards" not in text
    shown = json.loads(run("jobs", "show", job, "--json").stdout)
    assert [epoch["val_auroc"] for epoch in shown["epochs"]] == [0.9, 0.97, 0.95]


def test_times_in_json_are_iso_8601_in_utc(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    shown = json.loads(run("jobs", "show", job, "--json").stdout)
    event = json.loads(run("jobs", "events", job, "--json").stdout)[0]
    for text in (shown["created_at"], shown["finished_at"], event["at"]):
        assert text.endswith("Z")
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")


@pytest.mark.parametrize("words", [("show",), ("watch",), ("errors",), ("events",), ("cancel",)])
def test_a_job_that_does_not_exist_is_bad_input(engine: sa.Engine, words: tuple[str, ...]) -> None:
    result = run("jobs", *words, 4711)
    assert result.exit_code == 2
    line = only_line(result.stderr)
    assert line == "Error: there is no job 4711; `pneumoq jobs ls` lists them"


@pytest.mark.parametrize("number", ["0", "-1", "five", "9223372036854775808"])
def test_a_job_number_that_cannot_be_is_bad_input(engine: sa.Engine, number: str) -> None:
    assert run("jobs", "show", "--", number).exit_code == 2


def test_errors_are_listed_and_refusals_counted(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=3, refused=2)
    result = run("jobs", "errors", job)
    assert result.exit_code == 0
    assert "film 0.jpeg  truncated  ends after 12 bytes" in result.stdout
    assert "errors:  3 (3 truncated)" in result.stdout
    assert "refused: 2 (2 lateral)" in result.stdout
    assert "All of them" not in result.stdout
    few = run("jobs", "errors", job, "--limit", 1).stdout
    advice = few.partition("All of them: pneumoq ")[2].splitlines()[0]
    assert run(*advice.split()).stdout == result.stdout
    found = json.loads(run("jobs", "errors", job, "--json").stdout)
    assert [error["item_no"] for error in found["errors"]] == [0, 1, 2]
    assert found["refusals_by_code"] == [{"code": "lateral", "n": 2}]


def test_refused_items_are_listed_when_asked_for(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=3, refused=2)
    text = run("jobs", "errors", job, "--refused").stdout
    assert "film 3.jpeg  lateral  a side view" in text
    assert "truncated" in text and "ends after" not in text
    found = json.loads(run("jobs", "errors", job, "--refused", "--json").stdout)
    assert [refusal["item_no"] for refusal in found["refusals"]] == [3, 4]
    assert found["errors_by_code"] == [{"code": "truncated", "n": 3}]


def test_a_scoring_job_is_shown_with_its_precision_its_codes_and_its_budget(
    engine: sa.Engine, tmp_path: Path
) -> None:
    model = rows.a_model(engine, tmp_path)
    job = database.write(
        engine,
        lambda c: jobs.submit(
            c, kind="score", spec={"max_errors": "50%"}, submitted_by="tester@here",
            model_id=model, precision="int8", key="once-1",
            source_rows=[{"uri": "/films", "kind": "folder", "fingerprint": "/films"}],
        ),
    )  # fmt: skip
    rows.plan(engine, 10)
    rows.do_shard(engine, broken=3, refused=2, reused_from=(job, 0))
    shown = lines(run("jobs", "show", job).stdout)
    for words in (
        ["precision", "int8"],
        ["submitted_by", "tester@here"],
        ["refused", "2", "(2", "lateral)"],
        ["errors", "3", "(3", "truncated)"],
        ["error_budget", "50%", "(3", "of", "10", "items,", "30.00%", "so", "far)"],
        ["from_store", "5"],
    ):
        assert words in shown
    assert not any(line[:1] == ["key"] for line in shown)  # it was not given by anybody
    found = json.loads(run("jobs", "show", job, "--json").stdout)
    assert (found["from_store"], found["precision"]) == (5, "int8")
    assert found["refused_by_code"] == [{"code": "lateral", "n": 2}]


def test_a_job_without_errors_has_none(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    assert run("jobs", "errors", job).stdout == "errors:  none\nrefused: none\n"


def test_the_history_of_a_job_says_who_did_what(engine: sa.Engine, tmp_path: Path) -> None:
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path))
    happened = json.loads(run("jobs", "events", job, "--json").stdout)
    assert [event["event"] for event in happened] == [
        "submitted", "planning", "planned", "completed",
    ]  # fmt: skip
    assert "tester@here" in run("jobs", "events", job).stdout


def test_a_cancelled_job_keeps_the_reason_and_who_gave_it(engine: sa.Engine) -> None:
    job = rows.a_queued_job(engine)
    result = run("jobs", "cancel", job, "--reason", "wrong folder")
    assert result.exit_code == 0
    assert jobs.get(engine, job)["state"] == "cancelled"
    last = jobs.events(engine, job)[-1]
    assert (last["event"], last["detail"]) == ("cancelled", "wrong folder")
    assert last["who"] == session.who()


def test_a_job_that_has_ended_cannot_be_cancelled(engine: sa.Engine) -> None:
    job = rows.a_queued_job(engine)
    run("jobs", "cancel", job)
    result = run("jobs", "cancel", job)
    assert result.exit_code == 2
    assert only_line(result.stderr) == f"Error: job {job} is already cancelled"


def test_models_are_listed_with_the_champion_named(engine: sa.Engine, tmp_path: Path) -> None:
    assert only_line(run("models", "ls").stderr).startswith("no models yet; `pneumoq train")
    rows.a_model(engine, tmp_path, "first")
    rows.a_model(engine, tmp_path, "second")
    _, second, first = lines(run("models", "ls").stdout)
    assert second[:3] == ["2", "second", "candidate"]
    assert first[:3] == ["1", "first", "champion"]
    assert first[5] == "candidate"  # after the day and the time since when it is the champion
    assert "0.9712" in first


def test_a_model_is_shown_by_number_name_or_alias(engine: sa.Engine, tmp_path: Path) -> None:
    rows.a_model(engine, tmp_path)
    shown = [json.loads(run("models", "show", ref, "--json").stdout) for ref in ("1", "first")]
    assert shown[0] == shown[1] == json.loads(run("models", "show", "champion", "--json").stdout)
    text = run("models", "show", "champion").stdout
    assert "NORMAL, PNEUMONIA" in text
    assert ["champion", "yes"] in lines(text)
    assert shown[0]["files"][0]["sha256"] in text


def test_the_engines_of_a_model_are_told_by_precision_and_device(
    engine: sa.Engine, tmp_path: Path
) -> None:
    file = tmp_path / "fast.onnx"
    file.write_text("fp16")
    gate = {"precision": "fp16", "options": {"films": 96, "agreement": 1.0, "films_per_s": 812.5}}
    tried = [
        {**gate, "backend": "tensorrt", "backend_version": "10.3.0", "device": "Orin (8.7)",
         "parity_delta": 0.0007, "passed": True},
        {**gate, "backend": "openvino", "backend_version": "2026.4", "device": "AMD EPYC",
         "parity_delta": 0.0001, "passed": True},
    ]  # fmt: skip
    model = rows.a_model(engine, tmp_path)
    database.write(
        engine, lambda c: models.add_precisions(c, model, {"fp16": file}, tried, "tester@here")
    )
    text = run("models", "show", model).stdout
    (computed,) = (line for line in lines(text) if line[:1] == ["computed_in"])
    why = "as a rule the fastest that passed its parity gate"
    assert " ".join(computed[1:]) == f"fp32; with TensorRT fp16, {why}"
    header, processor, gpu = lines(text[text.index("Engines") :])[1:4]
    assert header[:4] == ["precision", "engine", "device", "passed"]
    assert processor[:6] == ["fp16", "OpenVINO", "2026.4", "AMD", "EPYC", "yes"]
    assert gpu[:9] == ["fp16", "TensorRT", "10.3.0", "Orin", "(8.7)", "yes", "96", "1", "0.0007"]
    assert gpu[9] == "812.5"


def test_a_promoted_model_is_the_champion(engine: sa.Engine, tmp_path: Path) -> None:
    rows.a_model(engine, tmp_path, "first")
    rows.a_model(engine, tmp_path, "second")
    result = run("models", "promote", "second", "--reason", "sees more")
    assert result.stdout == "model 2 (second) is now the champion instead of model 1\n"
    listed = json.loads(run("models", "ls", "--json").stdout)
    assert [(m["model_id"], m["champion"]) for m in listed] == [(2, 1), (1, 0)]
    history = json.loads(run("models", "show", "2", "--json").stdout)["events"]
    assert history[-1]["detail"] == "to champion: sees more"


def test_a_retired_model_cannot_be_promoted(engine: sa.Engine, tmp_path: Path) -> None:
    model = rows.a_model(engine, tmp_path)
    with database.writing(engine) as connection:
        connection.execute(sa.update(schema.models).values(state="retired"))
    result = run("models", "promote", model)
    assert result.exit_code == 2
    assert "is retired" in only_line(result.stderr)


def test_a_model_that_does_not_exist_is_bad_input(engine: sa.Engine) -> None:
    result = run("models", "show", "champion")
    assert result.exit_code == 2
    assert "train one with `pneumoq train FOLDER`" in only_line(result.stderr)


def test_null_is_nothing_and_bytes_are_never_raw(engine: sa.Engine) -> None:
    question = "SELECT NULL AS a, x'00ff1b' AS b, zeroblob(99) AS c, 0.1 + 0.2 AS d, char(27) AS e"
    assert run("query", question).stdout.splitlines()[1].split() == [
        "00ff1b", "<99", "bytes>", "0.3", "\\x1b",
    ]  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(run("query", "--format", "csv", question).stdout))
    assert (row["a"], row["b"], row["c"]) == ("", "00ff1b", "00" * 99)
    (row,) = json.loads(run("query", "--format", "json", question).stdout)
    assert (row["a"], row["b"], row["d"]) == (None, "00ff1b", 0.30000000000000004)


def test_tsv_keeps_one_row_on_one_line(engine: sa.Engine) -> None:
    question = "SELECT 'a' || char(9) || 'b' || char(10) || 'c\\d' AS x, 1 AS y"
    assert run("query", "--format", "tsv", question).stdout == "x\ty\na\\tb\\nc\\\\d\t1\n"


def test_json_of_no_rows_and_of_equal_names_is_valid(engine: sa.Engine) -> None:
    assert json.loads(run("query", "--format", "json", "SELECT 1 WHERE 0").stdout) == []
    (row,) = json.loads(run("query", "--format", "json", "SELECT 1 AS n, 2 AS n").stdout)
    assert row == {"n": 1, "n_2": 2}
    assert json.loads(run("query", "--format", "json", "SELECT 9e999 AS n").stdout) == [{"n": None}]


def test_a_statement_is_read_from_standard_input(engine: sa.Engine) -> None:
    assert run("query", "-", stdin="SELECT 41 + 1 AS n\n").stdout == " n\n42\n"
    assert run("query", "-", stdin=" \n").exit_code == 2


def test_columns_stand_under_each_other_whatever_the_script(engine: sa.Engine) -> None:
    table = run("query", "SELECT '肺炎' AS a, 1 AS b UNION ALL SELECT 'pneu', 22").stdout
    assert table == "a      b\n肺炎   1\npneu  22\n"


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM jobs", "DROP TABLE jobs", "PRAGMA journal_mode", "SELECT 1; DELETE FROM jobs",
     "ATTACH 'x.db' AS x", "SELECT", "nonsense"],
)  # fmt: skip
def test_a_statement_that_is_not_reading_is_refused(engine: sa.Engine, statement: str) -> None:
    job = rows.a_queued_job(engine)
    result = run("query", statement)
    assert (result.exit_code, result.stdout) == (2, "")
    assert only_line(result.stderr).startswith("Error: ")
    assert jobs.get(engine, job)["state"] == "queued"


@pytest.mark.parametrize("statement", ["SELECT foo FROM v_models", "SELECT 1 FROM foo"])
def test_an_unknown_name_leads_to_the_schema(engine: sa.Engine, statement: str) -> None:
    line = only_line(run("query", statement).stderr)
    assert line.endswith("; `pneumoq db schema` lists views and columns")


@pytest.mark.postgres
def test_the_commands_answer_the_same_on_postgresql(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", empty_postgres_url)
    assert "run `pneumoq db upgrade`" in only_line(run("jobs", "ls").stderr)
    assert run("db", "upgrade").exit_code == 0
    engine = session.database()
    job = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=1, refused=1)
    engine.dispose()
    (listed,) = json.loads(run("jobs", "ls", "--json").stdout)
    assert (listed["errors"], listed["predictions"]) == (1, 8)
    assert listed["finished_at"].endswith("Z")
    assert run("jobs", "watch", job).exit_code == 3
    assert "1 truncated" in run("jobs", "errors", job).stdout
    assert run("models", "show", "champion").exit_code == 0
    question = "SELECT label, count(*) AS n FROM v_predictions GROUP BY label"
    assert run("query", "--format", "csv", question).stdout == "label,n\nPNEUMONIA,8\n"
    refused = run("query", "DELETE FROM jobs")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert only_line(refused.stderr).startswith("Error: ")
    assert "db schema" in only_line(run("query", "SELECT foo FROM v_models").stderr)


def test_upgrade_says_whether_anything_changed() -> None:
    result = run("db", "upgrade")
    assert result.stdout == f"the schema is now {migrate.HEAD} (before: none)\n"
    assert run("db", "upgrade").stdout == f"the schema is up to date ({migrate.HEAD})\n"


def test_the_schema_explains_every_view_and_column() -> None:
    text = run("db", "schema").stdout
    explained = json.loads(run("db", "schema", "--json").stdout)
    assert [relation["name"] for relation in explained] == [view.name for view in views.VIEWS]
    for view in views.VIEWS:
        assert f"{view.name}  {view.comment}\n" in text
        for column, meaning in view.columns.items():
            assert [column, *meaning.split()] in lines(text)


def test_the_schema_explains_every_table_when_asked() -> None:
    explained = json.loads(run("db", "schema", "--tables", "--json").stdout)
    tables = {relation["name"]: relation for relation in explained if relation["kind"] == "table"}
    assert tables.keys() == schema.metadata.tables.keys()
    for relation in tables.values():
        assert relation["meaning"] and all(relation["columns"].values())
