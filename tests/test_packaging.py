"""What is installed is what is here: the wheel, the names it claims, and the pinned versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The folders are the import packages, under their own names.
PACKAGES = ("db", "scheduler", "trainer", "worker")


def _sources() -> set[str]:
    """Every file of the packages in the tree, as a wheel names them."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tree, built from a copy: a stale build folder cannot help it."""
    tree = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tree)
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "out", tree)
    (built,) = (tree / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which only the wheel was installed; its dependencies are this environment's."""
    target = tmp_path_factory.mktemp("installed")
    _run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"),
        *("--no-deps", "--no-index", "--target", target, wheel),
    )
    return target


def _run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_wheel_contains_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contained = set(archive.namelist())

    assert _sources() - contained == set()


def test_the_wheel_contains_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_carries_its_licence_and_notice(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {
            name.rpartition("/")[2]: archive.read(name)
            for name in archive.namelist()
            if ".dist-info/licenses/" in name
        }
        (stated,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(stated).decode().splitlines()

    assert carried == {name: (ROOT / name).read_bytes() for name in ("LICENSE", "NOTICE")}
    assert "License-Expression: Apache-2.0" in lines


def test_the_installed_packages_import_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    script = f"import {', '.join(PACKAGES)}\nfor m in ({', '.join(PACKAGES)}): print(m.__file__)"

    output = _run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(installed))

    assert output.split() == [str(installed / package / "__init__.py") for package in PACKAGES]


def test_the_installed_command_helps_outside_the_clone(installed: Path, tmp_path: Path) -> None:
    output = _run(installed / "bin" / "pneumoq", "--help", cwd=tmp_path, PYTHONPATH=str(installed))

    assert "Usage:" in output


def test_the_installed_command_makes_and_reads_a_database(installed: Path, tmp_path: Path) -> None:
    pneumoq = installed / "bin" / "pneumoq"
    env = {
        "PYTHONPATH": str(installed),
        "PNEUMOQ_DATABASE_URL": f"sqlite:///{tmp_path}/fresh.db",
    }

    _run(pneumoq, "db", "upgrade", cwd=tmp_path, **env)
    output = _run(pneumoq, "query", "select count(*) from v_predictions", cwd=tmp_path, **env)

    assert re.search(r"\b0\b", output), output


def test_no_other_distribution_owns_our_names() -> None:
    """PyPI's `trainer`, say, would be imported instead of ours or be overwritten by it."""
    owners = {
        distribution.name
        for distribution in metadata.distributions()
        for file in distribution.files or ()
        if file.parts[0].removesuffix(".py") in PACKAGES
    }

    assert owners <= {"pneumoq"}


def test_the_constraints_are_exact_versions_and_name_no_index() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    exact = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [a-z_.0-9'<>=!()* ]+)?", re.IGNORECASE)

    assert [pin for pin in pins if not exact.fullmatch(pin)] == []
    assert "://" not in "\n".join(lines)


def test_every_declared_dependency_is_pinned(installed: Path) -> None:
    (distribution,) = metadata.distributions(name="pneumoq", path=[str(installed)])
    # TensorRT and PyCUDA follow the machine's driver, not us.
    requires = distribution.requires or ()
    declared = [line for line in requires if not re.search(r"extra == .tensorrt.", line)]
    names = {re.split(r"[^A-Za-z0-9-]", line)[0].lower() for line in declared}
    text = (ROOT / "constraints.txt").read_text()
    pinned = {line.split("==")[0] for line in text.splitlines() if not line.startswith("#")}

    assert len(names) > 10
    assert names - pinned == set()
