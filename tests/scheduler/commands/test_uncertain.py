"""export --uncertain: which films are copied, from where, and how they come back."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.queue import labels, listings, results
from db.queue.results import Outcome, Prediction
from db.work import claims, endings
from scheduler.submitting import uncertain
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from tests.trainer import samples
from tests.worker import archives
from trainer.data import dataset
from worker import archive, config
from worker.decoding.reading import content_hash
from worker.machine import privacy
from worker.scoring import shard

#: The model's threshold (rows.a_model) is 0.4, and an ood above 2 is unusual.
PROBABILITIES = (0.01, 0.395, 0.99, 0.42, 0.35, 0.6, 0.41, 0.02)
NAMES = [f"ward {n}/person{n}_virus_{n}.jpeg" for n in range(8)]
FILES = {name: samples.film(9000 + n) for n, name in enumerate(NAMES)}


def a_scored_archive(
    engine: sa.Engine,
    model_id: int,
    path: Path,
    *,
    unusual: tuple[int, ...] = (),
    stored: Callable[[str], str] = archive.display,
) -> int:
    """A job over a real archive, with these probabilities in the order of the names."""
    with archive.open_source(str(path)) as source:
        members = list(source.members())
        index = source.index()
        row = {"uri": str(path), "kind": source.kind, "fingerprint": source.fingerprint()}
    job_id = rows.a_queued_job(engine, model_id=model_id, source_rows=[row])

    def plan(connection: sa.Connection) -> None:
        claimed = claims.claim_job(connection, "score", "w1", 60.0)
        assert claimed is not None
        listings.add(
            connection,
            claimed.lease,
            [
                listings.NewShard(source_no=0, n_items=len(part), listing=archive.pack(part))
                for part in (members[:5], members[5:])
            ],
        )
        listings.set_seek_index(connection, claimed.lease, 0, index)
        listings.complete(connection, claimed.lease, {})

    def score(connection: sa.Connection) -> None:
        claimed = claims.claim_shard(connection, "w1", 60.0)
        assert claimed is not None
        outcomes: list[Outcome] = []
        for n in range(claimed.first_item, claimed.first_item + claimed.n_items):
            probability = PROBABILITIES[NAMES.index(members[n].name)]
            outcomes.append(
                Prediction(
                    item_no=n, name=stored(members[n].name), label_no=int(probability >= 0.4),
                    probability=probability, positive=probability >= 0.4,
                    ood=9.0 if n in unusual else 1.0,
                    content=content_hash(FILES[members[n].name]),
                )
            )  # fmt: skip
        results.commit(connection, claimed, outcomes)
        endings.close_if_done(connection, job_id, "w1")

    database.write(engine, plan)
    database.write(engine, score)
    database.write(engine, score)
    return job_id


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def as_tar_gz(path: Path, files: dict[str, bytes]) -> Path:
    return archives.as_tar(path, files, "gz")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (archives.as_folder, "films"),
        (archives.as_zip, "films.zip"),
        (archives.as_tar, "films.tar"),
        (as_tar_gz, "films.tar.gz"),
        (archives.as_tar_zst, "films.tar.zst"),
    ],
)
def test_the_films_nearest_the_threshold_are_copied_out_of_any_source(
    engine: sa.Engine, tmp_path: Path, make: Any, name: str
) -> None:
    made = make(tmp_path / name, FILES)
    job = a_scored_archive(engine, rows.a_model(engine, tmp_path), made)
    out = tmp_path / "review"
    result = run("export", job, out, "--uncertain", 4)
    assert result.exit_code == 0
    assert f"2 films in {out}/NORMAL\n2 films in {out}/PNEUMONIA\n" in result.stdout
    assert [(row["item"], row["label"]) for row in index(out)] == [
        ("1", "NORMAL"), ("6", "PNEUMONIA"), ("3", "PNEUMONIA"), ("4", "NORMAL"),
    ]  # fmt: skip
    for row in index(out):
        data = (out / row["path"]).read_bytes()
        assert data == FILES[NAMES[int(row["item"])]]
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert row["path"] == f"{row['label']}/{NAMES[int(row['item'])]}"
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def test_unusual_films_are_set_apart_without_a_label(engine: sa.Engine, tmp_path: Path) -> None:
    films = archives.as_folder(tmp_path / "films", FILES)
    job = a_scored_archive(engine, rows.a_model(engine, tmp_path), films, unusual=(1, 7))
    result = run("export", job, tmp_path / "review", "--uncertain", 2, "--json")
    assert json.loads(result.stdout)["films"] == {"PNEUMONIA": 2, "_unusual": 2}
    assert [(row["item"], row["label"]) for row in index(tmp_path / "review")] == [
        ("6", "PNEUMONIA"), ("3", "PNEUMONIA"), ("1", ""), ("7", ""),
    ]  # fmt: skip
    assert (tmp_path / "review" / "NORMAL").is_dir()


def test_films_that_have_a_true_label_are_not_asked_for_again(
    engine: sa.Engine, tmp_path: Path
) -> None:
    films = archives.as_folder(tmp_path / "films", FILES)
    job = a_scored_archive(engine, rows.a_model(engine, tmp_path), films)
    known: list[tuple[str | int, str]] = [(n, "NORMAL") for n in (1, 6, 3)]
    database.write(engine, lambda c: labels.import_rows(c, job, known, "tester"))
    run("export", job, tmp_path / "review", "--uncertain", 1)
    assert [row["item"] for row in index(tmp_path / "review")] == ["4"]
    database.write(
        engine, lambda c: labels.import_rows(c, job, [(n, "NORMAL") for n in range(8)], "tester")
    )
    result = run("export", job, tmp_path / "none", "--uncertain", 1)
    assert result.exit_code == 2
    assert "nothing is left to be labelled" in only_line(result.stderr)


def test_a_film_whose_name_is_hidden_is_filed_under_its_number(
    engine: sa.Engine, tmp_path: Path
) -> None:
    site = privacy.load(config.load({"PNEUMOQ_HOME": str(tmp_path / "home")}))
    films = archives.as_folder(tmp_path / "films", FILES)
    job = a_scored_archive(
        engine, rows.a_model(engine, tmp_path), films,
        stored=lambda name: shard.stored_name(site, name, hide=True),
    )  # fmt: skip
    run("export", job, tmp_path / "review", "--uncertain", 1)
    assert [row["path"] for row in index(tmp_path / "review")] == ["NORMAL/item-0000001.jpeg"]
    text = (tmp_path / "review" / "index.csv").read_text()
    assert "person" not in text


def test_what_cannot_be_read_any_more_is_said_and_gives_status_3(
    engine: sa.Engine, tmp_path: Path
) -> None:
    films = archives.as_folder(tmp_path / "films", FILES)
    job = a_scored_archive(engine, rows.a_model(engine, tmp_path), films)
    (films / NAMES[1]).unlink()
    result = run("export", job, tmp_path / "review", "--uncertain", 2)
    assert result.exit_code == 3
    assert result.stderr == "item 1 is missing: there is no such file, or no longer\n"
    assert [row["item"] for row in index(tmp_path / "review")] == ["6"]


def test_a_source_that_changed_or_is_gone_is_refused_and_nothing_is_left(
    engine: sa.Engine, tmp_path: Path
) -> None:
    made = archives.as_zip(tmp_path / "films.zip", FILES)
    job = a_scored_archive(engine, rows.a_model(engine, tmp_path), made)
    archives.as_zip(made, {**FILES, "another": b"x"})
    result = run("export", job, tmp_path / "review", "--uncertain", 2)
    assert result.exit_code == 2
    assert "was changed after it was scored" in only_line(result.stderr)
    made.unlink()
    result = run("export", job, tmp_path / "review", "--uncertain", 2)
    assert "no such file" in only_line(result.stderr)
    assert not (tmp_path / "review").exists()
    assert not list(tmp_path.glob(".review*"))


def test_a_folder_that_is_not_empty_is_left_alone(engine: sa.Engine, tmp_path: Path) -> None:
    films = archives.as_folder(tmp_path / "films", FILES)
    job = a_scored_archive(engine, rows.a_model(engine, tmp_path), films)
    for words in ((films,), (tmp_path / "absent" / "x",), (tmp_path / "x", "--force")):
        assert run("export", job, *words, "--uncertain", 2).exit_code == 2
    assert sorted(archive_names(films)) == sorted(FILES)
    training = rows.a_queued_job(engine, "train")
    assert run("export", training, tmp_path / "x", "--uncertain", 2).exit_code == 2


def archive_names(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*.jpeg")]


def test_what_a_person_corrected_comes_back_as_training_data(
    engine: sa.Engine, tmp_path: Path
) -> None:
    samples.fill(tmp_path / "old", patients=10)
    films = archives.as_folder(tmp_path / "films", FILES)
    job = a_scored_archive(engine, rows.a_model(engine, tmp_path), films, unusual=(7,))
    review = tmp_path / "review"
    run("export", job, review, "--uncertain", 4)
    moved = review / "PNEUMONIA" / "moved.jpeg"
    next((review / "NORMAL").rglob("*.jpeg")).rename(moved)
    by_folder = dataset.read([tmp_path / "old", review])
    labels_of = {film.path: by_folder.labels[film.label] for film in by_folder.films}
    assert len(labels_of) == 44
    assert labels_of["review/PNEUMONIA/moved.jpeg"] == "PNEUMONIA"
    assert not [path for path in labels_of if uncertain.UNUSUAL in path]

    run("export", job, tmp_path / "again", "--uncertain", 4)
    listing = tmp_path / "again" / "index.csv"
    listing.write_text(listing.read_text().replace(",NORMAL,", ",PNEUMONIA,"))
    by_index = dataset.read([tmp_path / "old", listing])
    new = [film for film in by_index.films if film.path.startswith("again")]
    assert {by_index.labels[film.label] for film in new} == {"PNEUMONIA"}
    assert len(new) == 4
    assert {film.patient for film in new} == {"person1", "person3", "person4", "person6"}


def test_names_that_collide_or_are_odd_all_find_a_place() -> None:
    taken = uncertain._Taken()
    names = ["a.jpeg", "a.jpeg", "a.jpeg/b.jpeg", "c/d.jpeg", "c"]
    assert [taken.path("N", name, n) for n, name in enumerate(names)] == [
        "N/a.jpeg", "N/item-0000001/a.jpeg", "N/item-0000002/a.jpeg/b.jpeg", "N/c/d.jpeg",
        "N/item-0000004/c",
    ]  # fmt: skip
    from worker.scoring.reread import Reread

    for odd in ("../x.jpeg", "/etc/x", ".hidden/x", "x" * 201):
        film = Reread(item_no=5, name=odd, data=samples.film(1))
        stored = archive.display(odd)
        assert uncertain.name_of(film, stored, ["N"]) in ("item-0000005.jpeg", "x")


def test_a_file_that_took_the_place_of_a_scored_one_is_not_shown_as_that(
    engine: sa.Engine, tmp_path: Path
) -> None:
    model_id = rows.a_model(engine, tmp_path)
    root = tmp_path / "films"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    job_id = a_scored_archive(engine, model_id, root)

    def write(number: int, data: bytes) -> None:
        (root / NAMES[number]).write_bytes(data.ljust(len(FILES[NAMES[number]]), b"\0"))
        os.utime(root / NAMES[number], (0, 0))  # as a copy that keeps the times

    small = min(range(1, 8), key=lambda n: len(FILES[NAMES[n]]))
    large = max(range(8), key=lambda n: len(FILES[NAMES[n]]))
    assert len(FILES[NAMES[small]]) < len(FILES[NAMES[large]])
    write(large, FILES[NAMES[small]])  # of a film that nobody scored: zeros follow it
    same = next(n for n in range(8) if n not in (small, large))
    write(same, FILES[NAMES[same]])  # what was scored, written anew
    result = run("export", job_id, tmp_path / "sorted", "--to-folders", "--json")
    assert result.exit_code == 3, result.output
    with (tmp_path / "sorted" / uncertain.INDEX).open(newline="") as file:
        copied = {int(line["item"]) for line in csv.DictReader(file)}
    assert copied == set(range(8)) - {large}
    assert "changed after it was scored" in result.output


def test_all_films_are_copied_into_the_folders_of_what_they_are_called(
    engine: sa.Engine, tmp_path: Path
) -> None:
    model_id = rows.a_model(engine, tmp_path)
    path = archives.as_zip(tmp_path / "films.zip", FILES)
    job_id = a_scored_archive(engine, model_id, path, unusual=(4,))
    folder = tmp_path / "sorted"
    result = run("export", job_id, folder, "--to-folders", "--json")
    assert result.exit_code == 0, result.output
    copied = json.loads(result.stdout)["films"]
    assert copied == {"NORMAL": 3, "PNEUMONIA": 4, uncertain.UNUSUAL: 1}
    with (folder / uncertain.INDEX).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["item"]) for line in lines] == list(range(8))
    for line in lines:
        number = NAMES.index(NAMES[int(line["item"])])
        assert (folder / line["path"]).read_bytes() == FILES[NAMES[number]]
        called = "PNEUMONIA" if PROBABILITIES[number] >= 0.4 else "NORMAL"
        assert line["path"].split("/")[0] == (uncertain.UNUSUAL if number == 4 else called)
    assert "not empty" in only_line(run("export", job_id, folder, "--to-folders").stderr)
    with database.writing(engine) as connection:
        connection.execute(sa.text("UPDATE jobs SET planned_items = 9, state = 'cancelled'"))
    for option in (("--to-folders",), ("--uncertain", 2)):
        part = run("export", job_id, tmp_path / option[0], *option)
        assert f"job {job_id} was cancelled: 1 of 9 items have no outcome" in part.stderr
        found = json.loads(
            run("export", job_id, tmp_path / f"j{option[0]}", *option, "--json").stdout
        )
        assert (found["complete"], found["without_outcome"]) == (False, 1)
    alone = run("export", job_id, tmp_path / "x", "--to-folders", "--uncertain", 3)
    assert "stands alone" in only_line(alone.stderr)
