"""pneumoq schedule: what each of its commands says, keeps and refuses."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import Result

from db.base import schema
from db.base.database import reading, write
from db.base.schema import schedules as schedules_table
from db.base.schema import workers as workers_table
from db.base.types import now
from db.nightly import ends, runs, schedules, watched
from db.queue import jobs
from db.work import claims, endings
from scheduler import session
from scheduler.commands.schedule import add, look, zones
from tests.scheduler import rows
from tests.scheduler.console import only_line, run
from trainer.judging import gate
from trainer.judging.verdict import Side
from worker.machine import privacy

NIGHTLY = ("--cron", "30 2 1 2 *", "--tz", "Europe/Paris")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder of a folder per class, without films: nothing here reads them."""
    folder = tmp_path / "films"
    for label in ("NORMAL", "PNEUMONIA"):
        (folder / label).mkdir(parents=True)
    return folder


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def nightly(engine: sa.Engine, films: Path) -> int:
    """A training schedule, whose number this is."""
    assert run("schedule", "add", "nightly", *NIGHTLY, "train", films).exit_code == 0
    return int(schedules.get(engine, "nightly")["id"])


def refused(*arguments: str | Path) -> str:
    """Why `schedule add` refuses this, in a line."""
    result = run("schedule", "add", *map(str, arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


def test_floors_and_the_anchor_are_kept_and_shown(engine: sa.Engine, films: Path) -> None:
    added = run(
        "schedule", "add", "nightly", *NIGHTLY, "--floor", "sensitivity=0.90", "--floor",
        "auroc=0.95", "--margin-shift", "0.1", "train", films,
    )  # fmt: skip
    assert added.exit_code == 0, added.stderr
    rules = kept(engine)["night"]
    assert rules["floor"] == {"sensitivity": 0.9, "auroc": 0.95}
    assert rules["margin_shift"] == 0.1
    assert "anchor  " not in run("schedule", "show", "nightly").stdout
    rows.a_model(engine, films.parent)
    shown = run("schedule", "show", "nightly").stdout
    assert "model 1, the first champion" in shown
    assert "sensitivity=0.9, auroc=0.95" in shown
    for wrong in ("sensitivity", "sensitivity=2", "accuracy=0.9", "auroc=high"):
        assert refused("other", *NIGHTLY, "--floor", wrong, "train", films) == (
            "Invalid value for '--floor': give auroc, sensitivity or specificity, and what it must "
            f"reach between 0 and 1, as sensitivity=0.90, not {wrong!r}"
        )
    assert refused("inbox", *NIGHTLY, "--floor", "auroc=0.9", "score", films) == (
        "--floor is for train, not for score"
    )


def kept(engine: sa.Engine, name: str = "nightly") -> dict[str, Any]:
    return dict(schedules.get(engine, name)["spec"])


def facts(result: Result) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in result.stdout.splitlines() if line.strip())
    return {pair[0]: pair[-1] for pair in pairs}


def next_february() -> int:
    """The year of `NIGHTLY`'s first time."""
    moment = datetime.now(timezone.utc)
    return moment.year + (moment >= datetime(moment.year, 2, 1, 1, 30, tzinfo=timezone.utc))


# add


def test_a_schedule_says_when_it_runs_first_and_that_nobody_listens(
    engine: sa.Engine, films: Path
) -> None:
    result = run("schedule", "add", "nightly", *NIGHTLY, "train", films)
    year = next_february()
    assert (result.exit_code, result.stdout) == (
        0,
        f"nightly runs for the first time at {year}-02-01 02:30 in Europe/Paris "
        f"({year}-02-01 01:30 UTC).\n",
    )
    disease = "The disease is PNEUMONIA, against NORMAL: probabilities, threshold and figures are"
    assert result.stderr.splitlines() == [
        f"{disease} of it.",
        "No worker listens to the train queue: schedules run while `pneumoq up` does.",
    ]
    rows.a_worker(engine, "train")
    second = run("schedule", "add", "second", *NIGHTLY, "train", films)
    assert only_line(second.stderr) == f"{disease} of it."


def test_a_training_schedule_keeps_train_s_options_with_defaults_filled_in(
    engine: sa.Engine, films: Path, tmp_path: Path
) -> None:
    judge = tmp_path / "judge.csv"
    judge.touch()
    result = run(
        "schedule", "add", "--keep", 3, "nightly", *NIGHTLY, "--no-promote", "--evaluate-on", judge,
        "--margin-auroc", "0.005", "--catch-up", "30m",
        "train", films, "--epochs", 3, "--warm-start", "--priority", "-5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    spec = kept(engine)
    assert spec["priority"] == -5
    assert spec["night"] == {
        "evaluate_on": str(judge), "margin_auroc": 0.005, "margin_sensitivity": 0.02,
        "margin_specificity": 0.05, "margin_shift": 0.05, "floor": {}, "max_shrink": 0.2,
        "max_relabelled": 0.2, "keep": 3, "promote": False, "until": None, "if_late": "continue",
        "notice_after": 7,
    }  # fmt: skip
    assert run("train", films, "--epochs", 3, "--later").exit_code == 0
    ordinary = jobs.get(engine, 1)["spec"]
    assert ordinary["positive"] == "PNEUMONIA"
    assert spec["job"] == {**ordinary, "warm_start": True, "positive": None}, "the champion's"
    row = schedules.get(engine, "nightly")
    assert (row["catch_up_s"], row["created_by"]) == (1800, session.who())
    assert (row["cron"], row["tz"]) == ("30 2 1 2 *", "Europe/Paris")


def test_a_watched_folder_keeps_score_s_options(engine: sa.Engine, inbox: Path) -> None:
    result = run(
        "schedule", "add", "inbox", "--cron", " */10  * * * *", "--tz", "UTC", "--settle", "5m",
        "score", inbox, "--precision", "fp32", "--engine", "onnx", "--accept", "lateral",
        "--max-errors", "5%", "--source-patience", "2h", "--hash-names", "--keep-cam", "none",
        "--priority", 7,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert kept(engine, "inbox") == {
        "job": {
            "sources": [str(inbox)], "model": "champion", "keep_cam": "none",
            "accept": ["lateral"], "hash_names": True, "force": False, "max_errors": "5%",
            "source_patience_s": 7200,
        },
        "precision": "fp32",
        "engine": "onnx",
        "priority": 7,
        "watch": {"settle_s": 300},
    }  # fmt: skip
    assert schedules.get(engine, "inbox")["cron"] == "*/10 * * * *"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("name", ["train", "score"])
def test_a_schedule_may_be_called_as_what_it_does(
    engine: sa.Engine, films: Path, name: str, before: bool
) -> None:
    words = (*NIGHTLY, name) if before else (name, *NIGHTLY)
    result = run("schedule", "add", *words, "train", films)
    assert result.exit_code == 0, result.output
    assert schedules.get(engine, name)["kind"] == "train"


def test_an_option_s_value_is_not_taken_for_what_it_does(
    engine: sa.Engine, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films)
    (films / "train").mkdir()
    result = run("schedule", "add", "n", *NIGHTLY, "--evaluate-on", "train", "train", "train")
    assert result.exit_code == 0, result.output
    spec = kept(engine, "n")
    assert (spec["night"]["evaluate_on"], spec["job"]["data"]) == (str(films / "train"),) * 2


def test_without_a_zone_it_is_this_machine_s(engine: sa.Engine, films: Path) -> None:
    result = run("schedule", "add", "n", "--cron", "30 2 1 2 *", "train", films)
    assert result.exit_code == 0, result.output
    assert schedules.get(engine, "n")["tz"] == zones.local_zone()


def test_this_machine_s_zone_is_what_tz_or_one_of_two_files_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TZ", raising=False)
    assert zones.local_zone(tmp_path) == "UTC"
    (tmp_path / "timezone").write_text("Asia/Kolkata\n")
    (tmp_path / "localtime").touch()  # a copy, which does not tell
    assert zones.local_zone(tmp_path) == "Asia/Kolkata"
    (tmp_path / "localtime").unlink()
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/Europe/Paris")
    assert zones.local_zone(tmp_path) == "Europe/Paris"
    for said, meant in (
        (":America/New_York", "America/New_York"), ("CET-1CEST,M3.5.0", "Europe/Paris"),
    ):  # fmt: skip
        monkeypatch.setenv("TZ", said)
        assert zones.local_zone(tmp_path) == meant


def test_a_time_in_utc_is_said_once(engine: sa.Engine, films: Path) -> None:
    result = run("schedule", "add", "n", "--cron", "30 1 1 2 *", "--tz", "Etc/UTC", "train", films)
    assert result.stdout == f"n runs for the first time at {next_february()}-02-01 01:30 UTC.\n"


def test_added_as_json_is_the_row_with_its_first_time(engine: sa.Engine, films: Path) -> None:
    result = run("schedule", "add", "nightly", *NIGHTLY, "--json", "train", films)
    row = json.loads(result.stdout)
    assert (row["name"], row["kind"], row["paused"]) == ("nightly", "train", False)
    assert row["next"].startswith(f"{next_february()}-02-01T01:30")
    assert row["spec"]["job"]["data"] == str(films)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what it is to do: … train DATA, or … score FOLDER"),
        (("tran", "FILMS"), "after NAME comes train or score, not 'tran'"),
        (("train",), "train needs DATA: labelled folders or manifests"),
        (("score",), "score needs FOLDERs to watch"),
        (("score", "nowhere"), "Invalid value for FOLDER: nowhere is no folder"),
        (("--settle", "3s", "train", "FILMS"), "--settle is for score, not for train"),
        (("--keep", "3", "score", "FILMS"), "--keep is for train, not for score"),
        (("--no-promote", "score", "FILMS"), "--promote is for train, not for score"),
        (("train", "FILMS", "--cron", "0 2 * * *"), "--cron goes before the word train"),
        (("train", "FILMS", "--keep", "3"), "--keep goes before the word train"),
        (("train", "FILMS", "--json"), "--json goes before the word train"),
        (("score", "FILMS", "--settle", "3s"), "--settle goes before the word score"),
        (
            ("train", "FILMS", "--warm-start", "--init", "scratch"),
            "--warm-start begins from the champion; leave out --init",
        ),
        (
            ("train", "FILMS", "--operating-point", "best"),
            "Invalid value for --operating-point: give youden, or one like sensitivity=0.95 or "
            "cost=5",
        ),
        (
            ("score", "FILMS", "--model", "nobody"),
            "there is no model 'nobody'; `pneumoq models ls` lists them",
        ),
        (
            ("--evaluate-on", "FILE", "train", "FILMS"),
            "Invalid value for --evaluate-on: FILE is neither a folder nor a manifest (.csv)",
        ),
        (
            ("--catch-up", "6y", "train", "FILMS"),
            "Invalid value for '--catch-up': '6y' is no span of time; give one like 90s, 30m, 6h "
            "or 2d",
        ),
        (
            ("--catch-up", "999999d", "train", "FILMS"),
            "Invalid value for '--catch-up': 999999d is longer than a year",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_and_nothing_is_kept(
    engine: sa.Engine, films: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    file = tmp_path / "film.png"
    file.touch()
    meant = {"FILMS": str(films), "FILE": str(file)}
    words = tuple(meant.get(word, word) for word in words)
    assert refused("nightly", *NIGHTLY, *words) == said.replace("FILE", str(file))
    assert schedules.listing(engine) == []


def test_what_the_real_command_refuses_is_refused_with_its_words(
    engine: sa.Engine, films: Path
) -> None:
    for words, said in (
        (("train", films, "--epoch", "3"), "No such option"),
        (("train", "nowhere"), "Path 'nowhere' does not exist."),
        (("score", films, "--max-errors", "x"), "Invalid value for '--max-errors'"),
    ):
        assert said in refused("nightly", *NIGHTLY, *words)
        result = run("schedule", "add", "nightly", *NIGHTLY, *words)
        assert f"Try 'pneumoq {words[0]} --help' for help." in result.stderr


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        *(("train", o) for o in ("--resume 1", "--evaluate 1", "--name x", "--key k")),
        *(("score", o) for o in ("--list x.csv", "--dry-run", "--key k")),
        *((kind, o) for kind in add.KINDS for o in ("--wait", "--local", "--later")),
    ],
)
def test_options_about_submitting_are_refused(
    engine: sa.Engine, films: Path, kind: str, option: str
) -> None:
    name = option.split()[0]
    said = refused("nightly", *NIGHTLY, kind, films, *option.split())
    assert said == f"{name} says nothing where the clock submits"


@pytest.mark.parametrize(
    ("cron", "tz", "said"),
    [
        ("0 2 * *", "UTC", "cron has five fields (minute, hour, day of the month, month, day of "
         "the week), like '0 2 * * *'; '0 2 * *' has 4"),
        ("0 25 * * *", "UTC", "'25' is no hour for cron (in '0 25 * * *')"),
        ("0 2 30 2 *", "UTC", "'0 2 30 2 *' is never"),
        ("0 2 * * *", "Europe/Pari", "there is no time zone 'Europe/Pari'; did you mean "
         "Europe/Paris or Europe/Madrid or Europe/Zurich?"),
        ("0 2 * * *", "x", "there is no time zone 'x'; give one like Europe/Paris"),
    ],
)  # fmt: skip
def test_fields_and_zones_that_mean_nothing_are_refused(
    engine: sa.Engine, films: Path, cron: str, tz: str, said: str
) -> None:
    assert refused("n", "--cron", cron, "--tz", tz, "train", films) == (
        f"Invalid value for --cron or --tz: {said}"
    )


def test_fields_too_long_for_the_database_are_refused(engine: sa.Engine, films: Path) -> None:
    cron = ",".join(map(str, range(60))) + " 2 * * *"
    said = refused("n", "--cron", cron, "--tz", "UTC", "train", films)
    assert said == "Invalid value for --cron: give at most 128 characters"


def test_a_name_is_refused_where_it_is_none_or_taken(
    engine: sa.Engine, films: Path, nightly: int
) -> None:
    assert refused("a b", *NIGHTLY, "train", films) == (
        "Invalid value for NAME: give 1 to 48 letters, digits, dots, hyphens or underscores"
    )
    assert refused("nightly", *NIGHTLY, "train", films) == (
        "there is a schedule 'nightly' already; `pneumoq schedule rm nightly` removes it"
    )


def test_a_champion_may_come_to_be_before_the_first_run(engine: sa.Engine, inbox: Path) -> None:
    result = run("schedule", "add", "inbox", "--cron", "* * * * *", "--tz", "UTC", "score", inbox)
    assert result.exit_code == 0, result.output


def test_the_disease_is_the_champion_s_or_is_asked_for(
    engine: sa.Engine, films: Path, tmp_path: Path
) -> None:
    added = run("schedule", "add", "one", *NIGHTLY, "train", films)
    assert "The disease is PNEUMONIA, against NORMAL: " in added.stderr
    (films / "NORMAL").rename(films / "TB")
    assert "--positive CLASS" in refused("two", *NIGHTLY, "train", films)
    assert (
        run("schedule", "add", "two", *NIGHTLY, "train", films, "--positive", "TB").exit_code == 0
    )
    assert kept(engine, "two")["job"]["positive"] == "TB"
    rows.a_model(engine, tmp_path)  # the champion: PNEUMONIA
    added = run("schedule", "add", "three", *NIGHTLY, "train", films)
    assert "The disease is PNEUMONIA, against TB: " in added.stderr
    assert kept(engine, "three")["job"]["positive"] is None


# ls, show and runs


def a_night(engine: sa.Engine, outcome: str | None, reason: str | None = None) -> int:
    """A run by hand that has come to this; its number."""
    made = write(engine, lambda c: schedules.run_now(c, "nightly"))
    if outcome is not None:
        write(engine, lambda c: runs.finish(c, made, outcome, reason))
    return made


def test_no_schedules_say_how_to_add_one(engine: sa.Engine) -> None:
    result = run("schedule", "ls")
    assert (result.exit_code, result.stderr) == (
        0, "no schedules yet; `pneumoq schedule add --help` shows how\n",
    )  # fmt: skip
    assert json.loads(run("schedule", "ls", "--json").stdout) == []
    assert run("schedule", "runs").stderr == "no runs yet\n"


def test_the_list_has_the_next_time_in_both_zones_and_the_last_outcome(
    engine: sa.Engine, nightly: int
) -> None:
    first = runs.get(engine, a_night(engine, "kept", "no better"))["scheduled_for"]
    year = next_february()
    head, line = run("schedule", "ls").stdout.splitlines()
    assert head.split() == list(look.COLUMNS)
    assert line.split() == [
        "nightly", "train", *NIGHTLY[1].split(), "Europe/Paris",
        f"{year}-02-01", "02:30", f"{year}-02-01", "01:30:00Z",
        *f"{first:%Y-%m-%d %H:%M:%SZ}".split(), "kept", "on",
    ]  # fmt: skip
    (row,) = json.loads(run("schedule", "ls", "--json").stdout)
    assert (row["name"], row["outcome"], row["reason"]) == ("nightly", "kept", "no better")
    assert row["next"].startswith(f"{year}-02-01T01:30")
    a_night(engine, None)
    assert run("schedule", "ls").stdout.split()[-2:] == ["running", "on"]


def test_the_list_says_where_a_clock_stops_all_schedules(engine: sa.Engine, nightly: int) -> None:
    rows.a_worker(engine, "train")
    # It has been at work since soon after what the clock says now.
    now = datetime.now(timezone.utc)
    began, ahead = now + timedelta(minutes=2), now + timedelta(hours=3)
    values = {"started_at": began, "seen_at": ahead}
    write(engine, lambda c: c.execute(sa.update(workers_table).values(values)))
    result = run("schedule", "ls")
    assert result.exit_code == 0 and "nightly" in result.stdout
    said = only_line(result.stderr)
    assert said.startswith("No schedule runs: the clock says ")
    assert said.endswith(
        "earlier than what was written last; set it (timedatectl), and they go on."
    )


def test_a_zone_that_is_not_known_here_is_said_and_hides_no_other_schedule(
    engine: sa.Engine, nightly: int, films: Path
) -> None:
    run("schedule", "add", "strange", *NIGHTLY, "train", films)
    strange = sa.update(schedules_table).where(schedules_table.c.name == "strange")
    write(engine, lambda c: c.execute(strange.values(tz="Mars/Olympus")))
    for words in (("ls",), ("show", "strange"), ("show", "strange", "--json")):
        result = run("schedule", *words)
        assert (result.exit_code, "strange" in result.stdout) == (0, True)
        assert only_line(result.stderr).startswith(
            "strange does not run on this machine: there is no time zone 'Mars/Olympus'"
        )
    assert run("schedule", "ls").stdout.splitlines()[1].startswith("nightly")
    assert facts(run("schedule", "show", "strange"))["next"] == "?"


def test_a_schedule_is_shown_with_its_job_and_the_reason_of_each_run(
    engine: sa.Engine, nightly: int, films: Path
) -> None:
    a_night(engine, "kept", "the new model's AUROC is lower\x1b[31m")
    a_night(engine, None)
    result = run("schedule", "show", "nightly")
    shown = facts(result)
    year = next_february()
    assert shown["cron"] == "30 2 1 2 * in Europe/Paris"
    assert shown["next"] == f"{year}-02-01 02:30 in Europe/Paris ({year}-02-01 01:30 UTC)"
    assert (shown["catch_up"], shown["keep"], shown["promote"]) == ("6 h 00 min", "10", "yes")
    assert (shown["data"], shown["epochs"]) == (str(films), "3")
    assert shown["added"].endswith(f" by {session.who()}")
    lines = result.stdout.splitlines()
    assert lines[-4].endswith("Z  running  job 2")
    assert lines[-2].endswith("Z  kept  job 1")
    assert lines[-1] == "  the new model's AUROC is lower\\x1b[31m"
    told = json.loads(run("schedule", "show", "nightly", "--json").stdout)
    assert [one["outcome"] for one in told["runs"]] == [None, "kept"]


def test_runs_are_listed_newest_first_of_one_schedule_or_of_all(
    engine: sa.Engine, nightly: int, inbox: Path
) -> None:
    run("schedule", "add", "inbox", "--cron", "* * * * *", "--tz", "UTC", "score", inbox)
    a_night(engine, "skipped", "no film changed")
    a_night(engine, "kept", "no better")
    write(engine, lambda c: schedules.run_now(c, "inbox"))
    listed = run("schedule", "runs").stdout.splitlines()
    assert listed[0].split() == list(look.RUN_COLUMNS)
    assert [line.split()[:2] for line in listed[1:]] == [
        ["3", "inbox"], ["2", "nightly"], ["1", "nightly"],
    ]  # fmt: skip
    assert " ".join(listed[2].split()[4:]) == "hand kept 2 no better"
    of_one = json.loads(run("schedule", "runs", "nightly", "--limit", 1, "--json").stdout)
    assert [(one["id"], one["schedule"], one["outcome"]) for one in of_one] == [
        (2, "nightly", "kept")
    ]


# run, pause, resume and rm


def test_a_run_by_hand_says_which_job_it_is_and_is_refused_while_it_goes_on(
    engine: sa.Engine, nightly: int
) -> None:
    result = run("schedule", "run", "nightly")
    assert (result.exit_code, result.stdout) == (
        0, "Job 1 is on the queue: pneumoq jobs watch 1\n",
    )  # fmt: skip
    made = runs.of_schedule(engine, nightly)[0]
    assert (made["cause"], made["state"], made["job_id"]) == ("hand", "running", 1)
    again = run("schedule", "run", "nightly")
    assert again.exit_code == 2
    assert only_line(again.stderr) == (
        f"Error: the run of {made['scheduled_for']:%Y-%m-%d %H:%M} UTC is still going on (job 1)"
    )
    write(engine, lambda c: runs.finish(c, made["id"], "kept", None))
    told = json.loads(run("schedule", "run", "nightly", "--json").stdout)
    assert (told["cause"], told["job_id"], told["schedule_id"]) == ("hand", 2, nightly)


def test_a_watched_folder_that_is_run_by_hand_says_where_to_look(
    engine: sa.Engine, inbox: Path
) -> None:
    run("schedule", "add", "inbox", "--cron", "* * * * *", "--tz", "UTC", "score", inbox)
    result = run("schedule", "run", "inbox", "--wait")
    assert (result.exit_code, result.stdout) == (
        0, "A worker looks through the folder: pneumoq schedule show inbox\n",
    )  # fmt: skip


def test_a_run_that_is_waited_for_ends_as_its_job_does(engine: sa.Engine, nightly: int) -> None:
    def fail() -> None:
        while (claimed := write(engine, lambda c: claims.claim_job(c, "train", "w", 60.0))) is None:
            time.sleep(0.1)
        write(engine, lambda c: endings.finish(c, claimed.lease.job_id, "failed", "w", "no disk"))

    rows.a_worker(engine, "train")
    worker = threading.Thread(target=fail, daemon=True)
    worker.start()
    result = run("schedule", "run", "nightly", "--wait")
    worker.join()
    assert result.exit_code == 1
    assert "no disk" in result.output


def test_a_paused_schedule_says_so_and_goes_on_when_it_is_resumed(
    engine: sa.Engine, nightly: int
) -> None:
    result = run("schedule", "pause", "nightly")
    assert (result.exit_code, result.stdout) == (
        0, "nightly is paused; `pneumoq schedule resume nightly` lets it go on\n",
    )  # fmt: skip
    assert run("schedule", "ls").stdout.split()[-1] == "paused"
    assert facts(run("schedule", "show", "nightly"))["next"] == "paused"
    again = run("schedule", "pause", "nightly")
    assert again.exit_code == 2
    assert only_line(again.stderr) == "Error: schedule 'nightly' is paused already"
    year = next_february()
    assert run("schedule", "resume", "nightly").stdout == (
        f"nightly runs next at {year}-02-01 02:30 in Europe/Paris ({year}-02-01 01:30 UTC)\n"
    )
    again = run("schedule", "resume", "nightly")
    assert only_line(again.stderr) == "Error: schedule 'nightly' is not paused already"


def test_pausing_and_resuming_as_json_give_the_row(engine: sa.Engine, nightly: int) -> None:
    row = json.loads(run("schedule", "pause", "nightly", "--json").stdout)
    assert (row["id"], row["paused"], row["next"]) == (nightly, True, None)
    row = json.loads(run("schedule", "resume", "nightly", "--json").stdout)
    assert (row["paused"], row["next"][:10]) == (False, f"{next_february()}-02-01")


def test_a_removed_schedule_is_gone_and_its_name_is_free(
    engine: sa.Engine, nightly: int, films: Path
) -> None:
    a_night(engine, "kept")
    result = run("schedule", "rm", "nightly")
    assert (result.exit_code, result.stdout) == (0, "nightly is removed; what it made stays\n")
    assert run("schedule", "ls").stdout == ""
    assert jobs.get(engine, 1)["schedule_id"] == nightly
    assert run("schedule", "add", "nightly", *NIGHTLY, "train", films).exit_code == 0
    assert schedules.get(engine, "nightly")["id"] != nightly
    assert run("schedule", "runs", "nightly").stderr == "no runs yet\n"
    told = json.loads(run("schedule", "rm", "nightly", "--json").stdout)
    assert (told["name"], told["removed"]) == ("nightly", True)


def test_what_a_removed_schedule_saw_goes_with_it(engine: sa.Engine, inbox: Path) -> None:
    home = session.settings().home
    for name in ("gone", "kept"):
        assert run("schedule", "add", name, *NIGHTLY, "score", inbox).exit_code == 0
        number = int(schedules.get(engine, name)["id"])
        privacy.keep_untaken(home, number, [("/in/Mustermann.dcm", "cannot be read")])
        row = {"schedule_id": number, "path_hash": watched.key("a"), "path": "a", "size": 1,
               "mtime_ns": 1, "state": "seen", "attempts": 0}  # fmt: skip
        insert = sa.insert(schema.watched).values(**row, since=now())
        write(engine, lambda c, i=insert: c.execute(i))  # type: ignore[misc]
    assert run("schedule", "rm", "gone").exit_code == 0
    with reading(engine) as connection:
        assert connection.execute(sa.select(schema.watched.c.schedule_id)).all() == [(number,)]
    assert [file.name for file in (home / "names").iterdir()] == [f"schedule-{number}.csv"]


@pytest.mark.parametrize("word", ["show", "runs", "run", "pause", "resume", "rm"])
def test_a_schedule_that_is_not_there_is_said_to_be_none(engine: sa.Engine, word: str) -> None:
    result = run("schedule", word, "weekly")
    assert (result.exit_code, result.stdout) == (2, "")
    assert only_line(result.stderr) == (
        "Error: there is no schedule 'weekly'; `pneumoq schedule ls` lists them"
    )


def test_every_command_is_told_whole_in_the_list_of_commands(engine: sa.Engine) -> None:
    text = run("schedule", "--help").stdout
    listed = text.partition("Commands:\n")[2]
    assert len(listed.splitlines()) == 8
    assert "..." not in listed


# nights that end, and that come to nothing


def test_a_schedule_keeps_the_end_of_its_nights_and_shows_it(
    engine: sa.Engine, films: Path
) -> None:
    result = run(
        "schedule", "add", "n", *NIGHTLY, "--until", "6:00", "--if-late", "give-up",
        "--notice-after", 3, "train", films,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    night = kept(engine, "n")["night"]
    assert (night["until"], night["if_late"], night["notice_after"]) == ("6:00", "give-up", 3)
    shown = facts(run("schedule", "show", "n"))
    assert (shown["until"], shown["if_late"]) == ("6:00", "give-up")


@pytest.mark.parametrize("until", ["6", "24:00", "06:60", "06:00 Uhr", ""])
def test_an_end_that_is_no_time_of_day_is_refused(
    engine: sa.Engine, films: Path, until: str
) -> None:
    said = refused("n", *NIGHTLY, "--until", until, "train", films)
    assert said == f"Invalid value for '--until': {until!r} is no time of day; give one like 06:00"


def test_what_becomes_of_a_late_training_is_not_asked_of_nights_without_an_end(
    engine: sa.Engine, films: Path, inbox: Path
) -> None:
    said = refused("n", *NIGHTLY, "--if-late", "give-up", "train", films)
    assert said == "--if-late is about nights with an end; give --until too"
    said = refused("n", *NIGHTLY, "--until", "06:00", "score", inbox)
    assert said == "--until is for train, not for score"


def aside(engine: sa.Engine) -> int:
    """The night's training was put aside; its job."""
    assert run("schedule", "run", "nightly").exit_code == 0
    claimed = write(engine, lambda c: claims.claim_job(c, "train", "w", 60.0))
    assert claimed is not None
    number = schedules.get(engine, "nightly")["id"]
    (last,) = runs.of_schedule(engine, number)
    write(engine, lambda c: ends.put_aside(c, claimed.lease, last["id"], "not done at 06:00"))
    return claimed.lease.job_id


def test_a_training_that_was_put_aside_says_so_and_goes_on_by_hand(
    engine: sa.Engine, nightly: int
) -> None:
    job_id = aside(engine)
    assert "not done at 06:00" in run("jobs", "show", job_id).stdout
    result = run("schedule", "run", "nightly")
    assert f"Job {job_id} is on the queue" in result.stdout
    assert jobs.get(engine, job_id)["state"] == "queued"


def test_a_training_that_was_put_aside_ends_with_its_schedule(
    engine: sa.Engine, nightly: int
) -> None:
    job_id = aside(engine)
    assert run("schedule", "rm", "nightly").exit_code == 0
    job = jobs.get(engine, job_id)
    assert (job["state"], job["reason"]) == ("cancelled", "its schedule nightly was removed")
    (last,) = runs.of_schedule(engine, nightly)
    assert last["outcome"] == "cancelled"


def test_how_many_films_would_decide_is_said_where_a_night_kept_the_champion(
    engine: sa.Engine, nightly: int
) -> None:
    truth, owners = np.arange(200) < 100, [str(n) for n in range(200)]
    side = Side(score=np.where(truth, 0.9, 0.1), threshold=0.5)
    found = gate.judge(truth, owners, side, side, gate.Rules())
    assert not found.accepted
    number = write(engine, lambda c: schedules.run_now(c, "nightly"))
    write(engine, lambda c: runs.finish(c, number, "kept", found.text))
    sentence = f"It takes about {found.figures['enough']['positives']:,} positive"
    for words in (("show", "nightly"), ("runs", "nightly", "--json")):
        assert sentence in " ".join(run("schedule", *words).stdout.split())


def test_nights_that_are_to_promote_nothing_are_counted_where_they_made_no_model(
    engine: sa.Engine, films: Path
) -> None:
    given = ("schedule", "add", "--no-promote", "--notice-after", 2, "nightly", *NIGHTLY)
    assert run(*given, "train", films).exit_code == 0
    for _ in range(2):
        number = write(engine, lambda c: schedules.run_now(c, "nightly"))
        write(engine, lambda c, n=number: runs.finish(c, n, "failed", "no worker"))  # type: ignore[misc]
    shown = facts(run("schedule", "show", "nightly"))
    assert "without_promotion" not in shown
    assert shown["without_a_model"].startswith("2 nights in a row (2 failed); hooks got the notice")
    checks = json.loads(run("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "schedule nightly"]
    assert found["found"] == "no new model in 2 nights in a row (2 failed)"


def test_nights_that_came_to_nothing_are_counted_where_one_looks(
    engine: sa.Engine, nightly: int
) -> None:
    assert "without_promotion" not in facts(run("schedule", "show", "nightly"))
    for _ in range(7):
        number = write(engine, lambda c: schedules.run_now(c, "nightly"))
        write(engine, lambda c, n=number: runs.finish(c, n, "kept", "no better"))  # type: ignore[misc]
    shown = facts(run("schedule", "show", "nightly"))["without_promotion"]
    assert shown.startswith("7 nights in a row (7 kept the champion); hooks got the notice at ")
    told = json.loads(run("schedule", "show", "nightly", "--json").stdout)["without_promotion"]
    assert (told["nights"], told["kept"], told["since"]) == (7, 7, None)
    checks = json.loads(run("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "schedule nightly"]
    assert (found["status"], found["found"], found["advice"]) == (
        "warning",
        "no new champion in 7 nights in a row (7 kept the champion)",
        "`pneumoq schedule show nightly` says why",
    )
    listed = json.loads(run("notices", "ls", "--json").stdout)
    assert [row["event"] for row in listed].count("not_promoted") == 1


def test_files_that_are_given_up_are_counted_where_one_looks(
    engine: sa.Engine, inbox: Path
) -> None:
    run("schedule", "add", "inbox", "--cron", "* * * * *", "--tz", "UTC", "score", inbox)
    assert "given_up" not in facts(run("schedule", "show", "inbox"))
    number = write(engine, lambda c: schedules.run_now(c, "inbox"))
    assert write(engine, lambda c: watched.claim(c, number, "w", (), 0.0))
    watched.observe(engine, number, "w", 1, [watched.Seen(f"/in/{n}.zip", 9, n) for n in range(3)])
    for attempts in range(3):
        had = {"/in/0.zip": attempts, "/in/1.zip": attempts}
        write(engine, lambda c, h=had: watched.failed_again(c, number, "w", 1, h))  # type: ignore[misc]
    shown = facts(run("schedule", "show", "inbox"))["given_up"]
    assert shown == "2 files, after 3 attempts each; copied again they are new"
    assert json.loads(run("schedule", "show", "inbox", "--json").stdout)["given_up"] == 2
    checks = json.loads(run("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "schedule inbox"]
    assert found["status"] == "warning"
    assert found["found"].startswith("2 files in its folders are given up, after 3 attempts each")
    listed = json.loads(run("notices", "ls", "--json").stdout)
    assert [row["event"] for row in listed] == ["given_up", "not_taken"]
