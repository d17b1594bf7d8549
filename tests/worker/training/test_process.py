"""The training process as its worker sees it, where it cannot even be killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.broken import mounts
from tests.support.paths import ROOT
from tests.worker import samples
from worker.archive import apart
from worker.training import process as processes

# Nobody waits for the process that is left behind.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*Popen:pytest.PytestUnraisableExceptionWarning",
    "ignore:subprocess .* is still running:ResourceWarning",
)


def test_a_training_process_that_waits_for_a_share_keeps_its_worker_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "CHILD", "tests.worker.training.reading_child")
    monkeypatch.setattr(processes, "REAP_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(b"x")
    with mounts.share(tmp_path / "real", tmp_path / "share") as share:
        share.hangs(on=["read"])
        process = processes.TrainingProcess({"spec": {"data": f"{share.at}/a.jpg"}})
        samples.wait(lambda: process.events(0.1), "it to begin")
        time.sleep(0.5)
        began = time.monotonic()
        process.end()
        assert time.monotonic() - began < 5
        assert apart.left_behind() == 1
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "it to end")
