"""What a mended reader of films makes of a zip whose films an older release has scored."""

from __future__ import annotations

import shutil
import signal
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from db.base import database, migrate
from tests.faults import harm
from tests.support import hostile, once, releases, servers, soak
from tests.support.paths import ROOT
from tests.support.site import Site, site, stop
from tests.upgrades import older
from tests.upgrades.conftest import site_with
from tests.worker import samples
from trainer.film import content

empty_database_url = soak.empty_database_url

#: The schema of v0.1.0.
FIRST_SCHEMA = "0005"

PACKAGES = ("db", "scheduler", "trainer", "worker")


def _mended(folder: Path) -> None:
    """A later release than this one, whose DICOM reader turns films round and says so."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    version = content.READERS["DICOM"]
    for file, old, new in (
        ("content.py", f'"DICOM": {version}', f'"DICOM": {version + 1}'),
        ("dicom.py", "return dicom_pixels.gray(dataset, rows, columns, accept)",
         "return dicom_pixels.gray(dataset, rows, columns, accept).transpose("
         "Image.Transpose.ROTATE_180)"),
    ):  # fmt: skip
        path = folder / "trainer" / "film" / file
        text = path.read_text()
        assert text.count(old) == 1, file
        path.write_text(text.replace(old, new))


def _archive(path: Path, films: Path) -> list[str]:
    """Pack films, a PNG, DICOMs with and without a preamble, and two that are refused; the names.

    Of these `marked.dcm`, in which one pixel is red, is refused by older releases alone.
    """
    marked = np.repeat(hostile.picture(seed=8)[..., None], 3, -1)
    marked[9, 9] = 255, 0, 0
    scan = hostile.dataset(PatientID="77", StudyInstanceUID="1.2.3")
    named = {f"ward/{n}.jpeg": p.read_bytes() for n, p in enumerate(sorted(films.rglob("*.*")))}
    named |= {
        "a.png": hostile.encoded(Image.fromarray(hostile.picture(seed=6)), "PNG"),
        "one.dcm": hostile.written(scan),
        "two": hostile.dicom(hostile.picture(seed=7)),
        "bare": hostile.written(scan, preamble=False),
        "side.dcm": hostile.dicom(ViewPosition="LL"),
        "marked.dcm": hostile.dicom(marked),
    }
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in named.items():
            packed.writestr(name, data)
    return list(named)


#: Registers a model file with the modules of v0.1.0.
_REGISTER = """
import json, sys
from pathlib import Path
from db import database, models
from trainer import card
from scheduler import session

file = Path(sys.argv[1])
new = models.NewModel.of(
    json.loads(card.read(file).to_json()), name="small", origin="trained", files={"fp32": file}
)
engine = session.database()
database.write(engine, lambda c: models.register(c, new, "tests"))
"""


def _predictions(here: Site, job_id: int) -> dict[int, tuple[float, int | None]]:
    """Item → probability, and the job that answered for it."""
    rows = here.rows(
        "SELECT item_no, probability, reused_from_job FROM predictions WHERE job_id = :job",
        job=job_id,
    )
    return {row.item_no: (row.probability, row.reused_from_job) for row in rows}


@pytest.mark.parametrize("name", ["v0.1.0", pytest.param("v0.2.0", marks=soak.ONLY)])
def test_of_a_zip_that_an_older_release_scored_what_was_mended_is_scored_anew_and_nothing_else(
    empty_database_url: str,
    valkey: servers.Valkey,
    films: Path,
    built: Callable[[str], Path],
    tmp_path: Path,
    name: str,
) -> None:
    path = tmp_path / "films.zip"
    names = _archive(path, films)
    marked = names.index("marked.dcm")
    mended = {names.index("one.dcm"), names.index("two"), names.index("bare"), marked}
    scored = set(range(len(names))) - {names.index("side.dcm")}
    small = tmp_path / "small.onnx"
    card = samples.write_model(small, ("NORMAL", "PNEUMONIA"), seed=1)
    # v0.1.0 accepts its own schema only; v0.2.0 works on on today's.
    schema = FIRST_SCHEMA if name == releases.FIRST else migrate.HEAD
    with site(empty_database_url, valkey, tmp_path / "site", schema=schema) as here:
        if name != releases.FIRST:
            database.write(here.engine, partial(site_with, content_hash="blake2b"))
        older_one = older.worker(here, built(name))
        if name == releases.FIRST:
            done = older.command(here, built(name), "db", "upgrade")
            assert done.returncode == 0, done.stdout + done.stderr
            older.python(here, built(name), _REGISTER, str(small))
            done = older.command(here, built(name), "score", str(path), "--model", "1")
            assert done.returncode == 0, done.stdout + done.stderr
            first = 1
        else:
            assert samples.register(here.engine, small, card) == 1
            first = here.score(path, model_id=1)
        assert here.ended(first) == "completed", here.tail()
        stop(older_one, signal.SIGTERM)
        migrate.upgrade(here.engine)
        older.worker(here, once.made("release-mended", _mended))

        second = here.score(path, model_id=1)
        assert here.ended(second) == "completed", here.tail()

        before, after = _predictions(here, first), _predictions(here, second)
        assert before.keys() == scored - {marked}
        assert after.keys() == scored
        for item, (probability, origin) in after.items():
            if item in mended:
                assert origin is None
                assert item == marked or probability != before[item][0]
            else:
                assert (probability, origin) == (before[item][0], first)
        here.exactly_one_outcome_each(second, len(names))
        # From now on all of it is known, and answered without reading a member.
        data = bytearray(path.read_bytes())
        directory = data.index(b"PK\1\2")
        data[:directory] = b"\xee" * directory
        path.write_bytes(data)
        third = here.score(path, model_id=1)
        assert here.ended(third) == "completed", here.tail()
        found = _predictions(here, third)
        assert {item: p for item, (p, _) in found.items()} == {
            item: p for item, (p, _) in after.items()
        }
        assert {item for item, (_, origin) in found.items() if origin == second} == mended
        harm.calm(here)
