"""Faults: one wrong line each, put into a copy of the repository, and the tests that may notice.

`faults.toml` holds them. Half were drawn from all one-token changes (`tests.mutants.changes`), and
half bring back what a commit mended. A fault is named by its file, the function that it is in and
the text that it replaces, which must be there exactly once.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("faults.toml")

#: Seconds that the tests of one fault may take before something is wrong with the run itself.
PATIENCE_S = 1200


class DoesNotApply(Exception):
    """The text that a fault replaces is not there exactly once."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Text that is replaced."""

    name: str
    #: From the repository on.
    file: str
    old: str
    new: str = ""
    #: The function or class that it is in, with dots; empty for the whole file.
    within: str = ""
    #: The commit that mended it; empty where it was drawn.
    commit: str = ""
    #: Why no test can tell; empty where one should.
    equivalent: str = ""

    @property
    def module(self) -> str:
        """The module that it is in, with dots."""
        return self.file.removesuffix(".py").replace("/", ".")

    def changed(self, root: Path) -> str:
        """The file's text with it; raises DoesNotApply."""
        path = root / self.file
        source = path.read_text() if path.exists() else ""
        start, end = _lines(source, self.within)
        lines = source.splitlines(keepends=True)
        part = "".join(lines[start:end])
        if part.count(self.old) != 1:
            raise DoesNotApply(
                f"{FILE.name}, {self.name}: {self.file}, {self.within or 'anywhere'}, holds this "
                f"{part.count(self.old)} times; change file, within and old to what the code is "
                f"now:\n{self.old}"
            )
        lines[start:end] = [part.replace(self.old, self.new)]
        changed = "".join(lines)
        ast.parse(changed)
        return changed

    def apply(self, root: Path) -> None:
        """Put it into a copy of the repository; raises DoesNotApply."""
        (root / self.file).write_text(self.changed(root))


def _lines(source: str, within: str) -> tuple[int, int]:
    """Where a function begins and ends, in lines counted from 0; an empty range if it is none."""
    if not within:
        return 0, len(source.splitlines())
    node: ast.AST = ast.parse(source)
    for name in within.split("."):
        node = next(
            (
                child
                for child in ast.walk(node)
                if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == name
            ),
            ast.Pass(lineno=1, end_lineno=0),
        )
    return node.lineno - 1, node.end_lineno or 0  # type: ignore[attr-defined]


def load() -> tuple[int, list[Fault]]:
    """The seed of the drawn ones, and all faults."""
    held: dict[str, Any] = tomllib.loads(FILE.read_text())
    return held["seed"], [Fault(**row) for row in held["fault"]]


def copy(root: Path) -> Path:
    """A copy of the repository as it is now, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, root / name
        if source.is_file():  # it may be deleted and not yet committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    # What looks at pages in tests is ignored too, and as large as all the rest.
    if (ROOT / "node_modules").is_dir():
        (root / "node_modules").symlink_to(ROOT / "node_modules")
    return root


class NotRun(Exception):
    """The tests of a copy could not be run to their end."""


def failing(root: Path, files: Sequence[str], temporary: Path) -> str:
    """Run test files of a copy, in this order and as `make test` does, until a test fails.

    Returns its name (that of the file, if it cannot be imported) and what it printed; empty where
    all pass. Raises NotRun.
    """
    # The likeliest is asked by itself: most faults are caught there, and nothing else is imported.
    for n, part in enumerate(filter(None, (files[:1], files[1:]))):
        failed = _failing(root, part, temporary / str(n))
        if failed:
            return failed
    return ""


def _failing(root: Path, files: Sequence[str], temporary: Path) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "SOAK" and not name.startswith(("PNEUMOQ_", "PYTEST_"))
    } | {"PYTHONPATH": str(root)}
    temporary.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--exitfirst", "--quiet", "--no-header",
            "--basetemp", str(temporary),
            "-p", "tests.mutants.asked", "-p", "no:cacheprovider", *files,
        ],
        cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    # 1: a test failed; 2: a file could not be imported. Anything else says nothing of the fault.
    if done.returncode not in (1, 2):
        raise NotRun(done.stdout)
    for line in done.stdout.splitlines():
        kind, _, name = line.partition(" ")
        if kind in ("FAILED", "ERROR"):
            return f"{name.partition(' - ')[0]}\n{done.stdout}"
    raise NotRun(done.stdout)
