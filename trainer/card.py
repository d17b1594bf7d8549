"""The model card: what a model file says about itself, kept inside the ONNX file.

The network's inputs and outputs are fixed by name; everything else needed to use it (labels, film
rule, threshold, provenance) is one JSON object in the file's metadata map under `KEY`. Reading a
card needs neither `onnx` nor torch.

    input   image   uint8   [N, 1, S, S]   gray as the film rule makes it
    output  scores  float32 [N, C]         calibrated probabilities, rows sum to 1
    output  cam     float32 [N, h, w]      class-activation map of the positive class, in logits;
                                           its mean plus the bias is that class's logit
    output  ood     float32 [N]            distance from the training films, 1 is typical
    output  look    float32 [N, G]         how much a film looks acquired like each group of
                                           training films of one class; from LOOK_LIMIT on it does
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trainer.errors import CardError

KEY = "pneumoq"

#: Version of the JSON object. A reader refuses a newer major version than it knows.
FORMAT = 1

INPUT, SCORES, CAM, OOD, LOOK = "image", "scores", "cam", "ood", "look"

#: From here on a film looks acquired like a group.
LOOK_LIMIT = 0.5


@dataclass(frozen=True, kw_only=True)
class Group:
    """Training films that look acquired alike and are (nearly) of one class: a column of `look`."""

    #: How they are alike, as in "films with …".
    what: str
    #: The class that they are nearly all of.
    label: str
    #: Films by class.
    films: dict[str, int]
    patients: int
    #: Share of the group's films, and of other films, that are marked, among training films of
    #: patients that the sign was not learned from.
    found: float
    false: float


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One golden vector: these bytes must give these pixels wherever the rule is implemented."""

    #: An encoded film of a few hundred bytes.
    film: bytes
    #: What the rule made of it, `uint8 [size, size]`.
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model file says about itself."""

    #: Class names in the order of `scores`.
    labels: tuple[str, ...]
    #: The class whose probability is `probability` everywhere: the disease.
    positive: str
    #: S: films are S × S pixels.
    size: int
    #: Channels of the input: 1, or 3 for imported models (the gray plane repeated).
    channels: int = 1
    #: Film rule that made the training pixels, and vectors that prove a reader has the same one.
    film_rule: str
    golden: tuple[Golden, ...]
    #: `fp32`, `fp16` or `int8`: the precision of the network inside this file.
    precision: str = "fp32"
    #: Logits were divided by this before the softmax; fitted on validation.
    temperature: float
    #: Operating point: P(positive) at or above it is called positive.
    threshold: float
    #: How the operating point was chosen, for a person, e.g. `youden on validation`.
    threshold_rule: str
    #: `ood` above this is flagged; None where the model has no such output.
    ood_threshold: float | None = None
    #: Groups of training films, in the order of `look`; empty where the model has no such output.
    looks: tuple[Group, ...] = ()
    #: SHA-256 of the training manifest.
    dataset_hash: str = ""
    #: Whether it is known whose the training films are: `known`, `folders` where each folder was
    #: taken for a patient, or `unknown`, and then figures may be too good and intervals too narrow.
    #: Empty where it is not said.
    patients: str = ""
    #: Metrics by name, of films that the network was not trained on.
    metrics: dict[str, float] = field(default_factory=dict)
    #: What those films had a part in, for a person, e.g. `cross-fitted over patients: …`; empty in
    #: files of before, whose metrics are of the films that chose epoch, temperature and threshold.
    basis: str = ""
    #: What is left where held-out films are dressed as others look, `trainer.shift.report`; None
    #: where it was not measured.
    shift: dict[str, Any] | None = None
    #: Free provenance: training options, software versions, initial weights.
    provenance: dict[str, Any] = field(default_factory=dict)
    #: When the file was written, ISO 8601 UTC.
    created: str = ""

    @property
    def positive_index(self) -> int:
        """Column of `scores` that is P(positive)."""
        return self.labels.index(self.positive)

    def decide(self, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        """Classes `int [N]` of scores `[N, C]` by the operating threshold.

        Positive at or above it, else the likeliest of the others.
        """
        others = scores.copy()
        others[:, self.positive_index] = -1
        # In double, as the database and a person compare.
        positive = scores[:, self.positive_index].astype(np.float64) >= self.threshold
        return np.where(positive, self.positive_index, others.argmax(axis=1))

    def alike(self, look: NDArray[np.float32] | None, films: int) -> list[int | None]:
        """The group that each of so many films looks most like, by `look [N, G]`, if any."""
        if look is None or not self.looks:
            return [None] * films
        groups = look.argmax(axis=1).tolist()
        found = (look.max(axis=1) >= LOOK_LIMIT).tolist()
        return [group if is_it else None for group, is_it in zip(groups, found, strict=True)]

    def to_json(self) -> str:
        """The JSON object that goes into the file's metadata map."""
        values = dataclasses.asdict(self)
        values["golden"] = [
            {
                "film": base64.b64encode(g.film).decode(),
                "size": g.pixels.shape[0],
                "pixels": base64.b64encode(g.pixels.tobytes()).decode(),
            }
            for g in self.golden
        ]
        return json.dumps({"format": FORMAT, **values}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read `to_json`'s object; raises CardError where it is malformed or too new."""
        try:
            values = json.loads(text)
            if values.pop("format") > FORMAT:
                raise CardError("the model file was made by a newer PneumoQ; upgrade this one")
            known = {f.name for f in dataclasses.fields(cls)}
            values = {k: v for k, v in values.items() if k in known}
            values["labels"] = tuple(values["labels"])
            values["golden"] = tuple(_golden(g) for g in values["golden"])
            values["looks"] = tuple(_group(g) for g in values.get("looks", ()))
            card = cls(**values)
            card.positive_index  # noqa: B018  # raises where `positive` is not a label
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CardError):
                raise
            raise CardError(f"the model file's metadata is malformed: {error}") from error
        return card


