"""Tables as spreadsheets of any country save them: one behaviour for lists, manifests, corrections
and labels."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database
from tests.scheduler import rows
from tests.scheduler.console import run
from tests.support.paths import SHARED
from tests.trainer import samples
from trainer.data import gathering, manifest
from worker import archive

CASES = SHARED / "cases"

#: Films as they are called on the disk, which is a Mac's: two have letters with accents apart.
FILMS = (
    "NORMAL/ward 1/film.jpeg",
    "NORMAL/b,c;d.jpeg",
    f"NORMAL/{unicodedata.normalize('NFD', 'größe')}.jpeg",
    "PNEUMONIA/größe.jpeg",
    f"PNEUMONIA/{unicodedata.normalize('NFD', 'é')}/é.jpeg",
    "PNEUMONIA/z.jpeg",
)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a table is written."""

    parted_by: str = ","
    first: str = ""
    encoding: str = "utf-8"
    end: str = "\n"
    quoting: int = csv.QUOTE_MINIMAL
    around: str = ""
    behind: int = 0
    folders: str = "/"
    form: str = ""
    blank: bool = False

    def write(self, file: Path, table: list[tuple[str, str]]) -> Path:
        """Write a table with a head."""
        text = io.StringIO(newline="")
        text.write(self.first)
        writer = csv.writer(
            text, delimiter=self.parted_by, lineterminator=self.end, quoting=self.quoting
        )
        empty = [""] * (2 + self.behind)
        for n, (name, label) in enumerate(table):
            if self.blank and n % 2 == 0:
                writer.writerow(empty)
            called = unicodedata.normalize(self.form, name) if self.form else name
            cells = (called.replace("/", self.folders), label)
            writer.writerow([f"{self.around}{c}{self.around}" for c in cells] + empty[2:])
        file.write_bytes(text.getvalue().encode(self.encoding))
        return file


