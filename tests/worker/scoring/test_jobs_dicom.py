"""DICOM by real workers: what is scored, what is refused and why, and that no patient is named."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import hostile, servers, soak
from tests.support.paths import SHARED
from tests.support.site import Site, site
from tests.worker import samples
from trainer.card import Card

database_url = soak.database_url

DICOM = SHARED / "data" / "dicom"


@pytest.fixture
def here(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model_file: Path, card: Card
) -> Iterator[Site]:
    """A site with one worker, whose model 1 is registered."""
    with site(database_url, valkey, tmp_path / "site") as made:
        assert samples.register(made.engine, model_file, card) == 1
        made.worker()
        yield made


def names(here: Site, job_id: int) -> dict[str, str]:
    """Name in the database → file's name, by the map that stays on site."""
    with (here.settings.home / "names" / f"job-{job_id}.csv").open(newline="") as file:
        return {hashed: plain for _, hashed, plain in csv.reader(file)}


@pytest.mark.skipif(not DICOM.is_dir(), reason=f"{DICOM} is not here")
def test_of_real_dicom_the_frontal_chest_films_are_scored_and_the_rest_is_told_why(
    here: Site,
) -> None:
    job_id = here.score(DICOM, model_id=1)
    assert here.ended(job_id) == "completed_with_errors"
    plain = names(here, job_id)
    assert {plain[n] for n in here.probabilities(job_id)} == {
        "nih_dx_chest.dcm",
        "cr_chest_monochrome1_jpeg2000_15bit.dcm",
    }
    refused = {
        plain[row.name]: row.code
        for row in here.rows("SELECT name, code FROM v_refusals WHERE job_id = :job", job=job_id)
    }
    assert refused == {
        "nih_ct_chest.dcm": "modality",
        "nih_dx_ribcage.dcm": "body_part",
        "cr_extremity_monochrome1_jpeg2000_lossless_10bit.dcm": "body_part",
        "us_jpeg_lossless.dcm": "modality",
    }
    errors = here.rows("SELECT name, code FROM v_item_errors WHERE job_id = :job", job=job_id)
    assert [(plain[e.name], e.code) for e in errors] == [("html_saved_as.dcm", "not_an_image")]


@soak.on_postgresql
def test_a_refusal_that_is_accepted_is_no_refusal(here: Site, tmp_path: Path) -> None:
    (tmp_path / "side.dcm").write_bytes(
        hostile.dicom(PatientID="77", StudyInstanceUID="1.2.3", ViewPosition="LL")
    )
    assert here.ended(first := here.score(tmp_path / "side.dcm", model_id=1)) == "completed"
    assert not here.probabilities(first)
    second = here.score(tmp_path / "side.dcm", model_id=1, spec={"accept": ["lateral"]})
    assert here.ended(second) == "completed"
    assert len(here.probabilities(second)) == 1
    # Nor is it one for a later job that does not accept it; one that does has it from the store.
    third = here.score(tmp_path / "side.dcm", model_id=1)
    assert here.ended(third) == "completed"
    assert not here.probabilities(third)
    rows = here.rows("SELECT code FROM v_refusals WHERE job_id = :job", job=third)
    assert [row.code for row in rows] == ["lateral"]
    accept = {"accept": ["burned_in", "lateral"]}
    fourth = here.score(tmp_path / "side.dcm", model_id=1, spec=accept)
    assert here.ended(fourth) == "completed"
    origins = here.rows("SELECT reused_from_job FROM predictions WHERE job_id = :j", j=fourth)
    assert [row.reused_from_job for row in origins] == [second]


def test_results_roll_up_by_study_and_no_patient_is_named_in_database_log_or_broker(
    here: Site, tmp_path: Path, valkey: servers.Valkey
) -> None:
    folder = tmp_path / "ward"
    folder.mkdir()
    for number in range(6):
        (folder / f"SECRETPATIENT_{number}.dcm").write_bytes(
            hostile.dicom(
                PatientID=f"SECRETPATIENT{number // 3}",
                PatientName="SECRETPATIENT^ANNA",
                StudyInstanceUID=f"1.2.840.99.{number // 2}",
                AccessionNumber=f"SECRETPATIENT-A{number // 2}",
                InstanceNumber=number,
            )
        )
    job_id = here.score(folder, model_id=1)
    assert here.ended(job_id) == "completed"
    studies = here.rows("SELECT * FROM v_studies WHERE job_id = :job", job=job_id)
    assert sorted(row.films for row in studies) == [2, 2, 2]
    assert len({row.study for row in studies}) == 3
    assert all(len(row.study) == 32 and row.accession for row in studies)

    outcome_tables = ("predictions", "refusals", "item_errors", "identities", "job_events")
    for table in outcome_tables:
        assert "SECRETPATIENT" not in repr(here.rows(f"SELECT * FROM {table}"))
    logs = "".join(log.read_text(errors="replace") for log in here.logs.glob("*.log"))
    assert "SECRETPATIENT" not in logs
    grep = ["grep", "--recursive", "--text", "--count", "SECRETPATIENT", str(valkey.folder)]
    counts = subprocess.run(grep, capture_output=True, text=True).stdout.splitlines()
    assert counts and all(line.endswith(":0") for line in counts)
    # The same study again has the same hash, so that later jobs can be joined with this one.
    again = here.score(folder, model_id=1, spec={"force": True})
    here.ended(again)
    later = here.rows("SELECT study FROM v_studies WHERE job_id = :job", job=again)
    assert {row.study for row in later} == {row.study for row in studies}
    # From the store the answer names the same studies.
    reused = here.score(folder, model_id=1)
    here.ended(reused)
    stored = here.rows("SELECT study FROM v_studies WHERE job_id = :job", job=reused)
    assert {row.study for row in stored} == {row.study for row in studies}
    assert here.probabilities(reused) == here.probabilities(job_id)
