"""Following a job until it ends: what `jobs watch`, `score --wait` and `train --wait` show.

Progress goes to standard error, the closing summary to standard output. A terminal gets a bar, and
the curves of a training job; anything else gets a line every few seconds. The job does not notice
that it is watched.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click
import sqlalchemy as sa

from db.base import database, workers
from db.base.schema import FINAL_JOB_STATES
from db.queue import jobs, training
from scheduler import engines, errors
from scheduler.show import display as displays
from scheduler.show import output
from scheduler.show import summary as summaries
from scheduler.show.display import Display

T = TypeVar("T")

#: Events of a training job that a person who follows it is shown.
SHOWN_EVENTS = ("note", "handed_back", "yielded")

#: Seconds between two looks at the job, at least and at most; in between it is this share of how
#: long it is followed: what is soon over is soon told, and no job waits long for that.
LEAST_POLL_S, POLL_S, POLL_LATE = 0.02, 0.5, 0.1
#: How many times as long as a look it is at least: adding up a job of ten million films takes
#: SQLite a tenth of a second.
POLL_SHARE = 10
#: Seconds between two looks for live workers.
LOOK_FOR_WORKERS_S = 5.0
#: When no worker has answered for this many seconds, that is said.
NO_WORKER_S = 60.0
#: The database may be gone for this many seconds before following is given up.
PATIENCE_S = 60.0
#: The rate shown is that of the latest seconds.
RATE_WINDOW_S = 15.0

#: Of validation: `val loss`, `val acc.` (accuracy) and `AUROC`; with `best` it fits 80 columns.
EPOCH_HEADER = "epoch  train loss  val loss  val acc.   AUROC        lr  films/s  seconds"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Progress per second over the latest seconds."""

    #: (time.monotonic(), items done), oldest first.
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, done: int) -> None:
        """Remember how much is done now."""
        at = time.monotonic()
        self.seen.append((at, done))
        while len(self.seen) > 2 and self.seen[1][0] <= at - RATE_WINDOW_S:
            self.seen.popleft()

    @property
    def per_s(self) -> float:
        """0 while nothing has moved."""
        (first_at, first), (last_at, last) = self.seen[0], self.seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0


@dataclass(kw_only=True)
class Silence:
    """How long no worker has answered, so that it is reported once."""

    #: time.monotonic() of the latest sign of life, and of the latest look for one.
    answered_at: float
    looked_at: float
    reported: bool = False

    def due(self, at: float) -> bool:
        """Whether it is time to look again."""
        return at - self.looked_at >= LOOK_FOR_WORKERS_S

    def note(self, at: float, *, alive: bool) -> bool:
        """Remember what a look found; whether the silence is to be reported now."""
        self.looked_at = at
        if alive:
            self.answered_at = at
        elif not self.reported and at - self.answered_at >= NO_WORKER_S:
            self.reported = True
            return True
        return False


