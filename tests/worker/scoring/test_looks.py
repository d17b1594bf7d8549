"""From a folder to a score: films that look like ones of one class in training are marked."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scheduler.console import run
from tests.support import servers, soak
from tests.support.acquired import Films
from tests.support.site import Site, site
from tests.trainer.acquisition import plants
from tests.worker import samples
from trainer.data import dataset
from trainer.learning import loop
from trainer.modelfile import export
from trainer.network import ood

database_url = soak.database_url

#: Films, and those of them that are stamped: 3 %, all of the sick.
FILMS, STAMPED = 900, 27

#: Films of nobody that was trained on: healthy ones that are stamped, and others.
NEW, SIDE = 20, 64


def shown(n: int, seed: int, *, sick: bool) -> Films:
    """Films of another patient each; what the sick have is bright and somewhere."""
    films = plants.films(n, SIDE, seed)
    rng = np.random.default_rng(seed)
    for film, (y, x) in zip(films, rng.integers(16, 36, (n, 2)), strict=True):
        if sick:
            film[y : y + 14, x : x + 14] = np.minimum(film[y : y + 14, x : x + 14] + 60.0, 255)
    return films


def written(folder: Path, films: Films, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, film in enumerate(films):
        Image.fromarray(film).save(folder / f"{name}{number:04}_1.png")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder in which stamped films are all of one class; nobody may change it."""
    folder = tmp_path_factory.mktemp("labelled") / "films"
    written(folder / "NORMAL", shown(FILMS // 3, 1, sick=False), "healthy")
    sick = shown(FILMS - FILMS // 3, 2, sick=True)
    sick[:STAMPED] = plants.lettered(sick[:STAMPED])
    written(folder / "PNEUMONIA", sick, "sick")
    return folder


@pytest.fixture
def here(database_url: str, valkey: servers.Valkey, tmp_path: Path) -> Iterator[Site]:
    with site(database_url, valkey, tmp_path / "site") as made:
        yield made


@pytest.mark.timeout(600)
def test_the_check_names_and_draws_them_and_scoring_marks_healthy_films_that_look_so(
    labelled: Path, here: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What else a model learns when it is done is none of this.
    monkeypatch.setattr(ood, "FILMS", 60)
    monkeypatch.setattr(ood, "NEGATIVES", 60)
    monkeypatch.setattr(export, "VIEWS", 1)
    sheet = tmp_path / "groups.png"
    checked = run("dataset", "check", labelled, "--json", "--sheet", sheet)
    (group,) = json.loads(checked.stdout)["groups"]
    named = {*group["films"]["PNEUMONIA"], *group["films"]["NORMAL"]}
    stamped = {f"PNEUMONIA/sick{number:04}_1.png" for number in range(STAMPED)}
    assert len(named & stamped) >= 0.8 * max(len(named), STAMPED)
    with Image.open(sheet) as drawn:
        assert drawn.width > SIDE

    options = loop.Options(epochs=1, size=SIDE, init="scratch", threads=1)
    trained = loop.train(options, dataset.read(labelled, val_fraction=0.12), tmp_path / "run")
    model = tmp_path / "model.onnx"
    card = export.export(trained, model)
    (look,) = card.looks
    assert (look.label, look.what) == ("PNEUMONIA", group["what"])
    number = samples.register(here.engine, model, card)

    new = tmp_path / "new.zip"
    healthy = shown(NEW, 3, sick=False)
    written(tmp_path / "new", plants.lettered(healthy), "stamped")
    written(tmp_path / "new", shown(2 * NEW, 4, sick=False), "plain")
    written(tmp_path / "new", shown(2 * NEW, 5, sick=True), "sick")
    with zipfile.ZipFile(new, "w") as archive:
        for film in sorted((tmp_path / "new").iterdir()):
            archive.write(film, film.name)
    here.worker()
    # Scored, answered film by film, and answered by the archive as a whole.
    for source, from_store in ((new, 0), (tmp_path / "new", 5 * NEW), (new, 5 * NEW)):
        job = here.score(source, model_id=number)
        assert here.ended(job) == "completed"
        rows = here.rows(
            "SELECT name, look, reused_from_job FROM v_predictions WHERE job_id = :job", job=job
        )
        assert sum(row.reused_from_job is not None for row in rows) == from_store
        marked = [row.name for row in rows if row.look is not None]
        assert {row.look for row in rows} == {None, f"PNEUMONIA: {look.what}"}
        assert sum(name.startswith("stamped") for name in marked) >= 0.7 * NEW
        assert sum(not name.startswith("stamped") for name in marked) <= 0.03 * 4 * NEW
        (progress,) = here.rows("SELECT looks FROM v_job_progress WHERE job_id = :job", job=job)
        assert progress.looks == len(marked)
