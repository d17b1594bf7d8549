"""labels compare: two readers' files, as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from tests.scheduler.console import only_line, run

FIRST = "NNPPNPNPPN"
SECOND = "NNPPNPPPNN"
NAME = {"N": "NORMAL", "P": "PNEUMONIA"}


def write(file: Path, labels: str, header: str = "name,label", separator: str = ",") -> Path:
    lines = [header.replace(",", separator)]
    lines += [f"film {n}.png{separator}{NAME.get(label, '')}" for n, label in enumerate(labels)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return file


def test_kappa_has_an_interval_and_the_films_that_differ_are_named(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", FIRST)
    other = write(tmp_path / "b.csv", SECOND + "NP", "Name,Truth", ";").rename(tmp_path / "c.csv")
    renamed = other.read_text(encoding="utf-8-sig")
    other.write_text(renamed, encoding="utf-16")
    found = json.loads(run("labels", "compare", one, other, "--json").stdout)
    assert found["films"] == 10 and found["agreement"] == 0.8
    assert found["kappa"] == pytest.approx(cohen_kappa_score(list(FIRST), list(SECOND)))
    assert found["kappa_low"] < found["kappa"] < found["kappa_high"]
    assert [film["name"] for film in found["differ"]] == ["film 6.png", "film 8.png"]
    assert (found["only_first"], found["only_second"]) == (0, 2)
    text = run("labels", "compare", one, other).stdout
    assert "95 % interval" in text and "film 6.png" in text


def test_films_without_a_label_are_not_compared(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.csv", "NP P"), write(tmp_path / "b.csv", "N PP")
    found = json.loads(run("labels", "compare", one, other, "--json").stdout)
    assert (found["films"], found["only_first"], found["only_second"]) == (2, 1, 1)


def test_numbers_of_two_jobs_are_other_films(tmp_path: Path) -> None:
    one, other = tmp_path / "a.csv", tmp_path / "b.csv"
    one.write_text("job_id,item_no,sha256,label\n1,0,aa,NORMAL\n1,1,bb,PNEUMONIA\n")
    other.write_text("job_id,item_no,sha256,label\n2,1,aa,NORMAL\n2,0,bb,PNEUMONIA\n")
    assert json.loads(run("labels", "compare", one, other, "--json").stdout)["by"] == "sha256"
    for file in (one, other):
        file.write_text(file.read_text().replace(",aa,", ",,"))
    result = run("labels", "compare", one, other)
    assert result.exit_code == 2 and "no filled column" in only_line(result.stderr)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\nfilm 0.png\n", "no column holds the labels"),
        ("id,label\nx,NORMAL\n", "no filled column in common"),
        ("name,label\nother.png,NORMAL\n", "label no film in common"),
        ("name,label\nfilm 0.png,NORMAL\nfilm 0.png,PNEUMONIA\n", "has two labels"),
        ('name,label\n"film,NORMAL\n', "is no CSV"),
    ],
)
def test_files_that_cannot_be_compared_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    one, other = write(tmp_path / "a.csv", FIRST), tmp_path / "b.csv"
    other.write_text(text)
    result = run("labels", "compare", one, other)
    assert result.exit_code == 2
    assert said in only_line(result.stderr)
