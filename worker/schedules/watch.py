"""Watched folders: a schedule scores what is new in them, each file once.

A file is taken when neither its size nor its time has changed for a while: until then whoever
copies it may not be done. It is remembered by content, so that a file that is renamed, or comes
again, is not scored twice.

Folders are asked in processes that can be given up (`worker.archive.apart`), and those of several
schedules at the same time: a share that gives no answer fails its own run, and keeps no other.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from db.base import database, outbox, workers
from db.base.errors import Conflict, LeaseLost, NotFound
from db.nightly import runs, schedules, watched
from db.nightly.watched import Seen, Waiting
from db.queue import listings, outages
from db.registry import aliases
from worker import wakeup
from worker.archive.names import display
from worker.config import Settings
from worker.errors import ArchiveError, PrecisionRefused, ReaderEnded, SourceTrouble
from worker.machine import privacy
from worker.schedules import fleet, inbox
from worker.schedules.disks import Disks

log = logging.getLogger(__name__)

#: Why a file is not taken whose path neither a database nor a list can hold.
ODD = "names, or folders' names, that are no UTF-8 or have line breaks"

#: Why what is in a linked folder is not taken.
LINKED = "a linked folder, which is not entered"

#: Why what alone gives no answer is not taken, nor anything in it.
SILENT = "gives no answer; see to its disk or share"

#: Why a file is not taken any more.
GIVEN_UP = f"given up after {watched.MAX_ATTEMPTS} attempts"

#: A file is unchanged for so many seconds before it is taken, where the schedule does not say.
SETTLE_S = 60

#: Schedules whose folders are looked through at the same time.
LOOKS = 8


def run(settings: Settings, engine: sa.Engine, who: str) -> None:
    """A chore: look through the folders of runs that are due.

    A worker that only trains leaves it to those that score: it need not have the folders.
    """
    if workers.listens(engine, who, "score") is False:
        return
    found = deque(runs.in_state(engine, "due"))

    def look() -> None:
        while found:
            with contextlib.suppress(IndexError):  # another has taken the last one
                _run(settings, engine, who, found.popleft())

    # Not of a pool, which a worker that ends would wait for.
    threads = [
        threading.Thread(target=look, name="look", daemon=True)
        for _ in range(min(len(found), LOOKS))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _run(settings: Settings, engine: sa.Engine, who: str, due: sa.RowMapping) -> None:
    """Look through the folders of one run; what keeps it from that is the next time's."""
    try:
        _run_once(settings, engine, who, due)
    except Exception as error:
        if database.away(error):
            log.warning("schedule %s: the database could not be reached", due["name"])
        else:
            log.exception("schedule %s: looking failed; the next time comes", due["name"])


def _run_once(settings: Settings, engine: sa.Engine, who: str, due: sa.RowMapping) -> None:
    """Look through the folders of one run, if that is this worker's to do."""
    # What this process began before, and did not end, is its own to begin anew.
    there = workers.alive_ids(engine, settings.lease_s) - {who}
    if who in (due["blind"] or ()) and _others(engine, due, who):
        return  # it could not look; another may
    if not database.write(
        engine, lambda c: watched.claim(c, due["id"], who, there, _settle_s(due))
    ):
        return
    try:
        reason, away = _outcome(settings, engine, who, due)
        if reason is None:
            return
        # Why may be a folder's path, which is in the run's reason.
        log.warning("schedule %s: its folders were not looked through", due["name"])
        if away and _others(engine, due, who):
            database.write(engine, lambda c: watched.leave(c, due["id"], who))
            return
        database.write(engine, lambda c: _fail(c, due, who, reason, away=away))
    except LeaseLost as error:
        log.info("%s", error)


def _settle_s(due: sa.RowMapping) -> float:
    return float(due["spec"].get("watch", {}).get("settle_s", SETTLE_S))


