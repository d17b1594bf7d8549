"""Running the command line: in this process, or as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from click.testing import CliRunner, Result

from scheduler.cli import cli
from tests.support.paths import ROOT


def run(*arguments: str | int, stdin: str | None = None) -> Result:
    """Run a command in this process; an unexpected exception is raised, as a bug's traceback."""
    result = CliRunner().invoke(cli, [str(a) for a in arguments], input=stdin, prog_name="pneumoq")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(*arguments: str | int, **options: object) -> subprocess.Popen[str]:
    """Start a command as a program, its outputs being pipes, and with nothing to read."""
    # What this process has as its first file may be a terminal of another test.
    pipes = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    } | options
    return subprocess.Popen(
        [sys.executable, "-m", "scheduler", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **pipes,  # type: ignore[call-overload]
    )


def only_line(text: str) -> str:
    """The line that a text consists of."""
    (line,) = text.splitlines()
    return line
