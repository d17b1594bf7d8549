"""The command line as a whole: it starts fast, explains itself, and fails in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import sqlalchemy as sa

from db.base import migrate
from scheduler import errors, session
from scheduler.cli import COMMANDS, cli
from tests.scheduler.console import ROOT, only_line, run, start
from tests.scheduler.terminal import wait

#: Their import takes longer than the commands that look things up.
HEAVY = {"torch", "torchvision", "openvino", "onnx", "numpy", "PIL", "celery", "kombu", "alembic"}

NAMES = [name for group in COMMANDS.values() for name in group]

#: Prints which top-level modules a command line has imported, standard library left out.
PROBE = """
import sys
before = set(sys.modules)
from scheduler.cli import cli
try:
    cli(sys.argv[1:], prog_name="pneumoq")
except SystemExit as ended:
    assert not ended.code, ended.code
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print("imported:", *sorted(roots - sys.stdlib_module_names))
"""

#: Rows without end.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"


def imported(*arguments: str) -> set[str]:
    """Third-party packages that a command imports in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("imported:").split())


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all commands, groups included."""
    if path:
        yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from leaves(below, (*path, name))


def find(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        below = command.get_command(click.Context(command), name)
        assert below is not None
        command = below
    return command


def test_help_imports_nothing_but_click() -> None:
    assert imported("--help") == {"click", "scheduler"}


def test_listing_jobs_and_asking_a_question_import_nothing_heavy() -> None:
    session.database().dispose()
    for arguments in (("jobs", "ls"), ("query", "SELECT 1"), ("models", "ls")):
        assert not imported(*arguments) & HEAVY


def test_a_film_is_begun_with_before_the_database_and_numpy_are_loaded() -> None:
    assert not imported("classify", "--help") & {*HEAVY, "sqlalchemy", "db"}


def test_help_lists_every_command_under_a_heading() -> None:
    text = run("--help").stdout
    for heading, group in COMMANDS.items():
        assert f"{heading}:" in text
        for name, (_, line) in group.items():
            assert f"  {name:<8}  {line}" in text
    assert "Research software, not a medical device." in text


def test_every_command_and_option_explains_itself_and_shows_an_example() -> None:
    paths = list(leaves(cli))
    assert len(paths) > 15
    for path in paths:
        command = find(path)
        assert command.help and "Example" in command.help, path
        assert f"pneumoq {path[0]}" in command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help and parameter.help.endswith("."), (path, parameter.name)
        assert run(*path, "--help").exit_code == 0


def test_python_m_scheduler_is_the_same_command() -> None:
    done = start("--version")
    out, err = done.communicate(timeout=30)
    assert (done.returncode, err) == (0, "")
    assert out.startswith("pneumoq ")


def test_a_mistyped_command_names_the_nearest_one() -> None:
    result = run("job")
    assert result.exit_code == 2
    assert "there is no command 'job'; did you mean 'jobs'?" in result.stderr


def test_an_unknown_setting_is_one_line_and_exit_status_2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PNEUMOQ_LEASE", "60")
    result = run("jobs", "ls")
    assert result.exit_code == 2
    assert only_line(result.stderr).startswith("Error: PNEUMOQ_LEASE: no such setting")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "is no database URL"),
        ("mysql://root@localhost/x", "PneumoQ keeps SQLite or PostgreSQL"),
        ("sqlite://", "names no file"),
        ("postgresql://nobody@127.0.0.1:1/x", "the database does not answer"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", url)
    result = run("jobs", "ls")
    assert result.exit_code == 2
    line = only_line(result.stderr)
    assert line.startswith("Error: ") and says in line


def test_a_readers_login_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOQ_READER_URL", "nonsense")
    result = run("query", "SELECT 1")
    assert result.exit_code == 2
    assert "PNEUMOQ_READER_URL is no database URL" in only_line(result.stderr)


@pytest.mark.parametrize("below", ["", "/home"])
def test_a_home_that_is_a_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PNEUMOQ_HOME", f"{tmp_path}/file{below}")
    result = run("jobs", "ls")
    assert result.exit_code == 2
    assert f"{tmp_path}/file" in only_line(result.stderr)


def test_a_file_that_is_no_database_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "notes.db"
    file.write_text("These are notes, not a database. " * 100)
    monkeypatch.setenv("PNEUMOQ_DATABASE_URL", f"sqlite:///{file}")
    result = run("jobs", "ls")
    assert result.exit_code == 2
    assert "is damaged or is something else" in only_line(result.stderr)
    assert file.read_text().startswith("These are notes")


def test_an_old_schema_is_not_upgraded_unasked() -> None:
    engine = session.database()
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0005'"))
    engine.dispose()
    result = run("jobs", "ls")
    assert result.exit_code == 2
    assert "run `pneumoq db upgrade`" in only_line(result.stderr)


@pytest.mark.parametrize("command", [("db", "upgrade"), ("jobs", "ls")])
def test_a_schema_that_a_newer_release_made_is_refused_and_left_alone(
    command: tuple[str, ...],
) -> None:
    _newer_schema(None)
    result = run(*command)
    assert result.exit_code == 2
    assert "use the release that upgraded the database" in only_line(result.stderr)


def test_commands_use_a_newer_schema_that_says_that_this_release_may() -> None:
    _newer_schema(migrate.RELEASE)
    assert run("jobs", "ls").exit_code == 0
    result = run("db", "upgrade")
    assert result.exit_code == 0
    assert result.stdout == "the schema is up to date (9999)\n"


def _newer_schema(oldest_release: str | None) -> None:
    engine = session.database()
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        if oldest_release is not None:
            connection.execute(
                sa.text("UPDATE compatibility SET revision = '9999', oldest_release = :oldest"),
                {"oldest": oldest_release},
            )
    engine.dispose()


def test_the_first_command_makes_a_private_folder_and_the_schema_silently(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "deeper" / "still"
    monkeypatch.setenv("PNEUMOQ_HOME", str(folder))
    result = run("jobs", "ls")
    assert (result.exit_code, result.stdout) == (0, "")
    assert only_line(result.stderr).startswith("no jobs yet")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "pneumoq.db").exists()


def test_a_bug_is_not_explained_away() -> None:
    assert errors.explain(ValueError("a bug")) is None
    assert errors.explain(KeyError("a bug")) is None


def test_a_message_of_several_lines_becomes_one() -> None:
    assert errors.Failure("first\n  second\n").message == "first second"


def test_ctrl_c_is_one_line_and_exit_status_130() -> None:
    session.database().dispose()
    process = start("query", "--format", "csv", ENDLESS)
    assert process.stdout is not None
    assert process.stdout.readline() == "i\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "Interrupted.\n")


def computing(pid: int) -> bool:
    """Whether a process has computed for much longer than a command needs to start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") > 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_query_that_computes_for_ever_can_be_ended(number: signal.Signals) -> None:
    session.database().dispose()
    process = start("query", f"SELECT count(*) FROM ({ENDLESS})")
    wait(lambda: computing(process.pid), "the query to be computed")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "Interrupted.\n")


def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    session.database().dispose()
    process = start("query", ENDLESS)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().strip() == "i"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141
    process.stderr.close()


def test_a_terminal_that_lacks_a_letter_gets_it_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    process = start("query", "SELECT char(32954) AS film")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "\\u80ba" in out


@pytest.mark.parametrize(
    "words",
    [
        ("notices", "ls", "--limit"),
        ("schedule", "runs", "--limit"),
        ("export", "1", "films", "--uncertain"),
        ("jobs", "ls", "--limit"),
        ("jobs", "errors", "1", "--limit"),
    ],
)
def test_more_rows_than_a_database_can_count_are_refused_by_name(words: tuple[str, ...]) -> None:
    for number in (2**63, 10**30):
        result = run(*words, number)
        assert result.exit_code == 2
        assert "is not in the range" in result.stderr and words[-1] in result.stderr
