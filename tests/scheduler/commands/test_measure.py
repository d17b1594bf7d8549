"""score --dry-run and bench: what they count is so, what they measure is real, nothing stays."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.queue import jobs
from scheduler import session
from scheduler.measure import stages, survey
from scheduler.measure.bench import Figures
from tests.scheduler.console import only_line, run, start
from tests.worker import samples
from worker.engine import open_engine, store


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A zip of sixteen films and what else is found among films."""
    path = tmp_path / "films.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in samples.films(8)[:16]:
            packed.writestr(f"ward/{name}", data)
        packed.writestr("ward/notes.txt", "notes")
        packed.writestr("__MACOSX/ward/._film.png", "x")
    return path


def dry(*words: Any) -> dict[str, Any]:
    """What a dry run reports."""
    result = run("score", *words, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return report


def test_a_dry_run_counts_tries_out_and_submits_nothing(
    engine: sa.Engine, model_id: int, films: Path
) -> None:
    count = len(samples.films(8)[:16])
    report = dry(films)
    assert report["items"] == count + 1
    assert report["items_by_ending"][".txt"] == 1
    assert report["passed_over"] == {"macos_metadata": 1}
    assert report["sampled"] == count + 1
    assert report["sample_errors"] == {"not_an_image": 1}
    assert report["expected_predictions"] == count
    assert report["expected_from_store"] == 0
    assert report["expected_seconds"] > 0 and report["computed_per_s"] > 0
    assert 0 < report["database_bytes_needed"] < report["database_bytes_free"]
    assert report["sources"][0]["unchanged_since_job"] is None
    text = run("score", films, "--dry-run").stdout
    assert "Nothing was submitted" in text
    assert f"{count + 1} ({count} .jpeg, 1 .txt)" in text
    assert jobs.recent(engine) == []


def test_a_dry_run_knows_what_the_store_would_answer(
    engine: sa.Engine, model_id: int, films: Path, tmp_path: Path
) -> None:
    done = start("score", films, "--local", "--json")
    _, err = done.communicate(timeout=120)
    assert done.returncode == 3, err
    report = dry(films)
    assert report["sources"][0]["unchanged_since_job"] == 1
    assert report["expected_from_store"] == report["sample_known"] == report["items"] - 1
    with zipfile.ZipFile(films) as packed:
        packed.extractall(tmp_path / "folder")
    (tmp_path / "folder" / "ward" / "notes.txt").unlink()
    shutil.rmtree(tmp_path / "folder" / "__MACOSX")
    unpacked = dry(tmp_path / "folder")
    assert unpacked["sources"][0]["unchanged_since_job"] is None
    assert unpacked["expected_from_store"] == unpacked["items"] == report["items"] - 1
    assert dry(films, "--force")["expected_from_store"] == 0


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_dry_run_takes_no_item_from_the_store_that_a_job_would_not(
    engine: sa.Engine, model_id: int, films: Path, tmp_path: Path
) -> None:
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as packed:
        for data in samples.films(8)[:4]:
            for _ in range(3):
                packed.writestr(data[0], data[1])
    for _ in range(2):
        done = start("score", twice, "--local", "--json")
        out, err = done.communicate(timeout=120)
        assert done.returncode == 3, err
        expected = dry(twice)
        assert expected["items"] == 12
        assert expected["expected_errors"] == json.loads(out)["errors"] == 8
    assert expected["expected_from_store"] == json.loads(out)["from_store"] == 4


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_a_dry_run_reads_every_kind_of_archive(
    model_id: int, films: Path, tmp_path: Path, ending: str
) -> None:
    with zipfile.ZipFile(films) as packed:
        packed.extractall(tmp_path / "folder")
    kind = {"tar": "tar", "tar.gz": "gztar"}[ending]
    made = shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "folder")
    report = dry(made)
    assert report["sources"][0]["kind"] == ending
    assert report["sample_errors"] == {"not_an_image": 1}
    assert report["expected_predictions"] == report["items"] - 1


def test_what_is_refused_is_foretold_and_can_be_accepted(
    model_id: int, films: Path, tmp_path: Path
) -> None:
    from PIL import Image

    folder = tmp_path / "icons"
    folder.mkdir()
    for n in range(3):
        Image.linear_gradient("L").rotate(90 * n).resize((16, 16)).save(folder / f"{n}.png")
    assert dry(folder)["sample_refusals"] == {"too_small": 3}
    accepted = dry(folder, "--accept", "too_small")
    assert (accepted["sample_refusals"], accepted["expected_predictions"]) == ({}, 3)


