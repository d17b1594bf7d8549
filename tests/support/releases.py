"""Older releases of the product, built from their commits: what runs them is this environment.

Their dependencies are today's; only the product's own packages are theirs.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Name → commit, oldest first.
COMMITS: dict[str, str] = tomllib.loads((ROOT / "tests/data/releases.toml").read_text())

#: What accepts only its own schema.
FIRST = "v0.1.0"

#: Those whose workers go on on a newer schema.
LASTING = [name for name in COMMITS if name != FIRST]

#: What every release knows of the settings: it refuses variables that it does not know.
SETTINGS = (
    "home", "database_url", "broker_url", "decoders", "engine_threads", "lease_s", "sweep_s",
)  # fmt: skip


class NotAtHand(LookupError):
    """The commit is not in this clone; the message says why."""


def file_of(name: str, path: str) -> str:
    """A text file of a release; raises NotAtHand."""
    return _git(name, "show", f"{COMMITS[name]}:{path}").decode()


def build(name: str, folder: Path) -> None:
    """Build a release's wheel and unpack it into the new folder; raises NotAtHand."""
    tree = folder.with_name(f"{folder.name}-tree")
    wheels = folder.with_name(f"{folder.name}-wheel")
    packed = _git(name, "archive", COMMITS[name])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(tree, filter="data")
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", script, wheels], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def environment(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    """This process's environment with the built release before all else, and these settings."""
    known = {f"PNEUMOQ_{name.upper()}" for name in SETTINGS}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PNEUMOQ_")}
    chosen = {k: v for k, v in settings.items() if k in known}
    return kept | chosen | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def version(pyproject: str) -> str:
    """The version that a pyproject.toml states."""
    return str(tomllib.loads(pyproject)["project"]["version"])


def _git(name: str, *arguments: str) -> bytes:
    commit = COMMITS[name]
    try:
        have = subprocess.run(
            ["git", "-C", ROOT, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True
        )
        if have.returncode == 0:
            return subprocess.run(
                ["git", "-C", ROOT, *arguments], capture_output=True, check=True
            ).stdout
    except FileNotFoundError:
        raise NotAtHand(f"git is not installed, and {name} is built from its commit") from None
    why = have.stderr.decode(errors="replace").strip().splitlines()
    raise NotAtHand(
        f"{name} (commit {commit[:12]}) is not in this folder's git history: "
        f"{re.sub(r'^fatal: ', '', why[0]) if why else 'no such commit'}"
    )
