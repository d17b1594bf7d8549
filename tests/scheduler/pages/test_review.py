"""review JOB: films are labelled by keyboard alone, and the labels come back."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sklearn import metrics as reference

from db.base import database
from db.queue import pages
from scheduler.pages.html import as_data
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.scheduler.pages import made, parsed
from tests.support.browser import Browser, Page
from trainer.data import manifest
from trainer.film import rules

NAMES = [f"ward {n % 3}/film {n:03}.jpeg" for n in range(40)]
NAMES[2 : 2 + len(made.HOSTILE)] = made.HOSTILE
NAMES[12] = "=HYPERLINK(A1)"


def truth(item_no: int) -> str:
    """What a reader finds, whatever the model says."""
    return "PNEUMONIA" if item_no % 3 else "NORMAL"


@pytest.fixture
def job(engine: sa.Engine, tmp_path: Path) -> int:
    model = rows.a_model(engine, tmp_path, film_rule=rules.DEFAULT_RULE)
    return made.a_job(engine, model, made.an_archive(tmp_path / "films.zip", NAMES), made.plain)


def review(job: int, file: Path, *more: str | int) -> dict[str, object]:
    result = run("review", job, file, "--json", *more)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def data(file: Path) -> dict[str, object]:
    """What the page's script is given."""
    (script,) = [
        s for s in parsed.page(file).all("script") if s.attributes.get("type") == "application/json"
    ]
    found: dict[str, object] = json.loads(script.text)
    return found


def item(page: Page) -> int:
    """The item that is shown."""
    found = page.evaluate(
        "(() => { const d = JSON.parse(document.getElementById('data').textContent);"
        "const n = Number(document.querySelector('#list [aria-current]').textContent);"
        "return d.films[n - 1].item; })()"
    )
    return int(found)


def saved(folder: Path, name: str) -> Path:
    """A file that the browser saves, once it is whole."""
    deadline = time.monotonic() + 30
    while not (folder / name).is_file() or list(folder.glob("*.crdownload")):
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.05)
    return folder / name


def test_twenty_films_labelled_by_keyboard_are_the_truth_that_the_job_is_measured_by(
    engine: sa.Engine, job: int, tmp_path: Path, chromium: Browser
) -> None:
    file, downloads = tmp_path / "review.html", tmp_path / "downloads"
    downloads.mkdir()
    review(job, file, "--films", 10, "--control", 12)
    total = len(data(file)["films"])  # type: ignore[arg-type]
    assert total > 20
    page = chromium.open(file)
    page.downloads(downloads)
    labelled: dict[int, str] = {}
    while len(labelled) < 10:
        now = item(page)
        labelled[now] = truth(now)
        page.press("2" if truth(now) == "PNEUMONIA" else "1")
    # One is taken back and given again, one has a note, and the page is closed and opened again.
    page.press("u")
    again = item(page)
    assert again == list(labelled)[-1]
    page.press("n")
    page.type('shadow, "left" base')
    page.press("Escape")
    page.press("2" if truth(again) == "PNEUMONIA" else "1")
    assert page.complaints == []
    page.go(file)
    assert page.evaluate("document.getElementById('status').textContent").startswith("10 of")
    while len(labelled) < 20:
        now = item(page)
        assert now not in labelled
        labelled[now] = truth(now)
        page.press("2" if truth(now) == "PNEUMONIA" else "1")
    page.press("s")
    found = saved(downloads, "review.csv")
    assert (page.complaints, page.requests) == ([], [])
    page.close()

    with found.open(encoding="utf-8-sig", newline="") as text:
        lines = list(csv.DictReader(text))
    assert len(lines) == total
    assert {int(r["item_no"]): r["label"] for r in lines if r["label"]} == labelled
    assert [r["note"] for r in lines if r["note"]] == ['shadow, "left" base']
    assert {r["seen_model"] for r in lines if r["label"]} == {"0"}
    assert not [r for r in lines if r["film_name"].startswith("=")]

    answer = json.loads(run("labels", "import", found, "--job", job, "--json").stdout)
    assert (answer["rows"], answer["labelled"]) == (20, 20)
    with database.reading(engine) as connection:
        probability = dict(
            connection.execute(
                sa.text("SELECT item_no, probability FROM v_predictions WHERE job_id = :job"),
                {"job": job},
            ).all()  # type: ignore[arg-type]
        )
        held = {row["kind"] for row in pages.holding(connection, job, again)}
    scores = [probability[n] for n in labelled]
    positive = [name == "PNEUMONIA" for name in labelled.values()]
    assert answer["metrics"]["auroc"] == pytest.approx(reference.roc_auc_score(positive, scores))
    assert held == {"review", "labels"}
    # Training takes it too: by the content of the films.
    corrected = {sha256: label for _, _, sha256, label in manifest.corrections(found)}
    assert corrected == {r["sha256"]: r["label"] for r in lines if r["label"]}
    # What is labelled is not asked for again, but for the control, which is of all films.
    review(job, tmp_path / "next.html", "--films", 40, "--control", 0)
    asked = {film["item"] for film in data(tmp_path / "next.html")["films"]}  # type: ignore[attr-defined]
    assert not asked & set(labelled)