def _others(engine: sa.Engine, due: sa.RowMapping, who: str) -> set[str]:
    """Workers that score and are there, and have not found yet that they cannot look."""
    alive = {str(row["id"]) for row in workers.alive(engine, "score")}
    return alive - {who, *(due["blind"] or ())}


def _outcome(
    settings: Settings, engine: sa.Engine, who: str, due: sa.RowMapping
) -> tuple[str | None, bool]:
    """Look; returns why the run has failed, or None, and whether its folders cannot be read here.

    What was not foreseen fails this run too: it would be met again at each look, and no other
    schedule's folders would be looked through.
    """
    try:
        _look(settings, engine, who, due)
    except LeaseLost:
        raise
    except SourceTrouble as error:
        return str(error), True
    except (ArchiveError, NotFound, Conflict, PrecisionRefused) as error:
        return str(error), False
    except Exception as error:
        if database.away(error):
            raise
        log.exception("schedule %s: its folders cannot be looked through", due["name"])
        reason = (
            f"looking through the folders failed ({type(error).__name__}); a worker's log says why"
        )
        return reason, False
    return None, False


def _fail(
    connection: sa.Connection, due: sa.RowMapping, who: str, reason: str, *, away: bool
) -> None:
    watched.fence(connection, due["id"], who)
    if not runs.finish(connection, due["id"], "failed", reason):
        return
    if away:
        # Looks come every few minutes: one notice for all of them.
        outages.begin(connection, reason, run_id=due["id"], schedule_id=due["schedule_id"])
    else:
        outbox.add(connection, "failed", run_id=due["id"])


def _look(settings: Settings, engine: sa.Engine, who: str, due: sa.RowMapping) -> None:
    """Take what is new and unchanged for long enough.

    Raises ArchiveError, above all SourceTrouble, NotFound and LeaseLost.
    """
    run_id, schedule_id, spec = int(due["id"]), int(due["schedule_id"]), due["spec"]
    folders = [Path(folder) for folder in spec["job"]["sources"]]
    disks = Disks(folders, settings.film_deadline_s)
    settle_s = _settle_s(due)
    # By path: one folder may be below another.
    there: dict[str, Seen] = {}
    linked: dict[str, str] = {}
    silent: dict[str, str] = {}
    for folder in folders:
        found, aside = disks.files(folder)
        silent |= dict.fromkeys(aside, SILENT)
        below: dict[str, Seen] = {}
        for seen in found:
            if seen.size == inbox.LINKED:
                linked[seen.path] = LINKED
            else:
                below[seen.path] = seen
        if not below:
            _check_mounted(engine, schedule_id, folder, disks)
        there |= below
    odd = [path for path in there if not inbox.can_be_kept(path)]
    found = [there[path] for path in there.keys() - set(odd)]
    watched.observe(engine, run_id, who, schedule_id, found)
    at = schedules.database_clock(engine)
    settled = timedelta(seconds=settle_s)
    given_up = [path for path in watched.given_up(engine, schedule_id) if path in there]
    new = [file for file in watched.waiting(engine, schedule_id) if file.path in there]
    growing = [file for file in new if at - file.since < settled]
    if growing and due["not_before"] is None:
        # One more look: what is still growing then is the next run's.
        database.write(engine, lambda c: watched.again(c, run_id, who, settle_s))
        return
    unchanged = [file for file in new if at - file.since >= settled]
    fresh, unread = _read(engine, who, run_id, schedule_id, unchanged, list(there), disks)
    ready, broken, later = _open(fresh, disks)
    why = {"odd": dict.fromkeys(odd, ODD), "unread": unread, "broken": broken, "later": later}
    why |= {"linked": linked, "silent": silent, "given_up": dict.fromkeys(given_up, GIVEN_UP)}
    problems = _counted(why)
    if problems:
        kept = _keep(
            settings, schedule_id, {p: r for found in why.values() for p, r in found.items()}
        )
        problems.append(kept)
        log.warning("schedule %s: %s", due["name"], "; ".join(problems))
    if broken:
        attempts = {file.path: file.attempts for file in unchanged if file.path in broken}
        database.write(
            engine, lambda c: watched.failed_again(c, run_id, who, schedule_id, attempts)
        )
    if growing:
        problems.append(f"{len(growing)} still growing")
    if not ready:
        reason = "; ".join([f"no new file in {', '.join(map(str, folders))}", *problems])
        database.write(engine, lambda c: _skip_run(c, run_id, who, schedule_id, reason))
        return
    rows, paths = _sources(disks, ready)
    model = aliases.resolve(engine, spec["job"]["model"])
    machines = fleet.there(engine, spec["engine"])
    pinned = fleet.pin(engine, model["id"], spec["precision"], machines)
    job_id = database.write(
        engine,
        lambda c: watched.take(
            c, run_id, who, schedule_id, paths,
            spec={**spec["job"], "sources": [row["uri"] for row in rows]},
            submitted_by=f"schedule {due['name']}",
            model_id=model["id"],
            precision=pinned.precision,
            engine=spec["engine"],
            priority=int(spec.get("priority", 0)),
            share=spec.get("share"),
            scheduled_for=due["scheduled_for"],
            source_rows=rows,
            reason="; ".join(problems) or None,
        ),
    )  # fmt: skip
    log.info("schedule %s: job %d takes %d files", due["name"], job_id, len(paths))
    wakeup.notify(settings, "score")


