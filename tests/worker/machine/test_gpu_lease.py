"""The lease of a GPU, held by real processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.worker import samples
from worker.machine import gpu_lease
from worker.machine.gpu_lease import GpuLease

#: No GPU has it.
UUID = "GPU-00000000-made-up"

#: Takes the GPU as soon as it can, says so, and holds it until it is told to let go.
HOLDER = """
import sys, time
from pathlib import Path
from worker.machine.gpu_lease import GpuLease
mine = GpuLease(sys.argv[2], sys.argv[3], Path(sys.argv[1]))
print("waiting", flush=True)
while not mine.take():
    time.sleep(0.01)
print("held", flush=True)
sys.stdin.readline()
mine.release()
print("released", flush=True)
sys.stdin.readline()
"""

Holding = Callable[..., "Holder"]


class Holder:
    """A process that wants the GPU."""

    def __init__(self, folder: Path, who: str, uuid: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), uuid, who],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.says() == "waiting"

    def says(self) -> str:
        """Its next word, waited for."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        """Have it do its next step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[Holding]:
    """Starts processes that want the GPU; they are killed at the end."""
    started: list[Holder] = []

    def start(who: str = "scoring", uuid: str = UUID) -> Holder:
        started.append(Holder(tmp_path, who, uuid))
        return started[-1]

    yield start
    for holder in started:
        holder.process.kill()
        holder.process.communicate()


def test_one_process_has_the_gpu_and_the_other_says_who(holding: Holding, tmp_path: Path) -> None:
    first = holding("training")
    assert first.says() == "held"
    mine = GpuLease(UUID, "scoring", tmp_path)
    assert not mine.take()
    assert not mine.held
    assert mine.holder() == f"training (process {first.process.pid})"
    first.go_on()
    assert first.says() == "released"
    assert mine.take()
    mine.release()


def test_who_waits_has_it_at_once_when_its_holder_is_killed(holding: Holding) -> None:
    first = holding()
    assert first.says() == "held"
    second = holding()
    first.process.send_signal(signal.SIGKILL)
    began = time.monotonic()
    assert second.says() == "held"
    assert time.monotonic() - began < 2


def test_who_waited_comes_before_a_holder_that_wants_it_again(
    holding: Holding, tmp_path: Path
) -> None:
    mine, other = GpuLease(UUID, "training", tmp_path), GpuLease(UUID, "scoring", tmp_path)
    assert mine.take()
    assert not other.take()  # it is next now
    mine.release()
    assert not mine.take()
    assert other.take()
    mine.leave()
    other.release()
    assert mine.take()
    # One that waits no longer keeps nobody from it.
    assert not other.take()
    other.leave()
    mine.release()
    assert mine.take()
    mine.release()


def test_a_waiter_that_is_killed_keeps_nobody_from_the_gpu(
    holding: Holding, tmp_path: Path
) -> None:
    mine = GpuLease(UUID, "scoring", tmp_path)
    assert mine.take()
    waiter = holding()
    samples.wait(lambda: _taken(tmp_path / f"pneumoq-{UUID}.next.lock"), "its turn to be kept")
    waiter.process.kill()
    waiter.process.wait()
    mine.release()
    assert mine.take()
    mine.release()


def _taken(path: Path) -> bool:
    lock = gpu_lease._Lock(path)
    if lock.take():
        lock.release()
        return False
    return True


def test_each_gpu_has_a_lease_of_its_own(holding: Holding, tmp_path: Path) -> None:
    first = holding(uuid="GPU-1")
    assert first.says() == "held"
    other = GpuLease("GPU-2", "scoring", tmp_path)
    assert other.take()
    other.release()


def test_a_child_keeps_the_lease_of_a_killed_process_until_it_has_ended_too(
    tmp_path: Path,
) -> None:
    script = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from worker.machine.gpu_lease import GpuLease\n"
        "mine = GpuLease(sys.argv[2], 'training', Path(sys.argv[1]))\n"
        "assert mine.take()\n"
        "child = subprocess.Popen(\n"
        "    ['sleep', '100'], pass_fds=(mine.descriptor,), stdout=subprocess.DEVNULL\n"
        ")\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), UUID], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    mine = GpuLease(UUID, "scoring", tmp_path)
    assert not mine.take()
    os.kill(child, signal.SIGKILL)
    samples.wait(mine.take, "the child's end to free it", patience_s=5)
    mine.release()


def test_a_child_that_has_not_ended_yet_keeps_nobody_waiting_once_it_is_let_go_of(
    tmp_path: Path,
) -> None:
    mine = GpuLease(UUID, "training", tmp_path)
    assert mine.take() and mine.descriptor is not None
    with subprocess.Popen(["sleep", "100"], pass_fds=(mine.descriptor,)) as child:
        mine.release()
        other = GpuLease(UUID, "scoring", tmp_path)
        assert other.take()
        other.release()
        child.kill()


def test_the_place_is_the_same_for_all_users_and_their_files_can_be_locked_by_others(
    tmp_path: Path,
) -> None:
    before = os.umask(0o077)
    try:
        mine = GpuLease(UUID, "scoring", tmp_path)
        assert mine.take()
    finally:
        os.umask(before)
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o666
    mine.release()
    assert gpu_lease._place() in (gpu_lease.LOCKS, Path("/tmp"))


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / f"pneumoq-{UUID}.lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        GpuLease(UUID, "scoring", tmp_path).take()
    assert precious.read_text() == "mine"
