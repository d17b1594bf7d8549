"""What an archive holds, counted before anyone scores it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker.archives import MAKERS, as_zip
from worker import archive

FILES = {
    "a.PNG": b"\x89PNG film",
    "b.jpeg": b"\xff\xd8\xff film",
    "c.jpeg": b"\x89PNG in disguise",
    "IM0001": bytes(128) + b"DICM",
    "1.2.840.10008.5.1.4.1.1.1.12345678": bytes(128) + b"DICM",
    "read.me/notes.txt": b"words",
    "Thumbs.db": b"",
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_survey_counts_by_name_and_looks_into_the_files(maker: str, tmp_path: Path) -> None:
    found = archive.survey(str(MAKERS[maker](tmp_path / "films", FILES)))
    assert found.items == found.sampled == 6
    assert found.bytes == sum(len(data) for data in FILES.values())
    assert found.by_type == {"png": 1, "jpeg": 2, "none": 2, "txt": 1}
    assert found.sniffed == {"png": 2, "jpeg": 1, "dicom": 2, "other": 1}
    assert found.passed_over["windows_metadata"] == 1


def test_a_survey_of_many_files_looks_into_some_from_everywhere(tmp_path: Path) -> None:
    files = {f"{n:04}.png": b"\x89PNG" if n < 1_000 else b"\xff\xd8\xff" for n in range(2_000)}
    found = archive.survey(str(as_zip(tmp_path / "films.zip", files)))
    assert (found.items, found.sampled) == (2_000, 200)
    assert 60 < found.sniffed["png"] < 140
    assert found.sniffed["png"] + found.sniffed["jpeg"] == 200


def test_a_survey_names_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone.png\n/dev\n")
    found = archive.survey(str(tmp_path / "list.txt"), "list")
    assert found.sniffed == {"missing": 1, "no_file": 1}
