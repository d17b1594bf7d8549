""".ci/run: whatever cannot be installed or fails, all the rest runs, and the status says so."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

#: What .ci/run calls or looks for.
PROGRAMS = ("initdb", "redis-server", "dcmcjpeg", "gdcmconv", "opj_compress", "chromium", "apt-get")


def ci(folder: Path, npm: str, make: str) -> tuple[int, str, list[str]]:
    """Status, what was printed, and what was made, with these shell scripts in place of npm and
    make."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    programs = folder / "programs"
    programs.mkdir()
    for name in (*PROGRAMS, "npm", "make"):
        body = {"npm": npm, "make": f'echo "$*" >> {folder}/made; {make}'}.get(name, "")
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        [folder / ".ci" / "run"],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, (folder / "made").read_text().splitlines()


@pytest.mark.parametrize(
    ("npm", "make", "status"),
    [
        ("exit 0", "exit 0", 0),
        ("exit 7", "exit 0", 7),
        ("exit 7", 'case "$*" in test) exit 3;; esac', 3),
        ("exit 0", 'case "$*" in *soak*PART*) exit 4;; esac', 4),
    ],
)
def test_checks_and_tests_run_whatever_failed_before(
    tmp_path: Path, npm: str, make: str, status: int
) -> None:
    code, said, made = ci(tmp_path, npm, make)
    assert code == status, said
    assert made[-2:] == ["check", "test"]
    assert ("axe-core cannot be installed: npm ended with 7" in said) == (npm == "exit 7")
