"""The `look` of a model file: a fingerprint as nodes of its graph, in float from the film alone.

Each says what `trainer.acquisition.fingerprint` computes of the same films. They read no tensor but
the film's gray levels, so that no precision of the network changes them.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from trainer import card as cards
from trainer import folded
from trainer.acquisition import measures
from trainer.acquisition.fingerprint import (
    EDGE,
    GRID,
    MIDDLE,
    NOISE,
    Fingerprint,
    Frame,
    Mark,
    Sharpness,
    Tone,
)
from trainer.modelfile.graph import Graph


def add(graph: Graph, learned: Fingerprint, size: int) -> None:
    """Add `look float32 [N, G]` of the film `gray float32 [N, 1, size, size]`."""
    signs = []
    for number, part in enumerate(learned.parts):
        nodes = _Nodes(graph, f"{cards.LOOK}.{number}", size)
        sign = part.sign
        if isinstance(sign, Mark):
            signs.append(nodes.mark(sign))
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

    def mark(self, sign: Mark) -> str:
        """The greatest correlation with a picture in a window.

        Pixels of a square become channels, and the places in a square the channels of what is
        found: engines compute many channels at once, and one pixel after another.
        """
        (top, left, _, _), (height, width) = sign.window, sign.part
        seen = min(height, self._size - top), min(width, self._size - left)
        x = self._part(top, left, *seen)
        x = self.add("Sub", [x, self.constant("middle", float(MIDDLE))], "centred")
        if seen != (height, width):
            more = np.array([0, 0, 0, 0, 0, 0, height - seen[0], width - seen[1]], np.int64)
            x = self.add("Pad", [x, self.constant("beyond", more)], "padded")
        x = self.add("SpaceToDepth", [x], "squares", blocksize=GRID)
        convolve = functools.partial(self.add, "Conv", kernel_shape=list(sign.cells))
        likeness = convolve([x, self.constant("pictures", _shifted(sign))], "product")
        even = self.constant("even", _even(sign))
        mean = convolve([x, even], "mean")
        power = convolve([self.add("Mul", [x, x], "squared"), even], "power")
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
        first, last, axes = (
            self.constant(name, np.array(value, np.int64))
            for name, value in (
                ("first", [top, left]), ("last", [top + height, left + width]), ("axes", [2, 3]),
            )
        )  # fmt: skip
        return self.add("Slice", [folded.GRAY, first, last, axes], "part")


def _shifted(sign: Mark) -> NDArray[np.float32]:
    """The picture at each place in a square: [GRID², GRID², cells down, cells across]."""
    (down, across), (height, width) = sign.cells, sign.picture.shape
    kernels = np.zeros((GRID, GRID, down * GRID, across * GRID), np.float32)
    for y in range(GRID):
        for x in range(GRID):
            kernels[y, x, y : y + height, x : x + width] = sign.picture
    return _in_squares(kernels.reshape(GRID * GRID, down * GRID, across * GRID))


def _even(sign: Mark) -> NDArray[np.float32]:
    """The mean over all that the picture may cover: [1, GRID², cells down, cells across]."""
    (down, across), (height, width) = sign.cells, sign.picture.shape
    kernel = np.zeros((1, down * GRID, across * GRID), np.float32)
    kernel[:, : height + GRID - 1, : width + GRID - 1] = 1
    return _in_squares(kernel / kernel.sum())


def _in_squares(kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """[K, H, W] with pixels of a square as channels, as SpaceToDepth orders them."""
    n, height, width = kernels.shape
    squares = kernels.reshape(n, height // GRID, GRID, width // GRID, GRID)
    turned = squares.transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(turned.reshape(n, GRID**2, height // GRID, width // GRID))