def _check_mounted(engine: sa.Engine, schedule_id: int, folder: Path, disks: Disks) -> None:
    """Raise SourceTrouble for a folder without any entry where files of it wait: a mount point."""
    waits = [path for path in watched.unfinished(engine, schedule_id)
             if Path(path).is_relative_to(folder)]  # fmt: skip
    if waits and disks.ask(str(folder), inbox.has_none, str(folder)):
        raise SourceTrouble(
            "empty",
            f"{folder} is empty, though {len(waits)} files in it are not done; mount its disk or "
            "share, or put a file into it",
        )


def _skip_run(
    connection: sa.Connection, run_id: int, who: str, schedule_id: int, reason: str
) -> None:
    watched.fence(connection, run_id, who)
    # Of a job that is made, what it reads ends the outage.
    outages.end(connection, run_id=run_id, schedule_id=schedule_id)
    # No news: hooks would get it every few minutes.
    runs.finish(connection, run_id, "skipped", reason, hook_text=None)


def _counted(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """How many files were not taken, by why; a file's name is not for a sentence."""
    said = {
        "odd": f"{ODD}; rename them",
        "unread": "cannot be read; see to their disk, or let the workers' user read them",
        "broken": "archives that cannot be read; copy them again, or pack them as .zip",
        "later": "cannot be opened now",
        "silent": "files or folders that give no answer; see to their disk or share",
        "given_up": f"{GIVEN_UP}; copy them again to have them tried",
        "linked": "linked folders, which are not entered; give the schedule what they lead to",
    }
    return [f"{len(files)} not taken: {said[why]}" for why, files in found.items() if files]


def _keep(settings: Settings, schedule_id: int, why: Mapping[str, str]) -> str:
    """Keep here which files were not taken, and say where that is."""
    rows = [(display(path), reason) for path, reason in sorted(why.items())]
    try:
        path = privacy.keep_untaken(settings.home, schedule_id, rows)
    except OSError as error:
        return f"which they are cannot be kept in PNEUMOQ_HOME ({error.strerror}); make room there"
    return f"{privacy.where(settings.home, path)} names them"


def _read(
    engine: sa.Engine,
    who: str,
    run_id: int,
    schedule_id: int,
    unchanged: list[Waiting],
    there: Sequence[str],
    disks: Disks,
) -> tuple[list[Waiting], dict[str, str]]:
    """Of unchanged files, those whose content was not taken before, each content once.

    Also which files cannot be read, and why. Raises SourceTrouble where none can, nor any other of
    those that are `there`, or where a whole share gives no answer.
    """
    chosen: set[str] = set()
    fresh: list[Waiting] = []
    unread: dict[str, str] = {}
    silent: SourceTrouble | None = None
    for file in unchanged:
        try:
            content = file.content or disks.ask(
                file.path, inbox.content, file.path, file.size, file.mtime_ns
            )
        except OSError as error:
            unread[file.path] = f"cannot be read ({error.strerror})"
            continue
        except SourceTrouble as error:
            if disks.all_troubled(error, file.path):
                raise
            silent, unread[file.path] = error, str(error)
            continue
        if content is None:
            continue  # it changed after all: the next run's
        again = watched.taken_before(engine, schedule_id, content)
        if again or file.content is None:
            database.write(
                engine,
                lambda c, f=file, d=content, a=again: watched.read(  # type: ignore[misc]
                    c, run_id, who, schedule_id, f.path, d, taken_before=a
                ),
            )
        # Another of the same content waits until a job has this one: there may come to be none.
        if not again and content not in chosen:
            chosen.add(content)
            fresh.append(file)
    if unread and len(unread) == len(unchanged):
        others = [path for path in there if path not in unread][: inbox.WITNESSES]
        if not any(disks.can_read(path) for path in others):
            first = next(iter(unread.values()))
            raise silent or SourceTrouble(
                "unreadable", f"a file {first}, nor any other; see to its disk or share"
            )
    return fresh, unread


def _open(
    ready: list[Waiting], disks: Disks
) -> tuple[list[tuple[Waiting, inbox.Opened | None]], dict[str, str], dict[str, str]]:
    """Which of these files are archives, and of what kind; the others are films by themselves.

    Without archives that cannot be opened, or, where their job failed, listed to their end: why
    not, by path. And without what the system does not let be opened now, and why, which is no
    attempt. So a damaged archive costs what came with it one job at most. Raises SourceTrouble
    where nothing can be opened.
    """
    found: list[tuple[Waiting, inbox.Opened | None]] = []
    broken: dict[str, str] = {}
    later: dict[str, str] = {}
    for file in ready:
        try:
            found.append((file, _opened(disks, file)))
        except SourceTrouble as error:
            if disks.all_troubled(error, file.path):
                raise
            later[file.path] = str(error)
        except ArchiveError as error:
            broken[file.path] = str(error)
    if later and len(later) == len(ready):
        raise SourceTrouble(
            "unreadable",
            f"none of {len(ready)} new files can be opened; see to their disk or share",
        )
    return found, broken, later


def _opened(disks: Disks, file: Waiting) -> inbox.Opened | None:
    """What `inbox.opened` says of a file; to its end where its job failed."""
    try:
        found = disks.ask(file.path, inbox.opened, file.path, file.attempts > 0)
    except ReaderEnded:
        if file.attempts or disks.ask(file.path, inbox.is_packed, file.path):
            raise
        return None  # it ends whoever reads it: as an item it is in error by itself
    return None if found is None else inbox.Opened(*found)


def _sources(
    disks: Disks, ready: list[tuple[Waiting, inbox.Opened | None]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Columns of `sources` for these files, and their paths: an archive is a source of its own, and
    all films of a folder are one."""
    rows: list[dict[str, Any]] = []
    loose: dict[Path, list[str]] = {folder: [] for folder in disks.folders}
    for file, opened in ready:
        if opened is not None:
            rows.append({**opened._asdict(), "paths": None})
            continue
        path = Path(file.path)
        folder = next(f for f in disks.folders if path.is_relative_to(f))
        loose[folder].append(str(path.relative_to(folder)))
    for folder, names in loose.items():
        if names:
            rows.append(
                {
                    "uri": str(folder),
                    "kind": "list",
                    "fingerprint": disks.ask(str(folder), inbox.fingerprint, str(folder), names),
                    "content_id": None,
                    "paths": listings.pack_paths(names),
                }
            )
    return rows, [file.path for file, _ in ready]
