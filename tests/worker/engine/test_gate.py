"""The gate: real engines that agree pass it; whatever is wrong with one is found and said."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from trainer import card as cards
from trainer.card import Card
from worker.engine import Engine, gate, open_engine
from worker.engine.onnx import OnnxEngine

Open = Callable[..., Engine]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens engines and closes them: of ONNX Runtime, and with `backend=None` the processor's."""
    made: list[Engine] = []

    def open_one(path: Path, precision: str = "fp32", *, ours: bool = False) -> Engine:
        if ours:
            made.append(open_engine(path, batch=8, threads=2, precision=precision))
        else:
            made.append(
                OnnxEngine(
                    path, cards.read(path), gpu=None, batch=16, precision=precision, threads=1,
                    lanes=2,
                )
            )  # fmt: skip
        return made[-1]

    yield open_one
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def films(card: Card) -> NDArray[np.uint8]:
    """The golden films of `model_file`."""
    return gate.golden(card)


def edited(model: Path, path: Path, edit: Callable[[dict[str, NDArray[np.float32]]], None]) -> Path:
    """A copy of a model file after `edit(name → constant)`."""
    proto = onnx.load(str(model))
    constants = {i.name: numpy_helper.to_array(i).copy() for i in proto.graph.initializer}
    edit(constants)
    for initializer in proto.graph.initializer:
        initializer.CopyFrom(numpy_helper.from_array(constants[initializer.name], initializer.name))
    onnx.save(proto, str(path))
    return path


def test_golden_films_are_always_the_same_and_differ_from_each_other(
    card: Card, films: NDArray[np.uint8]
) -> None:
    assert films.shape == (gate.DRAWN, 1, card.size, card.size)
    assert films.dtype == np.uint8
    gate.golden(dataclasses.replace(card, size=32))  # only the latest are kept
    again = gate.golden(card)
    assert again is not films
    assert np.array_equal(again, films)
    assert len({film.tobytes() for film in films}) == len(films)
    assert films.reshape(len(films), -1).std(axis=1).min() > 10, "a film that shows nothing"


def test_golden_films_spread_a_models_probabilities_from_0_to_1(
    opened: Open, model_file: Path, card: Card, films: NDArray[np.uint8]
) -> None:
    said = gate.answers(opened(model_file, ours=True), films).scores[:, card.positive_index]
    chosen = gate._spread(said, card.threshold)
    assert len(chosen) == gate.FILMS
    counts = np.histogram(said[chosen], bins=8, range=(0, 1))[0]
    assert counts.min() >= 5, counts
    assert counts.max() <= 20, counts
    assert np.abs(said[chosen] - card.threshold).min() > gate.ON_THE_FENCE


def test_films_that_a_model_is_all_sure_of_are_compared_all_the_same() -> None:
    sure = np.full(gate.DRAWN, 0.999, np.float32)
    assert len(gate._spread(sure, 0.5)) == gate.FILMS
    undecided = np.full(gate.DRAWN, 0.5, np.float32)
    assert len(gate._spread(undecided, 0.5)) == gate.FILMS


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_that_says_what_the_processor_says_passes(
    opened: Open, files: dict[str, Path], films: NDArray[np.uint8], precision: str
) -> None:
    path = files[precision]
    reference = opened(path, precision, ours=True)
    verdict = gate.check(opened(path, precision), reference, films)
    assert verdict.passed, verdict.text
    assert 0 < verdict.delta <= gate.LIMITS[precision].probability
    assert (verdict.films, verdict.agreement) == (gate.FILMS, 1.0)
    assert verdict.text == f"parity {verdict.delta:.2g} on {gate.FILMS} films"


def test_an_int8_engine_is_held_to_the_processors_int8_and_to_its_decisions(
    opened: Open, files: dict[str, Path], films: NDArray[np.uint8]
) -> None:
    path = files["int8"]
    reference = opened(path, "int8", ours=True)
    same = gate.check(opened(path, "int8", ours=True), reference, films)
    assert (same.passed, same.delta) == (True, 0.0)
    # ONNX Runtime computes with the codes in float; random weights make much of that.
    other = gate.check(opened(path, "int8"), reference, films)
    assert not other.passed
    assert "99 % of probabilities within" in other.text