def _group(value: dict[str, Any]) -> Group:
    known = {f.name for f in dataclasses.fields(Group)}
    return Group(**{k: v for k, v in value.items() if k in known})


def _golden(value: dict[str, Any]) -> Golden:
    size = int(value["size"])
    pixels = np.frombuffer(base64.b64decode(value["pixels"]), np.uint8).reshape(size, size)
    return Golden(film=base64.b64decode(value["film"]), pixels=pixels)


def read(path: Path) -> Card:
    """The card of a model file; raises CardError where the file is not one of ours.

    The network is passed over unread: engines read it themselves.
    """
    try:
        with path.open("rb") as file:
            values = [value for key, value in _metadata(file) if key == KEY]
    except OSError as error:
        raise CardError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise CardError(f"{path} is not an ONNX file: {error}") from error
    if not values:
        raise CardError(f"{path} has no {KEY!r} metadata: it was not made or imported by PneumoQ")
    return Card.from_json(values[0])


#: Of an ONNX file (onnx.proto): `ModelProto.metadata_props`, and key and value of such an entry.
_METADATA_PROPS, _ENTRY_KEY, _ENTRY_VALUE = 14, 1, 2

#: How protobuf writes a field: a number of up to ten bytes, so many bytes, or a length and these.
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}


def _metadata(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The entries of a model's metadata map; ValueError where this is no protobuf message."""
    for number, data in _fields(file, os.fstat(file.fileno()).st_size, _METADATA_PROPS):
        if number == _METADATA_PROPS:
            entry = dict(_fields(io.BytesIO(data), len(data), _ENTRY_KEY, _ENTRY_VALUE))
            yield entry.get(_ENTRY_KEY, b"").decode(), entry.get(_ENTRY_VALUE, b"").decode()


def _fields(file: BinaryIO, end: int, *wanted: int) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of the wanted fields that have a length, of a message that ends at `end`."""
    while file.tell() < end:
        key = _varint(file)
        number, kind = key >> 3, key & 7
        if number and kind == _VARINT:
            _varint(file)
            continue
        length = _varint(file) if kind == _BYTES else _FIXED.get(kind)
        if not number or length is None or length > end - file.tell():
            raise ValueError("its fields do not follow one another to its end")
        if kind == _BYTES and number in wanted:
            yield number, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    """Seven bits a byte, the lowest first; the last byte is below 128."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it ends within a field, or has a number that is too long")
