"""The messages between a worker and its training process, and that the stand-in speaks them too."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes as running
from tests.worker import samples
from trainer.learning import loop
from trainer.learning.epoch import Epoch
from worker.training import checkpoints, process
from worker.training.child import OF_BEFORE
from worker.training.process import TrainingProcess

#: What comes with each report.
REPORTS = {
    "dataset": {
        "digest", "root", "n_train", "n_val", "n_patients", "classes", "notes", "manifest_csv",
        "names",
    },
    "note": {"text"},
    "without": {"files"},
    "progress": {field.name for field in dataclasses.fields(loop.Progress)},
    "saved": {field.name for field in dataclasses.fields(loop.Saved)},
    "epoch": {field.name for field in dataclasses.fields(Epoch)},
    "stopped": set(),
    "failed": {"reason"},
    "done": {"files", "card", "engines", "judged", "n_val", "reference"},
}  # fmt: skip

#: More than there is time for before a process is killed or stopped.
EPOCHS = 8


@pytest.fixture(params=["real", "stand-in"])
def child(request: pytest.FixtureRequest) -> str:
    """Which training process is started; the test runs once with each."""
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
    return str(request.param)


class Heard:
    """A training process, and all that it has reported."""

    def __init__(self, process: TrainingProcess) -> None:
        self.process = process
        self.reports: list[dict[str, Any]] = []
        self._ended = False

    def until(self, event: str) -> dict[str, Any]:
        """Read on to the first report of this kind."""
        samples.wait(
            lambda: self._read() or self._of(event), f"a report of {event}", 2 * samples.PATIENCE_S
        )
        return self._of(event)[0]

    def to_the_end(self) -> list[str]:
        """Read on until it has ended; the kinds of all its reports."""
        samples.wait(
            lambda: self._read() or self._ended, "the process to end", 2 * samples.PATIENCE_S
        )
        return [report["event"] for report in self.reports]

    def _of(self, event: str) -> list[dict[str, Any]]:
        return [report for report in self.reports if report["event"] == event]

    def _read(self) -> None:
        found = self.process.events(0.05)
        self._ended = found is None
        for report in found or ():
            assert set(report) - {"event"} == REPORTS[report["event"]]
            self.reports.append(report)


@contextmanager
def started(folder: Path, data: Path, after: Path | None = None, **spec: Any) -> Iterator[Heard]:
    """A training process that writes in this folder, and goes on from another one's checkpoint."""
    folder.mkdir()
    order = {
        "spec": {**samples.TRAINING, "epochs": EPOCHS, "data": str(data), **spec},
        "night": "",
        "folder": str(folder),
        "cache": str(folder.parent / "cache"),
        "resume_from": str(after or ""),
        "threads": 1,
        "film_deadline_s": 30.0,
        "film_memory_mb": 2048,
        "engine_batch": 2,
        "names_key": bytes(32).hex(),
    }
    process = TrainingProcess(order)
    try:
        yield Heard(process)
    finally:
        process.end()


@pytest.mark.timeout(900)
def test_it_is_killed_stopped_and_finished_with_the_same_reports_whichever_it_is(
    child: str, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOQ_SITE_KEY", "a secret of this site")
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    with started(first, labelled) as killed:
        killed.until("epoch")
        (pid,) = running.children(os.getpid(), process.CHILD)
        assert "PNEUMOQ_" not in Path(f"/proc/{pid}/environ").read_text()
        if child == "real":
            assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
        at_any_time = ("note", "progress")
        kinds = [r["event"] for r in killed.reports if r["event"] not in at_any_time]
        assert kinds[:3] == ["dataset", "saved", "epoch"]
    assert killed.process.status == -signal.SIGKILL
    assert list(first.glob(checkpoints.PATTERN))

    with started(second, labelled, after=first) as stopped:
        went_on = stopped.until("epoch")
        stopped.process.stop()
        *_, last = stopped.to_the_end()
        assert last == "stopped"
    assert stopped.process.status == 0
    assert went_on["epoch"] > 1
    assert f"continuing after epoch {went_on['epoch'] - 1} of {EPOCHS}" in notes(stopped)

    with started(third, labelled, after=second) as finished:
        events = finished.to_the_end()
    assert finished.process.status == 0
    assert events[-1] == "done"
    assert finished.reports[-1]["files"]["fp32"] == str(third / "model.onnx")
    assert (third / "model.onnx").is_file()
    assert child == "stand-in" or any("The disease is PNEUMONIA" in n for n in notes(finished))
    assert OF_BEFORE not in notes(finished)
    epochs = [report["epoch"] for report in finished.reports if report["event"] == "epoch"]
    assert epochs == list(range(epochs[0], EPOCHS + 1))
    assert epochs[0] > went_on["epoch"]


def test_a_folder_that_is_not_there_is_named_and_the_process_ends_in_good_order(
    child: str, tmp_path: Path
) -> None:
    with started(tmp_path / "only", tmp_path / "gone") as failed:
        assert failed.to_the_end() == ["failed"]
    assert str(tmp_path / "gone") in failed.reports[0]["reason"]
    assert failed.process.status == 0


def test_a_job_of_an_older_release_goes_on_by_its_rules_and_says_so(
    labelled: Path, tmp_path: Path
) -> None:
    films = tmp_path / "films"
    shutil.copytree(labelled, films)
    (films / "PNEUMONIA").rename(films / "EFFUSION")
    with started(tmp_path / "old", films, positive=None, naming=None) as old:
        old.until("dataset")
    assert OF_BEFORE in notes(old)
    assert any(note.startswith("The disease is NORMAL, against EFFUSION") for note in notes(old))


def notes(heard: Heard) -> list[str]:
    """The sentences among its reports."""
    return [report["text"] for report in heard.reports if report["event"] == "note"]
