"""The training process with a narrow network: it does all that the real one does, in less time.

How many channels the network's first layer has says the variable TORCH_NARROW: variables of torch
reach a training process.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.paths import ROOT

#: Name of the variable with the width.
WIDTH = "TORCH_NARROW"

#: What every Python runs at its start that has the folder of this on its path; workers heed it.
_SITE = f"""
import sys
if "celery" in sys.orig_argv:
    from worker.training import process
    process.CHILD = {__name__!r}
"""


def environment(width: int, folder: Path | None = None) -> dict[str, str]:
    """Variables of a process whose training processes are these.

    With a folder, which is made, those are of the workers that it starts.
    """
    path = [str(ROOT)]
    if folder is not None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_SITE)
        path.insert(0, str(folder))
    return {"PYTHONPATH": os.pathsep.join(path), WIDTH: str(width)}


def make(*given: Any, **named: Any) -> None:
    """Have a model made of a narrow network; torch is loaded no sooner than by the real process."""
    from trainer.network import model

    model.WIDTH = int(os.environ[WIDTH])
    from worker.training.making import make as real

    real(*given, **named)


if __name__ == "__main__":
    from worker import training
    from worker.training import child

    training.making = SimpleNamespace(make=make)
    child.main()
