"""Every name of TensorRT that engines use is there from 10.3 to 11.4 and in TensorRT-RTX.

Only one of these can be installed at a time, and most only on a GPU's machine. So the code is read,
and compared with what the official bindings of each version have.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT, SHARED
from tests.worker.engine import tensorrt_names

FACTS = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())

ENGINES = ROOT / "worker" / "engine"

#: Where dumps of the bindings are, on the machines that have them.
DUMPS = SHARED / "gpu" / "api"

#: How the code calls TensorRT's module.
MODULE = ("trt", "flavour.module", "self._flavour.module")

#: What the code calls TensorRT's objects, by file.
OBJECTS = {
    "build.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "cache": "ITimingCache",
        "plan": "IHostMemory",
        "tensor": "ITensor",
        "inputs[0]": "ITensor",
    },
    "build.py:_refusals": {"error": "ParserError"},
    "tensorrt.py": {
        "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "self._runtime": "Runtime",
        "self._context": "IExecutionContext",
    },
}

#: What the dumps leave out, of every class and module, and every version has.
KNOWN = {"__version__", "ITensor.name"}


@dataclass
class Use:
    """One function's uses of TensorRT."""

    #: Full names, as in FACTS, with the line each is on.
    names: list[tuple[str, int]] = field(default_factory=list)
    #: Names that the function asks `hasattr` for.
    guards: set[str] = field(default_factory=set)
    #: What is wrong with it besides.
    faults: list[str] = field(default_factory=list)


class Reader(ast.NodeVisitor):
    """Collects one file's uses, by function."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.uses: dict[str, Use] = {}
        self._functions: list[str] = []

    @property
    def use(self) -> Use:
        return self.uses.setdefault(self._functions[0] if self._functions else "", Use())

    def owner(self, node: ast.expr) -> str | None:
        """The class of an expression, "" for the module, None for what is not TensorRT's."""
        text = ast.unparse(node)
        if text in MODULE:
            return ""
        function = self._functions[-1] if self._functions else ""
        for place in (f"{self.file}:{function}", self.file):
            if text in OBJECTS.get(place, {}):
                return OBJECTS[place][text]
        if isinstance(node, ast.Call):
            called = self.name(node.func)
            if called in tensorrt_names.CLASSES:
                return called
            return FACTS["returns"].get(called)
        if isinstance(node, ast.Attribute) and self.owner(node.value) == "":
            return node.attr if node.attr in tensorrt_names.CLASSES else None
        return None

    def name(self, node: ast.expr) -> str | None:
        """The full name of an attribute of TensorRT's: "Builder", "Builder.create_network"."""
        if not isinstance(node, ast.Attribute):
            return None
        owner = self.owner(node.value)
        if owner is None:
            return None
        return f"{owner}.{node.attr}".removeprefix(".")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._functions.append(node.name)
        self.generic_visit(node)
        self._functions.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self.name(node)
        if name is not None and name not in KNOWN:
            self.use.names.append((name, node.lineno))
        elif name is None and node.attr in TELLING:
            self.use.faults.append(f"line {node.lineno}: whose is {ast.unparse(node)}?")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) == "hasattr":
            of, what = node.args
            owner = self.owner(of)
            if owner is not None and isinstance(what, ast.Constant):
                self.use.guards.add(f"{owner}.{what.value}".removeprefix("."))
        called = self.name(node.func)
        for keyword in node.keywords:
            if called in FACTS["arguments"] and keyword.arg not in FACTS["arguments"][called]:
                self.use.faults.append(f"line {node.lineno}: {called} takes no {keyword.arg}")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        made = self.owner(node.value) if isinstance(node.value, ast.Call) else None
        for target in node.targets:
            if made is not None and self.owner(target) != made:
                self.use.faults.append(f"line {node.lineno}: {ast.unparse(target)} is a {made}")
        self.generic_visit(node)


#: Members that are hardly anybody's but TensorRT's.
TELLING = {
    member
    for member in (name.partition(".")[2] for name in FACTS["lacking"])
    if "_" in member and not member.startswith("_")
}


