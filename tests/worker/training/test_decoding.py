"""A training's films are decoded by processes that may die, and what is decoded is kept."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import soak
from tests.worker import samples
from trainer.data import cache, dataset, journal
from worker.training.process import TrainingProcess

#: Content at which a decoder ends.
CRASH = b"crash the decoder here"

#: A decoder ends at that, and notes each film that it begins in a file of its own, which it opens
#: before it may open none.
SABOTAGE = f"""
import os, signal, sys

if "worker.decoding.child" in " ".join(sys.orig_argv):
    from trainer.film import rules

    begun = os.open(FOLDER + "/%d" % os.getpid(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def decode(data, *arguments, _decode=rules.decode, **options):
        os.write(begun, b".")
        if {CRASH!r} in data:
            os.kill(os.getpid(), signal.SIGSEGV)
        return _decode(data, *arguments, **options)

    rules.decode = decode
"""

#: Decodes a folder as training does, without the rest of training.
DECODING = """
import sys
from pathlib import Path
from trainer.data import cache, dataset
from worker.decoding.labelled import Limits, processes
decoder = processes(Limits(decoders=2, deadline_s=30.0, limit_mb=2048))
cache.decode(dataset.read(Path(sys.argv[1])), Path(sys.argv[2]), size=64, decoder=decoder)
"""


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files with a byte per film that a decoder has begun."""
    folder = tmp_path / "begun"
    folder.mkdir()
    (tmp_path / "site").mkdir()
    text = SABOTAGE.replace("FOLDER", repr(str(folder)))
    (tmp_path / "site" / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=":")
    return folder


def labelled(root: Path, films: int) -> Path:
    """A folder of so many films, no two alike."""
    made = [data for _, data in samples.films(20) if data[:2] == b"\xff\xd8"]
    for n in range(films):
        file = root / ("NORMAL", "PNEUMONIA")[n % 2] / f"person{n // 4}_{n}.jpeg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg_with(made[n % len(made)], b"%d" % n))
    return root


def jpeg_with(data: bytes, comment: bytes) -> bytes:
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def count(begun: Path) -> int:
    """Films that were begun, one that was begun twice counted twice."""
    return sum(file.stat().st_size for file in begun.iterdir())


def through(folder: Path) -> int:
    """Films in the journal of a cache."""
    found = list(folder.glob(f".*{journal.ENTRIES}"))
    return len(found[0].read_bytes().splitlines()) - 1 if found else 0


@contextmanager
def training(folder: Path, data: Path, **spec: Any) -> Iterator[TrainingProcess]:
    """A real training process."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    process = TrainingProcess(
        {
            "spec": {**samples.TRAINING, "data": str(data), **spec},
            "night": "",
            "folder": str(folder / "run"),
            "cache": str(folder / "cache"),
            "resume_from": "",
            "threads": 1,
            "film_deadline_s": 30.0,
            "film_memory_mb": 2048,
            "engine_batch": 2,
            "names_key": bytes(32).hex(),
        }
    )
    try:
        yield process
    finally:
        process.end()


def test_decoding_that_is_killed_again_and_again_decodes_hardly_a_film_twice(
    begun: Path, tmp_path: Path
) -> None:
    films, kills = 200, 3
    root = labelled(tmp_path / "films", films)
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", DECODING, str(root), str(folder)]
    for kill in range(kills):
        process = subprocess.Popen(command)
        samples.wait(lambda k=kill: through(folder) > films * (k + 1) // (kills + 1), "films")
        process.kill()
        process.wait()
    subprocess.run(command, check=True)
    assert films <= count(begun) <= 1.2 * films
    data, _ = cache.decode(dataset.read(root), folder, size=64)
    assert len(data.films) == films
    assert count(begun) <= 1.2 * films, "it was there"


@soak.ONLY
@pytest.mark.timeout(1800)
def test_a_training_killed_ten_times_decodes_each_film_at_most_1_2_times(
    begun: Path, tmp_path: Path
) -> None:
    films, kills = 2000, 10
    root = labelled(tmp_path / "films", films)
    folder = tmp_path / "job"
    for kill in range(kills):
        with training(folder, root) as process:
            enough = films * (kill + 1) // (kills + 1)

            def there(process: TrainingProcess = process, enough: int = enough) -> bool:
                process.events(0.01)  # or it would wait for its reports to be read
                return through(folder / "cache") > enough

            samples.wait(there, f"{enough} films", 4 * samples.PATIENCE_S)
            process._process.kill()
    with training(folder, root) as process:
        events = heard(process, "progress")
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any(note.startswith("going on with ") for note in notes)
    print(f"{count(begun)} decoded of {films}, killed {kills} times")
    assert films <= count(begun) <= 1.2 * films


def heard(process: TrainingProcess, until: str) -> list[dict[str, Any]]:
    """What it reports, up to the first report of a kind."""
    found: list[dict[str, Any]] = []

    def done() -> bool:
        events = process.events(0.1)
        assert events is not None, f"it ended: {json.dumps(found[-1:])}"
        found.extend(events)
        return any(event["event"] == until for event in events)

    samples.wait(done, f"a report of {until}", 4 * samples.PATIENCE_S)
    return found


def test_a_training_goes_on_without_a_film_that_ends_its_decoder_and_names_it(
    begun: Path, tmp_path: Path
) -> None:
    root = labelled(tmp_path / "films", 40)
    good = next((root / "NORMAL").iterdir()).read_bytes()
    (root / "NORMAL" / "person77_1.jpeg").write_bytes(jpeg_with(good, CRASH))
    with training(tmp_path / "job", root) as process:
        events = heard(process, "epoch")
    (without,) = [event for event in events if event["event"] == "without"]
    assert [(f["path"], f["code"]) for f in without["files"]] == [
        ("NORMAL/person77_1.jpeg", "decoder_died")
    ]
