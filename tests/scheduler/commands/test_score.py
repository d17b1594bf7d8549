"""score: what is submitted for what was typed, and what is refused before it is."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.base.database import reading
from db.queue import jobs, listings
from db.registry import engines
from db.work import control
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.worker import archives
from worker import archive


@pytest.fixture
def model(engine: sa.Engine, tmp_path: Path) -> int:
    """A registered model."""
    folder = tmp_path / "model"
    folder.mkdir()
    return rows.a_model(engine, folder)


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder of things that are called films."""
    for name in ("a/one.png", "a/two.png", "b/three.jpeg", "b/notes.txt"):
        file = tmp_path / "films" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\x89PNG" + name.encode())
    return tmp_path / "films"


def submitted(*words: Any) -> dict[str, Any]:
    """The row of the job that a command submits, with its sources."""
    result = run("score", *words, "--later", "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(run("jobs", "show", json.loads(result.stdout)["job_id"], "--json").stdout)
    assert isinstance(shown, dict)
    return shown


def uris(job: dict[str, Any]) -> list[tuple[str, str]]:
    return [(source["kind"], source["uri"]) for source in job["sources"]]


def refusal(*words: Any) -> str:
    """The one line that a command is refused with."""
    result = run("score", *words, "--later")
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


def test_sources_keep_their_order_and_each_is_read_once(model: int, films: Path) -> None:
    with zipfile.ZipFile(films / "c.zip", "w") as packed:
        packed.writestr("x.png", b"x")
    (films / "list.txt").write_text("a/one.png\n")
    named = [films / "b", films / "c.zip", f"{films}/b/", f"{films}/a/../b", films / "c.zip"]
    lists = ["--list", films / "list.txt", "--list", f"{films}/./list.txt"]
    job = submitted(*named, *lists)
    assert uris(job) == [
        ("folder", str(films / "b")),
        ("zip", str(films / "c.zip")),
        ("list", str(films / "list.txt")),
    ]
    assert job["spec"]["sources"] == [uri for _, uri in uris(job)]
    assert job["sources"][1]["content_id"].startswith("zip:")
    assert job["sources"][0]["content_id"] is None


def test_sources_that_are_named_again_or_lie_in_others_are_said(model: int, films: Path) -> None:
    def said(*words: Any) -> list[str]:
        result = run("score", *words, "--dry-run", "--json")
        return [line for line in result.stderr.splitlines() if "named" in line]

    once = "3 sources were named, and are 1: each is read once."
    assert said(films, f"{films}/", f"{films}/a/..") == [once]
    inside = f"lies in {films}, also named"
    twice = "what both list is in the job twice."
    assert said(f"{films}/*/*.png", films) == [f"{films}/*/*.png {inside}: {twice}"]
    assert said(films / "a", films, films / "b/three.jpeg") == [
        f"{films}/a {inside} (and 1 more so): {twice}"
    ]
    assert said(films / "a", films / "b", f"{films}/*/*.jpeg") == []


def test_a_path_with_wildcards_is_a_pattern_unless_it_is_there(model: int, films: Path) -> None:
    assert uris(submitted(films / "**/*.png")) == [("glob", f"{films}/**/*.png")]
    odd = films / "[2026]"
    odd.mkdir()
    (odd / "x.png").touch()
    assert uris(submitted(odd)) == [("folder", str(odd))]


def test_a_list_alone_is_enough(model: int, films: Path) -> None:
    (films / "films.csv").write_text("id,path\n1,a/one.png\n2,b/three.jpeg\n")
    assert uris(submitted("--list", films / "films.csv")) == [("list", str(films / "films.csv"))]


def test_what_a_list_names_is_kept_with_its_job(engine: sa.Engine, model: int, films: Path) -> None:
    table = films / "films.csv"
    table.write_text("id,path\n1,a/one.png\n2,b/three.jpeg\n")
    job = submitted(films / "b", "--list", table)
    table.write_text("id,path\n1,a/two.png\n")
    with reading(engine) as connection:
        kept = [listings.listed(connection, job["job_id"], number) for number in range(2)]
    assert kept[0] is None
    with archive.open_source(str(table), "list", listed=kept[1]) as source:
        assert [member.name for member in source.members()] == ["a/one.png", "b/three.jpeg"]


def test_options_are_kept_as_they_were_given(model: int, films: Path) -> None:
    job = submitted(
        films, "--accept", "lateral", "--accept", "colour", "--accept", "lateral", "--hash-names",
        "--force", "--max-errors", "2.5%", "--keep-cam", "all", "--precision", "fp32",
    )  # fmt: skip
    spec = job["spec"]
    assert spec["accept"] == ["colour", "lateral"]
    assert (spec["hash_names"], spec["force"], spec["max_errors"]) == (True, True, "2.5%")
    assert (spec["keep_cam"], job["precision"]) == ("all", "fp32")
    plain = submitted(films)
    assert plain["spec"]["accept"] == [] and "max_errors" not in plain["spec"]
    assert not plain["spec"]["force"] and not plain["spec"]["hash_names"]


def test_the_fastest_precision_that_passed_its_gate_is_pinned(
    engine: sa.Engine, model: int, films: Path
) -> None:
    best = engines.best_precision(engine, model)
    result = run("score", films, "--later")
    assert f"Model {model} (first) computes in {best}, the only one that" in result.stderr
    assert jobs.get(engine, 1)["precision"] == best


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_precision_that_did_not_pass_its_gate_is_refused(
    model: int, films: Path, precision: str
) -> None:
    line = refusal(films, "--precision", precision)
    assert f"may not be computed in {precision}" in line
    assert f"pneumoq models show {model}" in line


def test_a_precision_that_passed_its_gate_may_be_asked_for(
    engine: sa.Engine, films: Path, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"gated-{name}.onnx" for name in ("fp32", "int8")}
    for name, file in files.items():
        file.write_text(name)
    gate = {
        "backend": "openvino", "backend_version": "2026.4", "device": "a processor",
        "precision": "int8", "options": {}, "parity_delta": 0.01, "passed": True,
    }  # fmt: skip
    rows.a_model(engine, tmp_path, "gated", files=files, engines=[gate])
    assert submitted(films, "--precision", "int8")["precision"] == "int8"
    assert "bf16: it was not made for that" in refusal(films, "--precision", "bf16")


@pytest.mark.parametrize("budget", ["0", "100", "5%", "0.1%", "100%"])
def test_every_error_budget_that_means_something_is_taken(
    model: int, films: Path, budget: str
) -> None:
    assert submitted(films, "--max-errors", budget)["spec"]["max_errors"] == budget


@pytest.mark.parametrize("budget", ["-1", "101%", "5 percent", "%", "many", "1.5"])
def test_an_error_budget_that_means_nothing_is_refused(
    engine: sa.Engine, model: int, films: Path, budget: str
) -> None:
    assert "error budget" in refusal(films, "--max-errors", budget)
    assert jobs.recent(engine) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give a folder, an archive or films, or --list FILE"),
        (("nowhere",), "no such file or folder"),
        (("s3://bucket/films",), "no such file or folder"),
        (("--list", "nowhere.txt"), "no such file"),
        (("--list", "."), "without --list"),
        (("*.dcm",), "no file matches"),
        (("--accept", "sideways", "a"), "'sideways' is not one of"),
        (("--precision", "fp8", "a"), "'fp8' is not one of"),
        (("--model", "nobody", "a"), "there is no model 'nobody'"),
        (("--list", "empty.txt"), "empty"),
        (("--list", "blank.txt"), "names no file"),
    ],
)
def test_what_cannot_be_scored_is_one_line_that_says_what_to_do(
    engine: sa.Engine, model: int, films: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(films)
    (films / "empty.txt").touch()
    (films / "blank.txt").write_text("\n\n")
    assert says in refusal(*words)
    assert jobs.recent(engine) == []


def test_the_same_command_with_a_key_is_the_same_job(
    engine: sa.Engine, model: int, films: Path
) -> None:
    words = ("score", films, "--later", "--key", "monday")
    assert run(*words).exit_code == 0
    again = run(*words)
    assert again.exit_code == 0
    assert "The key monday is that of job 1, which is queued" in again.stderr
    assert "pneumoq jobs watch 1" in again.stdout
    assert json.loads(run(*words, "--json").stdout)["job_id"] == 1
    assert len(jobs.recent(engine)) == 1


def test_a_key_does_not_stand_for_another_command(
    engine: sa.Engine, model: int, films: Path
) -> None:
    run("score", films, "--later", "--key", "monday")
    for words in ((films / "a",), (films, "--force"), (films, "--accept", "lateral")):
        assert "which has other sources or options" in refusal(*words, "--key", "monday")
    assert len(jobs.recent(engine)) == 1


def test_a_key_does_not_stand_for_another_precision(
    engine: sa.Engine, model: int, films: Path
) -> None:
    job = submitted(films, "--key", "june", "--precision", "fp32")
    with database.writing(engine) as connection:
        connection.execute(sa.text("UPDATE jobs SET precision = 'int8'"))
    line = refusal(films, "--key", "june", "--precision", "fp32")
    assert "precision int8, not fp32" in line
    again = run("score", films, "--later", "--key", "june", "--json")
    assert json.loads(again.stdout)["job_id"] == job["job_id"], "auto is any precision"
    assert len(jobs.recent(engine)) == 1


def test_what_differs_from_the_job_that_has_the_key_is_named(
    engine: sa.Engine, model: int, films: Path
) -> None:
    submitted(films, "--key", "june")
    line = refusal(films / "a", "--force", "--engine", "onnx", "--key", "june")
    assert "other sources or options: engine any, not onnx; force, sources (" in line


def test_a_key_does_not_stand_for_a_list_of_other_films(
    engine: sa.Engine, model: int, films: Path
) -> None:
    listed = films / "k.csv"
    words = ("--list", listed, "--key", "june")
    listed.write_text("path\na/one.png\n")
    job = submitted(*words)["job_id"]
    listed.write_text("path\n\na/one.png\n")  # the same film
    assert json.loads(run("score", *words, "--later", "--json").stdout)["job_id"] == job
    listed.write_text("path\na/two.png\n")
    line = refusal(*words)
    assert f"the key 'june' is that of job {job}, which has other sources or options: " in line
    assert f"{listed} names other films now" in line and "give another --key" in line
    assert len(jobs.recent(engine)) == 1


def test_a_key_does_not_stand_for_an_archive_where_there_was_a_folder(
    engine: sa.Engine, model: int, films: Path
) -> None:
    submitted(films / "a", "--key", "june")
    shutil.rmtree(films / "a")
    archives.as_zip(films / "a", {"one.png": b"\x89PNG one"})
    line = refusal(films / "a", "--key", "june")
    assert f"folder {films / 'a'} is zip {films / 'a'} now" in line


@pytest.mark.parametrize("name", ["films.tar", "films.zip", "films.tar.gz", "film.png"])
def test_a_key_does_not_stand_for_an_archive_that_was_replaced(
    engine: sa.Engine, model: int, tmp_path: Path, name: str
) -> None:
    def write(text: bytes) -> None:
        if name.endswith("png"):
            (tmp_path / name).write_bytes(text)
        elif name.endswith("zip"):
            archives.as_zip(tmp_path / name, {"one.png": text})
        else:
            archives.as_tar(tmp_path / name, {"one.png": text}, name.partition("tar.")[2])

    write(b"\x89PNG one")
    job = submitted(tmp_path / name, "--key", "june")["job_id"]
    again = run("score", tmp_path / name, "--key", "june", "--later", "--json")
    assert json.loads(again.stdout)["job_id"] == job
    write(b"\x89PNG and another")
    line = refusal(tmp_path / name, "--key", "june")
    assert f"{tmp_path / name} was replaced or written anew" in line
    assert len(jobs.recent(engine)) == 1


def test_a_key_still_stands_for_a_zip_that_was_copied(
    engine: sa.Engine, model: int, tmp_path: Path
) -> None:
    file = archives.as_zip(tmp_path / "films.zip", {"one.png": b"\x89PNG one"})
    job = submitted(file, "--key", "june")["job_id"]
    os.utime(file, ns=(1, 1))
    again = run("score", file, "--key", "june", "--later", "--json")
    assert json.loads(again.stdout)["job_id"] == job


def test_a_key_that_is_taken_says_that_films_which_came_into_its_folders_are_not_scored(
    engine: sa.Engine, model: int, films: Path
) -> None:
    submitted(films, "--key", "june")
    (films / "a" / "four.png").write_bytes(b"\x89PNG four")
    for option in ((), ("--json",)):
        again = run("score", films, "--later", "--key", "june", *option)
        assert again.exit_code == 0
        assert again.stderr.startswith(
            "The key june is that of job 1, which is queued; there is no second one. Films that "
            "came into its folders after they were listed are not in it: give them another --key.\n"
        )


def test_a_job_that_has_ended_is_found_by_its_key_without_any_worker(
    engine: sa.Engine, model: int, films: Path
) -> None:
    run("score", films, "--later", "--key", "monday")
    database.write(engine, lambda c: control.cancel(c, 1, "tester@here"))
    again = run("score", films, "--key", "monday")
    assert again.exit_code == 0
    assert "job 1, which is cancelled" in again.stderr


def test_more_sources_than_a_job_has_room_for_are_refused_before_any_is_opened(
    engine: sa.Engine, model: int, films: Path
) -> None:
    line = refusal(*["nowhere.png"] * 32_769)
    assert "32,769 sources" in line and "32,768" in line
    assert "quote" in line and "--list" in line


def test_a_broker_that_is_away_keeps_the_job(engine: sa.Engine, model: int, films: Path) -> None:
    rows.a_worker(engine, "score")
    result = run("score", films)
    assert result.exit_code == 0
    assert "The broker does not answer; the job is kept" in result.stderr.splitlines()[-1]
    assert len(result.stderr.splitlines()) == 2
    assert jobs.get(engine, 1)["state"] == "queued"


def test_who_submitted_a_job_is_told(engine: sa.Engine, model: int, films: Path) -> None:
    from scheduler import session

    assert submitted(films)["submitted_by"] == session.who()
    assert session.who() in run("jobs", "ls").stdout


def test_nothing_is_said_twice_where_nobody_listens(model: int, films: Path) -> None:
    result = run("score", films)
    assert result.exit_code == 2
    assert "no worker listens" in only_line(result.stderr)
    assert result.stdout == ""


def test_the_patience_with_sources_is_a_span_that_the_job_keeps(model: int, films: Path) -> None:
    assert submitted(films, "--source-patience", "90m")["spec"]["source_patience_s"] == 5400
    assert "source_patience_s" not in submitted(films)["spec"]
    assert "no span of time" in refusal(films, "--source-patience", "soon")