def problems(source: str, file: str) -> Iterator[str]:
    """What a source of the engines would trip over in one version or another."""
    reader = Reader(file)
    reader.visit(ast.parse(source))
    for use in reader.uses.values():
        yield from use.faults
        for name, line in use.names:
            if name not in FACTS["lacking"]:
                yield f"line {line}: no version has {name}"
                continue
            lacking = set(FACTS["lacking"][name])
            # Whatever versions a guard's name is in have this one too.
            if lacking and not any(lacking <= set(FACTS["lacking"][g]) for g in use.guards):
                yield f"line {line}: {name} is not in {', '.join(FACTS['lacking'][name])}"


def using() -> list[Path]:
    """The engines' files that touch TensorRT."""
    found = []
    for path in sorted(ENGINES.glob("*.py")):
        reader = Reader(path.name)
        reader.visit(ast.parse(path.read_text()))
        if any(use.names for use in reader.uses.values()):
            found.append(path)
    return found


def test_the_files_that_touch_tensorrt_are_known() -> None:
    names = {path.name for path in using()}
    assert {"build.py", "flavour.py"} <= names
    assert names <= {"build.py", "flavour.py", "tensorrt.py"}


@pytest.mark.parametrize("path", using(), ids=lambda path: path.name)
def test_every_name_that_is_used_is_in_every_version(path: Path) -> None:
    assert list(problems(path.read_text(), path.name)) == []


@pytest.mark.parametrize(("source", "problem"), [
    ("trt.BuilderFlag.FP16", "BuilderFlag.FP16 is not in 11.0.0.114, 11.4.0.106, rtx"),
    ("trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "is not in 11.0.0.114, 11.4.0.106, rtx"),
    ("config.int8_calibrator = None", "IBuilderConfig.int8_calibrator is not in 11.0.0.114"),
    ("config.num_compute_capabilities = 1", "is not in 10.3.0, 10.13.3.9, 10.16.1.11, 11.0.0.114"),
    ("trt.ComputeCapability.SM90", "no version has ComputeCapability.SM90"),
    ("builder.build_engine(network)", "no version has Builder.build_engine"),
    ("trt.Builder(log).build_cuda_engine(network)", "no version has Builder.build_cuda_engine"),
    ("config.set_timing_cache(cache, ignore=False)", "set_timing_cache takes no ignore"),
    ("other.build_serialized_network(network)", "whose is other.build_serialized_network?"),
    ("mine = builder.create_network(1)", "mine is a INetworkDefinition"),
    ("hasattr(trt, 'Builder'); trt.BuilderFlag.FP16", "BuilderFlag.FP16 is not in"),
])  # fmt: skip
def test_a_name_that_one_version_lacks_is_found(source: str, problem: str) -> None:
    (found, *_) = problems(f"def act():\n {source}\n", "build.py")
    assert problem in found


@pytest.mark.parametrize("source", [
    "hasattr(trt.BuilderFlag, 'FP16') and trt.BuilderFlag.FP16",
    "hasattr(trt, 'ComputeCapability') and config.set_compute_capability(x, 0)",
    "network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))",
])  # fmt: skip
def test_a_name_that_is_asked_for_first_or_is_everywhere_is_fine(source: str) -> None:
    assert list(problems(f"def act():\n {source}\n", "build.py")) == []


def test_the_facts_are_of_the_versions_that_are_supported() -> None:
    assert FACTS["versions"] == [
        "10.3.0", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106", "rtx",
    ]  # fmt: skip


def test_the_facts_are_those_of_the_bindings() -> None:
    if not DUMPS.is_dir():
        pytest.skip("the dumps of TensorRT's bindings are not on this machine")
    assert json.loads(tensorrt_names.written(tensorrt_names.facts(DUMPS))) == FACTS


def test_the_installed_tensorrt_has_what_the_facts_say_of_it() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
    if not trt.__version__.startswith("1.7."):
        pytest.skip(f"the facts are of TensorRT-RTX 1.7, not {trt.__version__}")
    for name, lacking in FACTS["lacking"].items():
        owner, _, member = name.partition(".")
        has = hasattr(trt, owner) and (not member or hasattr(getattr(trt, owner), member))
        assert has == ("rtx" not in lacking), name
