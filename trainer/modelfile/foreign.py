"""Foreign: a ResNet18 in an ONNX file that another program exported, known by its shape, not names.

Exporters name things differently and fold the batch norms or do not; what they cannot change is
which convolution follows which. So the graph is walked from its input, every step checked, and the
weights come out under torchvision's names. Needs NumPy and onnx, no torch. Nothing in the file is
run.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trainer.errors import ImportRefused

Floats = NDArray[np.float32]

#: Bytes of the largest file that is looked at; a ResNet18 has 45 MB, its training checkpoint 90.
MAX_BYTES = 512 << 20

#: What a refusal ends with.
SUPPORTED = "only a ResNet18 with one answer per class, as train.py makes by default, is supported"

#: Convolutions of a ResNet18, and the width of each of its four layers.
_CONVOLUTIONS = 20
_WIDTHS = (64, 128, 256, 512)

#: Nodes that hand on what they get.
_ALIASES = frozenset({"Identity", "Dropout"})

#: Nodes between the pooled features and the last layer that only change the shape.
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze"})


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """What a foreign ONNX file holds."""

    #: `<conv>.weight` and `<conv>.bias`, the batch norm folded in, and `fc.weight`, `fc.bias`.
    weights: dict[str, Floats]
    #: S of its input `[N, 3, S, S]`.
    size: int
    #: Whether its own output is a softmax's.
    softmax: bool

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.weights["fc.bias"])


def read(path: Path) -> Foreign:
    """The ResNet18 in an ONNX file, with the `.onnx.data` beside it if there is one.

    Raises ImportRefused where it is another network, or damaged, or reaches outside its folder.
    """
    check_size(path)
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise ImportRefused(f"{path} is not an ONNX file: {error}") from error
    try:
        return _Walk(proto.graph, path).read()
    except (ValueError, TypeError, IndexError, KeyError, RecursionError) as error:
        if isinstance(error, ImportRefused):
            raise
        raise ImportRefused(f"{path} is damaged: {error}") from error


def check_size(path: Path) -> None:
    """Raise ImportRefused for a file that cannot be opened or is too large to be a ResNet18."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ImportRefused(f"{path} cannot be opened: {error.strerror}") from error
    if size > MAX_BYTES:
        raise ImportRefused(f"{path} has {size / 1e6:.0f} MB, more than any ResNet18; {SUPPORTED}")


