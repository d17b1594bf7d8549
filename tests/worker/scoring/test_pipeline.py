"""The pipeline without a database: each film has the outcome that it has when computed alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import hostile
from tests.worker import samples
from trainer import card as cards
from trainer.card import Card
from trainer.errors import FilmError, FilmRefused
from trainer.film import rules
from worker import archive, config
from worker.decoding.pool import Decoded, Place
from worker.engine import Engine, Outputs, choose, open_engine
from worker.errors import EngineError, GpuLost
from worker.scoring.engine_thread import Model
from worker.scoring.pipeline import Failed, Pipeline, Read, Run, Scored

BATCH = 8

#: Of a film: its scores as bytes, or why there are none: code, message, whether it is refused.
Outcome = bytes | tuple[str, str, bool]


@dataclass(kw_only=True, eq=False)
class Kept(Run):
    """A run that keeps the outcomes by name."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    contents: dict[str, bytes | None] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.outcomes) == len(self.members)

    def read(self, index: int, decoded: Decoded) -> None:
        self.contents[self._name(index)] = decoded.content
        if decoded.failure is not None:
            self._keep(index, decoded.failure)

    def scored(self, indexes: list[int], rows: list[int], outputs: Outputs) -> None:
        for index, row in zip(indexes, rows, strict=True):
            self._keep(index, outputs.scores[row].tobytes())

    def _name(self, index: int) -> str:
        return self.members[index].name

    def _keep(self, index: int, outcome: Outcome) -> None:
        assert self._name(index) not in self.outcomes, "one outcome each"
        self.outcomes[self._name(index)] = outcome


#: By number; what is not here cannot be had.
Files = dict[int, Path]


def load(path: Path, model: Model) -> Engine:
    """The processor's engine, of two threads."""
    return open_engine(path, batch=BATCH, threads=2, precision=model.precision)


@contextmanager
def pipeline(
    files: Files, tmp_path: Path, load: Callable[[Path, Model], Engine] = load
) -> Iterator[Pipeline[Kept]]:
    """A pipeline of two decoder processes."""

    def locate(model: Model) -> Path:
        if model.number not in files:
            raise EngineError(f"model {model.number} is not here")
        return files[model.number]

    settings = config.load(
        {
            "PNEUMOQ_HOME": str(tmp_path / "home"),
            "PNEUMOQ_DECODERS": "2",
            "PNEUMOQ_ENGINE_THREADS": "2",
            "PNEUMOQ_BATCH": str(BATCH),
        }
    )
    made: Pipeline[Kept] = Pipeline(settings, choose(settings), locate, load)
    try:
        yield made
    finally:
        made.close()


def run(folder: Path, number: int, file: Path, **options: Any) -> Kept:
    """The films of a folder, to be scored by a model; all wait unless told."""
    with archive.open_source(str(folder)) as source:
        members = list(source.members())
    return Kept(
        card=cards.read(file),
        model=Model(number, "fp32"),
        place=Place(kind="folder", uri=str(folder), edition="1"),
        members=members,
        hash="blake3",
        **{"waiting": deque(range(len(members)))} | options,
    )


def drive(
    films: Pipeline[Kept], until: Callable[[], bool]
) -> Iterator[Read[Kept] | Scored[Kept] | Failed[Kept]]:
    """Feed and step until something is true."""
    deadline = time.monotonic() + samples.PATIENCE_S
    while not until():
        assert time.monotonic() < deadline
        films.feed(more=False)
        yield from films.step(0.1)


def through(films: Pipeline[Kept], *runs: Kept) -> list[Kept]:
    """Let runs through; they are returned in the order in which they came out."""
    found: list[Kept] = []
    for one in runs:
        films.add(one)
    list(drive(films, lambda: found.extend(films.through()) or len(found) == len(runs)))
    return found


def alone(folder: Path, file: Path, accept: tuple[str, ...] = ()) -> dict[str, Outcome]:
    """What becomes of each film by itself: the film rule in this process, one engine, no batches.

    The batch that the engine wants is filled up with the same film.
    """
    engine = open_engine(file, batch=BATCH, threads=1)
    card = engine.card
    found: dict[str, Outcome] = {}
    for path in folder.iterdir():
        try:
            pixels = rules.decode(path.read_bytes(), card.size, card.film_rule, accept=accept)
        except FilmError as error:
            found[path.name] = (error.code, str(error), isinstance(error, FilmRefused))
        else:
            batch = np.stack([pixels[None]] * BATCH)  # to stay until it is computed
            found[path.name] = engine.submit(batch).result().scores[0].tobytes()
    engine.close()
    return found


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good films among those that are broken and those that are refused."""
    root = tmp_path_factory.mktemp("films")
    for name, data in samples.films(20):
        (root / name).write_bytes(data)
    for bad in hostile.bad_files():
        (root / bad.name.removeprefix("._")).write_bytes(bad.data)
    return root


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good films, fewer than fill their last batch."""
    root = tmp_path_factory.mktemp("few")
    for name, data in samples.films(9, seed=1)[: BATCH + 3]:
        (root / name).write_bytes(data)
    return root


