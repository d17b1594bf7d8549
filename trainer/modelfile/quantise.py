"""Quantise: the fp32 model file becomes an fp16 or an int8 one. Needs NumPy and onnx, no torch.

fp16 is the trunk in half precision. int8 is written as TensorRT takes it: QuantizeLinear and
DequantizeLinear around every convolution of the trunk, activations with one scale, weights with one
per output channel, all zero points 0, biases in float. The head, and whatever stands between
convolutions, stays fp32 in both.

Rounding is noise to the network, and what a film's score is worth near the operating point depends
on how little there is (`python -m tests.bench.engines --films FOLDER` measures it). So each step is
as small as 8 bits allow:

- An activation after a ReLU is never negative, and a symmetric code would waste half its values on
  what does not occur. It is shifted by half its range first. What the shift takes from a
  convolution is known in advance at every place, and is added behind it with the bias.
- The first convolution sees the film's own 256 gray levels, which 8 bits hold exactly.
- The stem's output, on which all else builds, is coded in two digits, a coarse and a fine one.
- Weights are fitted, then rounded one after another so that a convolution says of coded activations
  what it said of the activations (Frantar et al. 2022, GPTQ).
- What rounding still shifts on average goes into the bias (Nagel et al. 2019).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from trainer.card import Card
from trainer.folded import FIRST, GRAY, LAST, STEM, Network
from trainer.modelfile import graph as graph_file
from trainer.modelfile.graph import Graph

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

#: Training films that are enough to know what activations look like.
FILMS = 256

#: Places per film and activation that are looked at.
PLACES = 24

#: Codes go from -TOP to TOP; TensorRT has no use for -128 in a symmetric code.
TOP = 127

#: Shares of an activation's largest value beyond which it may be clipped.
CLIPS = np.linspace(0.2, 1.0, 33)

#: Most inputs of an output that are fitted to: 3 × 3 of 64 channels. The later layers, which have
#: more, lose next to nothing by plain rounding (measured), and would take seconds each.
FITTED = 576

#: Share of the mean diagonal that is added to the equations, as GPTQ does.
DAMPING = 0.01

#: Largest activation that half precision may meet; half its range, since other films may go beyond.
HALF_MAX = 32768.0

#: Gray level that code 0 stands for.
MIDDLE = 128

#: Nodes before the first convolution, which int8 does without.
_NORMALISATION = ("centred", "normalised")


class Sample:
    """What activations look like: patches at random places, collected batch by batch."""

    def __init__(self) -> None:
        self.films = 0
        self._patches: dict[str, list[Floats]] = {}
        self._largest: dict[str, float] = {}

    def add(self, tensors: Mapping[str, Floats], films: NDArray[np.uint8]) -> None:
        """Look at a batch: activations `float32 [N, C, h, w]` by name, and its films."""
        # Of the gray levels: 0 stands for the first code's level, and for what lies outside.
        gray = films.astype(np.float32) - MIDDLE
        for name, values in {**tensors, GRAY: gray}.items():
            side = 7 if name == GRAY else 3
            for n, one in enumerate(values):
                rng = np.random.default_rng((self.films + n, len(one)))
                found = _patches(one, side, rng)
                self._patches.setdefault(name, []).append(found)
            low, high = float(values.min()), float(values.max())
            self._largest[name] = max(self._largest.get(name, 0.0), high, -low)
        self.films += len(films)

    def patches(self, name: str, side: int) -> Floats:
        """`float32 [n, C, side, side]` of a tensor, 0 where a place is outside."""
        patches = np.concatenate(self._patches[name])
        edge = (patches.shape[-1] - side) // 2
        return patches[:, :, edge : edge + side, edge : edge + side]

    def largest(self, name: str) -> float:
        """Largest magnitude that was seen anywhere in a tensor."""
        return self._largest[name]

    @property
    def largest_of_all(self) -> float:
        """Largest magnitude in any tensor."""
        return max(self._largest.values())


def _patches(values: Floats, side: int, rng: np.random.Generator) -> Floats:
    """`[PLACES, C, side, side]` around random places of `[C, h, w]`."""
    channels, height, width = values.shape
    count = min(PLACES, height * width)
    y, x = np.divmod(rng.choice(height * width, count, replace=False), width)
    edge = side // 2
    padded = np.pad(values, ((0, 0), (edge, edge), (edge, edge)))
    found = np.empty((count, channels, side, side), np.float32)
    for dy in range(side):
        for dx in range(side):
            found[:, :, dy, dx] = padded[:, y + dy, x + dx].T
    return found


def fp16(network: Network, path: Path) -> Card:
    """Write the fp16 file; returns its card."""
    graph = Graph()
    half = {name for node in network.convolutions for name in node.input[1:]}
    for name, value in network.constants.items():
        graph.constant(name, value.astype(np.float16) if name in half else value)
    trunk = network.trunk
    half_tensors = {name for name in trunk if name not in (GRAY, *_NORMALISATION, LAST)}
    full: dict[str, str] = {}
    for original in network.nodes:
        node = _copy(original)
        if node.name not in trunk:
            # What looks into the trunk from outside, as `ood` does, computes in float.
            for n, source in enumerate(node.input):
                if source in half_tensors:
                    if source not in full:
                        full[source] = graph.add(
                            "Cast", [source], f"{source}.full", to=TensorProto.FLOAT
                        )
                    node.input[n] = full[source]
        if node.name == FIRST:
            node.input[0] = graph.add("Cast", ["normalised"], "half", to=TensorProto.FLOAT16)
        if node.name == LAST:
            node.name = node.output[0] = f"{LAST}.half"
        graph.nodes.append(node)
        if original.name == LAST:
            graph.add("Cast", [f"{LAST}.half"], LAST, to=TensorProto.FLOAT)
    return _write(network, graph, path, "fp16", {})


def int8(network: Network, sample: Sample, path: Path) -> Card:
    """Write the int8 file, for activations like those in `sample`; returns its card."""
    graph = Graph()
    coded: dict[str, _Coded] = {}
    convolutions = {node.name for node in network.convolutions}
    weights = {name for node in network.convolutions for name in node.input[1:]}
    skipped = {*weights, "mean", "std"}
    for name, value in network.constants.items():
        if name not in skipped:
            graph.constant(name, value)
    graph.constant("zero", np.array(0, np.int8))
    for node in network.nodes:
        if node.name in convolutions:
            source = GRAY if node.name == FIRST else node.input[0]
            if source not in coded:
                coded[source] = _code(graph, source, sample)
            _convolution(graph, network, node, coded[source], sample)
        elif node.name not in _NORMALISATION:
            graph.nodes.append(_copy(node))
    return _write(network, graph, path, "int8", {"calibration_films": sample.films})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Coded:
    """An activation in int8."""

    name: str
    #: Value of one step.
    step: float
    #: What was taken away before coding.
    offset: float
    #: Tensors whose sum is the activation less the offset, each with an int8 code.
    digits: tuple[str, ...]

    def rounded(self, values: Floats) -> Floats:
        """The activations that the codes of `values` stand for."""
        if self.name == GRAY or len(self.digits) > 1:
            return values
        step = np.float32(self.step)
        return np.asarray(np.clip(np.rint(values / step), 0, 2 * TOP) * step)


def _code(graph: Graph, name: str, sample: Sample) -> _Coded:
    """Add what codes a tensor."""
    fine = name == STEM
    if name == GRAY:
        step, offset = 1.0, float(MIDDLE)
    else:
        # Two digits are so exact that clipping would only harm.
        largest = sample.largest(name)
        step = largest / (2 * TOP) if fine else _step(sample.patches(name, 1), largest)
        offset = TOP * step
    shift = graph.constant(f"{name}.offset", np.array(offset, np.float32))
    shifted = graph.add("Sub", [name, shift], f"{name}.shifted")
    digits = [_digit(graph, shifted, name, step)]
    if fine:
        remainder = graph.add("Sub", [shifted, digits[0]], f"{name}.rest")
        digits.append(_digit(graph, remainder, f"{name}.fine", step / (2 * TOP)))
    return _Coded(name=name, step=step, offset=offset, digits=tuple(digits))


def _digit(graph: Graph, source: str, name: str, step: float) -> str:
    scale = graph.constant(f"{name}.scale", np.array(step, np.float32))
    code = graph.add("QuantizeLinear", [source, scale, "zero"], f"{name}.code")
    return graph.add("DequantizeLinear", [code, scale, "zero"], f"{name}.coded")


def _step(values: Floats, largest: float) -> float:
    """The step of codes 0 … 2 TOP with the least squared error, clipping included."""
    values = values.ravel()
    best, least = 1.0, np.inf
    for share in CLIPS:
        step = np.float32(max(share * largest, 1e-6) / (2 * TOP))
        error = np.clip(np.rint(values / step), 0, 2 * TOP) * step - values
        found = float(np.square(error).mean())
        if found < least:
            best, least = float(step), found
    return best


def _convolution(graph: Graph, network: Network, node: Any, coded: _Coded, sample: Sample) -> None:
    """Add a convolution in int8 under the name of the float one."""
    kernel = network.constants[node.input[1]].astype(np.float64)
    bias = network.constants[node.input[2]].astype(np.float64)
    constant = np.zeros(kernel[:, 0].shape)  # [O, k, k]: what each tap that is inside adds
    if coded.name == GRAY:
        # The three planes are one; so are their weights, once each has its own spread.
        mean, std = (network.constants[name].astype(np.float64) for name in ("mean", "std"))
        constant += (kernel * ((MIDDLE - mean) / std)).sum(axis=1)
        kernel = (kernel / std).sum(axis=1, keepdims=True)
    side = kernel.shape[-1]
    shape = kernel.shape
    values = sample.patches(coded.name, side).reshape(-1, kernel[0].size)
    flat = kernel.reshape(len(kernel), -1)
    codes, scale, shift = _round(flat, values, coded.rounded(values))
    bias = bias + shift
    if coded.name != GRAY:
        constant += coded.offset * (codes * scale[:, None]).reshape(shape).sum(axis=1)

    weight = f"{node.name}.weight"
    inputs = [
        graph.constant(f"{weight}.code", codes.reshape(shape).astype(np.int8)),
        graph.constant(f"{weight}.scale", scale),
        graph.constant(f"{weight}.zero", np.zeros(len(scale), np.int8)),
    ]
    weight = graph.add("DequantizeLinear", inputs, weight, axis=0)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    pad, stride = attributes["pads"][0], attributes["strides"][0]
    if pad == 0 and len(coded.digits) == 1:
        shift_name = graph.constant(f"{node.name}.bias", (bias + constant[:, 0, 0]).astype("f4"))
        graph.add("Conv", [coded.digits[0], weight, shift_name], node.name, **attributes)
        return
    inside = _inside(constant, network.side[coded.name], pad, stride)
    border = graph.constant(
        f"{node.name}.bias", (inside + bias[:, None, None])[None].astype(np.float32)
    )
    parts = [
        graph.add("Conv", [digit, weight], f"{node.name}.digit{n}", **attributes)
        for n, digit in enumerate(coded.digits)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = graph.add("Add", [total, part], f"{node.name}.digits")
    graph.add("Add", [total, border], node.name)


def _round(kernel: Doubles, values: Floats, rounded: Floats) -> tuple[Doubles, Floats, Doubles]:
    """Codes `[O, K]`, scales `[O]` and the bias's change `[O]` of weights `[O, K]`.

    `values` and `rounded`, `[n, K]`, are inputs before and after coding.
    """
    scale = np.maximum(np.abs(kernel).max(axis=1), 1e-12).astype(np.float32) / np.float32(TOP)
    size = kernel.shape[1]
    mean = values.mean(axis=0, dtype=np.float64)
    rounded_mean = rounded.mean(axis=0, dtype=np.float64)
    if size <= FITTED:
        centred = rounded - rounded_mean.astype(np.float32)
        lost = (values - mean.astype(np.float32)) - centred
        spread = (centred.T @ centred).astype(np.float64) / len(values)
        spread += np.eye(size) * max(DAMPING * np.trace(spread) / size, 1e-12)
        inverse = np.linalg.inv(spread)
        inverse = (inverse + inverse.T) / 2
        # Least squares: coding loses a part that the coded values themselves foretell.
        cross = (lost.T @ centred).astype(np.float64) / len(values)
        fitted = kernel + kernel @ cross @ inverse
        codes = _one_after_another(fitted, scale.astype(np.float64), inverse)
    else:
        codes = _nearest(kernel, scale[:, None].astype(np.float64))
    return codes, scale, kernel @ mean - (codes * scale[:, None]) @ rounded_mean


def _nearest(kernel: Doubles, scale: Doubles) -> Doubles:
    return np.asarray(np.clip(np.rint(kernel / scale), -TOP, TOP))


def _one_after_another(kernel: Doubles, scale: Doubles, inverse: Doubles) -> Doubles:
    """Codes of weights, each rounded in turn and its error made up for by those still to come.

    `inverse` is that of the inputs' covariance; the most uncertain input comes last.
    """
    order = np.argsort(np.diag(inverse), kind="stable")
    upper = np.linalg.cholesky(inverse[np.ix_(order, order)]).T
    remaining = kernel[:, order]
    codes = np.empty_like(remaining)
    size, block = remaining.shape[1], 64
    for start in range(0, size, block):
        end = min(start + block, size)
        errors = np.empty((len(remaining), end - start))
        for k in range(start, end):
            codes[:, k] = _nearest(remaining[:, k], scale)
            error = (remaining[:, k] - codes[:, k] * scale) / upper[k, k]
            remaining[:, k + 1 : end] -= np.outer(error, upper[k, k + 1 : end])
            errors[:, k - start] = error
        remaining[:, end:] -= errors @ upper[start:end, end:]
    back = np.empty_like(codes)
    back[:, order] = codes
    return back


def _inside(taps: Doubles, side: int, pad: int, stride: int) -> Doubles:
    """`[O, h, w]`: at every place, the sum of those taps `[O, k, k]` that lie inside the image."""
    mask = np.pad(np.ones((side, side)), pad)
    width = taps.shape[-1]
    out = (side + 2 * pad - width) // stride + 1
    total = np.zeros((len(taps), out, out))
    for y in range(width):
        for x in range(width):
            seen = mask[y : y + stride * out : stride, x : x + stride * out : stride]
            total += taps[:, y, x, None, None] * seen
    return total


def _copy(node: Any) -> Any:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _write(
    network: Network, graph: Graph, path: Path, precision: str, provenance: Mapping[str, Any]
) -> Card:
    card = dataclasses.replace(
        network.card,
        precision=precision,
        provenance={**network.card.provenance, **provenance},
    )
    proto = network.proto.graph
    graph_file.write(path, graph, list(proto.input), list(proto.output), card)
    return card
