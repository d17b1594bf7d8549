"""classify, a second time: the film is computed ahead, by a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.registry import aliases
from scheduler import session
from scheduler.submitting import precision
from tests.scheduler.console import only_line, run
from tests.support import drawn
from tests.worker import samples
from worker.classify import ahead, films
from worker.decoding import supervisor
from worker.engine import alone
from worker.errors import EngineError


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """One film."""
    drawn.write_folder(tmp_path / "films", 2)
    return sorted((tmp_path / "films").rglob("*.*"))[0]


@pytest.fixture
def used(model_id: int, film: Path) -> ahead.Used:
    """What a film was computed with already, as is noted."""
    assert run("classify", film).exit_code == 0
    return ahead.noted(session.settings().home)[0][0]


@pytest.fixture
def only_ahead(used: ahead.Used, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing is computed in this process."""

    def never(*_: object) -> None:
        raise AssertionError("it was computed here")

    monkeypatch.setattr(films, "classify", never)


def answer(*arguments: object) -> str:
    """What `classify --json` prints, every digit of it."""
    result = run("classify", *map(str, arguments), "--json")
    assert result.exit_code == 0, result.stderr
    return result.stdout


def computed_here(*arguments: object) -> str:
    """The same where nothing is noted."""
    ahead.notes_of(session.settings().home).unlink(missing_ok=True)
    return answer(*arguments)


@pytest.mark.parametrize("alone", [1, 8])
def test_what_is_computed_ahead_is_the_answer_to_the_last_bit(
    used: ahead.Used, film: Path, monkeypatch: pytest.MonkeyPatch, alone: int
) -> None:
    here = computed_here(film)
    home = session.settings().home
    assert used.batch == 8
    rows = json.loads(ahead.notes_of(home).read_text())
    ahead.notes_of(home).write_text(json.dumps([{**rows[0], "alone": alone}]))
    monkeypatch.delattr(films, "classify")
    assert answer(film) == here


def test_what_is_said_of_it_is_the_same_too(
    used: ahead.Used, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead.notes_of(session.settings().home).unlink()
    here = run("classify", film, "--topK", 0).stdout
    monkeypatch.delattr(films, "classify")
    assert run("classify", film, "--topK", 0).stdout == here
    assert "Research software, not a medical device." in here


def test_what_another_model_said_ahead_is_not_taken(
    engine: sa.Engine, used: ahead.Used, film: Path, tmp_path: Path
) -> None:
    samples.write_model(tmp_path / "other.onnx", ("NORMAL", "PNEUMONIA"), seed=2)
    other = samples.register(engine, tmp_path / "other.onnx")
    said = answer(film, "--model", other)
    assert json.loads(said)["model_id"] == other
    assert ahead.noted(session.settings().home)[0][0] != used, "it is what was used last now"
    assert said == computed_here(film, "--model", other)
    assert said != answer(film)


@pytest.mark.parametrize(
    "other",
    [{"precision": "bf16"}, {"version": "2020.1"}, {"processor": "x"}, {"batch": 4}],
    ids=str,
)
def test_what_was_computed_otherwise_is_not_taken(
    used: ahead.Used, film: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    good = answer(film)
    note = ahead.notes_of(session.settings().home)
    rows = json.loads(note.read_text())
    note.write_text(json.dumps([{"used": rows[0]["used"] | other, "alone": 1}]))
    assert len(ahead.noted(session.settings().home)) == 1
    here = []
    classify = films.classify

    def seen(*given: Any) -> Any:
        here.append(given)
        return classify(*given)

    monkeypatch.setattr(films, "classify", seen)
    assert answer(film) == good
    assert len(here) == 1


def in_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    """Have whatever is started from now on do this before it decodes the film."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, threading, time\n"
        "from trainer.film import rules\n"
        "decoded = rules.decode\n"
        "def decode(*films, **options):\n"
        "    if threading.current_thread() is threading.main_thread():\n"
        f"        {does}\n"
        "    return decoded(*films, **options)  # others do the golden films of the model\n"
        "rules.decode = decode\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_what_a_library_prints_is_no_answer(
    used: ahead.Used, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = answer(film)
    in_the_child(tmp_path, monkeypatch, "os.write(1, b'onednn_verbose,v1,info\\n')")
    monkeypatch.delattr(films, "classify")
    assert answer(film) == good


def test_a_film_whose_process_the_system_killed_is_computed_here(
    used: ahead.Used, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = answer(film)
    in_the_child(tmp_path, monkeypatch, "os.kill(os.getpid(), 9)")
    assert answer(film) == good


def test_a_films_path_is_in_no_arguments(
    used: ahead.Used, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = tmp_path / "arguments"
    keeps = f"open({str(shown)!r}, 'wb').write(open('/proc/self/cmdline', 'rb').read())"
    in_the_child(tmp_path, monkeypatch, keeps)
    monkeypatch.delattr(films, "classify")
    answer(film)
    assert b"worker.classify.child" in shown.read_bytes()
    assert film.name.encode() not in shown.read_bytes()


def test_a_trial_that_fails_costs_no_answer(
    model_id: int, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> bool:
        raise EngineError("there is no batch of one")

    monkeypatch.setattr(alone, "agrees", never)
    answer(film)
    ((used, films_in_batch),) = ahead.noted(session.settings().home)
    assert films_in_batch == used.batch


def test_what_a_damaged_file_said_ahead_is_not_taken(used: ahead.Used, film: Path) -> None:
    home = session.settings().home
    good = answer(film)
    path = ahead.path_of(home, used.sha256)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    assert answer(film) == good
    assert path.read_bytes() != bytes(data), "it was fetched anew"


def test_what_is_no_film_is_refused_in_the_same_words(
    used: ahead.Used, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.jpeg"
    broken.write_bytes(b"\xff\xd8\xff no film")
    note = ahead.notes_of(session.settings().home)
    kept = note.read_bytes()
    note.unlink()
    here = run("classify", broken)
    note.write_bytes(kept)
    monkeypatch.delattr(films, "classify")
    again = run("classify", broken)
    assert (again.exit_code, again.stderr) == (here.exit_code, here.stderr) == (2, here.stderr)
    assert only_line(again.stderr).startswith(f"Error: {broken}: ")


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("os.kill(os.getpid(), 11)", "the process that decoded it ended by signal 11"),
        ("time.sleep(600)", "decoding was given up after 0.5 s (PNEUMOQ_FILM_DEADLINE_S)"),
    ],
)
def test_a_film_that_ends_or_stops_what_decodes_it_is_an_error_in_one_line(
    only_ahead: None, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    does: str, says: str,
) -> None:  # fmt: skip
    in_the_child(tmp_path, monkeypatch, does)
    monkeypatch.setenv("PNEUMOQ_FILM_DEADLINE_S", "0.5")
    result = run("classify", film)
    assert result.exit_code == 2
    assert only_line(result.stderr) == f"Error: {film}: {says}"


def test_a_note_that_cannot_be_read_is_as_none(used: ahead.Used, film: Path) -> None:
    good = answer(film)
    for text in ("", "[]", "{}", '[{"used": {}, "alone": 1}]', "[1]"):
        ahead.notes_of(session.settings().home).write_text(text)
        assert answer(film) == good


def test_names_that_are_written_twice_are_the_same() -> None:
    assert precision.CHAMPION == aliases.CHAMPION
    assert (ahead.TIMEOUT, ahead.DIED) == (supervisor.TIMEOUT, supervisor.DIED)
