"""The trained model that `speed` scores with: files, the champion of a home, or trained here."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from db.base import database
from db.base.errors import NotFound
from db.registry import aliases, models
from tests.bench.parts import films
from worker import config
from worker.engine import store

KERMANY = films.ORIGINALS.parent / "kermany_224"
WEIGHTS = films.ORIGINALS.parents[1] / "weights" / "resnet18-imagenet-approx.pth"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model's files by precision; `fp32` is always there."""

    files: dict[str, Path]

    def file(self, precision: str) -> Path:
        """The file that is opened for a precision."""
        return self.files["fp32" if precision == "bf16" else precision]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the model comes from."""
    parser.add_argument("--model", type=Path, help="an fp32 model file")
    parser.add_argument("--int8", type=Path, help="the int8 file of the same model")
    parser.add_argument("--model-home", type=Path, help="a PNEUMOQ_HOME whose champion is taken")


def find(given: argparse.Namespace, cache: Path) -> Trained:
    """The model that the options name; without any, one that is trained for one epoch."""
    if given.model is not None:
        files = {"fp32": given.model} | ({} if given.int8 is None else {"int8": given.int8})
        return Trained(files=files)
    home = given.model_home or cache / "home"
    if given.model_home is None and not (home / "complete").exists():
        _train(home)
        (home / "complete").touch()
    settings = config.load({"PNEUMOQ_HOME": str(home)})
    engine = database.connect(settings.database_url)
    champion = aliases.resolve(engine, aliases.CHAMPION)["id"]
    found = {}
    for precision in ("fp32", "int8"):
        try:
            models.file_of(engine, champion, precision)
        except NotFound:
            continue
        found[precision] = store.fetch(engine, cache, champion, precision)
    engine.dispose()
    return Trained(files=found)


def _train(home: Path) -> None:
    """As the README says."""
    if not KERMANY.is_dir() or not WEIGHTS.exists():
        raise SystemExit(
            f"{KERMANY} or {WEIGHTS} is missing, so no model can be trained here; name one with "
            "--model or --model-home"
        )
    command = [
        sys.executable, "-m", "scheduler", "train", str(KERMANY),
        "--epochs", "1", "--init", str(WEIGHTS), "--wait", "--local",
    ]  # fmt: skip
    settings = config.load({"PNEUMOQ_HOME": str(home)})
    subprocess.run(command, env=config.child_environment(settings), check=True)
