"""The process that computes a film ahead, as `ahead` starts it.

    python -m worker.classify.child PARENT HOME FILM USED ALONE

It says in lines of JSON where it is and what came of it, and ends. It loads no database.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from worker.classify import ahead
from worker.classify.ahead import Used
from worker.classify.told import Told
from worker.machine.process import die_with_parent


def say(**words: Any) -> None:
    """A line for the parent."""
    os.write(1, json.dumps(words).encode() + b"\n")


def main(parent: str, home: str, film: str, used: str, alone: str) -> int:
    """Compute; the exit status is 1 where something else than `used` would be."""
    die_with_parent(int(parent))
    gc.disable()  # modules stay as long as this lives
    wanted = Used(**json.loads(used))
    path = ahead.path_of(Path(home), wanted.sha256)
    with ThreadPoolExecutor(2) as pool:
        # OpenVINO compiles, and hashes are made, while Python goes on.
        same = pool.submit(_is_whole, path, wanted.sha256)
        from worker.engine import open_engine

        opening = pool.submit(
            open_engine, path, batch=int(alone), threads=1, precision=wanted.precision
        )
        import numpy as np

        from trainer import card as cards
        from trainer.errors import FilmError
        from trainer.film import rules
        from worker import archive
        from worker.classify.answer import Answer, computed

        if archive.kind(film) != "file":
            return 1
        card = cards.read(path)
        pixels = np.zeros((int(alone), 1, card.size, card.size), np.uint8)
        say(at=ahead.AT_FILM)
        data = Path(film).read_bytes()
        try:
            rules.decode(data, card.size, card.film_rule, out=pixels[0, 0])
        except FilmError as error:
            say(code=error.code, text=str(error))
            return 0
        say(at=ahead.DECODED)
        engine = opening.result()
        if not same.result() or engine.backend_version != wanted.version:
            return 1
        ((_, answer),) = computed(engine, [(film, data)], pixels, 1)
        assert isinstance(answer, Answer)
        say(**{field.name: getattr(answer, field.name) for field in dataclasses.fields(Told)})
    return 0


def _is_whole(path: Path, sha256: str) -> bool:
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(view[:read])
    return digest.hexdigest() == sha256


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    # What is loaded takes longer to be let go of than to be left.
    os._exit(code)
