"""dataset: what check and split print, write and return."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from scheduler.commands.dataset import STATUS
from tests.scheduler.console import only_line, run
from tests.trainer import samples
from trainer.acquisition import sheet as sheets


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder that nothing is wrong with."""
    samples.fill(tmp_path / "films", patients=50, films=1)
    return tmp_path / "films"


def test_check_says_ready_and_gives_status_0(films: Path) -> None:
    result = run("dataset", "check", films)
    assert result.exit_code == STATUS["note"] == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"100 films of 100 patients in {films}"
    assert lines[2].split() == ["train", "50", "50"]
    assert "The disease is PNEUMONIA, against NORMAL: probabilities, threshold" in result.stdout
    assert "Ready" in lines


def test_check_says_usable_but_and_gives_status_3(films: Path) -> None:
    (films / "NORMAL" / "page.jpeg").write_bytes(b"<html>")
    (films / "PNEUMONIA" / "a\x1b[2J.jpeg").write_bytes(b"nothing")
    result = run("dataset", "check", films)
    assert result.exit_code == 3
    assert "Usable, but:" in result.stdout
    assert "NORMAL/page.jpeg: " in result.stdout
    assert "\x1b[2J" not in result.stdout


def test_check_says_not_usable_because_and_gives_status_2(films: Path, tmp_path: Path) -> None:
    result = run("dataset", "check", tmp_path / "films" / "NORMAL")
    assert result.exit_code == 2
    assert result.stdout.startswith("Not usable because:\n  - ")
    (films / "labels.txt").write_text("SICK\nHEALTHY\n")
    result = run("dataset", "check", films, "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["status"], found["verdict"]) == (2, 2, "not usable")
    assert found["findings"][0]["code"] == "labels_txt"
    assert found["films"] == {"train": {"NORMAL": 50, "PNEUMONIA": 50}}


def test_check_says_that_train_will_ask_for_the_disease(films: Path) -> None:
    (films / "NORMAL").rename(films / "TB")
    asked = run("dataset", "check", films)
    assert asked.exit_code == 3
    assert "neither PNEUMONIA nor TB is known" in asked.stdout
    assert "--positive CLASS" in asked.stdout
    told = run("dataset", "check", films, "--positive", "TB", "--json")
    assert (told.exit_code, json.loads(told.stdout)["positive"]) == (0, "TB")
    assert run("dataset", "split", films, films.parent / "divided").exit_code == 0


def test_films_of_a_unit_and_one_class_are_named_and_drawn(films: Path, tmp_path: Path) -> None:
    for path in sorted((films / "PNEUMONIA").iterdir())[:30]:
        with Image.open(path) as film:
            white = film.convert("L")
        white.paste(255, (30, 3, 42, 8))
        white.save(path, quality=95)
    sheet = tmp_path / "sheet.png"
    result = run("dataset", "check", films, "--sheet", sheet)
    assert result.exit_code == 3
    assert "look alike: films with" in result.stdout
    assert "all of them are PNEUMONIA" in result.stdout
    assert only_line(result.stderr.splitlines()[-1]) == f"Films of the groups are drawn in {sheet}."
    with Image.open(sheet) as drawn:
        assert (drawn.format, drawn.mode) == ("PNG", "RGB")
        colours = {colour for _, colour in drawn.getcolors(1 << 20)}
    assert sheets.FRAME in colours
    nowhere = run("dataset", "check", films, "--sheet", tmp_path / "none" / "sheet.png")
    assert nowhere.exit_code == 2
    assert "Usable, but:" in nowhere.stdout, "what was found is said all the same"
    assert "give another file to --sheet" in nowhere.stderr


def test_without_such_films_no_sheet_is_written_and_that_is_said(
    films: Path, tmp_path: Path
) -> None:
    result = run("dataset", "check", films, "--sheet", tmp_path / "sheet.png")
    assert result.exit_code == 0
    assert "is not written: no films look acquired alike" in result.stderr
    assert not (tmp_path / "sheet.png").exists()


def test_split_writes_a_folder_that_check_takes(films: Path, tmp_path: Path) -> None:
    result = run("dataset", "split", films, tmp_path / "out")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:4]] == ["train", "val", "test"]
    assert result.stdout.splitlines()[-1] == f"Next: pneumoq train {tmp_path}/out/manifest.csv"
    again = json.loads(run("dataset", "check", tmp_path / "out" / "manifest.csv", "--json").stdout)
    assert {split: sum(n.values()) for split, n in again["films"].items()} == {
        "train": 80, "val": 10, "test": 10,
    }  # fmt: skip
    refused = run("dataset", "split", films, tmp_path / "out")
    assert refused.exit_code == 2
    assert "not empty" in only_line(refused.stderr)


def test_split_writes_a_manifest_and_names_what_it_leaves_out(films: Path, tmp_path: Path) -> None:
    (films / "NORMAL" / "page.jpeg").write_bytes(b"<html>")
    out = tmp_path / "divided.csv"
    result = run("dataset", "split", films, "--manifest", out, "--seed", 3, "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert (found["status"], found["manifest"], found["seed"]) == (3, str(out), 3)
    assert [file["path"] for file in found["left_out"]] == ["NORMAL/page.jpeg"]
    assert len(out.read_text().splitlines()) == 101


@pytest.mark.parametrize("words", [(), ("out", "--manifest", "m.csv"), ("--manifest", "m.txt")])
def test_split_is_told_where_to_write_once(films: Path, words: tuple[str, ...]) -> None:
    assert run("dataset", "split", films, *words).exit_code == 2
