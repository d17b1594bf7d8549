"""Workers and commands of older releases, built from their commits, at a test's site."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scheduler.local import stack
from tests.support import releases, servers
from tests.support.site import PATIENCE_S, Site
from worker import config


def worker(here: Site, release: Path) -> subprocess.Popen[bytes]:
    """Start a worker of a built release."""
    number = len(here.started)
    process = servers.spawn(
        stack.command_of_worker(here.settings, "score", number + 1),
        log=here.log(number),
        env=_environment(here, release),
        cwd=here.logs,  # not here: the packages in the current folder come first
    )
    here.started.append(process)
    return process


def command(here: Site, release: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a built release."""
    return subprocess.run(
        [sys.executable, "-m", "scheduler", *arguments],
        env=_environment(here, release),
        cwd=here.logs,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def python(here: Site, release: Path, script: str, *arguments: str) -> str:
    """What a script prints that runs with a built release's modules."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=_environment(here, release),
        cwd=here.logs,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment(here: Site, release: Path) -> dict[str, str]:
    return releases.environment(release, config.environment(here.settings))