def test_a_dry_run_of_what_is_not_there_is_one_line(model_id: int, tmp_path: Path) -> None:
    result = run("score", tmp_path / "absent.zip", "--dry-run")
    assert result.exit_code == 2
    assert "no such file or folder" in only_line(result.stderr)


def test_a_sample_is_fair_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for n in range(1000):
            packed.writestr(f"{n:04d}.png", b"x")
    found = survey.look(survey.row_of(str(path)), 100)
    names = [int(member.name[:4]) for member in found.sample]
    assert (found.items, len(names), names) == (1000, 100, sorted(set(names)))
    assert min(names) < 100 and max(names) > 900
    assert [m.name for m in survey.look(survey.row_of(str(path)), 100).sample] == [
        m.name for m in found.sample
    ]


def test_decoding_and_inference_at_once_do_all_films_and_not_more(
    engine: sa.Engine, model_id: int, films: Path
) -> None:
    settings = session.settings()
    path = store.fetch(engine, settings.home, model_id)
    network = open_engine(path, batch=settings.batch, threads=settings.engine_threads)
    inference = stages.Inference(contextlib.closing(network))
    row = survey.row_of(str(films))
    decoding = stages.Decoding(settings, network.card, list(survey.all_located(row)))
    assert decoding.count == 17
    came: list[object] = []
    assert decoding.run(40, done=came.append) > 0
    assert len(came) == 40
    assert stages.both(decoding, inference, 40) > 0
    decoding.close()
    inference.close()


def test_the_limit_is_that_of_shared_cores_or_of_the_slower_stage() -> None:
    def figures(*, shared: bool) -> Figures:
        return Figures(
            films=1, precision="fp32", engine="", batch=8, shared=shared, decoders=2,
            decode=[200.0], inference=[150.0], both=[90.0], write=[1e3], together=[50.0],
            plumbing=[stages.Plumbing(read=2.0, checksum=1.0, hash=1 / 3)],
        )  # fmt: skip

    # Two decoders take 10 ms for a film, of which 3.33 ms are not the film rule's: 300 a second.
    assert figures(shared=True).rule == [pytest.approx(300)]
    spent = figures(shared=True).spent()
    assert spent["in all"] == pytest.approx(20)
    assert sum(spent.values()) == pytest.approx(2 * 20)
    assert spent["hand-over and waiting"] == pytest.approx(20 - 10 - 5 / 3 - 1)
    assert figures(shared=False).spent()["hand-over and waiting"] == pytest.approx(20 - 20 / 3)
    assert figures(shared=True).limit == [pytest.approx(100)]
    assert figures(shared=True).share == pytest.approx(0.5)
    assert figures(shared=False).limit == [150]


def test_the_bench_measures_every_stage_and_leaves_nothing_behind(
    engine: sa.Engine, model_id: int, films: Path
) -> None:
    home = session.settings().home
    result = run("bench", films, "--films", 34, "--repeats", 1, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["films"], report["precision"], report["model_id"]) == (34, "fp32", model_id)
    assert [stage["stage"] for stage in report["stages"]][-1] == "a whole job"
    assert all(stage["per_s"] > 0 for stage in report["stages"])
    assert report["share_of_limit"] > 0
    spent = report["ms_per_film"]
    for name in ("film rule", "inference", "reading", "hash", "database"):
        assert spent[name] > 0
    assert not list(home.glob("bench-*"))
    with database.reading(engine) as connection:
        for table in ("jobs", "predictions", "films", "workers"):
            assert connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar() == 0


@pytest.mark.postgres
def test_the_bench_uses_a_schema_of_its_own_on_postgresql(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, films: Path, real_model: Path
) -> None:
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", postgres_url)
    run("db", "upgrade")
    engine = session.database()
    samples.register(engine, real_model)
    result = run("bench", films, "--films", 8, "--repeats", 1)
    assert result.exit_code == 0, result.output
    assert "of this machine's limit" in result.stdout
    with database.reading(engine) as connection:
        schemas = connection.execute(
            sa.text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pneumoq_bench%'")
        )
        assert schemas.all() == []
        assert connection.execute(sa.text("SELECT count(*) FROM jobs")).scalar() == 0
    engine.dispose()


def test_a_bench_of_nothing_is_one_line(model_id: int, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run("bench", tmp_path / "empty")
    assert result.exit_code == 2
    assert "holds no files" in result.stderr.splitlines()[-1]
