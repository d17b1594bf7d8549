"""The card: which class its operating threshold makes of a film's scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trainer import card as cards
from trainer.card import Card
from trainer.errors import CardError

CARD = Card(
    labels=("NORMAL", "PNEUMONIA"),
    positive="PNEUMONIA",
    size=64,
    film_rule="film-1",
    golden=(),
    temperature=1.0,
    threshold=0.5,
    threshold_rule="half",
)


@pytest.mark.parametrize(
    ("threshold", "probability", "expected"),
    [(0.5, 0.5, 1), (0.5, 0.49, 0), (0.2, 0.3, 1), (0.9, 0.8, 0)],
)
def test_of_two_classes_the_threshold_decides(
    threshold: float, probability: float, expected: int
) -> None:
    chosen = dataclasses.replace(CARD, threshold=threshold)
    assert chosen.decide(np.array([[1 - probability, probability]], np.float32)) == expected


def test_of_three_classes_the_threshold_decides_about_the_positive_one_first() -> None:
    chosen = dataclasses.replace(
        CARD, labels=("NORMAL", "PNEUMONIA", "OTHER"), positive="PNEUMONIA", threshold=0.3
    )
    for scores, expected in (
        ((0.6, 0.3, 0.1), 1),  # positive, though NORMAL is likelier
        ((0.5, 0.2, 0.3), 0),
        ((0.1, 0.2, 0.7), 2),
    ):
        assert chosen.decide(np.array([scores], np.float32)) == expected
    # Below its threshold the positive class is not called, even where it is the likeliest.
    strict = dataclasses.replace(chosen, threshold=0.9)
    assert strict.decide(np.array([(0.1, 0.7, 0.2)], np.float32)) == 2


def a_file(path: Path, **metadata: str) -> Path:
    """An ONNX file of one node with this metadata; it has a weight of some bytes."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64], [0.5] * 64)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph)
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_card_is_found_among_other_metadata(tmp_path: Path) -> None:
    path = a_file(tmp_path / "m.onnx", author="me", pneumoq=CARD.to_json(), remark="π")
    assert cards.read(path) == CARD
    assert {e.key for e in onnx.load(str(path)).metadata_props} == {"author", "pneumoq", "remark"}


def test_a_file_that_is_cut_short_anywhere_has_no_card(tmp_path: Path) -> None:
    whole = a_file(tmp_path / "m.onnx", pneumoq=CARD.to_json()).read_bytes()
    # What follows the card, the versions of operators, is not missed.
    end = whole.index(CARD.to_json().encode()) + len(CARD.to_json())
    path = tmp_path / "short.onnx"
    for length in range(end):
        path.write_bytes(whole[:length])
        with pytest.raises(CardError, match=r"is not an ONNX file|has no 'pneumoq' metadata"):
            cards.read(path)


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html></html>",
        b"\x00" * 100,
        b"\xff" * 100,
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a graph of 2 ** 63 bytes
        b"\x08" + b"\x80" * 11 + b"\x01",
        b"\x72\x04\x0a\x02\xff\xfe",  # a key that is no text
        b"\x72\x02\x0a\x7f",  # a key that is longer than its entry
    ],
)
def test_what_is_no_onnx_file_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(CardError, match=r"m\.onnx is not an ONNX file"):
        cards.read(path)
