"""The rivals of `speed`: scripts that run in processes of their own and say how fast they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

#: What Ray's script needs.
RAY_PACKAGES = ("ray[data]", "onnxruntime", "numpy", "pillow")

#: Neither Ray nor anybody else is told that this runs.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}


class Unavailable(RuntimeError):
    """A rival cannot be had here; the message says why and what to do."""


def ray_python(given: Path | None, cache: Path) -> Path:
    """A Python that has Ray: the one that was named, or one that is made in the cache folder.

    Raises Unavailable.
    """
    if given is not None:
        python = given
    else:
        folder = cache / "ray"
        python = folder / "bin" / "python"
        if not (folder / "complete").exists():
            venv.create(folder, with_pip=True, clear=True)
            command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", *RAY_PACKAGES]
            made = subprocess.run(command, capture_output=True, text=True)
            if made.returncode:
                reason = (made.stderr.strip().splitlines() or ["pip failed"])[-1]
                raise Unavailable(
                    f"Ray cannot be installed ({reason}); name a Python that has {RAY_PACKAGES} "
                    "with --ray-python"
                )
            (folder / "complete").touch()
    found = subprocess.run(
        [python, "-c", "import onnxruntime, PIL, ray.data; print(ray.__version__)"],
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise Unavailable(f"{python} has no Ray Data; it needs {', '.join(RAY_PACKAGES)}")
    return python


def dataloader(paths: list[Path], size: int, folder: Path) -> float:
    """Films per second of the PyTorch script."""
    script: list[str | Path] = [sys.executable, "-m", "tests.bench.parts.dataloader"]
    films = _list(paths, folder)
    return _run([*script, films, folder / "dataloader.csv", "--size", str(size)])


def ray(python: Path, paths: list[Path], size: int, model: Path, folder: Path) -> float:
    """Films per second of Ray Data."""
    script = Path(__file__).with_name("ray_data.py")
    command = [python, script, _list(paths, folder), model, folder / "ray.csv"]
    return _run([*command, "--size", str(size)])


def _list(paths: list[Path], folder: Path) -> Path:
    chosen = folder / "films.txt"
    chosen.write_text("\n".join(map(str, paths)))
    return chosen


def _run(command: list[str | Path]) -> float:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["films_per_s"])