def follow(
    engine: sa.Engine,
    job_id: int,
    *,
    as_json: bool = False,
    goes_on: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> int:
    """Show a job's progress until it is final, then its summary; returns the exit status.

    Ctrl-C leaves the job as it is and returns INTERRUPTED; `goes_on` says whether its workers stay
    when this command ends. The rest is as in `to_the_end`.
    """
    try:
        return to_the_end(engine, job_id, as_json=as_json, tick=tick)
    except KeyboardInterrupt:
        what = "goes on without you" if goes_on else "waits for the next workers"
        click.echo(
            f"job {job_id} {what}: `pneumoq jobs watch {job_id}` follows it again, "
            f"`pneumoq jobs cancel {job_id}` ends it",
            err=True,
        )
        return errors.INTERRUPTED


def to_the_end(
    engine: sa.Engine,
    job_id: int,
    *,
    as_json: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> int:
    """Show a job's progress until it is final, then its summary; returns the exit status.

    `tick` is called between two looks. With `as_json` only the summary is printed. NotFound where
    there is no such job.
    """
    kind = str(_patiently(lambda: jobs.get(engine, job_id))["kind"])
    display = displays.opened(silent=as_json)
    try:
        row = _watch(engine, job_id, kind, display, tick)
    finally:
        display.close()
    summary = _patiently(lambda: summaries.summarise(engine, row))
    if as_json:
        click.echo(output.to_json(summary))
    else:
        summaries.close(summary)
    return summaries.STATUS[row["state"]]


def _patiently(read: Callable[[], T]) -> T:
    """Read, again and again while the database is locked or gone, for a while."""
    return database.patiently(read)


def _watch(
    engine: sa.Engine, job_id: int, kind: str, display: Display, tick: Callable[[], None]
) -> sa.RowMapping:
    """Show progress until the job is final; its last row of v_job_progress."""
    of = _patiently(lambda: summaries.asked(engine, job_id))
    rate = Rate()
    shown: dict[int, Any] = {}
    last: Mapping[Any, Any] = {"id": 0}
    began = time.monotonic()
    silence = Silence(answered_at=began, looked_at=-LOOK_FOR_WORKERS_S)
    wanted = _patiently(lambda: jobs.get(engine, job_id))["engine"]
    waited: str | None = None
    waits_for: str | None = None
    while True:
        started = time.monotonic()
        row = _patiently(lambda: jobs.progress(engine, job_id))
        took_s = time.monotonic() - started
        if kind == "train":
            rows = _patiently(lambda: training.epoch_rows(engine, job_id))
            _print_epochs(rows, shown, display)
            display.draw(rows, of)
            for event in _patiently(lambda: jobs.events(engine, job_id)):
                if event["event"] in SHOWN_EVENTS and event["id"] > last["id"]:
                    last = event
                    display.line(output.printable(event["detail"] or event["event"]))
            now = _patiently(lambda: jobs.get(engine, job_id))["progress"]
            display.show(*_training(row, now, rows, of, last))
        else:
            if row["state"] == "paused" and row["reason"] and row["reason"] != waits_for:
                waits_for = row["reason"]
                display.line(output.printable(f"job {job_id} is paused: {waits_for}"))
            rate.note(int(row["done"]))
            display.show(*_scoring(row, rate.per_s))
        if row["state"] in FINAL_JOB_STATES:
            return row
        if silence.due(started):
            alive = bool(_patiently(lambda: workers.alive(engine, kind)))
            if silence.note(started, alive=alive):
                display.line(
                    f"no worker of the queue {kind!r} has answered for {NO_WORKER_S:.0f} s: "
                    "start one with `pneumoq up`; `pneumoq doctor` lists those there are"
                )
            waits = _patiently(lambda: engines.waits(engine, wanted))
            if waits is not None and waits != waited:
                display.line(f"job {job_id} {waits}")
            waited = waits
        tick()
        time.sleep(pause_s(time.monotonic() - began, took_s))


def pause_s(followed_s: float, took_s: float) -> float:
    """Seconds until the next look at a job followed for so long, of which a look took so long."""
    return max(min(max(POLL_LATE * followed_s, LEAST_POLL_S), POLL_S), POLL_SHARE * took_s)


def _scoring(row: sa.RowMapping, per_s: float) -> tuple[str, str, int, int | None]:
    """Title, text, films done, films in all (None while they are being listed)."""
    title = f"job {row['job_id']} {row['state']}"
    done, items = int(row["done"]), int(row["items"])
    listed = row["planned_at"] is not None
    if not items:
        return title, "", 0, None
    parts = [f"{done:,}/{items:,} films" if listed else f"{done:,} films of {items:,} listed"]
    if per_s > 0:
        parts.append(f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s")
        if listed and done < items:
            parts.append(f"{output.seconds((items - done) / per_s)} left")
    parts += [f"{row[name]:,} {name}" for name in ("errors", "refused") if row[name]]
    return title, ", ".join(parts), done, items if listed else None


def _training(
    row: sa.RowMapping,
    now: Mapping[str, Any] | None,
    epochs: Sequence[sa.RowMapping],
    asked: int,
    last: Mapping[Any, Any],
) -> tuple[str, str, int, int | None]:
    """Title, text, films done, films in all epochs.

    `now` is the job's latest progress report, and `last` the latest event that was shown.
    """
    title = f"job {row['job_id']} {row['state']}"
    if now is None:
        return title, "", 0, None
    epochs_done, per_epoch = len(epochs), int(now["films_total"])
    total = per_epoch * asked
    # What is done after the epochs takes minutes: a note says what, and no epoch goes on.
    if (
        row["state"] == "running"
        and epochs
        and epochs_done >= int(now["epoch"])
        and _is_note_since(last, epochs[-1])
    ):
        return title, output.printable(last["detail"]), total, total
    # A report may be older than the row of the epoch that it is about.
    done = max(
        per_epoch * (int(now["epoch"]) - 1) + int(now["films_done"]), per_epoch * epochs_done
    )
    text = f"epoch {min(done // per_epoch + 1, asked)}/{asked}, loss {now['loss']:.3f}"
    if row["state"] == "running" and now["films_per_s"] > 0:
        left_s = (total - done) / now["films_per_s"]
        text += f", {now['films_per_s']:.1f} films/s, {output.seconds(left_s)} left"
    return title, text, done, total


def _is_note_since(event: Mapping[Any, Any], epoch: sa.RowMapping) -> bool:
    return event.get("event") == "note" and bool(event["at"] >= epoch["finished_at"])


def _print_epochs(rows: Sequence[sa.RowMapping], shown: dict[int, Any], display: Display) -> None:
    """Print epochs that are new, or that a later attempt has made again."""
    for row in rows:
        if shown.get(row["epoch"]) == row["finished_at"]:
            continue
        if not shown:
            display.line(EPOCH_HEADER)
        shown[row["epoch"]] = row["finished_at"]
        display.line(epoch_line(row))


def epoch_line(row: Any) -> str:
    """One epoch under EPOCH_HEADER."""
    return (
        f"{row['epoch']:5d}  {row['train_loss']:10.4f}  {row['val_loss']:8.4f}  "
        f"{row['val_accuracy']:8.4f}  {row['val_auroc']:6.4f}  {row['learning_rate']:8.2e}  "
        f"{row['films_per_s']:7.1f}  {row['seconds']:7.1f}"
    ) + ("  best" if row["best"] else "")
