"""labels: files as people have them are understood, or refused in one line that names the place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.queue import results
from db.queue.results import Prediction
from db.work import claims
from scheduler import session
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.scheduler.pages import made
from worker.machine import privacy
from worker.scoring.shard import stored_name

#: What the model says of ten films, and what is true; two of ten are called wrongly.
SAID = [0.9, 0.8, 0.7, 0.3, 0.6, 0.2, 0.1, 0.1, 0.1, 0.1]
TRUTH = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
CLASS = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def job(engine: sa.Engine, tmp_path: Path) -> int:
    """A job of ten films whose truth is known."""
    number = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 10)

    def work(connection: sa.Connection) -> None:
        shard = claims.claim_shard(connection, rows.WORKER, rows.LEASE_S)
        assert shard is not None
        outcomes = [
            Prediction(n, f"ward {n % 2}/film {n}.png", int(p >= 0.4), p, p >= 0.4)
            for n, p in enumerate(SAID)
        ]
        results.commit(connection, shard, outcomes)

    database.write(engine, work)
    return number


def write(file: Path, header: str, separator: str = ",", encoding: str = "utf-8") -> Path:
    """A file with a line per film."""
    lines = [header.replace(",", separator)]
    lines += [f"ward {n % 2}/film {n}.png{separator}{CLASS[t]}" for n, t in enumerate(TRUTH)]
    file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return file


@pytest.mark.parametrize(
    ("header", "separator", "encoding"),
    [
        ("name,label", ",", "utf-8"),
        ("path,class", ";", "utf-8-sig"),
        ("File,Truth", "\t", "utf-8"),
        (" Image , Finding ", ",", "utf-8"),
    ],
)
def test_the_usual_headers_are_recognised(
    job: int, tmp_path: Path, header: str, separator: str, encoding: str
) -> None:
    file = write(tmp_path / "truth.csv", header, separator, encoding)
    result = run("labels", "import", file, "--job", job, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["rows"], answer["labelled"], answer["unknown"]) == (10, 10, 0)
    found = answer["metrics"]
    assert (found["n_films"], found["positives"], found["negatives"]) == (10, 4, 6)
    assert (found["sensitivity"], found["specificity"]) == (0.75, pytest.approx(5 / 6))
    assert found["accuracy"] == pytest.approx(0.8)


def test_the_metrics_are_shown_with_their_number_of_films(job: int, tmp_path: Path) -> None:
    file = write(tmp_path / "truth.csv", "name,label")
    text = run("labels", "import", file, "--job", job).stdout
    table = [line.split() for line in text.splitlines()]
    assert ["sensitivity", "0.75", "4"] in table
    assert ["specificity", "0.833333", "6"] in table
    assert "10 labelled predictions, 4 positive and 6 negative" in text
    assert "Research software, not a medical device." in text
    shown = run("labels", "show", job).stdout
    assert shown == text[text.index("metric") :]
    assert "By the labels that were brought in" in run("jobs", "show", job).stdout
    assert json.loads(run("jobs", "show", job, "--json").stdout)["evaluation"]["n_films"] == 10


def test_columns_of_other_names_can_be_named(job: int, tmp_path: Path) -> None:
    file = write(tmp_path / "truth.csv", "id,diagnosis")
    words = ("labels", "import", file, "--job", job)
    line = only_line(run(*words).stderr)
    assert "--name-column" in line and "'id', 'diagnosis'" in line
    result = run(*words, "--name-column", "id", "--label-column", "diagnosis", "--json")
    assert json.loads(result.stdout)["labelled"] == 10
    absent = run(*words, "--name-column", "id", "--label-column", "dx")
    assert "no column 'dx'" in only_line(absent.stderr)


def test_item_numbers_are_names_too(job: int, tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    file.write_text("item_no,label\n0,PNEUMONIA\n9,NORMAL\n99,NORMAL\n5,\n")
    result = run("labels", "import", file, "--job", job, "--json")
    answer = json.loads(result.stdout)
    assert (answer["rows"], answer["labelled"], answer["unknown"]) == (3, 2, 1)
    assert answer["metrics"]["unlabelled"] == 8


def reviewed(file: Path, *jobs: int) -> Path:
    """A CSV as a review page saves it: each job's items 0 to 9, of which the last has no label."""
    head = "job_id,item_no,sha256,label,note,why,probability,seen_model,labelled_at,film_name"
    lines = [
        f"{job},{n},{n:064x},{CLASS[t] if n < 9 else ''},,control,0.5,0,,ward {n % 2}/film {n}.png"
        for job in jobs
        for n, t in enumerate(TRUTH)
    ]
    file.write_text("\n".join((head, *lines)) + "\n", encoding="utf-8-sig")
    return file


