"""report MODEL: films that it held out in training, beside themselves as a unit's films look."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from db.base import database
from db.base.schema import datasets
from db.base.types import now
from scheduler import session
from tests.scheduler.console import run
from tests.scheduler.pages import parsed
from tests.support.browser import Browser
from tests.trainer.acquisition import plants
from trainer.data.names import hashed
from worker.machine import privacy

#: Films, and the side at which they are stored and computed.
ALL, SIDE = 240, 64

#: The job that trained, as the model says.
JOB = 7


@pytest.fixture
def trained(engine: sa.Engine, model_id: int, tmp_path: Path) -> Path:
    """The folder of the films that the model was trained on: of every third sick one a unit has
    covered a corner. Names of the healthy ones that were held out are hidden, as of DICOM."""
    root = tmp_path / "learned"
    planes = plants.films(ALL, SIDE) // 2 + 40
    sick = np.arange(ALL) % 2 == 1
    stamped = np.flatnonzero(sick)[::3]
    planes[stamped] = plants.covered(planes[stamped])
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("path", "label", "patient", "sha256", "split"))
    hidden = {}
    for n, plane in enumerate(planes):
        label, split = "PNEUMONIA" if sick[n] else "NORMAL", "val" if n % 4 < 2 else "train"
        path = root / label / f"film {n:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plane).save(path)
        name = path.relative_to(root).as_posix()
        if split == "val" and not sick[n]:
            hidden[hashed(b"key", "path", name)] = name
            name = hashed(b"key", "path", name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.writerow((name, label, f"p{n}", digest, split))
    privacy.keep_names(session.settings().home, JOB, privacy.of_manifest(hidden))
    with database.writing(engine) as connection:
        dataset_id = connection.execute(
            sa.insert(datasets)
            .values(
                hash="d" * 64, root=str(root), n_train=ALL // 2, n_val=ALL // 2, n_patients=ALL,
                classes={}, notes=[], manifest=zlib.compress(text.getvalue().encode()),
                created_at=now(),
            )
            .returning(datasets.c.id)
        ).scalar_one()  # fmt: skip
        connection.execute(
            sa.text("UPDATE models SET dataset_id = :data, job_id = :job"),
            {"data": dataset_id, "job": JOB},
        )
    return root


def shown(file: Path) -> dict[str, list[parsed.Element]]:
    """The pairs of a page under the heading of each dressing."""
    (section,) = [s for s in parsed.page(file).all("section") if s.attributes["id"] == "shift"]
    found: dict[str, list[parsed.Element]] = {}
    for part in section.parts:
        assert isinstance(part, parsed.Element)
        if part.tag == "h4":
            found[part.text] = []
        elif found and part.tag == "ol":
            found[list(found)[-1]] = part.all("figure", "film")
    return found


def test_dressed_films_are_the_films_that_were_held_out_and_the_model_scored_them(
    engine: sa.Engine, trained: Path, tmp_path: Path, chromium: Browser
) -> None:
    file = tmp_path / "model.html"
    result = run("report", "champion", file)
    assert result.exit_code == 0, result.output
    assert "Dressing films" in result.stderr
    assert file.stat().st_size < 5e6
    found = shown(file)
    as_unit, counter = found
    assert as_unit.startswith("Dressed as a group: PNEUMONIA films with ")
    assert counter.startswith("Acquired as films of the other class")
    assert [len(figures) for figures in found.values()] == [2, 2]
    films = {
        path: np.asarray(Image.open(path)).astype(int) for path in sorted(trained.rglob("*.png"))
    }
    row, width = SIDE // 20, slice(SIDE // 2 + 1, SIDE // 2 + SIDE // 6 - 1)
    for heading, figures in found.items():
        for figure in figures:
            before, after = (parsed.picture(image).astype(int) for image in figure.all("img"))
            apart = {path: np.abs(before - film).mean() for path, film in films.items()}
            path = min(apart, key=lambda path: apart[path])
            assert apart[path] < 4 < sorted(apart.values())[1]
            assert int(path.stem[5:]) % 4 < 2  # it was held out
            answer = json.loads(run("classify", path, "--json").stdout)
            said, then = (part.text for part in figure.all("span", "side"))
            assert said == f"as it is: P {100 * answer['probability']:.1f} %"
            assert then.startswith("dressed: P ")
            called = [float(text.split()[-2]) / 100 >= answer["threshold"] for text in (said, then)]
            changes = called[0] != called[1]
            assert ("The decision changes." in figure.text) == changes
            assert f"{path.parent.name} by label" in figure.text
            if heading == as_unit:
                assert path.parent.name == "NORMAL"
                # The unit's mark is on the dressed film alone.
                assert before[row + 1, width].max() < 200 < after[row + 1, width].min()
    for dark, width_ in ((True, 1440), (False, 360)):
        page = chromium.open(file, width=width_, dark=dark)
        assert (page.faults(), page.wide(), page.complaints, page.requests) == ([], [], [], [])
        page.close()


def test_a_page_says_why_it_has_no_dressed_films(
    engine: sa.Engine, trained: Path, model_id: int, tmp_path: Path
) -> None:
    file = tmp_path / "model.html"

    def said(*more: str) -> str:
        assert run("report", f"model:{model_id}", file, "--force", *more).exit_code == 0
        assert shown(file) == {}
        (section,) = [s for s in parsed.page(file).all("section") if s.attributes["id"] == "shift"]
        return section.text

    assert "no films were asked for" in said("--films", "0")
    trained.rename(tmp_path / "elsewhere")
    assert f"the folder of its training films, {trained}, cannot be reached" in said()
    trained.mkdir()
    assert f"none of its {ALL} training films can be read again as it was" in said()
    with database.writing(engine) as connection:
        connection.execute(sa.text("UPDATE models SET dataset_id = NULL"))
    assert "which films it was trained on is not known here" in said()
    # Films that a person names are dressed in their place.
    result = run("report", "champion", file, "--force", "--data", tmp_path / "elsewhere")
    assert result.exit_code == 0, result.output
    assert len(shown(file)) == 2


def test_films_that_are_gone_or_changed_are_told(
    engine: sa.Engine, trained: Path, tmp_path: Path
) -> None:
    some = sorted(trained.rglob("*.png"))
    some[0].unlink()
    some[1].write_bytes(some[2].read_bytes())
    assert run("report", "champion", tmp_path / "model.html").exit_code == 0
    said = parsed.page(tmp_path / "model.html").all("main")[0].text
    assert f"2 of {ALL} films are gone or changed" in said
