"""report JOB: a page that a person can read everywhere, and that says what the database says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from db.base import database
from db.queue import overview, pages
from db.queue.results import Outcome, Prediction
from scheduler import session
from scheduler.pages import films
from scheduler.show import picture
from tests.bench import pages as bench
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.scheduler.pages import made, parsed
from tests.support import soak
from tests.support.browser import Browser
from trainer.film import rules
from worker.classify import films as here
from worker.classify.answer import Answer

#: How a model's validation films were scored, in twentieths.
REFERENCE = {
    "of": "validation", "n": 200, "unusual": 4,
    "histogram": [60, 30, 15, 10, 8, 5, 4, 3, 3, 2, 2, 3, 3, 4, 5, 8, 10, 10, 10, 5],
}  # fmt: skip

NAMES = [f"ward {n % 3}/film {n:03}.jpeg" for n in range(60)]
NAMES[3 : 3 + len(made.HOSTILE)] = made.HOSTILE


@pytest.fixture
def model(engine: sa.Engine, tmp_path: Path) -> int:
    return rows.a_model(engine, tmp_path, film_rule=rules.DEFAULT_RULE, reference=REFERENCE)


@pytest.fixture
def job(engine: sa.Engine, model: int, tmp_path: Path) -> int:
    """A job of sixty films, some with names that strangers might give them."""
    return made.a_job(engine, model, made.an_archive(tmp_path / "films.zip", NAMES), made.plain)


def report(job: int, file: Path, *more: str) -> parsed.Element:
    result = run("report", job, file, *more)
    assert result.exit_code == 0, result.output
    return parsed.page(file)


def shown(root: parsed.Element) -> dict[int, parsed.Element]:
    """The films of a page by item, in their order."""
    found = {}
    for figure in root.all("figure", "film"):
        said = figure.all("p", "why")[0].text
        found[int(said.removeprefix("Item ").split(":")[0])] = figure
    return found


def test_the_page_opens_without_complaint_and_asks_for_nothing(
    job: int, tmp_path: Path, chromium: Browser
) -> None:
    report(job, tmp_path / "job.html")
    for width, dark in ((1440, False), (360, False), (1440, True)):
        page = chromium.open(tmp_path / "job.html", width=width, dark=dark)
        assert page.faults() == []
        assert page.wide() == []
        assert (page.complaints, page.requests, page.dialogs) == ([], [], 0)
        page.close()


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(
    job: int, tmp_path: Path, chromium: Browser
) -> None:
    report(job, tmp_path / "job.html")
    page = chromium.open(tmp_path / "job.html")
    reachable = page.evaluate(
        "window.all = [...document.querySelectorAll('a, input, summary, [tabindex]')]"
        ".filter(e => !e.closest('details:not([open]) > :not(summary)')); all.length"
    )
    visited = []
    for _ in range(reachable):
        page.press("Tab")
        visited.append(page.evaluate("all.indexOf(document.activeElement)"))
    assert visited == list(range(reachable))
    seen = page.evaluate("all.every(e => (e.focus(), getComputedStyle(e).outlineStyle !== 'none'))")
    assert seen
    # The switch and the tables behind charts are worked by keys.
    page.evaluate("document.getElementById('evidence').focus()")
    hidden = "getComputedStyle(document.querySelector('.cam')).display === 'none'"
    assert not page.evaluate(hidden)
    page.press("Space")
    assert page.evaluate(hidden)
    page.evaluate("document.querySelector('summary').focus()")
    page.press("Enter")
    assert page.evaluate("document.querySelector('details').open")
    page.close()


def test_paper_is_white_also_where_the_screen_is_dark(
    job: int, tmp_path: Path, chromium: Browser
) -> None:
    report(job, tmp_path / "job.html")
    page = chromium.open(tmp_path / "job.html", dark=True)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 23, 26)"
    page.size(794, dark=True, media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.wide() == []
    assert page.pdf().startswith(b"%PDF")
    page.close()


def test_each_picture_is_the_film_and_each_overlay_its_map(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    found = shown(report(job, tmp_path / "job.html"))
    encoded = made.films(len(NAMES))
    with database.reading(engine) as connection:
        maps = overview.maps(connection, job, list(found))
    assert len(found) == 29 and 0 < len(maps) < len(found)
    for item_no, figure in found.items():
        film, *overlays = figure.all("img")
        pixels = parsed.picture(film)
        expected = rules.gray(encoded[item_no])
        expected.thumbnail((films.REPORT, films.REPORT), Image.Resampling.LANCZOS)
        assert pixels.shape == (expected.height, expected.width)
        apart = np.abs(pixels.astype(int) - np.asarray(expected).astype(int))
        assert apart.mean() < 3, item_no
        assert bool(overlays) == (item_no in maps)
        for overlay in overlays:
            drawn = parsed.picture(overlay)
            kept = made.cam(item_no)
            levels = np.frombuffer(kept.data, np.uint8).reshape(kept.height, kept.width)
            logits = kept.low + levels / 255 * (kept.high - kept.low)
            alpha = np.clip(logits, 0, None) / logits.max() * 255 * picture.STRONGEST
            middle = drawn[films.CELL // 2 :: films.CELL, films.CELL // 2 :: films.CELL]
            assert middle.shape == (7, 7, 4)
            assert np.abs(middle[..., 3] - alpha).max() < 12, item_no
            strongest = np.unravel_index(drawn[..., 3].argmax(), drawn.shape[:2])
            there = np.unravel_index(levels.argmax(), levels.shape)
            assert np.abs(np.array(strongest) / films.CELL - np.array(there) - 0.5).max() < 1
            assert (
                "left:0.00%;top:0.00%;width:100.00%;height:100.00%" in (overlay.attributes["style"])
            )


def test_the_films_are_those_that_the_database_names_in_its_order(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    found = list(shown(report(job, tmp_path / "job.html", "--films", "5")))
    with database.reading(engine) as connection:
        highest, nearest, unusual = (
            list(connection.execute(sa.text(sql), {"job": job}).scalars())
            for sql in (
                "SELECT item_no FROM v_predictions WHERE job_id = :job "
                "ORDER BY probability DESC LIMIT 5",
                "SELECT item_no FROM v_predictions WHERE job_id = :job AND unusual = 0 "
                "ORDER BY ABS(probability - threshold) LIMIT 5",
                "SELECT item_no FROM v_predictions WHERE job_id = :job AND unusual = 1 "
                "ORDER BY ood DESC LIMIT 10",
            )
        )
    assert not set(highest) & set(nearest)
    rest = [item_no for item_no in unusual if item_no not in highest]
    assert found == highest + nearest + rest[:5]


def test_the_numbers_behind_the_charts_are_those_of_the_database(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    root = report(job, tmp_path / "job.html")
    head, *lines = parsed.table(root, "Probability of PNEUMONIA")
    assert head == ["probability", "called NORMAL", "called PNEUMONIA", "all",
                    "share of the reference"]  # fmt: skip
    with database.reading(engine) as connection:
        counted = {
            (bucket, label): n
            for bucket, label, n in connection.execute(
                sa.text(
                    "SELECT MIN(19, CAST(probability * 20 AS INTEGER)), label, COUNT(*) "
                    "FROM v_predictions WHERE job_id = :job GROUP BY 1, 2"
                ),
                {"job": job},
            )
        }
        errors = connection.execute(
            sa.text("SELECT code, COUNT(*) FROM v_item_errors WHERE job_id = :job GROUP BY code"),
            {"job": job},
        ).all()
        outcomes = connection.execute(
            sa.text("SELECT done FROM v_job_progress WHERE job_id = :job"), {"job": job}
        ).scalar_one()
    for bucket, line in enumerate(lines):
        normal, pneumonia = (counted.get((bucket, name), 0) for name in ("NORMAL", "PNEUMONIA"))
        share = REFERENCE["histogram"][bucket] / 200  # type: ignore[index]
        assert line == [
            f"{bucket / 20:.2f} to {(bucket + 1) / 20:.2f}", str(normal), str(pneumonia),
            str(normal + pneumonia), f"{100 * share:.1f} %",
        ]  # fmt: skip
    listed = parsed.table(root, "In error, by code")[1:]
    assert [(code, int(n)) for code, n, _ in listed] == [tuple(row) for row in errors]
    rate = parsed.table(root, "Films per second")[1:]
    assert sum(int(line[1].replace(",", "")) for line in rate) == outcomes == len(NAMES)


def test_names_that_strangers_gave_do_no_harm(job: int, tmp_path: Path, chromium: Browser) -> None:
    root = report(job, tmp_path / "job.html", "--films", "30")
    assert root.all("script") == []
    assert not [e for e in root.all("") if any(name.startswith("on") for name in e.attributes)]
    text = (tmp_path / "job.html").read_text(encoding="utf-8")
    below = root.all("body")[0].text
    assert all(c.isprintable() or c == "\xa0" for c in below)
    assert not set(text) & set("\x1b\r\u202e\ufffe")
    (title,) = root.all("title")
    assert title.text == "Job 1: 60 films for PNEUMONIA"
    names = [e for e in root.all("bdi", "name")]
    assert max(len(name.text) for name in names) <= 120
    (long,) = {n.attributes["title"] for n in names if "end.jpeg" in n.text}
    assert long == made.HOSTILE[4]
    page = chromium.open(tmp_path / "job.html", width=360)
    assert page.wide() == []
    assert (page.complaints, page.requests, page.dialogs) == ([], [], 0)
    page.close()


def test_a_hundred_films_take_less_than_five_megabytes(job: int, tmp_path: Path) -> None:
    root = report(job, tmp_path / "job.html", "--films", "100")
    films_shown = len(shown(root))
    assert films_shown == 54  # all that were scored
    assert (tmp_path / "job.html").stat().st_size / films_shown < 5e6 / 100


@pytest.mark.parametrize("n", [0, 1])
def test_a_job_of_no_film_and_of_one_has_a_page(
    engine: sa.Engine, model: int, tmp_path: Path, chromium: Browser, n: int
) -> None:
    path = made.an_archive(tmp_path / "few.zip", ["a.jpeg"][:n])
    root = report(made.a_job(engine, model, path, made.plain), tmp_path / "few.html")
    assert len(shown(root)) == n
    said = root.all("main")[0].text
    assert ("No film of this job was scored." in said) == (n == 0)
    page = chromium.open(tmp_path / "few.html")
    assert (page.faults(), page.wide(), page.complaints) == ([], [], [])
    page.close()


def test_films_that_are_gone_are_named_with_the_reason(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    (tmp_path / "films.zip").unlink()
    result = run("report", job, tmp_path / "job.html", "--films", "3")
    assert result.exit_code == 0
    assert "9 of them cannot be shown; the page says why" in result.stderr
    found = shown(parsed.page(tmp_path / "job.html"))
    assert all("Cannot be shown: " in figure.text for figure in found.values())


def test_a_purged_job_has_a_page_of_its_sums(engine: sa.Engine, job: int, tmp_path: Path) -> None:
    with database.writing(engine) as connection:
        connection.execute(sa.text("UPDATE jobs SET finished_at = '2020-01-01T00:00:00.000Z'"))
    assert run("jobs", "purge", "--older-than", "30d", "--yes").exit_code == 0
    said = report(job, tmp_path / "job.html").all("main")[0].text
    assert "the job was purged" in said


def test_a_page_is_recorded_with_the_films_that_are_in_it(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    file = tmp_path / "job.html"
    answer = json.loads(run("report", job, file, "--films", "2", "--json").stdout)
    assert answer["films"] == 6 and answer["bytes"] == file.stat().st_size
    assert file.stat().st_mode & 0o077 == 0
    items = list(shown(parsed.page(file)))
    with database.reading(engine) as connection:
        (row,) = connection.execute(sa.text("SELECT * FROM v_pages")).mappings()
        holding = [
            [page["id"] for page in pages.holding(connection, job, item_no)]
            for item_no in range(len(NAMES))
        ]
    wanted = {"kind": "report", "path": str(file), "job_id": job, "films": 6,
              "written_by": session.who()}  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert [n for n, found in enumerate(holding) if found] == sorted(items)
    assert "already" in only_line(run("report", job, file).stderr)
    assert run("report", job, file, "--force", "--films", "0").exit_code == 0
    assert shown(parsed.page(file)) == {}


@pytest.mark.parametrize("name", ["page.txt", "nowhere/page.html", "folder.html"])
def test_a_page_that_cannot_be_written_is_refused_in_a_line(
    job: int, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    result = run("report", job, tmp_path / name)
    assert result.exit_code == 2
    assert only_line(result.stderr).startswith("Error: ")


def test_the_checks_of_a_page_notice_what_they_are_for(tmp_path: Path, chromium: Browser) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><html><title>x</title><body><img src='http://127.0.0.1:9/a.png'>"
        "<p style='color:#ccc;background:#fff'>pale</p><div style='width:3000px'>wide</div>"
        "<script>console.error('oh'); throw new Error('thrown')</script></body></html>"
    )
    page = chromium.open(bad)
    found: list[Any] = page.faults()
    assert any("color-contrast" in fault for fault in found)
    assert any("image-alt" in fault for fault in found)
    assert page.wide()
    assert page.requests == ["http://127.0.0.1:9/a.png"]
    assert any("thrown" in said for said in page.complaints)
    assert any("oh" in said for said in page.complaints)
    page.close()


@soak.ONLY
def test_the_page_of_a_million_films_takes_little_more_than_that_of_a_few(
    engine: sa.Engine, tmp_path: Path
) -> None:
    few = bench.a_large_job(engine, tmp_path, 500)
    home = session.settings().home
    least_s, least_mb, small = bench.measured(home, few, tmp_path / "few.html")
    many = bench.a_large_job(engine, tmp_path, 1_000_000)
    took_s, took_mb, large = bench.measured(home, many, tmp_path / "many.html")
    assert took_mb < least_mb + 60
    assert took_s < least_s + 60
    assert large < small + 50_000


def test_maps_that_the_job_did_not_keep_are_computed_for_the_page(
    engine: sa.Engine, model_id: int, tmp_path: Path
) -> None:
    path = made.an_archive(tmp_path / "films.zip", NAMES[:12])

    def without_map(n: int, name: str) -> Outcome:
        outcome = made.plain(n, name)
        return outcome._replace(cam=None) if isinstance(outcome, Prediction) else outcome

    job_id = made.a_job(engine, model_id, path, without_map)
    found = shown(report(job_id, tmp_path / "job.html"))
    film = tmp_path / "film.jpeg"
    film.write_bytes(made.films(12)[0])
    answer = next(
        here.classify([("film", film.read_bytes())], session.settings(), engine, model_id)
    )[1]
    assert isinstance(answer, Answer) and answer.cam is not None
    overlays = found[0].all("img", "cam")
    assert bool(overlays) == bool(answer.cam.max() > 0)
    assert sum(bool(figure.all("img", "cam")) for figure in found.values()) > len(found) / 3
    for overlay in overlays:
        alpha = parsed.picture(overlay)[..., 3]
        expected = films.overlay(answer.cam)
        with Image.open(io.BytesIO(expected)) as image:
            assert np.abs(alpha.astype(int) - np.asarray(image)[..., 3].astype(int)).max() <= 2
