"""Changes: every one-token change of a module that could be a mistake, to draw faults from.

`python -m tests.mutants.changes SEED` prints the drawn ones as `faults.toml` holds them. That file
is what counts from then on: the same seed draws others once the code is another. Text for people
(docstrings, messages, the log) and annotations are left alone.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.mutants.faults import Fault
from tests.support.paths import ROOT

#: From each of these as many are drawn.
AREAS = {
    "lease": ["db/queue/leases.py"],
    "fence": ["db/work/claims.py", "db/work/endings.py"],
    "results": ["db/queue/results.py"],
    "reuse": ["db/queue/reuse.py"],
    "planning": [
        "worker/scoring/planning.py",
        "worker/scoring/listing.py",
        "worker/scoring/cutting.py",
        "db/queue/listings.py",
    ],
    "film": sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("trainer/film/*.py")),
    "metrics": ["trainer/judging/metrics.py"],
    "verdict": [f"trainer/judging/{name}.py" for name in ("verdict", "gate", "paired")],
}
EACH = 3

#: A shorter text is found by chance; it takes the next line with it.
SHORTEST = 16

_OPERATORS = {
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Add: ("+", "-"), ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"), ast.MatMult: ("@", "*"), ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "&"), ast.Not: ("not ", ""), ast.Invert: ("~", ""), ast.USub: ("-", ""),
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A replacement in a file, by places in its text."""

    file: str
    within: str
    start: int
    end: int
    new: str


def changes(file: str) -> list[Change]:
    """All changes of a file, in the order of the text."""
    source = (ROOT / file).read_text()
    finder = _Finder(file, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda change: (change.start, change.new))


def draw(seed: int) -> Iterator[Fault]:
    """Of each area EACH faults, any of its changes as likely as another."""
    rng = random.Random(seed)
    for area, files in AREAS.items():
        all_changes = [change for file in files for change in changes(file)]
        for n, change in enumerate(rng.sample(all_changes, EACH), 1):
            yield _fault(f"drawn-{area}-{n}", change)


def _fault(name: str, change: Change) -> Fault:
    """With whole lines of text, as many as it takes to be found in the function."""
    source = (ROOT / change.file).read_text()
    start = source.rfind("\n", 0, change.start) + 1
    start += len(source[start:]) - len(source[start:].lstrip(" "))
    end = source.find("\n", change.end)
    while source.count(source[start:end]) > 1 or end - start < SHORTEST:
        end = source.find("\n", end + 1)
    return Fault(
        name=name,
        file=change.file,
        within=change.within,
        old=source[start:end],
        new=source[start : change.start] + change.new + source[change.end : end],
    )


class _Finder(ast.NodeVisitor):
    """Collects the changes of a file."""

    def __init__(self, file: str, source: str) -> None:
        self._file = file
        self._source = source
        self._within: list[str] = []
        self.found: list[Change] = []
        # Columns count bytes.
        self._starts = [0]
        for line in source.encode().splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._encoded = source.encode()

    def _place(self, line: int, column: int) -> int:
        return len(self._encoded[: self._starts[line - 1] + column].decode())

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._place(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._place(node.end_lineno, node.end_col_offset)

    def _add(self, start: int, end: int, new: str) -> None:
        self.found.append(Change(self._file, ".".join(self._within), start, end, new))

    def _operator(self, after: int, before: int, operator: ast.AST) -> None:
        """Replace the operator that stands between two places."""
        if type(operator) in _OPERATORS:
            old, new = _OPERATORS[type(operator)]
            at = self._source.index(old, after, before)
            self._add(at, at + len(old), new)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._within.append(node.name)
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self._within.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._within.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self._within.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Left alone."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """Left alone."""

    def visit_Import(self, node: ast.Import) -> None:
        """Left alone."""

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for n, operator in enumerate(node.ops):
            self._operator(self._end(sides[n]), self._start(sides[n + 1]), operator)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._operator(self._end(left), self._start(right), node.op)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._operator(self._end(node.left), self._start(node.right), node.op)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._operator(self._end(node.target), self._start(node.value), node.op)
        self.visit(node.value)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._operator(self._start(node), self._start(node.operand), node.op)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add(self._start(node), self._end(node), str(not value))
        elif isinstance(value, int):
            self._add(self._start(node), self._end(node), str(value + 1))
        elif isinstance(value, float):
            self._add(self._start(node), self._end(node), str(value * 2 or 1.0))

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not isinstance(node.value, ast.Constant):
            self._add(self._start(node.value), self._end(node.value), "None")
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self._add(self._start(node), self._end(node), "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(self._start(node), self._end(node), "break")

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if ast.unparse(node.func).startswith("log."):
            return
        if name in ("where", "and_", "filter"):
            for condition in node.args:
                self._add(self._start(condition), self._end(condition), "sa.true()")
        self.generic_visit(node)


def _written(fault: Fault) -> str:
    rows = [f"{key} = {_quoted(value)}" for key, value in vars(fault).items() if value]
    return "\n".join(["[[fault]]", *rows, ""])


def _quoted(value: str) -> str:
    """As TOML has it: as it stands, where it may."""
    if "\n" in value:
        return f"'''\n{value}'''"
    return json.dumps(value, ensure_ascii=False) if "'" in value else f"'{value}'"


if __name__ == "__main__":
    seed = int(sys.argv[1])
    total = sum(len(changes(file)) for files in AREAS.values() for file in files)
    print(f"# Drawn from {total:,} changes.\nseed = {seed}\n")
    for fault in draw(seed):
        print(_written(fault))
