"""What commands refuse before anything happens: later it would cost hours, or a film."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import schema
from db.base.database import reading
from db.nightly import schedules
from db.queue import jobs
from tests.scheduler import rows
from tests.scheduler.console import run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--operating-point", "sensitivity=0.0"), "youden, or one like sensitivity=0.95"),
        (("--operating-point", "sensitivity=1.5"), "youden, or one like sensitivity=0.95"),
        (("--operating-point", "best"), "youden, or one like sensitivity=0.95"),
        (("--patient-pattern", "("), "no regular expression"),
        (("--name", "x" * 129), "1 to 128 characters"),
        (("--name", ""), "1 to 128 characters"),
        (("--name", "7"), "taken for another model"),
        (("--name", "champion"), "taken for another model"),
        (("--name", "first"), "model 1 is called so"),
        (("--key", "x" * 129), "1 to 128 characters"),
        (("--init", "absent.pth"), "no such file"),
    ],
)
def test_a_training_job_that_would_fail_at_its_end_is_refused_at_its_beginning(
    engine: sa.Engine, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    rows.a_model(engine, tmp_path, "first")
    result = run("train", tmp_path, "--later", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert jobs.recent(engine) == []


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.95", "specificity=.9", "sensitivity=1"])
def test_every_way_to_choose_an_operating_point_can_be_typed(
    engine: sa.Engine, tmp_path: Path, rule: str
) -> None:
    result = run("train", tmp_path, "--later", "--operating-point", rule)
    assert result.exit_code == 0
    assert jobs.get(engine, 1)["spec"]["operating_point"] == rule


def test_several_sources_and_corrections_are_told_to_the_worker(
    engine: sa.Engine, tmp_path: Path
) -> None:
    folder, table = tmp_path / "films", tmp_path / "fixed.csv"
    folder.mkdir()
    table.write_text("path,label\n")
    assert run("train", folder, "--later").exit_code == 0
    assert run("train", folder, table, "--labels", table, "--later").exit_code == 0
    one, several = (jobs.get(engine, number)["spec"] for number in (1, 2))
    assert (one["data"], "corrections" in one) == (str(folder), False)
    assert (several["data"], several["corrections"]) == ([str(folder), str(table)], str(table))


def test_a_source_that_is_neither_a_folder_nor_a_manifest_is_refused(
    engine: sa.Engine, tmp_path: Path
) -> None:
    film = tmp_path / "film.jpeg"
    film.write_bytes(b"a film")
    result = run("train", film, "--later")
    assert result.exit_code == 2
    assert "neither a folder nor a manifest" in result.stderr
    assert jobs.recent(engine) == []


def test_a_path_that_is_no_text_is_refused_with_what_to_do(
    engine: sa.Engine, tmp_path: Path
) -> None:
    rows.a_model(engine, tmp_path, "first")
    odd = tmp_path / "ward \udce4"  # Latin-1 on the disk
    odd.mkdir()
    for command in ("score", "train"):
        result = run(command, odd, "--later")
        assert result.exit_code == 2
        assert "ln -s" in result.stderr
    assert jobs.recent(engine) == []


def test_classify_does_not_draw_over_the_film(engine: sa.Engine, tmp_path: Path) -> None:
    film = tmp_path / "film.jpeg"
    film.write_bytes(b"the only copy")
    (tmp_path / "link.jpeg").symlink_to(film)
    for out in (film, tmp_path / "link.jpeg"):
        result = run("classify", film, out)
        assert result.exit_code == 2
        assert "is the film itself" in result.stderr
    assert film.read_bytes() == b"the only copy"


def test_one_place_has_one_name_however_it_is_typed(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.a_model(engine, tmp_path, "first")
    for folder in ("mix", "a/NORMAL", "a/PNEUMONIA", "elsewhere/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a/NORMAL/1.png").write_bytes(b"a film")
    (tmp_path / "weights.pth").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/deep")
    monkeypatch.chdir(tmp_path / "mix")

    def sources(*words: object) -> list[str]:
        result = run("score", *words, "--later", "--key", f"{words}")
        assert result.exit_code == 0, result.output
        with reading(engine) as connection:
            newest = sa.select(sa.func.max(schema.jobs.c.id)).scalar_subquery()
            select = sa.select(schema.sources.c.uri).where(schema.sources.c.job_id == newest)
            return list(connection.execute(select).scalars())

    place = str(tmp_path / "a")
    for typed in ("../a", "../mix/../a/", "../a/NORMAL/..", place, f"/{place}", f"//{place}"):
        assert sources(typed) == [place], typed
    assert sources("../a/NORMAL/../*/*.png") == [f"{place}/*/*.png"]
    # What a link leads to has another parent than the link.
    (tmp_path / "elsewhere/1.png").write_bytes(b"\x89PNG film")
    assert sources("../link/../1.png") == [f"{tmp_path}/elsewhere/1.png"]
    assert sources("../a") == sources(place)

    made = run("train", "../a", "--init", "../weights.pth", "--model-dir", "../out", "--later")
    assert made.exit_code == 0, made.output
    with reading(engine) as connection:
        spec = connection.execute(
            sa.select(schema.jobs.c.spec).where(schema.jobs.c.kind == "train")
        ).scalar_one()
    assert (spec["data"], spec["init"]) == (place, str(tmp_path / "weights.pth"))
    assert spec["model_dir"] == str(tmp_path / "out")
    watched = run("schedule", "add", "night", "--cron", "0 2 * * *", "score", "../a")
    assert watched.exit_code == 0, watched.output
    (row,) = schedules.listing(engine)
    assert row["spec"]["job"]["sources"] == [place]
