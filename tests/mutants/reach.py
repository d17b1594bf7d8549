"""Reach: which test files import a module, and how directly."""

from __future__ import annotations

import ast
import functools
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support import order
from tests.support.paths import ROOT

#: Whose imports are followed.
PACKAGES = ("db", "trainer", "worker", "scheduler", "tests")

#: What is skipped where there is no GPU tells nothing there.
SKIPPED = "tests.gpu."

#: Tests of one fault are chosen up to so many recorded seconds.
BUDGET_S = 60.0


def tests_of(module: str) -> list[str]:
    """The test files that reach a module, the likeliest to notice a fault in it first.

    Those of the module's own room come first, its own before the others, then those that import it
    more directly, then the quicker ones, up to BUDGET_S.
    """
    distances = {
        name: distance
        for name, distance in _distances(module).items()
        if name.rpartition(".")[2].startswith("test_") and not name.startswith(SKIPPED)
    }
    room, _, own = f"tests.{module}".rpartition(".")
    seconds = order.recorded("test")["seconds"]

    def rank(name: str) -> tuple[bool, bool, int, float, str]:
        at, _, file = name.rpartition(".")
        took = _seconds(name, seconds)
        return at != room, file != f"test_{own}", distances[name], took, name

    chosen: list[str] = []
    total = 0.0
    for name in sorted(distances, key=rank):
        took = _seconds(name, seconds)
        if chosen and total + took > BUDGET_S:
            continue
        chosen.append(_file(name))
        total += took
    return chosen


def _file(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _seconds(module: str, seconds: Mapping[str, float]) -> float:
    """What a test file takes in `make test`, its long tests included."""
    file = _file(module)
    found = [took for name, took in seconds.items() if name.partition("::")[0] == file]
    return sum(found) if found else order.UNKNOWN_S


def _distances(module: str) -> dict[str, int]:
    """Of each module that reaches this one, the number of imports in between and to it."""
    importers: dict[str, set[str]] = {}
    for importer, imported in _imports().items():
        for name in imported:
            importers.setdefault(name, set()).add(importer)
    distance = {module: 0}
    waiting = deque([module])
    while waiting:
        name = waiting.popleft()
        for importer in importers.get(name, ()):
            if importer not in distance:
                distance[importer] = distance[name] + 1
                waiting.append(importer)
    return distance


@functools.cache
def _imports() -> dict[str, set[str]]:
    """Module → the modules of this repository that it imports, anywhere in it."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    return {name: _imported(name, path, files) for name, path in files.items()}


def _imported(name: str, path: Path, files: Mapping[str, Path]) -> set[str]:
    found = {one for one in _names(ast.parse(path.read_text())) if one in files}
    if path.name.startswith("test_"):  # its fixtures come from the folders above
        folders = name.split(".")[:-1]
        found |= {".".join([*folders[:n], "conftest"]) for n in range(2, len(folders) + 1)}
    return found & files.keys()


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