def test_an_engine_of_another_precision_than_it_says_fails(
    opened: Open, files: dict[str, Path], films: NDArray[np.uint8]
) -> None:
    int8 = opened(files["int8"], "int8")
    int8.precision = "fp32"
    verdict = gate.check(int8, opened(files["fp32"], ours=True), films)
    assert not verdict.passed
    assert "probabilities differ by up to" in verdict.text
    assert "(limit 0.0001)" in verdict.text


@pytest.mark.parametrize("share", [0.001, 0.1])
def test_perturbed_weights_fail(
    opened: Open, model_file: Path, tmp_path: Path, films: NDArray[np.uint8], share: float
) -> None:
    def perturb(constants: dict[str, NDArray[np.float32]]) -> None:
        rng = np.random.default_rng(0)
        for name, value in constants.items():
            if value.ndim == 4:
                noise = rng.standard_normal(value.shape).astype(np.float32)
                constants[name] = value + np.float32(share) * value.std() * noise

    other = opened(edited(model_file, tmp_path / "perturbed.onnx", perturb))
    verdict = gate.check(other, opened(model_file, ours=True), films)
    assert not verdict.passed
    assert verdict.delta > 1e-4


def head(constants: dict[str, NDArray[np.float32]]) -> tuple[str, str]:
    """Names of the head's weights `[C, features, 1, 1]` and bias `[C]`, of two classes."""
    (weights,) = [n for n, v in constants.items() if v.ndim == 4 and v.shape[0] == 2]
    (bias,) = [n for n, v in constants.items() if v.shape == (2,)]
    return weights, bias


def test_a_model_that_is_sure_of_every_film_fails_by_its_map(
    opened: Open, model_file: Path, tmp_path: Path, films: NDArray[np.uint8]
) -> None:
    def sure(constants: dict[str, NDArray[np.float32]]) -> None:
        constants[head(constants)[1]][1] += 60

    def sure_with_a_broken_map(constants: dict[str, NDArray[np.float32]]) -> None:
        sure(constants)
        constants[head(constants)[0]][1] *= np.float32(0.9)

    right = edited(model_file, tmp_path / "sure.onnx", sure)
    wrong = edited(model_file, tmp_path / "broken.onnx", sure_with_a_broken_map)
    reference = opened(right, ours=True)
    assert gate.answers(reference, films).scores[:, 1].min() > 0.999
    assert gate.check(opened(right), reference, films).passed
    verdict = gate.check(opened(wrong), reference, films)
    assert not verdict.passed
    assert verdict.delta <= 1e-4, "the probabilities alone would have let it through"
    assert verdict.text.startswith("maps differ by up to")


class _Changed:
    """An engine whose answers are changed on their way out, as a broken one's would be."""

    def __init__(self, inner: Engine, **change: Any) -> None:
        self._inner, self._change = inner, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, pixels: NDArray[np.uint8], films: int | None = None) -> Any:
        computed = self._inner.submit(pixels, films)
        change = self._change

        class Pending:
            def result(self) -> Any:
                said = computed.result()
                new = {name: make(getattr(said, name)) for name, make in change.items()}
                return dataclasses.replace(said, **new)

        return Pending()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": lambda s: s * np.nan}, "probabilities differ by up to 1"),
        ({"cam": lambda c: None}, "maps are missing"),
        ({"cam": lambda c: c.transpose(0, 2, 1)}, "maps differ"),
        ({"cam": lambda c: c[:, :1]}, "maps are missing or of another shape"),
        ({"ood": lambda o: o + 0.05 * np.ptp(o)}, "distances differ"),
        ({"ood": lambda o: o * np.inf}, "distances differ"),
        ({"scores": lambda s: s[::-1].copy()}, "probabilities differ"),
    ],
)
def test_an_output_that_is_wrong_in_any_way_is_found(
    opened: Open, model_file: Path, films: NDArray[np.uint8], change: dict[str, Any], said: str
) -> None:
    broken: Any = _Changed(opened(model_file), **change)
    verdict = gate.check(broken, opened(model_file, ours=True), films[:48])
    assert not verdict.passed
    assert said in verdict.text


def test_the_gate_takes_seconds_at_224_pixels(card: Card) -> None:
    began = time.process_time()
    films = gate.golden(dataclasses.replace(card, size=224))
    assert films.shape == (gate.DRAWN, 1, 224, 224)
    assert time.process_time() - began < 5, "drawing alone; the networks take the rest"
