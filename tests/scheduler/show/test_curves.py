"""The curves of a training job: what is drawn, where, and what is left on the terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base import database
from db.queue import training
from db.work import endings
from scheduler.show import curves
from tests.scheduler import rows
from tests.scheduler.console import run, start


def epoch(number: int, **values: Any) -> dict[str, Any]:
    return {
        "epoch": number, "train_loss": 0.8 / number, "val_loss": 0.2 + 0.4 / number,
        "train_auroc": 0.9, "val_auroc": 0.9 + 0.01 * number,
        "train_accuracy": 0.8, "val_accuracy": 0.85, **values,
    }  # fmt: skip


def text(lines: list[list[curves.Piece]]) -> list[str]:
    return ["".join(piece for piece, _ in line) for line in lines]


def dots(line: str) -> int:
    return sum((ord(c) - 0x2800).bit_count() for c in line if 0x2800 <= ord(c) < 0x2900)


def test_both_plots_stand_side_by_side_in_the_width_that_there_is() -> None:
    found = text(curves.draw([epoch(n) for n in range(1, 5)], 8, 80))
    assert len(found) == curves.HEIGHT + 2
    assert all(len(line) == len(found[1]) <= 80 for line in found[1:-1])
    assert "loss, validation 0.3000" in found[0]
    assert "AUROC, validation 0.9400" in found[0]
    assert found[1].startswith(" 0.800 │") and " 0.940 │" in found[1]
    assert found[-2].startswith(" 0.200 │") and " 0.900 │" in found[-2]
    assert found[-1].endswith("epoch 4 of 8")


def test_a_wide_terminal_has_room_for_accuracy_and_wider_plots() -> None:
    found = text(curves.draw([epoch(n) for n in range(1, 5)], 8, 200))
    assert len(found) == curves.HEIGHT + 2
    for title in ("loss, validation", "accuracy, validation 0.8500", "AUROC, validation"):
        assert title in found[0]
    assert all(120 < len(line) == len(found[1]) <= 200 for line in found[1:-1])
    narrow = text(curves.draw([epoch(n) for n in range(1, 5)], 8, 119))
    assert "accuracy" not in narrow[0]
    for width in range(60, 260):
        assert all(len(line) <= width for line in text(curves.draw([epoch(1), epoch(2)], 2, width)))


def test_the_curves_grow_to_the_right_as_epochs_land() -> None:
    history = [epoch(n) for n in range(1, 9)]

    def reach(lines: list[str]) -> int:
        plot = [line[curves.SCALE : curves.SCALE + 32] for line in lines[1:-1]]
        return max(n for line in plot for n, c in enumerate(line) if dots(c))

    reached = [reach(text(curves.draw(history[:n], 8, 80))) for n in range(2, 9)]
    assert reached == sorted(reached)
    assert reached[0] < 6 and reached[-1] == 30


def test_validation_is_a_line_and_training_is_dotted_in_another_style() -> None:
    lines = curves.draw([epoch(n) for n in range(1, 9)], 8, 80)
    count = {curves.VALIDATION: 0, curves.TRAINING: 0}
    for line in lines[1:-1]:
        for piece, style in line:
            if style in count:
                count[style] += dots(piece)
    assert count[curves.VALIDATION] > 2 * count[curves.TRAINING] > 0


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert curves.draw([epoch(1)], 5, 80) == []
    assert curves.draw([epoch(1), epoch(2)], 5, 30) == []
    unknown = [epoch(n, val_auroc=None, train_auroc=float("nan")) for n in (1, 2)]
    found = text(curves.draw(unknown, 2, 80))
    assert "AUROC " in found[0] and "AUROC, validation" not in found[0]
    flat = [epoch(n, val_auroc=1.0, train_auroc=1.0) for n in (1, 2)]
    assert dots("".join(text(curves.draw(flat, 2, 80)))) > 0


def test_a_terminal_shows_curves_while_the_job_trains_and_keeps_them(
    engine: sa.Engine, tmp_path: Path
) -> None:
    lease = rows.a_claimed_training(engine)
    rows.do_epoch(engine, lease, 1, val_auroc=0.9, best=True)
    ours, theirs = pty.openpty()
    process = start("jobs", "watch", lease.job_id, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"best" not in shown:
        shown += os.read(ours, 4096)
    assert "validation 0." not in shown.decode(errors="replace")
    rows.do_epoch(engine, lease, 2, val_auroc=0.97, best=True)
    while b"AUROC, validation 0.9700" not in shown:
        shown += os.read(ours, 4096)
    model = rows.a_model(engine, tmp_path)
    database.write(engine, lambda c: endings.complete_training(c, lease, model))
    drained: list[bytes] = []

    def drain() -> None:
        with contextlib.suppress(OSError):  # nobody holds the other end any more
            while True:
                drained.append(os.read(ours, 4096))

    # A terminal that nobody reads fills up, and who writes to it waits.
    reader = threading.Thread(target=drain)
    reader.start()
    out, _ = process.communicate(timeout=120)
    reader.join()
    os.close(ours)
    left = b"".join(drained)
    assert process.returncode == 0
    end = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", left.decode(errors="replace"))
    assert end.rstrip().endswith("epoch 2 of 3")
    assert "best epoch   2 of 2" in out


@pytest.mark.parametrize(("columns", "plain"), [(80, True), (200, False)])
def test_what_is_shown_fits_the_terminal_with_and_without_colour(
    engine: sa.Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
    plain: bool,
) -> None:
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    lease = rows.a_claimed_training(engine)
    for number in (1, 2):
        rows.do_epoch(engine, lease, number, val_auroc=0.9, best=True, seconds=12345.6)
    database.write(
        engine,
        lambda c: training.record_progress(
            c, lease, {"epoch": 3, "films_done": 100, "films_total": 123_456, "films_per_s": 123.4,
                       "loss": 0.1234},
        ),
    )  # fmt: skip
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    monkeypatch.setenv("PYTHONFAULTHANDLER", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    process = start("jobs", "watch", lease.job_id, stderr=theirs)
    os.close(theirs)
    shown = b""
    # The epochs, the curves and the bar are not drawn at one moment.
    curve = b"accuracy, validation" if columns == 200 else b"AUROC, validation"
    until = time.monotonic() + 120
    while not all(part in shown for part in (b"left", b"best", curve)):
        if time.monotonic() > until:
            process.send_signal(signal.SIGABRT)  # its stacks come last
            process.wait()
            until = float("inf")
        try:
            shown += os.read(ours, 4096) if select.select([ours], [], [], 5)[0] else b""
        except OSError:  # it has ended
            pytest.fail(f"{curve!r} was not drawn:\n{shown.decode(errors='replace')}")
    os.kill(process.pid, signal.SIGINT)
    with contextlib.suppress(OSError):
        while part := os.read(ours, 4096):
            shown += part
    process.communicate(timeout=60)
    os.close(ours)
    text_ = shown.decode(errors="replace")
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", text_)) != plain
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text_))
    shown_lines = [line for line in lines if "goes on without you" not in line]
    assert max(map(len, shown_lines)) <= columns
    assert any(line.endswith("best") for line in shown_lines)
    assert any("epoch 3/3, loss 0.123, 123.4 films/s" in line for line in shown_lines)
    assert any("running ━" in line for line in shown_lines)
    assert any("accuracy, validation" in line for line in shown_lines) == (columns == 200)


def test_the_verdict_about_overfitting_is_said_at_the_end(
    engine: sa.Engine, tmp_path: Path
) -> None:
    job = rows.a_trained_job(engine, tmp_path)
    assert "  verdict      no sign of overfitting" in run("jobs", "watch", job).stdout
    lease = rows.a_claimed_training(engine, epochs=4)
    for number, loss in enumerate((0.3, 0.2, 0.4, 0.5), start=1):
        rows.do_epoch(engine, lease, number, val_auroc=0.9, best=number == 1, val_loss=loss)
    model = rows.a_model(engine, tmp_path, "other")
    database.write(engine, lambda c: endings.complete_training(c, lease, model))
    summary = json.loads(run("jobs", "watch", lease.job_id, "--json").stdout)
    assert summary["verdict"].startswith("overfitting after epoch 2")
