"""Watched folders: a schedule scores what is new in them, each file once.

A file is taken when neither its size nor its time has changed for a while: until then whoever
copies it may not be done. It is remembered by content, so that a file that is renamed, or comes
again, is not scored twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
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
from worker import archive, wakeup
from worker.archive.folder import is_empty
from worker.archive.names import display
from worker.config import Settings
from worker.errors import ArchiveError, PrecisionRefused, SourceTrouble
from worker.schedules import fleet, inbox

log = logging.getLogger(__name__)

#: A file is unchanged for so many seconds before it is taken, where the schedule does not say.
SETTLE_S = 60


def run(settings: Settings, engine: sa.Engine, who: str) -> None:
    """A chore: look through the folders of runs that are due.

    A worker that only trains leaves it to those that score: it need not have the folders.
    """
    if workers.listens(engine, who, "score") is False:
        return
    for due in runs.in_state(engine, "due"):
        # What this process began before, and did not end, is its own to begin anew.
        there = workers.alive_ids(engine, settings.lease_s) - {who}
        if who in (due["blind"] or ()) and _others(engine, due, who):
            continue  # it could not look; another may
        mine = database.write(
            engine,
            lambda c, d=due, t=there: watched.claim(c, d["id"], who, t, _settle_s(d)),  # type: ignore[misc]
        )
        if not mine:
            continue
        try:
            reason, away = _outcome(settings, engine, who, due)
            if reason is None:
                continue
            log.warning("schedule %s: %s", due["name"], reason)
            if away and _others(engine, due, who):
                database.write(engine, lambda c, d=due: watched.leave(c, d["id"], who))  # type: ignore[misc]
                continue
            database.write(
                engine,
                lambda c, d=due, r=reason, a=away: _fail(c, d, who, r, away=a),  # type: ignore[misc]
            )
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
    except (inbox.Unreadable, SourceTrouble) as error:
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
    """Take what is new and unchanged for long enough; raises Unreadable, NotFound and LeaseLost."""
    run_id, schedule_id, spec = int(due["id"]), int(due["schedule_id"]), due["spec"]
    folders = [Path(folder) for folder in spec["job"]["sources"]]
    settle_s = _settle_s(due)
    # By path: one folder may be below another.
    there: dict[str, Seen] = {}
    for folder in folders:
        below = {seen.path: seen for seen in inbox.files(folder)}
        if not below:
            _check_mounted(engine, schedule_id, folder)
        there |= below
    odd = [path for path in there if not inbox.can_be_kept(path)]
    found = [there[path] for path in there.keys() - set(odd)]
    watched.observe(engine, run_id, who, schedule_id, found)
    at = schedules.database_clock(engine)
    settled = timedelta(seconds=settle_s)
    new = [file for file in watched.waiting(engine, schedule_id) if file.path in there]
    growing = [file for file in new if at - file.since < settled]
    if growing and due["not_before"] is None:
        # One more look: what is still growing then is the next run's.
        database.write(engine, lambda c: watched.again(c, run_id, who, settle_s))
        return
    unchanged = [file for file in new if at - file.since >= settled]
    ready, unread = _read(engine, who, run_id, schedule_id, unchanged, list(there))
    ready, broken, later = _without_broken(ready)
    problems = [*_odd(odd), *unread, *broken.values(), *later]
    for line in problems:
        log.warning("schedule %s: %s", due["name"], line)
    if broken:
        database.write(
            engine, lambda c: watched.failed_again(c, run_id, who, schedule_id, list(broken))
        )
    if not ready:
        if growing:
            problems.append(f"{len(growing)} still growing")
        reason = "; ".join([f"no new file in {', '.join(map(str, folders))}", *problems])
        database.write(engine, lambda c: _skip_run(c, run_id, who, schedule_id, reason))
        return
    rows, paths = _sources(folders, ready)
    model = aliases.resolve(engine, spec["job"]["model"])
    on = fleet.kind_of_fleet(engine, spec["engine"])
    pinned = fleet.pin(engine, model["id"], spec["precision"], on)
    job_id = database.write(
        engine,
        lambda c: watched.take(
            c, run_id, who, schedule_id, paths,
            spec={**spec["job"], "sources": [row["uri"] for row in rows]},
            submitted_by=f"schedule {due['name']}",
            model_id=model["id"],
            precision=pinned,
            engine=spec["engine"],
            priority=int(spec.get("priority", 0)),
            scheduled_for=due["scheduled_for"],
            source_rows=rows,
        ),
    )  # fmt: skip
    log.info("schedule %s: job %d takes %d files", due["name"], job_id, len(paths))
    wakeup.notify(settings, "score")


def _check_mounted(engine: sa.Engine, schedule_id: int, folder: Path) -> None:
    """Raise Unreadable for a folder without any entry where files of it wait: a mount point."""
    waits = [path for path in watched.unfinished(engine, schedule_id)
             if Path(path).is_relative_to(folder)]  # fmt: skip
    if waits and is_empty(str(folder)):
        raise inbox.Unreadable(
            f"{folder} is empty, though {len(waits)} files in it are not done; mount its disk or "
            "share, or put a file into it"
        )


def _skip_run(
    connection: sa.Connection, run_id: int, who: str, schedule_id: int, reason: str
) -> None:
    watched.fence(connection, run_id, who)
    # Of a job that is made, what it reads ends the outage.
    outages.end(connection, run_id=run_id, schedule_id=schedule_id)
    # No news: hooks would get it every few minutes.
    runs.finish(connection, run_id, "skipped", reason, hook_text=None)


def _odd(paths: Sequence[str]) -> Iterator[str]:
    """Which files have paths that cannot be kept, in words, if there are any."""
    if paths:
        yield (
            f"{len(paths)} not taken whose names, or folders' names, are no UTF-8 or have line "
            f"breaks, such as {display(min(paths))}; rename them"
        )


def _read(
    engine: sa.Engine,
    who: str,
    run_id: int,
    schedule_id: int,
    unchanged: list[Waiting],
    there: Sequence[str],
) -> tuple[list[Waiting], list[str]]:
    """Of unchanged files, those whose content was not taken before, each content once.

    Also which files cannot be read, in words. Raises Unreadable where none can, nor any other of
    those that are `there`.
    """
    known = watched.known_contents(engine, schedule_id)
    chosen: set[str] = set()
    fresh: list[Waiting] = []
    unread: list[str] = []
    tried: set[str] = set()
    for file in unchanged:
        try:
            content = file.content or inbox.content(file)
        except OSError as error:
            unread.append(f"{file.path} cannot be read ({error.strerror})")
            tried.add(file.path)
            continue
        if content is None:
            continue  # it changed after all: the next run's
        again = content in known
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
        others = [path for path in there if path not in tried][: inbox.WITNESSES]
        if not any(map(inbox.can_be_read, others)):
            raise inbox.Unreadable(f"{unread[0]}, nor any other file; see to its disk or share")
    if len(unread) > 1:
        unread = [f"{unread[0]}, and {len(unread) - 1} more; let the workers' user read them"]
    return fresh, unread


def _without_broken(
    ready: list[Waiting],
) -> tuple[list[Waiting], dict[str, str], list[str]]:
    """Without archives that cannot be listed to their end, of those whose job failed; why not, by
    path. And without what the system does not let be opened now, in words, which is no attempt.

    So a damaged archive costs what came with it one job, and not the next ones too. Raises
    SourceTrouble where nothing can be opened.
    """
    broken: dict[str, str] = {}
    later: dict[str, SourceTrouble] = {}
    for file in ready:
        try:
            with archive.open_source(file.path) as source:
                if file.attempts and source.kind != "file":
                    for _ in source.members():
                        pass
        except SourceTrouble as error:
            later[file.path] = error
        except ArchiveError as error:
            # What is unsupported is an item, with an error of its own.
            if file.attempts and error.code != "unsupported":
                broken[file.path] = str(error)
    if later and len(later) == len(ready):
        raise next(iter(later.values()))
    kept = [file for file in ready if file.path not in broken and file.path not in later]
    return kept, broken, [str(error) for error in later.values()]


def _sources(folders: list[Path], ready: list[Waiting]) -> tuple[list[dict[str, Any]], list[str]]:
    """Columns of `sources` for these files, and their paths: an archive is a source of its own, and
    all films of a folder are one."""
    rows: list[dict[str, Any]] = []
    loose: dict[Path, list[str]] = {folder: [] for folder in folders}
    for file in ready:
        path = Path(file.path)
        try:
            with archive.open_source(file.path) as source:
                if source.kind != "file":
                    rows.append(
                        {
                            "uri": source.uri,
                            "kind": source.kind,
                            "fingerprint": source.fingerprint(),
                            "content_id": source.content_id(),
                            "paths": None,
                        }
                    )
                    continue
        except SourceTrouble:
            raise
        except ArchiveError:
            pass  # read as an item by itself, it gets an error of its own
        folder = next(f for f in folders if path.is_relative_to(f))
        loose[folder].append(str(path.relative_to(folder)))
    for folder, names in loose.items():
        if names:
            with archive.open_source(str(folder), "list", names) as source:
                rows.append(
                    {
                        "uri": str(folder),
                        "kind": "list",
                        "fingerprint": source.fingerprint(),
                        "content_id": None,
                        "paths": listings.pack_paths(names),
                    }
                )
    return rows, [file.path for file in ready]
