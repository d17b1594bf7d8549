"""Films whose outcome is known from how they are made, and the model that it is known of.

A film is a grid of flat squares, each as large as a JPEG's block, so that its pixels are exact in
every format, and as large as the model's input, so that nothing is resized. The model is one
formula: the logistic function of a weighted sum of the squares. Here it is worked out in NumPy from
the numbers that a film is drawn with, never from a film or by what is tested. Some are no films or
are broken, each in a way that has one code.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from trainer import card as cards
from trainer.card import Card
from trainer.film import rules
from trainer.modelfile import graph as graph_file
from trainer.modelfile.graph import Graph

#: Squares per side of a film, and pixels per side of a square.
SQUARES, SIDE = 4, 8
SIZE = SQUARES * SIDE

LABELS = ("NORMAL", "PNEUMONIA")
THRESHOLD = 0.5

#: Weight of each square. No sum of levels makes up for another one's, so that each film has a
#: probability of its own, which those of -0.9 to 0.9 spread over 0 to 1.
WEIGHTS = 0.9 * np.sin(1.0 + np.arange(SQUARES * SQUARES))

#: A probability this near to the threshold would leave the label to rounding.
UNSURE = 1e-3

#: The engine computes in single precision.
TOLERANCE = 1e-5

#: Of so many films one is broken or refused.
ONE_BAD_IN = 40


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one film must come to: a label and its probability, or a code."""

    #: `prediction`, `refusal` or `error`.
    kind: str
    label: str = ""
    probability: float = 0.0
    code: str = ""

    def same(self, other: Outcome) -> bool:
        """Whether they are the same, but for rounding."""
        return (self.kind, self.label, self.code) == (other.kind, other.label, other.code) and abs(
            self.probability - other.probability
        ) <= TOLERANCE

    def __str__(self) -> str:
        said = f"{self.label} {self.probability:.6f}" if self.kind == "prediction" else self.code
        return f"{self.kind} {said}"


@dataclass(frozen=True, kw_only=True)
class Film:
    """A file, and what must become of it."""

    name: str
    data: bytes
    outcome: Outcome


def probability(squares: NDArray[np.uint8]) -> float:
    """P(PNEUMONIA) of a film of these squares, `uint8 [SQUARES²]`, in double precision."""
    logit = float(WEIGHTS @ ((squares.astype(np.float64) - 128) / 128))
    return float(1 / (1 + np.exp(-logit)))


def drawn(squares: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The film's pixels, `uint8 [SIZE, SIZE]`."""
    return np.kron(squares.reshape(SQUARES, SQUARES), np.ones((SIDE, SIDE), np.uint8))


def make(count: int, seed: int) -> Iterator[Film]:
    """So many files, whose names are `00017.png` and the like: no two are alike."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield _bad(number, rng) if number % ONE_BAD_IN == 7 else _good(number, rng)


def _good(number: int, rng: np.random.Generator) -> Film:
    while True:
        # No two alike, and further apart than JPEG moves them: fewer than 16 levels are `blank`.
        squares = (4 * rng.choice(64, SQUARES * SQUARES, replace=False)).astype(np.uint8)
        p = probability(squares)
        if abs(p - THRESHOLD) > UNSURE:
            break
    suffix = ("png", "jpeg", "jpg")[number % 3]
    image = Image.fromarray(drawn(squares))
    if suffix == "jpg":
        image = image.convert("RGB")
    return Film(
        name=f"{number:05}.{suffix}",
        data=_encoded(image, "PNG" if suffix == "png" else "JPEG"),
        outcome=Outcome(kind="prediction", label=LABELS[p >= THRESHOLD], probability=p),
    )


def _bad(number: int, rng: np.random.Generator) -> Film:
    """A file that is broken or no film, in one of the ways below."""
    noise = rng.integers(0, 256, (SIZE, SIZE), np.uint8)
    gray = Image.fromarray(noise)
    colour = Image.merge("RGB", (gray, gray.point(lambda _: 255), gray.point(lambda _: 0)))
    whole = _encoded(gray, "JPEG")
    kind, code, data = (
        ("error", "truncated", whole[: len(whole) * 2 // 3]),
        ("error", "truncated", b""),
        ("error", "not_an_image", f"report {number}: nothing was found\n".encode()),
        ("error", "unsupported_format", b"\x93NUMPY\x01\x00" + noise.tobytes()),
        ("refusal", "colour", _encoded(colour, "PNG")),
        ("refusal", "too_small", _encoded(gray.crop((0, 0, 16, 16)), "PNG")),
        ("refusal", "nested_archive", b"\x1f\x8b\x08\x00" + noise.tobytes()),
    )[number // ONE_BAD_IN % 7]
    return Film(name=f"{number:05}.png", data=data, outcome=Outcome(kind=kind, code=code))


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    # The finest quantisation: a flat block has nothing but its mean, which is kept exactly.
    image.save(buffer, kind, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()


def write(folder: Path, films: Sequence[Film]) -> list[Path]:
    """Put a third of the films each into a folder, a zip and a tar.gz; those three."""
    third = -(-len(films) // 3)
    parts = [films[start : start + third] for start in range(0, len(films), third)]
    sources = [folder / "films", folder / "films.zip", folder / "films.tar.gz"]
    for film in parts[0]:
        path = sources[0] / f"ward_{int(film.name[:5]) % 7}" / film.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(film.data)
    with zipfile.ZipFile(sources[1], "w") as archive:
        for film in parts[1]:
            archive.writestr(zipfile.ZipInfo(film.name), film.data)
    with tarfile.open(sources[2], "w:gz", compresslevel=1) as tar:
        for film in parts[2]:
            member = tarfile.TarInfo(film.name)
            member.size = len(film.data)
            tar.addfile(member, io.BytesIO(film.data))
    return sources


def write_model(path: Path) -> Card:
    """Write the model file: the formula of `probability`, and nothing else."""
    graph = Graph()
    weights = np.kron(WEIGHTS.reshape(SQUARES, SQUARES), np.ones((SIDE, SIDE))) / (128 * SIDE**2)
    x = graph.add("Cast", [cards.INPUT], "gray", to=TensorProto.FLOAT)
    x = graph.add("Sub", [x, graph.constant("middle", np.float32(128))], "centred")
    x = graph.add("Flatten", [x], "flat", axis=1)
    # Column 0 is NORMAL, whose logit is 0.
    columns = np.stack([np.zeros(SIZE * SIZE), weights.ravel()], axis=1).astype(np.float32)
    x = graph.add("MatMul", [x, graph.constant("weights", columns)], "logits")
    graph.add("Softmax", [x], cards.SCORES, axis=1)
    made = Card(
        labels=LABELS,
        positive=LABELS[1],
        size=SIZE,
        film_rule=rules.DEFAULT_RULE,
        golden=tuple(rules.golden()),
        temperature=1.0,
        threshold=THRESHOLD,
        threshold_rule="half, by definition",
    )
    image = helper.make_tensor_value_info(cards.INPUT, TensorProto.UINT8, ["N", 1, SIZE, SIZE])
    scores = helper.make_tensor_value_info(cards.SCORES, TensorProto.FLOAT, ["N", len(LABELS)])
    graph_file.write(path, graph, [image], [scores], made)
    return made
