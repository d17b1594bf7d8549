"""Mutated files of every kind: an outcome for each, or a named error; never an ended process, nor a
label on pixels that another decoder does not see.

A file follows from its kind and number: `python -m tests.fuzz.trial KIND NUMBER 1` tries it again.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.fuzz import bases, mutations, references
from tests.support import soak
from tests.support.paths import ROOT

#: Files of each kind in `make soak`; 50,000 and more together.
MANY = {
    "DICOM": 6_000, "JPEG": 8_000, "PNG": 12_000, "TIFF": 8_000, "zip": 5_000, "tar": 5_000,
    "tar.gz": 3_000, "tar.zst": 3_000, "CSV": 3_000,
}  # fmt: skip

#: Of these `make test` tries the first of each kind, one in so many.
ONE_IN = 150

#: Kinds whose outcomes a program compares that may not be here.
BY_DCMTK = ("DICOM", "JPEG")


def test_there_are_fifty_thousand_files_of_nine_kinds() -> None:
    assert MANY.keys() == set(bases.KINDS)
    assert sum(MANY.values()) >= 50_000


def test_a_mutated_file_follows_from_its_number() -> None:
    for kind in ("PNG", "CSV"):
        made = [mutations.mutated(bases.of(kind), kind, n) for n in range(40)]
        assert made == [mutations.mutated(bases.of(kind), kind, n) for n in range(40)]
        assert len(set(made)) > 30


def test_of_a_few_mutated_files_none_ends_the_process_and_none_is_scored_wrongly() -> None:
    _try({kind: count // ONE_IN for kind, count in MANY.items()})


@soak.ONLY
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", bases.KINDS)
def test_of_mutated_files_none_ends_the_process_and_none_is_scored_wrongly(kind: str) -> None:
    _try({kind: MANY[kind]})


def _try(counts: dict[str, int]) -> None:
    numbers = [part for kind, count in counts.items() for part in (kind, "0", str(count))]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.trial", *numbers],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"ended by a file: {ran.stderr[-1500:]}"
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [fault for one in found for fault in one["faults"]] == []
    assert [one["kind"] for one in found] == list(counts)
    for one in found:
        kind, count = one["kind"], counts[one["kind"]]
        assert sum(one["told"].values()) >= count
        if kind != "CSV" and (kind not in BY_DCMTK or references.has_dcmtk()):
            assert one["compared"] >= count // 20, one