def test_the_page_opens_without_complaint_and_asks_for_nothing(
    job: int, tmp_path: Path, chromium: Browser
) -> None:
    file = tmp_path / "review.html"
    review(job, file, "--films", 40)
    for width, dark in ((1440, False), (360, False), (1440, True)):
        page = chromium.open(file, width=width, dark=dark)
        for n in range(len(data(file)["films"])):  # type: ignore[arg-type]
            page.press("ArrowRight")
            if n == 3:
                page.press("m")
                page.press("o")
        assert page.faults() == []
        assert page.wide() == []
        assert (page.complaints, page.requests, page.dialogs) == ([], [], 0)
        page.evaluate("localStorage.clear()")
        page.close()


NOTES = (
    "JSON.parse(localStorage.getItem(JSON.parse(document.getElementById('data').textContent).key)"
    " || '{\"answers\": {}}').answers"
)


@pytest.mark.parametrize("leaving", ["closed", "hidden", "neither"])
def test_a_note_is_kept_also_where_the_page_goes_while_it_is_typed(
    job: int, tmp_path: Path, chromium: Browser, leaving: str
) -> None:
    file = tmp_path / "review.html"
    review(job, file)
    page = chromium.open(file)
    page.evaluate("localStorage.clear()")
    page.go(file)
    if leaving != "neither":
        page.evaluate("window.setTimeout = () => 0")  # what is kept is kept at once
    at = item(page)
    page.press("n")
    page.type("shadow at the")
    page.type(" left base")
    if leaving == "closed":
        page.go(file)
    elif leaving == "hidden":
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    deadline = time.monotonic() + 30
    while page.evaluate(NOTES).get(str(at), {}).get("note") != "shadow at the left base":
        assert time.monotonic() < deadline, page.evaluate(NOTES)
        time.sleep(0.05)
    if leaving == "neither":
        # All of it is one step: the note is taken back whole, and a label of before stays.
        page.type(", I think")
        page.press("Escape")
        page.press("u")
        assert page.evaluate(NOTES) == {}
        assert page.evaluate("document.getElementById('note').value") == ""
    page.evaluate("localStorage.clear()")
    page.close()


def test_a_note_goes_to_its_own_film_where_a_button_takes_no_focus(
    job: int, tmp_path: Path, chromium: Browser
) -> None:
    file = tmp_path / "review.html"
    review(job, file)
    page = chromium.open(file)
    page.evaluate("localStorage.clear()")
    page.go(file)
    at = item(page)
    page.press("n")
    page.type("rotated")
    page.evaluate("document.querySelector('[data-do=next]').click()")  # as a finger does
    assert item(page) != at
    assert page.evaluate("document.getElementById('note').value") == ""
    assert page.evaluate(NOTES)[str(at)]["note"] == "rotated"
    assert list(page.evaluate(NOTES)) == [str(at)]
    page.evaluate("localStorage.clear()")
    page.close()