DIALECTS = {
    "commas": Dialect(),
    "semicolons": Dialect(parted_by=";"),
    "tabs": Dialect(parted_by="\t"),
    "sep": Dialect(parted_by=";", first="sep=;\r\n", end="\r\n"),
    "sep in quotes": Dialect(parted_by=";", first='"sep=;"\r\n', end="\r\n"),
    "sep of a bar": Dialect(parted_by="|", first="SEP=|\n"),
    "byte order mark": Dialect(encoding="utf-8-sig"),
    "byte order mark and sep": Dialect(parted_by=";", first="sep=;\r\n", encoding="utf-8-sig"),
    "UTF-16": Dialect(parted_by="\t", encoding="utf-16", end="\r\n"),
    "UTF-16 and sep": Dialect(parted_by=";", first="sep=;\r\n", encoding="utf-16", end="\r\n"),
    "UTF-16 big end first": Dialect(first="\ufeff", encoding="utf-16-be", end="\r\n"),
    "UTF-16 without a mark": Dialect(encoding="utf-16-le"),
    "UTF-16 big end first without a mark": Dialect(encoding="utf-16-be"),
    "code page 1252": Dialect(parted_by=";", encoding="cp1252", form="NFC", end="\r\n"),
    "CR LF": Dialect(end="\r\n"),
    "CR": Dialect(end="\r"),
    "all in quotes": Dialect(quoting=csv.QUOTE_ALL),
    "blanks around": Dialect(around=" "),
    "blanks that do not break": Dialect(around="\u00a0", encoding="utf-8-sig"),
    "backslashes": Dialect(folders="\\"),
    "NFC": Dialect(form="NFC"),
    "NFD": Dialect(form="NFD"),
    "empty columns and rows": Dialect(behind=3, blank=True),
    "all of Excel": Dialect(
        parted_by=";", first="sep=;\r\n", encoding="utf-16", end="\r\n", around=" ", behind=1,
        folders="\\", form="NFC", blank=True,
    ),
}  # fmt: skip


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder of labelled films."""
    samples.write(tmp_path / "films", *FILMS)
    return tmp_path / "films"


@pytest.fixture
def job(engine: sa.Engine, tmp_path: Path) -> int:
    """A job that has scored them."""
    return rows.predicted(engine, tmp_path, FILMS)


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_lists_manifests_corrections_and_labels_read_every_table_alike(
    dialect: Dialect, films: Path, job: int
) -> None:
    classes = {name: name.partition("/")[0] for name in FILMS}
    table = dialect.write(films / "table.csv", [("path", "label"), *classes.items()])

    with archive.open_source(str(table), "list") as source:
        assert [member.name for member in source.members()] == list(FILMS)

    read = {entry.file: entry.name for entry in manifest.read(table).entries}
    assert read == {films / name: label for name, label in classes.items()}

    other = {"NORMAL": "PNEUMONIA", "PNEUMONIA": "NORMAL"}
    turned = [(name, other[label]) for name, label in classes.items()]
    corrections = dialect.write(films.parent / "corrections.csv", [("path", "label"), *turned])
    found = gathering.gather([films], corrections=corrections)
    assert {film.path: found.labels[film.label] for film in found.films} == dict(turned)

    result = run("labels", "import", table, "--job", job, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["rows"], answer["labelled"], answer["unknown"]) == (6, 6, 0)


def test_labels_that_match_less_than_all_are_no_success_and_their_encoding_is_told(
    job: int, tmp_path: Path
) -> None:
    file = tmp_path / "truth.csv"
    for encoding, told in (("utf-8", False), ("cp1252", True)):
        text = "name,label\nNORMAL/größe.jpeg,NORMAL\nNORMAL/anders größe.jpeg,NORMAL\n"
        file.write_bytes(text.encode(encoding))
        result = run("labels", "import", file, "--job", job)
        assert result.exit_code == 3
        assert "1 of 2 rows gave no film a label" in result.stderr
        assert ("save it as UTF-8" in result.stderr) == told


def test_of_two_films_that_differ_by_how_accents_are_written_a_label_is_for_the_one_it_writes(
    engine: sa.Engine, tmp_path: Path
) -> None:
    both = ("é.png", unicodedata.normalize("NFD", "é.png"))
    number = rows.predicted(engine, tmp_path, both)
    file = tmp_path / "truth.csv"
    file.write_text(f"name,label\n{both[1]},PNEUMONIA\n{both[0]},NORMAL\n")
    assert run("labels", "import", file, "--job", number).exit_code == 0
    with database.reading(engine) as connection:
        found = connection.execute(sa.text("SELECT item_no, label FROM labels ORDER BY 1")).all()
    assert [tuple(row) for row in found] == [(0, "NORMAL"), (1, "PNEUMONIA")]


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases")
def test_tables_that_people_reported_are_read(engine: sa.Engine, tmp_path: Path) -> None:
    with archive.open_source(str(CASES / "lists" / "excel_sep.csv"), "list") as source:
        names = [member.name for member in source.members()]
    assert names == [f"images/NORMAL/film {n}.jpeg" for n in range(3)]
    zipped = CASES / "zip" / "utf8_names_without_flag.zip"
    with archive.open_source(str(zipped)) as source:
        called = tuple(member.name for member in source.members())
    number = rows.predicted(engine, tmp_path, called)
    assert "Грудь 1.jpeg" in called and "胸部X線.jpeg" in called
    table = CASES / "zip" / "utf8_names_without_flag.labels.csv"
    answer = json.loads(run("labels", "import", table, "--job", number, "--json").stdout)
    assert (answer["rows"], answer["labelled"]) == (4, 4)
    for name in ("labels_excel_sep.csv", "labels_utf16.csv"):
        table = CASES / "lists" / name
        result = run("labels", "import", table, "--job", number, "--json")
        assert json.loads(result.stdout)["labelled"] == 2, name


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_table_is_an_error_and_not_waited_for(
    engine: sa.Engine, tmp_path: Path
) -> None:
    samples.fill(tmp_path / "films", patients=2)
    pipe = tmp_path / "table.csv"
    os.mkfifo(pipe)
    job = rows.predicted(engine, tmp_path, ["a.png"])
    for command in (
        ("dataset", "check", tmp_path / "films", "--labels", pipe),
        ("dataset", "check", pipe),
        ("labels", "compare", pipe, pipe),
        ("labels", "import", pipe, "--job", job),
        ("score", "--list", pipe),
    ):
        result = run(*command)
        assert result.exit_code in (1, 2), command
        assert "no file" in result.output, command


def test_a_column_that_a_table_has_twice_is_read_by_nobody(
    engine: sa.Engine, tmp_path: Path
) -> None:
    samples.fill(tmp_path / "films", patients=2)
    films = sorted(tmp_path.glob("films/*/*.jpeg"))
    names = [film.relative_to(tmp_path).as_posix() for film in films]
    other = {"NORMAL": "PNEUMONIA", "PNEUMONIA": "NORMAL"}
    table = tmp_path / "table.csv"
    lines = [
        f"{name},{n.parent.name},{other[n.parent.name]}"
        for name, n in zip(names, films, strict=True)
    ]
    table.write_text("\n".join(["path,label,Label", *lines]))
    job = rows.predicted(engine, tmp_path, names)
    for command in (
        ("dataset", "check", table),
        ("dataset", "check", tmp_path / "films", "--labels", table),
        ("labels", "compare", table, table),
        ("labels", "import", table, "--job", job),
    ):
        result = run(*command)
        assert result.exit_code in (1, 2), command
        assert "'label' and 'Label'" in result.output, command
    table.write_text("\n".join(["path,Path", *(f"{name},{name}" for name in names)]))
    result = run("score", "--list", table)
    assert "'path' and 'Path'" in result.output
