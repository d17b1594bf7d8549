"""The house keeps its rooms: folders and classes that one can take in at once."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("worker", "scheduler", "trainer", "db", "tests")

#: What a folder holds at most of modules, and a class of lines.
MODULES, LINES = 20, 250

#: Its files are numbered and only added to: a reader looks at one, by its number.
IN_ORDER = ROOT / "db" / "migrations" / "versions"

MODULE_FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


def test_no_folder_has_more_modules_than_one_sees_at_once() -> None:
    found = Counter(
        path.parent.relative_to(ROOT)
        for path in MODULE_FILES
        if path.name not in ("__init__.py", "conftest.py") and path.parent != IN_ORDER
    )
    assert {str(folder): n for folder, n in found.items() if n > MODULES} == {}


@pytest.mark.parametrize("package", PACKAGES[:-1])
def test_no_class_is_several_things(package: str) -> None:
    def too_long(path: Path) -> list[str]:
        return [
            f"{path.name}: {node.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= LINES  # type: ignore[operator]
        ]

    assert [
        name for path in sorted((ROOT / package).rglob("*.py")) for name in too_long(path)
    ] == []