def test_every_button_is_reached_and_worked_by_the_keyboard(
    job: int, tmp_path: Path, chromium: Browser
) -> None:
    file = tmp_path / "review.html"
    review(job, file)
    page = chromium.open(file)
    page.evaluate("localStorage.clear()")
    page.go(file)
    reachable = page.evaluate(
        "window.all = [...document.querySelectorAll("
        "'a, button, input, textarea, summary, [tabindex]')]; all.length"
    )
    visited = []
    for _ in range(reachable):
        page.press("Tab")
        visited.append(page.evaluate("all.indexOf(document.activeElement)"))
    assert visited == list(range(reachable))
    page.evaluate("document.querySelector('[data-class=\"1\"]').focus()")
    page.press("Enter")
    assert page.evaluate("document.getElementById('status').textContent").startswith(
        "Film 1: PNEUMONIA. 1 of"
    )
    # A key that is typed into a note is a letter of the note.
    page.press("n")
    page.type("2 u s")
    page.press("2")
    page.press("Escape")
    assert page.evaluate("document.getElementById('progress').value") == 1
    # Keys can be switched off.
    page.evaluate("document.getElementById('keys-on').click()")
    page.press("1")
    assert page.evaluate("document.getElementById('progress').value") == 1
    page.evaluate("localStorage.clear()")
    page.close()


def test_the_view_is_changed_by_keys(job: int, tmp_path: Path, chromium: Browser) -> None:
    file = tmp_path / "review.html"
    review(job, file)
    page = chromium.open(file)
    films: list[dict[str, str]] = data(file)["films"]  # type: ignore[assignment]
    with_map = next(n for n, film in enumerate(films) if film["cam"])
    page.evaluate(f"document.querySelectorAll('#list button')[{with_map}].click()")
    hidden = "document.querySelector('.cam').hidden"
    assert page.evaluate(hidden)
    page.press("o")
    assert not page.evaluate(hidden)
    said = "document.getElementById('said').textContent"
    assert page.evaluate(said) == ""
    page.press("m")
    assert page.evaluate(said).startswith("Model: ")
    page.press("1")
    page.press("+")
    assert "scale(1.25)" in page.evaluate("document.getElementById('frame').style.transform")
    page.press("ArrowLeft", shift=True)
    assert "translate(40px" in page.evaluate("document.getElementById('frame').style.transform")
    page.press("[")
    slope = "document.querySelector('#window feFuncR').getAttribute('slope')"
    assert float(page.evaluate(slope)) == pytest.approx(255 / 239)
    assert "window" in page.evaluate("document.querySelector('.film-image').style.filter")
    page.press("r")
    assert float(page.evaluate(slope)) == 1
    assert page.evaluate("document.getElementById('frame').style.transform") == (
        "translate(0px, 0px) scale(1)"
    )
    page.evaluate("localStorage.clear()")
    page.close()


def test_a_label_counts_as_given_with_the_model_where_its_answer_or_evidence_was_shown_before(
    job: int, tmp_path: Path, chromium: Browser
) -> None:
    file, downloads = tmp_path / "review.html", tmp_path / "downloads"
    downloads.mkdir()
    review(job, file)
    page = chromium.open(file)
    page.downloads(downloads)
    shown = {}
    for name, key in (("blind", ""), ("answer", "m"), ("evidence", "o"), ("undone", "")):
        shown[name] = item(page)
        for pressed in (key, "2", key):  # on, the label, off again on the next film
            if pressed:
                page.press(pressed)
        page.press("ArrowRight")  # past the film that was seen when it was switched off
    # The answer on a film that was labelled blind changes nothing of how it was labelled ...
    films = [film["item"] for film in data(file)["films"]]  # type: ignore[attr-defined]
    for name in ("blind", "undone"):
        page.evaluate(
            f"document.querySelectorAll('#list button')[{films.index(shown[name])}].click()"
        )
        page.press("m")
        page.press("m")
    # ... but a label that is taken back and given again is given by one who knows it.
    page.press("u")
    assert item(page) == shown["undone"]
    page.press("1")
    page.press("s")
    with saved(downloads, "review.csv").open(encoding="utf-8-sig", newline="") as text:
        knew = {int(row["item_no"]): row["seen_model"] for row in csv.DictReader(text)}
    page.evaluate("localStorage.clear()")
    page.close()
    assert {name: knew[n] for name, n in shown.items()} == {
        "blind": "0", "answer": "1", "evidence": "1", "undone": "1",
    }  # fmt: skip


