"""The `look` of a model file: a fingerprint as nodes of its graph, in float from the film alone.

Each says what `trainer.acquisition.fingerprint` computes of the same films. They read no tensor but
the film's gray levels, so that no precision of the network changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from trainer import card as cards
from trainer import folded
from trainer.acquisition import measures
from trainer.acquisition.fingerprint import Fingerprint
from trainer.acquisition.signs import EDGE, GRID, MIDDLE, NOISE, Frame, Mark, Sharpness, Tone
from trainer.modelfile.graph import Graph


def add(graph: Graph, learned: Fingerprint, size: int) -> None:
    """Add `look float32 [N, G]` of the film `gray float32 [N, 1, size, size]`."""
    signs = []
    squares = _squares(graph, [p.sign for p in learned.parts if isinstance(p.sign, Mark)], size)
    for number, part in enumerate(learned.parts):
        nodes = _Nodes(graph, f"{cards.LOOK}.{number}", size)
        sign = part.sign
        if isinstance(sign, Mark):
            signs.append(nodes.mark(sign, squares))
        elif isinstance(sign, Frame):
            signs.append(nodes.frame(sign))
        elif isinstance(sign, Tone):
            signs.append(nodes.tone(sign))
        else:
            signs.append(nodes.sharpness(sign))
    nodes = _Nodes(graph, cards.LOOK, size)
    x = graph.add("Concat", signs, f"{cards.LOOK}.signs", axis=1)
    limits = np.array([part.limit for part in learned.parts], np.float32)
    gains = np.array([part.gain for part in learned.parts], np.float32)
    x = nodes.add("Sub", [x, nodes.constant("limits", limits)], "beyond")
    x = nodes.add("Mul", [x, nodes.constant("gains", gains)], "logits")
    graph.add("Sigmoid", [x], cards.LOOK)


class _Nodes:
    """Nodes of one sign, whose names begin alike; each method gives float32 [N, 1]."""

    def __init__(self, graph: Graph, name: str, size: int) -> None:
        self._graph, self._name, self._size = graph, name, size

    def constant(self, name: str, value: NDArray[np.generic] | float) -> str:
        """A constant; a number is float32."""
        array = np.array(value, np.float32) if isinstance(value, float) else value
        return self._graph.constant(f"{self._name}.{name}", array)

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """A node with one output."""
        return self._graph.add(op, inputs, f"{self._name}.{output}", **attributes)

    def mark(self, sign: Mark, film: _Squares) -> str:
        """The greatest correlation with a picture in a window, in squares of GRID pixels.

        Places in a square are the channels of what is found: engines compute many channels at once,
        and one pixel after another.
        """
        cells = list(sign.cells)
        first = [side // GRID for side in sign.window[:2]]
        last = [n + side // GRID for n, side in zip(first, sign.part, strict=True)]
        x, mean, power = (
            self._slice(whole, f"window.{name}", first, last)
            for whole, name in zip(film, _Squares._fields, strict=True)
        )
        kernels = self.constant("pictures", _shifted(sign))
        likeness = self.add("Conv", [x, kernels], "product", kernel_shape=cells)
        mean = self.add("AveragePool", [mean], "mean", kernel_shape=cells)
        power = self.add("AveragePool", [power], "power", kernel_shape=cells)
        x = self.add("Sub", [power, self.add("Mul", [mean, mean], "mean_squared")], "spread")
        x = self.add("Relu", [x], "positive")
        x = self.add("Add", [x, self.constant("noise", NOISE**2)], "noisy")
        x = self.add("Mul", [x, self.constant("pixels", float(sign.picture.size))], "energy")
        x = self.add("Sqrt", [x], "length")
        x = self.add("Div", [likeness, x], "likeness")  # [N, GRID², down / GRID, across / GRID]
        x = self.add("Flatten", [x], "flat", axis=1)
        return self.add("ReduceMax", [x], "greatest", axes=[1], keepdims=1)

    def frame(self, sign: Frame) -> str:
        """Contrast at a frame's inner edge less its deviation."""
        gray = self.constant("gray", sign.gray[None, None])
        x = self.add("Abs", [self.add("Sub", [folded.GRAY, gray], "off")], "away")
        x = self.add("Flatten", [x], "flat", axis=1)
        inside = self.constant("inside", sign.inside.reshape(-1, 1))
        outside = self.constant("outside", sign.outside.reshape(-1, 1))
        edge = self.add("MatMul", [x, inside], "contrast")
        edge = self.add("Min", [edge, self.constant("enough", EDGE)], "edge")
        x = self.add("MatMul", [x, outside], "deviation")
        x = self.add("Mul", [x, self.constant("weight", 2.0)], "weighted")
        return self.add("Sub", [edge, x], "sign")

    def tone(self, sign: Tone) -> str:
        """Mean of a table's values over the film."""
        x = self.add("Cast", [folded.GRAY], "levels", to=TensorProto.INT32)
        x = self.add("Gather", [self.constant("table", sign.table), x], "values", axis=0)
        x = self.add("Flatten", [x], "flat", axis=1)
        return self.add("ReduceMean", [x], "sign", axes=[1], keepdims=1)

    def sharpness(self, sign: Sharpness) -> str:
        """The distance from a place in the plane of `measures.sharpness`, less than 0."""
        side, start = measures.looked_at(self._size)
        x = self._part(start, start, side, side)
        ways = np.array([[[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]], np.float32)[
            :, None
        ]
        details = self.constant("details", ways)  # what is above, left and diagonal
        sums = self.constant("sums", np.ones((1, 1, 2, 2), np.float32))
        means = []
        for level in (1, 2):
            two = {"kernel_shape": [2, 2], "strides": [2, 2]}
            found = self.add("Conv", [x, details], f"details{level}", **two)
            found = self.add("Abs", [found], f"sizes{level}")
            means.append(self.add("ReduceMean", [found], f"means{level}", axes=[2, 3], keepdims=0))
            if level == 1:
                x = self.add("Conv", [x, sums], "sums1", **two)
        # The diagonal one, and the sum of the others; of the second level a quarter.
        pick = np.array([[0, 1], [0, 1], [1, 0]], np.float32)
        rest = self.constant("rest", np.array([0.25, 0.5], np.float32))
        logs = []
        for level, mean in enumerate(means, 1):
            part = self.constant(f"pick{level}", pick if level == 1 else pick / 4)
            x = self.add("MatMul", [mean, part], f"both{level}")
            x = self.add("Add", [x, rest], f"more{level}")
            logs.append(self.add("Log", [x], f"log{level}"))
        x = self.add("Sub", logs, "ratios")
        x = self.add("Sub", [x, self.constant("centre", sign.centre)], "away")
        x = self.add("Mul", [x, self.constant("gain", sign.gain)], "spreads")
        x = self.add("Mul", [x, x], "squared")
        axis = self.constant("axis", np.array([1], np.int64))
        x = self.add("ReduceSum", [x, axis], "summed", keepdims=1)
        return self.add("Neg", [self.add("Sqrt", [x], "distance")], "sign")

    def _part(self, top: int, left: int, height: int, width: int) -> str:
        return self._slice(folded.GRAY, "part", [top, left], [top + height, left + width])

    def _slice(self, x: str, name: str, first: list[int], last: list[int]) -> str:
        ends = [
            self.constant(f"{name}.{end}", np.array(value, np.int64))
            for end, value in (("first", first), ("last", last), ("axes", [2, 3]))
        ]
        return self.add("Slice", [x, *ends], name)


class _Squares(NamedTuple):
    """A film in squares of GRID pixels, which all marks are searched in."""

    #: float32 [N, GRID², H, W]: the pixels of each, less MIDDLE.
    pixels: str
    #: float32 [N, 1, H, W]: their mean, and the mean of their squares.
    means: str
    powers: str


def _squares(graph: Graph, marks: Sequence[Mark], size: int) -> _Squares:
    """The film's, as far as any of the marks is searched; nothing where there are none."""
    if not marks:
        return _Squares("", "", "")
    nodes = _Nodes(graph, f"{cards.LOOK}.film", size)
    ends = [[at + n for at, n in zip(m.window, m.part, strict=False)] for m in marks]
    reach = [max(size, *sides) for sides in zip(*ends, strict=True)]
    more = [-(-side // GRID) * GRID - size for side in reach]
    x = nodes.add("Sub", [folded.GRAY, nodes.constant("middle", float(MIDDLE))], "centred")
    if any(more):
        beyond = np.array([0, 0, 0, 0, 0, 0, *more], np.int64)
        x = nodes.add("Pad", [x, nodes.constant("beyond", beyond)], "padded")
    x = nodes.add("SpaceToDepth", [x], "squares", blocksize=GRID)
    of_all = {"axes": [1], "keepdims": 1}
    means = nodes.add("ReduceMean", [x], "means", **of_all)
    powers = nodes.add("ReduceMean", [nodes.add("Mul", [x, x], "squared")], "powers", **of_all)
    return _Squares(x, means, powers)


def _shifted(sign: Mark) -> NDArray[np.float32]:
    """The picture at each place in a square: [GRID², GRID², cells down, cells across]."""
    (down, across), (height, width) = sign.cells, sign.picture.shape
    kernels = np.zeros((GRID, GRID, down * GRID, across * GRID), np.float32)
    for y in range(GRID):
        for x in range(GRID):
            kernels[y, x, y : y + height, x : x + width] = sign.picture
    return _in_squares(kernels.reshape(GRID * GRID, down * GRID, across * GRID))


def _in_squares(kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[K, H, W] with pixels of a square as channels, as SpaceToDepth orders them."""
    n, height, width = kernels.shape
    squares = kernels.reshape(n, height // GRID, GRID, width // GRID, GRID)
    turned = squares.transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(turned.reshape(n, GRID**2, height // GRID, width // GRID))
