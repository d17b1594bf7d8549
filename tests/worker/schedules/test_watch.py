"""Watched folders: what is new is scored once, and what still grows is left alone."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.base import database as connecting
from db.base import workers
from db.base.database import reading, write
from db.base.schema import notices, sources
from db.nightly import runs, schedules
from db.queue import jobs, listings
from db.work import claims, patience
from tests.support import servers
from tests.support.broken import mounts
from tests.support.site import site
from tests.worker import samples
from tests.worker.schedules.inboxes import Inbox, films, hello, told
from trainer.card import Card
from worker import archive
from worker.archive import apart
from worker.errors import ArchiveError, MemberError
from worker.machine.heartbeat import Heartbeat
from worker.machine.privacy import Privacy
from worker.schedules.inbox import files as listed
from worker.scoring.planning import Planner


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """SQLite: nothing here has to do with the database."""
    return sqlite_url


def plan(database: sa.Engine, job_id: int) -> list[str]:
    """Plan a job as a worker does; the names of its items in order."""
    claimed = write(database, lambda c: claims.claim_job(c, "score", "planner", lease_s=60))
    assert claimed is not None and claimed.lease.job_id == job_id
    heartbeat = Heartbeat(database, "planner", lease_s=60)
    heartbeat.hold(claimed.lease)
    Planner(
        database,
        claimed,
        heartbeat,
        threading.Event(),
        lambda times: None,
        lambda: None,
        Privacy(b"the key of a site"),
    ).join()
    with reading(database) as connection:
        found = listings.after(connection, job_id, -1)
    return [member.name for shard in found for member in archive.unpack(shard.listing)]


def sql(database: sa.Engine, statement: str) -> None:
    with connecting.writing(database) as connection:
        connection.exec_driver_sql(statement)


def test_a_file_that_grows_is_left_alone_and_taken_once_it_has_stopped(inbox: Inbox) -> None:
    one, two = films(2)
    inbox.put("done.jpg", one)
    path = inbox.put("growing.jpg", two[:100])
    run_id = inbox.due()
    inbox.look()
    assert runs.get(inbox.engine, run_id)["state"] == "due", "nothing has settled yet"
    inbox.look()
    assert runs.get(inbox.engine, run_id)["state"] == "due", "it is too early for a second look"
    inbox.later()
    path.write_bytes(two)
    inbox.look()
    run = runs.get(inbox.engine, run_id)
    assert run["state"] == "running"
    assert inbox.files() == {"done.jpg": ("taken", 1), "growing.jpg": ("seen", 0)}
    job = jobs.get(inbox.engine, run["job_id"])
    assert (job["kind"], job["priority"], job["model_id"]) == ("score", 3, 1)
    assert (job["schedule_id"], job["scheduled_for"]) == (1, run["scheduled_for"])
    inbox.close(run, "completed")
    assert runs.get(inbox.engine, run_id)["outcome"] == "completed"

    second = inbox.night()
    assert inbox.files() == {"done.jpg": ("done", 1), "growing.jpg": ("taken", 1)}
    inbox.close(second, "completed_with_errors")
    third = inbox.night()
    assert third["outcome"] == "skipped"
    assert third["reason"] == f"no new file in {inbox.folder}"
    assert told(inbox.engine) == ["completed_with_errors"], "that nothing arrived is no news"


def test_the_same_content_is_not_scored_twice_whatever_it_is_called(inbox: Inbox) -> None:
    (one,) = films(1)
    inbox.put("a.jpg", one)
    inbox.put("copy of a.jpg", one)
    run = inbox.night()
    assert sorted(state for state, _ in inbox.files().values()) == ["seen", "taken"]
    inbox.close(run, "completed")
    (inbox.folder / "a.jpg").rename(inbox.folder / "renamed.jpg")
    inbox.put("sub/again.jpg", one)
    assert inbox.night()["outcome"] == "skipped"
    # Other content under an old name is new.
    inbox.put("renamed.jpg", films(1, seed=9)[0])
    assert inbox.night()["state"] == "running"


def test_what_is_hidden_unfinished_or_clutter_is_passed_over(inbox: Inbox) -> None:
    (one,) = films(1)
    for name in (".hidden.jpg", "a.jpg.part", "b.tmp", "c.crdownload", "Thumbs.db", "d.jpg~",
                 ".sync/e.jpg", "__MACOSX/f.jpg"):  # fmt: skip
        inbox.put(name, one)
    inbox.put("empty.jpg", b"")
    assert inbox.night()["outcome"] == "skipped"
    assert inbox.files() == {}


def test_archives_are_sources_of_their_own_and_loose_films_are_one(
    inbox: Inbox, tmp_path: Path
) -> None:
    loose, packed = films(3), films(4, seed=5)
    for number, data in enumerate(loose):
        inbox.put(f"ward/{number}.jpg", data)
    with zipfile.ZipFile(inbox.folder / "more.zip", "w") as archive:
        for number, data in enumerate(packed):
            archive.writestr(f"{number}.jpg", data)
    run = inbox.night()
    with reading(inbox.engine) as connection:
        rows = connection.execute(
            sa.select(sources.c.kind, sources.c.uri).where(sources.c.job_id == run["job_id"])
        ).all()
    assert [tuple(row) for row in rows] == [
        ("zip", str(inbox.folder / "more.zip")), ("list", str(inbox.folder)),
    ]  # fmt: skip


def test_what_failed_comes_again_with_what_is_new_and_at_most_three_times(inbox: Inbox) -> None:
    one, two, three = films(3)
    inbox.put("0.jpg", one)
    inbox.close(inbox.night(), "failed")
    assert inbox.files() == {"0.jpg": ("seen", 1)}
    inbox.put("1.jpg", two)
    inbox.close(inbox.night(), "cancelled")
    inbox.put("2.jpg", three)
    inbox.close(inbox.night(), "failed")
    assert inbox.files() == {"0.jpg": ("given_up", 3), "1.jpg": ("seen", 2), "2.jpg": ("seen", 1)}
    inbox.close(inbox.night(), "completed")
    assert inbox.files() == {"0.jpg": ("given_up", 3), "1.jpg": ("done", 3), "2.jpg": ("done", 2)}
    assert inbox.night()["outcome"] == "skipped"


def test_an_archive_cut_short_costs_what_came_with_it_one_job(inbox: Inbox) -> None:
    one, two = films(2)
    with tarfile.open(inbox.folder / "cut.tar", "w") as archive:
        for number in range(2):
            archive.addfile(_member(f"{number}.jpg", len(two)), io.BytesIO(two))
    inbox.put("cut.tar", (inbox.folder / "cut.tar").read_bytes()[: len(two) + 1024])
    inbox.put("good.jpg", one)
    run = inbox.night()
    assert {state for state, _ in inbox.files().values()} == {"taken"}
    inbox.close(run, "failed")
    run = inbox.night()
    assert inbox.files() == {"cut.tar": ("seen", 2), "good.jpg": ("taken", 2)}
    inbox.close(run, "completed")
    last = inbox.night()
    assert last["outcome"] == "skipped"
    assert "1 not taken: archives that cannot be read" in last["reason"]
    assert "cut.tar" not in last["reason"] and "names/schedule-1.csv on " in last["reason"]
    assert f"{inbox.folder}/cut.tar" in inbox.untaken(), "it says what is wrong with it"
    assert inbox.files()["cut.tar"] == ("given_up", 3)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def test_a_copy_is_scored_where_the_job_failed_and_the_first_is_gone(inbox: Inbox) -> None:
    (one,) = films(1)
    inbox.put("a.jpg", one)
    inbox.put("b.jpg", one)
    inbox.close(inbox.night(), "failed")
    (inbox.folder / "a.jpg").unlink()
    inbox.close(inbox.night(), "completed")
    assert inbox.files()["b.jpg"] == ("done", 1)


def test_a_folder_below_another_is_looked_through_once(inbox: Inbox) -> None:
    inbox.put("ward/a.jpg", films(1)[0])
    inbox.watches(inbox.folder, inbox.folder / "ward", inbox.folder)
    assert inbox.night()["state"] == "running"
    assert inbox.files() == {"a.jpg": ("taken", 1)}


def test_names_that_cannot_be_kept_are_told_of_and_hold_up_no_others(inbox: Inbox) -> None:
    one, two, three = films(3)
    latin = os.fsencode(inbox.folder) + b"/M\xfcller"
    os.mkdir(latin)  # noqa: PTH102  # a Path of bytes there is not
    inbox.put(f"{os.fsdecode(latin)}/a.jpg", one)
    inbox.put("two\nlines/b.jpg", two)
    inbox.put("c.jpg", three)
    inbox.close(inbox.night(), "completed")
    assert inbox.files() == {"c.jpg": ("done", 1)}
    reason = inbox.night()["reason"]
    assert "2 not taken" in reason
    assert "ller" not in reason and "rename them" in reason
    assert "M\\xfcller" in inbox.untaken()


def test_linked_folders_and_what_systems_leave_are_not_taken_and_links_are_counted(
    inbox: Inbox, tmp_path: Path
) -> None:
    one, two, three = films(3)
    inbox.put("a.jpg", one)
    for n, name in enumerate(("@eaDir", "#recycle", ".snapshot/hourly", "lost+found")):
        inbox.put(f"{name}/b{n}.jpg", two + bytes(n))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.jpg").write_bytes(three)
    (inbox.folder / "a link").symlink_to(tmp_path / "elsewhere")
    (inbox.folder / "loop").symlink_to(inbox.folder)
    inbox.close(inbox.night(), "completed")
    assert inbox.files() == {"a.jpg": ("done", 1)}
    reason = inbox.night()["reason"]
    assert "2 not taken: linked folders, which are not entered; give the schedule what" in reason
    assert "a link" not in reason
    assert "a link" in inbox.untaken()


def test_a_run_that_cannot_be_fails_and_other_schedules_are_looked_at(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.put("a.jpg", films(1)[0])
    with connecting.writing(inbox.engine) as connection:
        connection.exec_driver_sql("UPDATE models SET state = 'retired'")
        connection.exec_driver_sql("DELETE FROM model_chunks")
    run = inbox.night()
    assert run["outcome"] == "failed", "it is not tried again at every sweep"
    assert "is retired" in run["reason"]

    with connecting.writing(inbox.engine) as connection:
        connection.exec_driver_sql("""UPDATE schedules SET spec = '{"job": {}}'""")
    foreign = inbox.due()
    other = Inbox(inbox.settings, inbox.engine, tmp_path / "other", "other")
    run_id = other.due()
    inbox.look()
    bad = runs.get(inbox.engine, foreign)
    assert (bad["outcome"], "KeyError" in bad["reason"]) == ("failed", True)
    assert runs.get(inbox.engine, run_id)["outcome"] == "skipped"


def test_a_worker_that_only_trains_does_not_look(inbox: Inbox) -> None:
    inbox.folder.rename(inbox.folder.with_name("mounted elsewhere"))
    write(
        inbox.engine,
        lambda c: workers.register(
            c, "trains", host="h", pid=2, queues="train", engine=None, versions={}
        ),
    )
    run_id = inbox.due()
    inbox.look("trains")
    assert runs.get(inbox.engine, run_id)["state"] == "due"


def test_a_removed_schedule_does_not_take_what_it_waited_for(inbox: Inbox) -> None:
    inbox.put("a.jpg", films(1)[0])
    run_id = inbox.due()
    inbox.look()
    write(inbox.engine, lambda c: schedules.remove(c, "inbox"))
    inbox.later()
    inbox.look()
    run = runs.get(inbox.engine, run_id)
    assert (run["outcome"], run["job_id"]) == ("cancelled", None)


def test_a_looker_that_lives_is_left_to_it_and_one_that_vanished_is_replaced(inbox: Inbox) -> None:
    inbox.put("a.jpg", films(1)[0])
    run_id = inbox.due()
    with connecting.writing(inbox.engine) as connection:
        connection.exec_driver_sql("UPDATE runs SET worker_id = 'w'")
    inbox.look("other")
    assert runs.get(inbox.engine, run_id)["worker_id"] == "w"
    assert inbox.files() == {}
    write(inbox.engine, lambda c: workers.deregister(c, "w"))
    inbox.look("other")
    assert inbox.files() == {"a.jpg": ("seen", 0)}


def test_a_folder_that_is_not_there_fails_the_run_and_hooks_hear_no_path(inbox: Inbox) -> None:
    inbox.folder.rename(inbox.folder.with_name("elsewhere"))
    run_id = inbox.due()
    inbox.look()
    run = runs.get(inbox.engine, run_id)
    assert run["outcome"] == "failed"
    assert str(inbox.folder) in run["reason"]
    assert "mount it" in run["reason"]
    with reading(inbox.engine) as connection:
        (payload,) = connection.execute(sa.select(notices.c.payload)).scalars()
    assert payload["event"] == "failed"
    assert "inbox/" not in str(payload) and str(inbox.folder) not in str(payload)


def test_an_outage_of_three_looks_gives_no_file_up_and_is_two_notices(inbox: Inbox) -> None:
    with mounts.disk(inbox.folder) as disk:
        for number, data in enumerate(films(2)):
            inbox.put(f"{number}.jpg", data)
        run = inbox.night()
        job_id = run["job_id"]
        disk.unmount()
        assert plan(inbox.engine, job_id) == []
        sql(inbox.engine, "UPDATE sources SET trouble_at = '2026-01-01T00:00:00.000Z'")
        assert write(inbox.engine, lambda c: patience.look(c, job_id, "w"))
        assert jobs.get(inbox.engine, job_id)["state"] == "paused"
        for _ in range(3):
            run_id = inbox.ticks()
            inbox.look()
            look = runs.get(inbox.engine, run_id)
            assert (look["outcome"], "is empty" in look["reason"]) == ("failed", True)
            assert inbox.files() == {"0.jpg": ("seen", 0), "1.jpg": ("seen", 0)}
        assert jobs.get(inbox.engine, job_id)["state"] == "failed"
        assert told(inbox.engine) == ["source_away"]
        disk.mount()
        run = inbox.night()
        assert inbox.files() == {"0.jpg": ("taken", 1), "1.jpg": ("taken", 1)}
        assert plan(inbox.engine, run["job_id"]) == ["0.jpg", "1.jpg"]
        inbox.close(run, "completed")
        assert told(inbox.engine) == ["source_away", "source_back"]


def test_a_folder_that_is_away_between_looks_is_two_notices(inbox: Inbox) -> None:
    (one,) = films(1)
    inbox.put("a.jpg", one)
    elsewhere = inbox.folder.rename(inbox.folder.with_name("elsewhere"))
    for _ in range(3):
        inbox.due()
        inbox.look()
    assert told(inbox.engine) == ["failed"]
    elsewhere.rename(inbox.folder)
    (inbox.folder / "a.jpg").unlink()
    for _ in range(2):
        assert inbox.night()["outcome"] == "skipped"
    assert told(inbox.engine) == ["failed", "source_back"]


def test_a_worker_that_cannot_see_the_folder_leaves_the_look_to_one_that_can(
    inbox: Inbox,
) -> None:
    inbox.put("a.jpg", films(1)[0])
    hello(inbox.engine, "blind")
    run_id = inbox.due()
    elsewhere = inbox.folder.rename(inbox.folder.with_name("elsewhere"))
    inbox.look("blind")
    inbox.look("blind")
    assert runs.get(inbox.engine, run_id)["state"] == "due"
    elsewhere.rename(inbox.folder)
    inbox.look()
    inbox.later()
    inbox.look()
    assert runs.get(inbox.engine, run_id)["state"] == "running"
    assert told(inbox.engine) == []


def test_a_share_whose_files_cannot_be_read_costs_them_no_attempt(
    inbox: Inbox, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (one,) = films(1)
    (real / "a.jpg").write_bytes(one)
    with zipfile.ZipFile(real / "b.zip", "w") as archive:
        archive.writestr("b.jpg", one)
    with mounts.share(real, inbox.folder) as share:
        inbox.close(inbox.night(), "failed")
        before = {"a.jpg": ("seen", 1), "b.zip": ("seen", 1)}
        assert inbox.files() == before
        share.errs(names="?.*", on=["open", "read"])
        for _ in range(3):
            run = inbox.night()
            assert run["outcome"] == "failed"
            assert inbox.files() == before
        share.recovers()
        assert inbox.night()["state"] == "running"


def test_of_workers_that_look_at_the_same_time_one_makes_the_job(inbox: Inbox) -> None:
    inbox.put("a.jpg", films(1)[0])
    run_id = inbox.due()
    inbox.look()
    inbox.later()
    names = ("w", "x", "y")
    for who in names[1:]:
        hello(inbox.engine, who)
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(inbox.look, names))
    assert inbox.files() == {"a.jpg": ("taken", 1)}
    assert runs.get(inbox.engine, run_id)["job_id"] == 1
    assert inbox.jobs() == 1


def test_a_run_that_can_make_no_job_says_why_and_its_files_are_the_next_one_s(
    inbox: Inbox,
) -> None:
    (one,) = films(1)
    inbox.put("a.jpg", one)
    inbox.put("b.jpg", one)
    sql(inbox.engine, "UPDATE aliases SET name = 'nobody'")
    run = inbox.night()
    assert run["outcome"] == "failed"
    assert run["reason"].startswith("there is no model 'champion'; train one")
    sql(inbox.engine, "UPDATE aliases SET name = 'champion'")
    # Its files were removed since.
    sql(inbox.engine, "UPDATE models SET state = 'retired'")
    sql(inbox.engine, "CREATE TABLE kept AS SELECT * FROM model_chunks")
    sql(inbox.engine, "DELETE FROM model_chunks")
    run = inbox.night()
    assert run["outcome"] == "failed"
    assert "its files were removed" in run["reason"]
    assert inbox.jobs() == 0
    sql(inbox.engine, "INSERT INTO model_chunks SELECT * FROM kept")
    sql(inbox.engine, "UPDATE models SET state = 'candidate'")
    run = inbox.night()
    assert (run["state"], inbox.takes(run)) == ("running", {"list": ["a.jpg"]})


def test_a_folder_that_is_removed_while_its_parent_is_looked_through_is_no_fault(
    inbox: Inbox,
) -> None:
    inbox.put("a.jpg", b"x")
    inbox.put("ward/b.jpg", b"x")
    inbox.put("ward 2/c.jpg", b"x")
    found = filter(None, listed(str(inbox.folder)))
    first = next(found)
    shutil.rmtree(inbox.folder / "ward")
    names = [Path(seen.path).name for seen in (first, *found)]
    assert names == ["a.jpg", "c.jpg"]


def test_a_list_from_the_database_names_files_of_a_folder_in_its_order(tmp_path: Path) -> None:
    names = ["z.jpg", "ward/ä, #1.jpg", "gone.jpg", " a.jpg "]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * (number + 1))
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "not named.jpg").write_bytes(b"x")
    kept = listings.unpack_paths(listings.pack_paths(names))
    assert kept == names
    with archive.open_source(str(tmp_path), "list", kept) as source:
        members = list(source.members())
        assert [(m.name, m.size) for m in members] == list(zip(names, [1, 2, 0, 4], strict=True))
        assert list(source.members()) == members
        fingerprint = source.fingerprint()
    (tmp_path / "z.jpg").write_bytes(b"another")
    with archive.open_source(str(tmp_path), "list", kept) as source:
        assert source.fingerprint() == fingerprint, "each file is compared when it is read"
    with archive.open_source(str(tmp_path), "list", kept[1:]) as source:
        assert source.fingerprint() != fingerprint
    reader = archive.open_reader("folder", str(tmp_path))
    assert reader.read(members[1]) == b"xx"
    for number, code in ((0, "changed"), (2, "missing")):
        with pytest.raises(MemberError) as caught:
            reader.read(members[number])
        assert caught.value.code == code
    reader.close()
    with pytest.raises(ArchiveError, match="there is no such file or folder"):
        archive.open_source(str(tmp_path / "elsewhere"), "list", kept)


def test_a_film_that_is_gone_when_its_job_is_planned_is_an_item_all_the_same(
    inbox: Inbox,
) -> None:
    for number, data in enumerate(films(2)):
        inbox.put(f"{number}.jpg", data)
    run = inbox.night()
    (inbox.folder / "0.jpg").unlink()
    inbox.put("2.jpg", b"which came too late")
    assert plan(inbox.engine, run["job_id"]) == ["0.jpg", "1.jpg"]
    assert jobs.get(inbox.engine, run["job_id"])["state"] == "running"


def test_a_folder_that_is_gone_when_its_job_is_planned_is_waited_for(inbox: Inbox) -> None:
    inbox.put("a.jpg", films(1)[0])
    run = inbox.night()
    elsewhere = inbox.folder.rename(inbox.folder.with_name("elsewhere"))
    assert plan(inbox.engine, run["job_id"]) == []
    assert runs.get(inbox.engine, run["id"])["state"] == "running"
    elsewhere.rename(inbox.folder)
    assert plan(inbox.engine, run["job_id"]) == ["a.jpg"]


def test_what_arrives_in_a_folder_is_scored_by_a_worker_once(
    database_url: str, valkey: servers.Valkey, tmp_path: Path, model_file: Path, card: Card
) -> None:
    with site(database_url, valkey, tmp_path / "site") as here:
        samples.register(here.engine, model_file, card)
        folder = Inbox(here.settings, here.engine, tmp_path / "inbox")
        for number, data in enumerate(films(2)):
            folder.put(f"{number}.jpg", data)
        with zipfile.ZipFile(folder.folder / "more.zip", "w") as archive:
            for number, data in enumerate(films(3, seed=5)):
                archive.writestr(f"z{number}.jpg", data)
        folder.look()
        run_id = folder.due()
        folder.look()
        folder.later()
        here.worker()
        here.wait(lambda: runs.get(here.engine, run_id)["finished_at"], "the run to be settled")
        assert runs.get(here.engine, run_id)["outcome"] == "completed"
        names = [row.name for row in here.rows("SELECT name FROM v_predictions ORDER BY name")]
        assert names == ["0.jpg", "1.jpg", "z0.jpg", "z1.jpg", "z2.jpg"]


def test_a_share_that_gives_no_answer_fails_its_run_and_keeps_no_other_schedule(
    inbox: Inbox, tmp_path: Path
) -> None:
    patience_s = 3.0
    settings = dataclasses.replace(inbox.settings, film_deadline_s=patience_s)
    real = tmp_path / "real"
    real.mkdir()
    one, two = films(2)
    (real / "a.jpg").write_bytes(one)
    other = Inbox(settings, inbox.engine, tmp_path / "other", "other")
    other.put("b.jpg", two)
    inbox.settings = settings
    with mounts.share(real, inbox.folder) as share:
        inbox.due()
        inbox.look()
        assert inbox.files() == {"a.jpg": ("seen", 0)}
        share.hangs()
        others = other.due()
        for _ in range(3):
            run_id = inbox.due()
            inbox.look()
            run = runs.get(inbox.engine, run_id)
            assert run["outcome"] == "failed"
            assert run["reason"].startswith(f"{inbox.folder}: its disk or share gives no answer")
            assert inbox.files() == {"a.jpg": ("seen", 0), "b.jpg": ("seen", 0)}
        assert told(inbox.engine) == ["failed"], "one outage is one notice"
        assert apart.left_behind() == 1, "nor is anybody sent there for each look"
        inbox.later()
        inbox.look()
        assert runs.get(inbox.engine, others)["state"] == "running", "another is looked through"
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
        time.sleep(patience_s)
        run = inbox.night()
        assert (run["state"], inbox.takes(run)) == ("running", {"list": ["a.jpg"]})
        assert inbox.files()["a.jpg"] == ("taken", 1), "its first attempt"


def test_a_file_that_never_answers_keeps_no_other_of_its_folder(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.settings = dataclasses.replace(inbox.settings, film_deadline_s=2.0)
    real = tmp_path / "real"
    real.mkdir()
    for number, data in enumerate(films(3)):
        (real / f"{number}.jpg").write_bytes(data)
    with mounts.share(real, inbox.folder) as share:
        share.hangs(names="0.jpg", on=["open", "read"])
        run = inbox.night()
        assert (run["state"], inbox.takes(run)) == ("running", {"list": ["1.jpg", "2.jpg"]})
        assert inbox.files()["0.jpg"] == ("seen", 0)
        assert f"{inbox.folder}/0.jpg" in inbox.untaken()
        inbox.close(run, "completed")
        last = inbox.night()
        assert last["outcome"] == "skipped"
        assert "1 not taken: cannot be read" in last["reason"]
        assert "0.jpg" not in last["reason"], "it may name people"
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
        apart._silent.clear()
        assert inbox.takes(inbox.night()) == {"list": ["0.jpg"]}


@pytest.mark.parametrize(
    ("hanging", "on", "rest"),
    [
        ("0.jpg", "examine", ["1.jpg", "2.jpg", "ward/3.jpg"]),
        ("ward/3.jpg", "examine", ["0.jpg", "1.jpg", "2.jpg"]),
        ("ward", "list", ["0.jpg", "1.jpg", "2.jpg"]),
        ("[01].jpg", "examine", ["2.jpg", "ward/3.jpg"]),
    ],
    ids=["file", "file below", "folder", "two files"],
)
def test_what_cannot_even_be_examined_is_put_aside_and_keeps_no_other_of_its_folder(
    inbox: Inbox, tmp_path: Path, hanging: str, on: str, rest: list[str]
) -> None:
    inbox.settings = dataclasses.replace(inbox.settings, film_deadline_s=2.0)
    real = tmp_path / "real"
    for number, data in enumerate(films(4)):
        path = real / ("ward" if number == 3 else ".") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with mounts.share(real, inbox.folder) as share:
        share.hangs(names=hanging, on=[on])
        run = inbox.night()
        assert (run["state"], inbox.takes(run)) == ("running", {"list": rest})
        count = 2 if hanging == "[01].jpg" else 1
        assert inbox.untaken().count("gives no answer") == count
        inbox.close(run, "completed")
        last = inbox.night()
        assert last["outcome"] == "skipped"
        assert f"{count} not taken: files or folders that give no answer" in last["reason"]
        assert hanging not in last["reason"], "it may name people"
        assert apart.left_behind() == count, "nobody is sent there again meanwhile"
        assert told(inbox.engine) == [], "nor is it news each time"
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
        apart._silent.clear()
        late = {*("0.jpg", "1.jpg", "2.jpg", "ward/3.jpg")} - set(rest)
        assert inbox.takes(inbox.night()) == {"list": sorted(late)}


def test_a_share_inside_of_a_watched_folder_that_hangs_keeps_nothing_beside_it(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.settings = dataclasses.replace(inbox.settings, film_deadline_s=2.0)
    one, two = films(2)
    inbox.put("a.jpg", one)
    real = tmp_path / "real"
    real.mkdir()
    (real / "b.jpg").write_bytes(two)
    with mounts.share(real, inbox.folder / "mounted") as share:
        share.hangs()
        run = inbox.night()
        assert (run["state"], inbox.takes(run)) == ("running", {"list": ["a.jpg"]})
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
        apart._silent.clear()
        assert inbox.takes(inbox.night()) == {"list": ["mounted/b.jpg"]}


def test_a_folder_in_which_nothing_can_be_examined_strands_a_few_and_fails_its_run(
    inbox: Inbox, tmp_path: Path
) -> None:
    inbox.settings = dataclasses.replace(inbox.settings, film_deadline_s=0.8)
    real = tmp_path / "real"
    real.mkdir()
    for number, data in enumerate(films(8)):
        (real / f"{number}.jpg").write_bytes(data)
    with mounts.share(real, inbox.folder) as share:
        share.hangs(names="?.jpg", on=["examine"])
        for _ in range(3):
            run_id = inbox.due()
            inbox.look()
            run = runs.get(inbox.engine, run_id)
            assert run["outcome"] == "failed"
            assert run["reason"].startswith(f"{inbox.folder}: its disk or share gives no answer")
        assert apart.left_behind() <= 5
        share.recovers()
        samples.wait(lambda: apart.left_behind() == 0, "what was left behind to end")
        apart._silent.clear()