def test_the_page_says_how_many_films_chance_chose(job: int, tmp_path: Path) -> None:
    file = tmp_path / "review.html"
    written = review(job, file, "--films", 3, "--control", 7)
    films: list[dict[str, str]] = data(file)["films"]  # type: ignore[assignment]
    counted = {why: sum(f["why"] == why for f in films) for why in ("control", "nearest")}
    assert counted == {"control": 7, "nearest": 3}
    assert written["kinds"]["control"] == 7  # type: ignore[index]
    assert "7 drawn by chance" in parsed.page(file).all("header")[0].text
    result = run("review", job, file, "--films", 3, "--control", 7, "--force")
    assert "7 drawn by chance" in result.stdout
    assert f"pneumoq labels import review.csv --job {job}" in result.stdout


def test_the_same_page_twice_has_the_same_films(job: int, tmp_path: Path) -> None:
    file = tmp_path / "review.html"
    review(job, file, "--films", 3, "--control", 7)
    first = data(file)
    review(job, file, "--films", 3, "--control", 7, "--force")
    again = data(file)
    # With the key what was labelled on the first page is there on the second.
    assert again == first
    # A larger control has the films of the smaller one.
    review(job, file, "--films", 0, "--control", 12, "--force")
    control = {f["item"] for f in first["films"] if f["why"] == "control"}  # type: ignore[attr-defined]
    assert control < {f["item"] for f in data(file)["films"]}  # type: ignore[attr-defined]
    assert "the others were chosen" not in parsed.page(file).all("header")[0].text


def test_films_that_another_model_calls_otherwise_are_asked_about(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    second = rows.a_model(engine, tmp_path, "second", film_rule=rules.DEFAULT_RULE, threshold=0.8)
    other = made.a_job(engine, second, tmp_path / "films.zip", made.plain)
    written = review(job, tmp_path / "review.html", "--control", 0)
    assert written["against"] == other
    films: list[dict[str, float]] = data(tmp_path / "review.html")["films"]  # type: ignore[assignment]
    between = {f["item"] for f in films if f["why"] == "disagreeing"}  # type: ignore[comparison-overlap]
    with database.reading(engine) as connection:
        expected = connection.execute(
            sa.text(
                "SELECT item_no FROM v_predictions WHERE job_id = :job "
                "AND probability >= 0.4 AND probability < 0.8"
            ),
            {"job": job},
        )
        assert between == set(expected.scalars()) and between


def test_a_job_of_which_all_is_labelled_has_nothing_to_review(job: int, tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_text("item_no,label\n" + "".join(f"{n},NORMAL\n" for n in range(len(NAMES))))
    run("labels", "import", table, "--job", job)
    result = run("review", job, tmp_path / "review.html", "--control", 0)
    assert result.exit_code == 2
    assert "nothing is left to be labelled" in only_line(result.stderr)


def test_no_text_ends_the_data_of_a_script() -> None:
    value = ["</script><script>alert(1)</script>", "<!--", "\u2028", "\ud800", "&amp;"]
    text = as_data(value)
    assert not set(text) & set("<>&\u2028\ud800")
    assert json.loads(text) == value
