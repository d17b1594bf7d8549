"""Disks and shares are asked by a process that can be given up, and one that hangs is told of."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broken import mounts
from tests.worker import samples
from worker.archive import apart, shares
from worker.errors import NoAnswer, ReaderEnded, SourceTrouble
from worker.schedules import inbox

#: Seconds without an answer after which a process is given up here: a busy machine is slow too.
PATIENCE_S = 3.0


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """What the share is of: two folders of a file each."""
    for name in ("one/a.jpg", "two/b.jpg"):
        (tmp_path / "real" / name).parent.mkdir(parents=True)
        (tmp_path / "real" / name).write_bytes(b"x")
    return tmp_path / "real"


@pytest.fixture
def share(real: Path, tmp_path: Path) -> Iterator[mounts.Share]:
    """A share that the test may break, and nobody waits for it afterwards."""
    with mounts.share(real, tmp_path / "share") as made:
        yield made
        made.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
        apart._silent.clear()


def names(folder: Path) -> list[str]:
    """The names of the files below a folder, asked as a watched folder is."""
    entries = apart.each(str(folder), PATIENCE_S, inbox.files, str(folder))
    return [Path(path).name for path, _, _ in entries]


def test_a_share_that_gives_no_answer_is_told_of_in_time_and_asked_again_once_it_is_back(
    share: mounts.Share, tmp_path: Path
) -> None:
    assert names(share.at) == ["a.jpg", "b.jpg"]
    share.hangs(on=["list"])
    began = time.monotonic()
    with pytest.raises(SourceTrouble) as met:
        names(share.at)
    assert PATIENCE_S <= time.monotonic() - began < PATIENCE_S + 10
    assert str(met.value) == (
        f"{share.at}: its disk or share gives no answer (for 3 s, PNEUMOQ_FILM_DEADLINE_S); "
        "see to it"
    )
    assert met.value.whose == "source"
    # The kernel does not let go of who waits for it: killed, and there all the same.
    assert apart.left_behind() == 1
    with pytest.raises(SourceTrouble, match="gives no answer"):
        names(share.at / "one")
    began = time.monotonic()
    for again in (share.at, share.at / "one", share.at / "two", share.at / "two/b.jpg"):
        with pytest.raises(SourceTrouble, match="gives no answer"):
            names(again)
    assert time.monotonic() - began < 1, "nobody else is sent there"
    assert apart.left_behind() == 2
    local = tmp_path / "local"
    local.mkdir()
    (local / "c.jpg").write_bytes(b"x")
    assert names(local) == ["c.jpg"]
    share.recovers()
    samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
    time.sleep(PATIENCE_S)
    assert names(share.at) == ["a.jpg", "b.jpg"]


def test_a_file_that_alone_gives_no_answer_keeps_nobody_from_the_others(
    share: mounts.Share,
) -> None:
    share.hangs(names="one/a.jpg", on=["read"])
    with pytest.raises(SourceTrouble, match="gives no answer"):
        apart.reach(str(share.at / "one/a.jpg"), PATIENCE_S)
    apart.reach(str(share.at / "two/b.jpg"), PATIENCE_S)
    assert names(share.at) == ["a.jpg", "b.jpg"]
    began = time.monotonic()
    with pytest.raises(SourceTrouble, match="gives no answer"):
        apart.reach(str(share.at / "one/a.jpg"), PATIENCE_S)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("hanging", "on"),
    [("one/a.jpg", "examine"), ("two/b.jpg", "examine"), ("one", "list"), ("two", "list")],
)
def test_what_alone_gives_no_answer_below_a_folder_is_named_and_the_rest_is_found_without_it(
    share: mounts.Share, hanging: str, on: str
) -> None:
    share.hangs(names=hanging, on=[on])
    with pytest.raises(NoAnswer, match="gives no answer") as met:
        names(share.at)
    assert met.value.at == f"{share.at}/{hanging}"
    assert str(met.value).startswith(f"{share.at}: "), "what is below may name people"
    assert apart.aside(str(share.at)) == [met.value.at]
    entries = apart.each(
        str(share.at), PATIENCE_S, inbox.files, str(share.at), apart.aside(str(share.at))
    )
    left = [Path(path).name for path, _, _ in entries]
    assert left == (["b.jpg"] if hanging.startswith("one") else ["a.jpg"])


def test_where_a_question_ended_is_not_said_of_the_next_one(
    share: mounts.Share, tmp_path: Path
) -> None:
    share.delays(1.0, names="one/a.jpg", on=["examine"])
    assert names(share.at) == ["a.jpg", "b.jpg"]
    share.hangs(names="two/b.jpg", on=["read"])
    with pytest.raises(NoAnswer) as met:
        apart.reach(str(share.at / "two/b.jpg"), PATIENCE_S)
    assert met.value.at is None


def test_logs_name_no_path_of_what_is_left_behind(
    share: mounts.Share, caplog: pytest.LogCaptureFixture
) -> None:
    share.hangs(on=["read"])
    with pytest.raises(SourceTrouble, match="gives no answer"):
        apart.reach(str(share.at / "one/a.jpg"), PATIENCE_S)
    assert f"waits for {share.at} and cannot be ended" in caplog.text
    assert "a.jpg" not in caplog.text


def test_at_most_so_many_processes_are_left_behind(
    share: mounts.Share, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "MOST", 1)
    share.hangs(on=["list"])
    with pytest.raises(SourceTrouble, match="gives no answer"):
        names(share.at)
    with pytest.raises(SourceTrouble, match="not asked, since 1 processes or threads") as met:
        names(tmp_path)
    assert met.value.whose == "machine"


def test_a_share_that_is_slow_is_waited_for_as_long_as_it_comes_on(share: mounts.Share) -> None:
    share.delays(PATIENCE_S / 6, on=["list"])
    began = time.monotonic()
    assert names(share.at) == ["a.jpg", "b.jpg"]
    assert time.monotonic() - began > PATIENCE_S


def test_where_a_path_leads_is_found_without_asking_a_share(
    share: mounts.Share, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(share.at / "one")
    (tmp_path / "relative").symlink_to("share")
    (tmp_path / "circle").symlink_to("circle")
    share.hangs()
    at = str(share.at)
    for path in (at, f"{at}/one/a.jpg", f"{tmp_path}/link/a.jpg", f"{tmp_path}/relative/x/y"):
        assert shares.share_of(path) == at
    for path in (str(tmp_path), f"{at}.log", "/", f"{tmp_path}/circle", f"{tmp_path}/\0", "x://y"):
        assert shares.share_of(path) is None
    assert apart.left_behind() == 0


def test_the_first_access_to_a_share_is_tried_apart_and_any_answer_will_do(
    share: mounts.Share, tmp_path: Path
) -> None:
    for path in (share.at, share.at / "one/a.jpg", share.at / "nothing", tmp_path / "nothing"):
        apart.reach(str(path), PATIENCE_S)
    share.errs()
    apart.reach(str(share.at), PATIENCE_S)
    share.hangs(names="one/a.jpg", on=["read"])
    with pytest.raises(SourceTrouble, match="gives no answer"):
        apart.reach(str(share.at / "one/a.jpg"), PATIENCE_S)


def killed_while_asked() -> None:
    """Whoever is asked next gets no further than that, and is killed after a second."""
    process = apart._taken()
    process.of.send_signal(signal.SIGSTOP)
    apart._put_back(process)
    threading.Timer(1.0, process.of.kill).start()


def test_a_process_that_is_killed_is_no_answer_and_another_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    path = str(tmp_path / "a.jpg")
    killed_while_asked()
    assert apart.call(path, PATIENCE_S, inbox.can_be_read, path) is True
    killed_while_asked()
    with pytest.raises(ReaderEnded, match=r"^a folder: the process that reads it ended \(-9\)"):
        list(apart.each(path, PATIENCE_S, inbox.can_be_read, path, named="a folder"))


def test_signals_that_end_a_worker_end_nobody_who_is_asked(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    process = apart._taken()
    apart._put_back(process)
    for number in (signal.SIGINT, signal.SIGTERM):
        process.of.send_signal(number)
    time.sleep(0.5)
    assert process.alive


def test_a_process_that_has_ended_is_replaced_and_none_has_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOQ_SITE_KEY", "secret")
    for idle in list(apart._idle):
        idle.of.kill()
        idle.of.wait()
    assert names(tmp_path) == []
    (idle,) = apart._idle
    environment = Path(f"/proc/{idle.of.pid}/environ").read_bytes()
    assert b"secret" not in environment and b"PNEUMOQ" not in environment
