"""One archive of many good films and everything that ever broke a decoder."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.queue import jobs
from tests.support import drawn, hostile, servers, soak
from tests.support.site import Site, processes_with, site
from tests.worker import samples
from tests.worker.decoding.sabotage import CRASH, HANG, SITE
from trainer.card import Card

database_url = soak.database_url

#: Good films in the archive.
GOOD = soak.repetitions(quick=300, full=1000)

#: What no decoder should need for a film, in MiB beside what it has at its start.
FILM_MEMORY_MB = 256

#: Most that any process of the worker may ever have resident, in MiB.
PEAK_MB = 700


@pytest.fixture
def here(
    database_url: str,
    valkey: servers.Valkey,
    tmp_path: Path,
    model_file: Path,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A site whose decoders can be made to crash and to hang, and whose model 1 is registered."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with site(
        database_url, valkey, tmp_path / "site",
        film_deadline_s=6.0, film_memory_mb=FILM_MEMORY_MB, decoders=2, lease_s=20.0,
    ) as made:  # fmt: skip
        assert samples.register(made.engine, model_file, card) == 1
        yield made


def jpegs() -> list[bytes]:
    """Good films whose format has room for a comment."""
    return [f.data for f in drawn.films(40, 0) if f.data[:2] == b"\xff\xd8"]


def jpeg_with(comment: bytes) -> bytes:
    """A good film with a comment in it."""
    data = jpegs()[0]
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def expected_of_bad() -> dict[str, tuple[str, str, bytes]]:
    """Name → (table, code, bytes) of every bad member that is bad by its content."""
    found = {
        # By some names a file is skipped unread.
        bad.name.removeprefix("._"): (
            "v_refusals" if bad.outcome == "refused" else "v_item_errors",
            bad.code,
            bad.data,
        )
        for bad in hostile.bad_files()
    }
    found["crash.jpeg"] = ("v_item_errors", "decoder_died", jpeg_with(CRASH))
    found["hang.jpeg"] = ("v_item_errors", "decoder_timeout", jpeg_with(HANG))
    return found


def good_films() -> Iterator[tuple[str, bytes]]:
    """So many good films, no two alike."""
    made = jpegs()
    for n in range(GOOD):
        film = made[n % len(made)]
        comment = b"copy %d" % n
        yield (
            f"good/{n:04d}.jpeg",
            film[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + film[2:],
        )


def write_zip(path: Path, bad: dict[str, tuple[str, str, bytes]]) -> dict[str, tuple[str, str]]:
    """Write the archive; table and code of members that the archive itself spoils."""
    spoiled = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        others = iter(bad.items())
        for number, (name, data) in enumerate(good_films()):
            archive.writestr(name, data)
            if number % 15 == 7 and (one := next(others, None)) is not None:
                archive.writestr(one[0], one[1][2])
        for name, (_, _, data) in others:
            archive.writestr(name, data)
        archive.writestr("../../etc/escape.jpeg", jpeg_with(b"slip"))
        spoiled["../../etc/escape.jpeg"] = ("v_item_errors", "unsafe_name")
        archive.writestr("two\nlines.jpeg", b"")
        spoiled["two\\nlines.jpeg"] = ("v_item_errors", "truncated")
        archive.writestr("__MACOSX/._film.jpeg", b"\0\5\x16\7")
        archive.writestr("flipped.jpeg", jpeg_with(b"a bit of this one is flipped"))
    spoiled["flipped.jpeg"] = ("v_item_errors", "crc_mismatch")
    _flip_stated_crc(path, b"flipped.jpeg")
    return spoiled


def _flip_stated_crc(path: Path, name: bytes) -> None:
    data = bytearray(path.read_bytes())
    at = data.rindex(name) - 46  # the last one is in the central directory
    assert data[at : at + 4] == b"PK\1\2"
    data[at + 16] ^= 1
    path.write_bytes(data)


def peak_mb(pid: int) -> float:
    """Most that a process ever had resident."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


def test_every_bad_file_costs_itself_and_says_why(here: Site, tmp_path: Path) -> None:
    bad = expected_of_bad()
    assert len(bad) >= 40
    path = tmp_path / "films.zip"
    spoiled = write_zip(path, bad)
    here.worker()
    job_id = here.score(path, model_id=1)
    assert here.ended(job_id) == "completed_with_errors"

    predicted = here.probabilities(job_id)
    assert len(predicted) == GOOD
    assert all(name.startswith("good/") for name in predicted)
    wanted = {name: (table, code) for name, (table, code, _) in bad.items()} | spoiled
    names = {n: r for n, r in _rows(here, job_id).items() if not n.startswith("#")}
    plain = {n: w for n, w in wanted.items() if not _is_dicom(n, bad)}
    assert names == plain
    # DICOM is in the database under hashed names: as many of each kind as there are.
    hashed = sorted(r for n, r in _rows(here, job_id).items() if n.startswith("#"))
    assert hashed == sorted(w for n, w in wanted.items() if _is_dicom(n, bad))
    here.exactly_one_outcome_each(job_id, GOOD + len(wanted))
    assert jobs.get(here.engine, job_id)["passed_over"] == {"macos_metadata": 1}

    assert "Traceback" not in "".join(
        log.read_text(errors="replace") for log in here.logs.glob("*.log")
    )
    processes = processes_with(f"PNEUMOQ_HOME={here.settings.home}")
    assert len(processes) >= 3
    assert max(map(peak_mb, processes)) < PEAK_MB


def _is_dicom(name: str, bad: dict[str, tuple[str, str, bytes]]) -> bool:
    return name.lower().endswith((".dcm", ".dicom")) or (
        name in bad and bad[name][2][128:132] == b"DICM"
    )


def _rows(here: Site, job_id: int) -> dict[str, tuple[str, str]]:
    """Name → (view, code) of what was not predicted."""
    found = {}
    for view in ("v_refusals", "v_item_errors"):
        for row in here.rows(
            f"SELECT name, code, detail FROM {view} WHERE job_id = :job", job=job_id
        ):
            assert row.detail and "Traceback" not in row.detail
            found[row.name] = (view, row.code)
    return found