class _Walk:
    """One walk through a graph."""

    def __init__(self, graph: Any, path: Path) -> None:
        self._path = path
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._alias: dict[str, str] = {}
        self._users: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            if node.op_type == "Constant":
                value = _attributes(node).get("value")
                if isinstance(value, TensorProto):
                    self._tensors[node.output[0]] = value
            elif node.op_type in _ALIASES:
                self._alias[node.output[0]] = self._real(node.input[0])
        for node in graph.node:
            if node.op_type not in _ALIASES:
                for name in dict.fromkeys(map(self._real, node.input)):
                    self._users[name].append(node)
        self._weights: dict[str, Floats] = {}

    def read(self) -> Foreign:
        n = sum(node.op_type == "Conv" for node in self._graph.node)
        if n != _CONVOLUTIONS:
            raise ImportRefused(
                f"{self._path} has {n} convolutions and a ResNet18 has {_CONVOLUTIONS}; {SUPPORTED}"
            )
        x, size = self._input()
        x = self._convolution(x, "conv1", (64, 3, 7, 7), stride=2)
        x = self._next(x, "Relu", "conv1").output[0]
        pool = self._next(x, "MaxPool", "conv1")
        self._check(pool, "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        x = pool.output[0]
        wide = _WIDTHS[0]
        for layer, width in enumerate(_WIDTHS, 1):
            for block in (0, 1):
                x = self._block(x, f"layer{layer}.{block}", wide, width)
                wide = width
        softmax = self._head(x)
        for name, value in self._weights.items():
            if not np.isfinite(value).all():
                raise ImportRefused(f"{self._path}: {name} holds what is no number; train again")
        return Foreign(weights=self._weights, size=size, softmax=softmax)

    def _input(self) -> tuple[str, int]:
        inputs = [i for i in self._graph.input if i.name not in self._tensors]
        shapes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in inputs]
        if (
            len(inputs) != 1
            or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT
            or len(shapes[0]) != 4
            or shapes[0][1] != 3
            or shapes[0][2] != shapes[0][3]
            or not 32 <= shapes[0][2] <= 1024
        ):
            found = ", ".join(f"{i.name} {s}" for i, s in zip(inputs, shapes, strict=True))
            raise ImportRefused(
                f"{self._path} takes {found or 'nothing'}; one float input [1, 3, S, S] with S "
                "from 32 to 1024 is supported"
            )
        return inputs[0].name, shapes[0][2]

    def _block(self, x: str, name: str, wide: int, width: int) -> str:
        """A residual block; returns what comes out."""
        stride = 1 if wide == width else 2
        short = x
        y = self._convolution(x, f"{name}.conv1", (width, wide, 3, 3), stride=stride)
        y = self._next(y, "Relu", name).output[0]
        y = self._convolution(y, f"{name}.conv2", (width, width, 3, 3), stride=1)
        if wide != width:
            down = f"{name}.downsample.0"
            short = self._convolution(x, down, (width, wide, 1, 1), stride=stride)
        add = self._next(y, "Add", name)
        if {self._real(i) for i in add.input} != {y, short}:
            raise self._other(f"{name} adds something else than its input")
        return str(self._next(self._real(add.output[0]), "Relu", name).output[0])

    def _convolution(self, x: str, name: str, shape: tuple[int, ...], *, stride: int) -> str:
        """Take the one convolution of this shape that reads `x`, and its batch norm."""
        found = [
            node
            for node in self._users[x]
            if node.op_type == "Conv" and self._dims(node.input[1]) == shape
        ]
        if len(found) != 1:
            raise self._other(f"{name} is not one convolution of {list(shape)}")
        node, side = found[0], shape[-1]
        self._check(node, name, kernel_shape=[side] * 2, strides=[stride] * 2, pads=[side // 2] * 4)
        kernel = self._array(node.input[1]).astype(np.float64)
        bias = np.zeros(shape[0])
        if len(node.input) > 2 and node.input[2]:
            bias = self._array(node.input[2]).astype(np.float64)
        y = str(node.output[0])
        if [user.op_type for user in self._users[y]] == ["BatchNormalization"]:
            norm = self._users[y][0]
            scale, shift, mean, variance = (
                self._array(i).astype(np.float64) for i in norm.input[1:5]
            )
            gain = scale / np.sqrt(variance + _attributes(norm).get("epsilon", 1e-5))
            kernel *= gain.reshape(-1, 1, 1, 1)
            bias = (bias - mean) * gain + shift
            y = str(norm.output[0])
        if bias.shape != shape[:1]:
            raise self._other(f"{name} has a bias of {bias.shape}")
        self._weights[f"{name}.weight"] = kernel.astype(np.float32)
        self._weights[f"{name}.bias"] = bias.astype(np.float32)
        return y

    def _head(self, x: str) -> bool:
        """Take the pooling, the last layer and what follows it; whether that is a softmax."""
        node = self._only(x, "the head")
        axes = _attributes(node).get("axes")
        if node.op_type == "ReduceMean":
            if axes is None and len(node.input) > 1:
                axes = self._array(node.input[1]).tolist()
            if axes is None or sorted(a % 4 for a in axes) != [2, 3]:
                raise self._other("the features are not averaged over height and width")
        elif node.op_type != "GlobalAveragePool":
            raise self._other(f"{node.op_type} follows the last block")
        node = self._only(node.output[0], "the head")
        while node.op_type in _RESHAPES:
            node = self._only(node.output[0], "the head")
        if node.op_type == "Gemm":
            options = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | _attributes(node)
            if (options["alpha"], options["beta"], options["transA"]) != (1.0, 1.0, 0):
                raise self._other("the last layer is scaled")
            kernel, bias = self._array(node.input[1]), self._array(node.input[2])
            kernel = kernel if options["transB"] else kernel.T
        elif node.op_type == "MatMul":
            kernel = self._array(node.input[1]).T
            node = self._next(node.output[0], "Add", "the head")
            (bias,) = (self._array(i) for i in node.input if self._real(i) in self._tensors)
        else:
            raise self._other(f"{node.op_type} follows the pooled features")
        if kernel.ndim != 2 or kernel.shape[1] != _WIDTHS[-1] or bias.shape != kernel.shape[:1]:
            raise self._other(f"the last layer has {kernel.shape} weights, {bias.shape} biases")
        if len(kernel) < 2:
            raise ImportRefused(f"{self._path} knows one class; two or more are supported")
        self._weights["fc.weight"] = np.ascontiguousarray(kernel, np.float32)
        self._weights["fc.bias"] = np.ascontiguousarray(bias, np.float32)
        return self._ending(str(node.output[0]))

    def _ending(self, logits: str) -> bool:
        after = [node.op_type for node in self._users[logits]]
        last = self._users[logits][0].output[0] if after else logits
        outputs = [self._real(output.name) for output in self._graph.output]
        if after == ["Sigmoid"]:
            raise ImportRefused(
                f"{self._path} ends in a sigmoid: it was trained with --multi-label; {SUPPORTED}"
            )
        if after not in ([], ["Softmax"]) or outputs != [last]:
            raise self._other(f"its last layer is followed by {', '.join(after) or 'nothing'}")
        if after and _attributes(self._users[logits][0]).get("axis", 1) not in (1, -1):
            raise self._other("its softmax is not over the classes")
        return bool(after)

    def _real(self, name: str) -> str:
        return self._alias.get(name, name)

    def _only(self, x: str, where: str) -> Any:
        users = self._users[x]
        if len(users) != 1:
            raise self._other(f"{where} is read by {len(users)} nodes")
        return users[0]

    def _next(self, x: str, op: str, where: str) -> Any:
        node = self._only(x, where)
        if node.op_type != op:
            raise self._other(f"{where} is followed by {node.op_type}, not {op}")
        return node

    def _check(self, node: Any, where: str, **wanted: list[int]) -> None:
        # What ONNX says of attributes that are not there; the kernel's shape is the weights'.
        absent = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
        found = {**wanted, **absent, "auto_pad": b"NOTSET", "ceil_mode": 0, **_attributes(node)}
        for name, value in {"dilations": [1, 1], "group": 1, "ceil_mode": 0, **wanted}.items():
            if found[name] != value or found["auto_pad"] not in (b"NOTSET", b""):
                raise self._other(f"{where} has {name} {found[name]}, not {value}")

    def _other(self, difference: str) -> ImportRefused:
        return ImportRefused(
            f"{self._path} is not torchvision's ResNet18: {difference}; {SUPPORTED}"
        )

    def _dims(self, name: str) -> tuple[int, ...]:
        tensor = self._tensors.get(self._real(name))
        return () if tensor is None else tuple(tensor.dims)

    def _array(self, name: str) -> NDArray[Any]:
        tensor = self._tensors.get(self._real(name))
        if tensor is None:
            raise self._other(f"{name} is computed, not stored")
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._external(tensor)
        return np.asarray(numpy_helper.to_array(tensor))

    def _external(self, tensor: Any) -> NDArray[Any]:
        """A tensor kept in another file, which must lie beside this one."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        folder = self._path.resolve().parent
        file = (folder / entries["location"]).resolve()
        if not file.is_relative_to(folder):
            raise ImportRefused(
                f"{self._path} points to {entries['location']}, outside its folder; such a file is "
                "not followed"
            )
        if not file.is_file():
            raise ImportRefused(
                f"{self._path} keeps its weights in {entries['location']}; put that file beside it"
            )
        check_size(file)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        length = math.prod(tensor.dims) * dtype.itemsize
        offset = int(entries.get("offset", 0))
        if min(tensor.dims, default=1) < 1 or offset < 0 or offset + length > file.stat().st_size:
            raise ImportRefused(f"{file} is cut short; copy it again from where it was exported")
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
        return np.frombuffer(data, dtype.newbyteorder("<")).reshape(tuple(tensor.dims))


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