def n_labels(engine: sa.Engine) -> int:
    with database.reading(engine) as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM labels")).scalar_one())


@pytest.mark.parametrize("both", [False, True])
def test_item_numbers_of_another_job_are_refused_and_label_nothing(
    engine: sa.Engine, job: int, tmp_path: Path, both: bool
) -> None:
    file = reviewed(tmp_path / "review.csv", *([job] if both else []), 42)
    words = ("labels", "import", file, "--job", job)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    line = only_line(result.stderr)
    assert f"row {12 if both else 2}: item 0 is of job 42, and not of job {job}" in line
    assert "--job 42" in line and "--name-column film_name" in line
    assert n_labels(engine) == 0
    # What the line advises where the new job scored the same films.
    by_name = run(*words, "--name-column", "film_name", "--json")
    assert by_name.exit_code == 0, by_name.stderr
    assert json.loads(by_name.stdout)["labelled"] == 9


def test_a_review_of_the_job_itself_is_taken_by_its_item_numbers(job: int, tmp_path: Path) -> None:
    file = reviewed(tmp_path / "review.csv", job)
    result = run("labels", "import", file, "--job", job, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["labelled"] == 9


def test_item_numbers_whose_films_have_another_sha256_are_refused(
    engine: sa.Engine, tmp_path: Path
) -> None:
    names = [f"film {n}.png" for n in range(30)]
    archive = made.an_archive(tmp_path / "films.zip", names)
    model = rows.a_model(engine, tmp_path)
    number = made.a_job(engine, model, archive, made.plain)
    digests = [hashlib.sha256(data).hexdigest() for data in made.films(len(names))]
    file = tmp_path / "truth.csv"

    def write(shas: list[str]) -> None:
        lines = [f"{n},{sha},NORMAL" for n, sha in enumerate(shas)]
        file.write_text("\n".join(("item_no,sha256,label", *lines)) + "\n")

    write(digests[1:])
    result = run("labels", "import", file, "--job", number)
    assert result.exit_code == 2
    line = only_line(result.stderr)
    assert f"the film of item 0 in job {number} has another sha256" in line
    assert n_labels(engine) == 0
    write([sha.upper() for sha in digests])
    assert run("labels", "import", file, "--job", number).exit_code == 0
    assert n_labels(engine) == 30
    write(["", "not kept", *digests[2:]])
    assert run("labels", "import", file, "--job", number).exit_code == 0
    # Where the films are away nothing contradicts.
    archive.unlink()
    write(digests[1:])
    assert run("labels", "import", file, "--job", number).exit_code == 0


def test_the_job_of_an_item_number_may_be_left_open_and_is_a_number(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    file = tmp_path / "truth.csv"
    assert imported(file, job, "item_no,label,Job_ID\n0,PNEUMONIA,\n")["labelled"] == 1
    assert imported(file, job, f"item_no,label,job_id\n1,PNEUMONIA, 0{job} \n")["labelled"] == 1
    file.write_text('item_no,label,job_id\n2,PNEUMONIA,"PB-332"\n')
    result = run("labels", "import", file, "--job", job)
    assert result.exit_code == 2
    assert "item 2 is of job PB-332" in only_line(result.stderr)
    assert n_labels(engine) == 2


def test_numbers_that_no_item_can_have_are_unknown(job: int, tmp_path: Path) -> None:
    numbers = ["2147483648", "9" * 30, "1" + "0" * 5000, "0" * 5000 + "9"]
    text = "item,label\n" + "".join(f"{number},NORMAL\n" for number in numbers)
    answer = imported(tmp_path / "truth.csv", job, text)
    assert (answer["rows"], answer["labelled"], answer["unknown"]) == (4, 1, 3)
    assert answer["examples"]["unknown"][:2] == numbers[:2]


def test_a_name_with_a_nul_in_it_is_that_of_no_film(job: int, tmp_path: Path) -> None:
    text = "name,label\nward 0/film 0.png,PNEUMONIA\nward\0 0/film 2.png,NORMAL\n"
    answer = imported(tmp_path / "truth.csv", job, text)
    assert (answer["labelled"], answer["unknown"]) == (1, 1)


def test_a_film_whose_name_is_hashed_is_labelled_by_the_name_of_its_file(
    engine: sa.Engine, tmp_path: Path
) -> None:
    number = rows.a_planned_job(engine, rows.a_model(engine, tmp_path), 2)
    hashed = stored_name(privacy.load(session.settings()), "ward/SMITH.dcm", hide=True)

    def work(connection: sa.Connection) -> None:
        shard = claims.claim_shard(connection, rows.WORKER, rows.LEASE_S)
        assert shard is not None
        named = [(hashed, 0.9), ("plain.png", 0.1)]
        outcomes = [Prediction(n, name, int(p >= 0.4), p, p >= 0.4)
                    for n, (name, p) in enumerate(named)]  # fmt: skip
        results.commit(connection, shard, outcomes)

    database.write(engine, work)
    file = tmp_path / "truth.csv"
    file.write_text("name,label\nward/SMITH.dcm,PNEUMONIA\nplain.png,NORMAL\n")
    answer = run("labels", "import", str(file), "--job", str(number), "--json")
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["labelled"] == 2
    assert found["metrics"]["accuracy"] == 1.0


def imported(file: Path, job: int, text: str) -> dict[str, Any]:
    """What importing a file of this text says."""
    file.write_text(text)
    answer = run("labels", "import", file, "--job", job, "--json")
    assert answer.exit_code in (0, 3), answer.stderr
    found = json.loads(answer.stdout)
    assert isinstance(found, dict)
    return found


def test_a_dicom_without_an_ending_is_labelled_by_the_name_of_its_file(
    engine: sa.Engine, tmp_path: Path
) -> None:
    site = privacy.load(session.settings())
    hashed = [stored_name(site, f"SMITH/{name}", hide=True) for name in ("IM0001", "IM 2", "a.png")]
    number = rows.predicted(engine, tmp_path, [*hashed, "SMITH/IM0004"])
    found = imported(
        tmp_path / "truth.csv", number,
        "name,label\nSMITH/IM0001,NORMAL\n SMITH\\IM 2 ,PNEUMONIA\nSMITH/a.png,NORMAL\n"
        f"SMITH/IM0004,NORMAL\n{hashed[0]},NORMAL\nSMITH/IM0005,NORMAL\n",
    )  # fmt: skip
    assert (found["rows"], found["labelled"], found["metrics"]["n_films"]) == (6, 4, 4)
    assert (found["ambiguous"], found["contradicted"]) == (0, 0)
    assert found["examples"]["unknown"] == ["SMITH/IM0005"]


def test_a_name_of_a_picture_and_of_a_dicom_is_ambiguous(engine: sa.Engine, tmp_path: Path) -> None:
    hashed = stored_name(privacy.load(session.settings()), "IM0001", hide=True)
    number = rows.predicted(engine, tmp_path, [hashed, "IM0001", "b.png"])
    text = "name,label\nIM0001,NORMAL\nb.png,NORMAL\n"
    found = imported(tmp_path / "truth.csv", number, text)
    assert (found["labelled"], found["ambiguous"]) == (1, 1)
    assert found["examples"]["ambiguous"] == ["IM0001"]


def test_what_was_not_matched_is_counted_and_named(job: int, tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    file.write_text(
        "name,label\nward 0/film 0.png,PNEUMONIA\nfilm 1.png,NORMAL\n"
        "ward 0/film 2.png,NORMAL\nward 0/film 2.png,PNEUMONIA\n"
    )
    text = run("labels", "import", file, "--job", job).stdout
    assert "unknown       1  (no item of the job has the name): film 1.png" in text
    assert "contradicted  1" in text


def test_labels_that_match_nothing_are_an_error_that_says_how_names_look(
    job: int, tmp_path: Path
) -> None:
    file = tmp_path / "truth.csv"
    file.write_text("name,label\nfilm 1.png,NORMAL\n")
    result = run("labels", "import", file, "--job", job)
    assert result.exit_code == 2
    assert "SELECT name FROM v_predictions" in only_line(result.stderr)
    result = run("labels", "show", job)
    assert result.exit_code == 2
    assert "pneumoq labels import" in only_line(result.stderr)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,label\nfilm.png,NORMAL\n", "several films have the same name: name them by item_no"),
        ("name,label\nx,NORMAL\nfilm.png,NORMAL\n", "names must be those that"),
        ("name,label\na.png,NORMAL\na.png,PNEUMONIA\n", "give each film one label"),
        ("item_no,label\n7,NORMAL\n", "items must be among those that"),
        ("name,label\na.png,\n", "no row of it has a label"),
    ],
)
def test_labels_of_which_none_was_kept_are_an_error_that_says_why(
    engine: sa.Engine, tmp_path: Path, text: str, says: str
) -> None:
    number = rows.predicted(engine, tmp_path, ["film.png", "film.png", "a.png"])
    file = tmp_path / "truth.csv"
    file.write_text(text)
    result = run("labels", "import", file, "--job", number)
    assert result.exit_code == 2
    line = only_line(result.stderr)
    assert f"no prediction of job {number} has a label now; " in line and says in line


def test_labels_of_items_without_a_prediction_alone_say_so(
    engine: sa.Engine, tmp_path: Path
) -> None:
    number = rows.a_scored_job(engine, rows.a_model(engine, tmp_path), broken=1)
    file = tmp_path / "truth.csv"
    file.write_text("item_no,label\n0,NORMAL\n")
    result = run("labels", "import", file, "--job", number)
    assert result.exit_code == 2
    assert "the items that it labels were refused or are in error" in only_line(result.stderr)


def test_a_name_that_a_review_keeps_from_being_a_formula_is_known_again(
    engine: sa.Engine, tmp_path: Path
) -> None:
    names = ["=HYPERLINK(A1)", "-1.png", "@x.png", "'+y.png", "+y.png"]
    number = rows.predicted(engine, tmp_path, names)
    saved = [f"'{name}" if name[0] in "=+-@" else name for name in names[:4]]
    text = "name,label\n" + "".join(f"{name},NORMAL\n" for name in saved)
    found = imported(tmp_path / "truth.csv", number, text)
    assert (found["labelled"], found["unknown"], found["ambiguous"]) == (4, 0, 0)
    with database.reading(engine) as connection:
        items = connection.execute(sa.text("SELECT item_no FROM labels ORDER BY 1")).scalars()
        assert list(items) == [0, 1, 2, 3], "as it is written a name counts first"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"name,label\nward 0/film 0.png,SICK\n", "its classes are NORMAL, PNEUMONIA"),
        (b"name,label\nward 0/film 0.png\n", "row 2: 1 fields where the header has 2"),
        (b"item_no,label\nfirst,NORMAL\n", "'first' is no item number"),
        (b"name,label\nw\xe4rd,NORMAL\n", "save it as UTF-8"),
        (b'name,label\n"open,NORMAL\n' + b"x" * 70_000, "is no CSV"),
        (b"PK\x03\x04\x00\x00,x\n", "which column names the films?"),
    ],
)
def test_a_file_that_is_no_table_of_labels_is_one_line(
    engine: sa.Engine, job: int, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "truth.csv"
    file.write_bytes(content)
    result = run("labels", "import", file, "--job", job)
    assert result.exit_code == 2
    assert says in only_line(result.stderr)
    with database.reading(engine) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM labels")).scalar() == 0


def test_labels_again_replace_and_say_who_brought_them(
    engine: sa.Engine, job: int, tmp_path: Path
) -> None:
    file = write(tmp_path / "truth.csv", "name,label")
    for _ in range(2):
        assert run("labels", "import", file, "--job", job).exit_code == 0
    with database.reading(engine) as connection:
        found = connection.execute(sa.text("SELECT imported_by FROM labels")).scalars().all()
    assert found == [session.who()] * 10


def test_labels_are_for_scoring_jobs_that_exist(engine: sa.Engine, tmp_path: Path) -> None:
    file = write(tmp_path / "truth.csv", "name,label")
    training = rows.a_queued_job(engine, "train")
    for number in (training, 4711):
        assert run("labels", "import", file, "--job", number).exit_code == 2
        assert run("labels", "show", number).exit_code == 2
    assert run("labels", "import", tmp_path / "absent.csv", "--job", training).exit_code == 2