def test_good_broken_and_refused_films_have_the_outcomes_that_each_has_alone(
    films: Path, few: Path, model_file: Path, other_model: tuple[Path, Card], tmp_path: Path
) -> None:
    other = other_model[0]
    with pipeline({1: model_file, 2: other}, tmp_path) as made:
        runs = [
            run(films, 1, model_file),
            run(few, 2, other),
            run(films, 1, model_file, accept=("too_small",)),
            run(few, 1, model_file),
        ]
        assert set(through(made, *runs)) == set(runs)
        (again,) = through(made, run(films, 2, other))
    expected = alone(films, model_file)
    assert {type(outcome) for outcome in expected.values()} == {bytes, tuple}
    assert {o[2] for o in expected.values() if isinstance(o, tuple)} == {True, False}
    assert runs[0].outcomes == expected
    assert runs[1].outcomes == alone(few, other)
    accepted = alone(films, model_file, accept=("too_small",))
    assert accepted != expected
    assert runs[2].outcomes == accepted
    assert runs[3].outcomes == alone(few, model_file)
    assert again.outcomes == alone(films, other)


def test_films_that_are_only_read_are_not_decoded_before_their_contents_are_known(
    few: Path, model_file: Path, tmp_path: Path
) -> None:
    with pipeline({1: model_file}, tmp_path) as made:
        one = run(few, 1, model_file)
        one.unread, one.waiting = one.waiting, one.unread
        made.add(one)
        known: list[Kept] = []
        for event in drive(made, lambda: bool(known)):
            assert isinstance(event, Read)
            known.append(event.run)
        assert known == [one]
        assert one.outcomes == {}
        assert len(one.contents) == len(set(one.contents.values())) == len(one.members)
        one.waiting.extend(range(len(one.members)))
        found: list[Kept] = []
        events = list(drive(made, lambda: found.extend(made.through()) or bool(found)))
        assert {type(event) for event in events} == {Scored}
    assert one.outcomes == alone(few, model_file)


def test_a_model_that_cannot_be_had_costs_its_own_runs_and_says_why(
    few: Path, model_file: Path, tmp_path: Path
) -> None:
    with pipeline({1: model_file}, tmp_path) as made:
        good, bad = run(few, 1, model_file), run(few, 3, model_file)
        made.add(bad)
        made.add(good)
        found: list[Kept] = []
        events = list(drive(made, lambda: found.extend(made.through()) or len(found) == 2))
        (failed,) = [event for event in events if isinstance(event, Failed)]
        assert failed.run is bad
        assert str(failed.error) == "model 3 is not here"
    assert (bad.abandoned, bad.outcomes) == (True, {})
    assert good.outcomes == alone(few, model_file)


@pytest.mark.parametrize("where", ["read", "scored"])
def test_a_run_that_cannot_take_what_came_of_its_films_costs_itself_only(
    where: str, few: Path, model_file: Path, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("of what nobody foresaw")

    with pipeline({1: model_file}, tmp_path) as made:
        good, bad = run(few, 1, model_file), run(few, 1, model_file)
        setattr(bad, where, fail)
        made.add(bad)
        made.add(good)
        found: list[Kept] = []
        events = list(drive(made, lambda: found.extend(made.through()) or len(found) == 2))
        failed = [event for event in events if isinstance(event, Failed)]
    assert {event.run for event in failed} == {bad}
    assert isinstance(failed[0].error, IndexError)
    assert good.outcomes == alone(few, model_file)


def test_of_a_run_that_is_dropped_nothing_more_comes_and_its_room_is_used_again(
    films: Path, few: Path, model_file: Path, tmp_path: Path
) -> None:
    with pipeline({1: model_file}, tmp_path) as made:
        for _ in range(3):  # more films than there is room for
            dropped = run(films, 1, model_file)
            made.add(dropped)
            for _ in drive(made, lambda: len(dropped.outcomes) > 10):  # noqa: B023
                pass
            made.drop(dropped)
            there = dict(dropped.outcomes)
            found: list[Kept] = []
            list(drive(made, lambda: found.extend(made.through()) or bool(found)))  # noqa: B023
            assert found == [dropped]
            assert dropped.outcomes == there
        (one,) = through(made, run(few, 1, model_file))
    assert one.outcomes == alone(few, model_file)


def test_a_lost_gpu_is_raised_after_it_was_said_which_runs_were_being_computed(
    few: Path, model_file: Path, tmp_path: Path
) -> None:
    class Losing:
        """A real engine, except that the GPU is lost at the second batch."""

        def __init__(self, inner: Engine) -> None:
            self._inner, self._batches = inner, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def submit(self, pixels: Any, films: int | None = None) -> Any:
            self._batches += 1
            if self._batches == 2:
                raise GpuLost("CUDA says 719")
            return self._inner.submit(pixels, films)

    losing: Any = lambda path, model: Losing(load(path, model))  # noqa: E731
    events = []
    with pipeline({1: model_file}, tmp_path, losing) as made:
        first, second = run(few, 1, model_file), run(few, 1, model_file)
        made.add(first)
        made.add(second)
        with pytest.raises(GpuLost, match="CUDA says 719"):
            for event in drive(made, lambda: False):
                events.append(event)
        lost = [event for event in events if isinstance(event, Failed)]
        assert lost and all(isinstance(event.error, GpuLost) for event in lost)
        assert first in [event.run for event in lost]
        assert set(made.take_all()) == {first, second}
