"""The archive goes or changes while it is scored: what is gone is told, nothing wrong is scored."""

from __future__ import annotations

import shutil
import signal
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from db.queue import jobs
from tests.faults import harm
from tests.support.site import Site, stop

#: Each film is in the archives so many times.
COPIES = 8


@pytest.fixture
def names(few: Path) -> list[tuple[str, Path]]:
    """Name in the archive, and the film under it."""
    films = sorted(path for path in few.rglob("*") if path.is_file())
    return [(f"{n}/{film.name}", film) for n in range(COPIES) for film in films]


def _zipped(path: Path, members: Sequence[tuple[str, Path]]) -> Path:
    with zipfile.ZipFile(path, "w") as into:
        for name, film in members:
            into.write(film, name)
    return path


def _half_scored(here: Site, archive: Path) -> tuple[int, int]:
    """A job that is planned and half scored, its worker killed; and how many shards are final."""
    worker = here.worker(decoders=1)
    job_id = harm.submit(here, archive)
    here.wait(
        lambda: jobs.get(here.engine, job_id)["planned_at"] and here.done(job_id) >= 2,
        "the plan, and two shards to be final",
    )
    stop(worker, signal.SIGKILL)
    row = jobs.progress(here.engine, job_id)
    assert row["shards_done"] < row["shards"], "it was killed too late to prove anything"
    return job_id, row["shards_done"]


def _replaced(archive: Path, members: list[tuple[str, Path]]) -> None:
    """Another archive with the same names comes in the place of this one."""
    films = [film for _, film in members]
    names = [name for name, _ in members]
    other = _zipped(
        archive.with_suffix(".new"), list(zip(names, films[1:] + films[:1], strict=True))
    )
    other.rename(archive)


def _overwritten(archive: Path, members: list[tuple[str, Path]]) -> None:
    """The bytes of half the archive become others, in place."""
    size = archive.stat().st_size
    with archive.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size // 4))


def _cut(archive: Path, members: list[tuple[str, Path]]) -> None:
    """The archive lost its second half."""
    with archive.open("r+b") as file:
        file.truncate(archive.stat().st_size // 2)


@pytest.mark.parametrize("harm_done", [_replaced, _overwritten, _cut])
def test_a_zip_that_changes_half_way_gives_right_predictions_and_clear_errors(
    here: Site,
    few: Path,
    names: list[tuple[str, Path]],
    tmp_path: Path,
    harm_done: Callable[[Path, list[tuple[str, Path]]], None],
) -> None:
    archive = _zipped(tmp_path / "films.zip", names)
    job_id, _ = _half_scored(here, archive)
    harm_done(archive, names)
    worker = here.worker()
    assert here.ended(job_id) == "completed_with_errors"
    here.exactly_one_outcome_each(job_id, len(names))
    _are_right(here, job_id, few)
    errors = here.rows("SELECT name, code, detail FROM item_errors WHERE job_id = :j", j=job_id)
    assert errors
    assert all(row.code and row.detail for row in errors)
    assert {row.name for row in errors} <= {name for name, _ in names}
    harm.alive(worker)
    harm.calm(here)


def _are_right(here: Site, job_id: int, few: Path) -> None:
    """What was predicted is what these films give."""
    alone = harm.submit(here, few)
    assert here.ended(alone) == "completed"
    right = {Path(name).name: p for name, p in here.probabilities(alone).items()}
    assert len(set(right.values())) > len(right) // 2, "films that cannot be told apart"
    found = here.probabilities(job_id)
    assert found
    assert found == {name: right[Path(name).name] for name in found}


def test_a_folder_emptied_half_way_costs_the_films_that_are_gone(
    here: Site, few: Path, names: list[tuple[str, Path]], tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    for name, film in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(film, folder / name)
    job_id, _ = _half_scored(here, folder)
    gone = {name for name, _ in names[1::2]}
    for name in gone:
        (folder / name).unlink()
    here.worker()
    assert here.ended(job_id, hurry=True) == "completed_with_errors"
    here.exactly_one_outcome_each(job_id, len(names))
    errors = here.rows("SELECT name, code FROM item_errors WHERE job_id = :job", job=job_id)
    assert {row.name for row in errors} <= gone
    assert {row.code for row in errors} == {"missing"}
    _are_right(here, job_id, few)
    harm.calm(here)


def test_an_archive_that_changed_before_it_was_listed_fails_the_job_and_says_so(
    here: Site, names: list[tuple[str, Path]], tmp_path: Path
) -> None:
    changed = _zipped(tmp_path / "changed.zip", names)
    job_id = harm.submit(here, changed, notify=False)
    _replaced(changed, names)
    here.worker()
    assert here.ended(job_id) == "failed"
    assert "was changed after" in jobs.get(here.engine, job_id)["reason"]
    here.exactly_one_outcome_each(job_id, 0)
    harm.calm(here)
