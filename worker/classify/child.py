"""The process that computes a film ahead, as `ahead` starts it.

It is told in one line of JSON what to compute, since its arguments would show a film's path to all
who use the machine. It sends lines of JSON, where it is and what came of it, and ends. It loads no
database, has no new rights, and gets no setting and no secret; a jail and a limit of memory, which
decoders have, it has not.
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
from worker.classify.result import Result
from worker.machine.process import die_with_parent, renounce_privileges


def main() -> int:
    """Compute; the exit status is 1 where something else than was asked for would be."""
    parent, home, film, used, alone = json.loads(sys.stdin.readline())
    die_with_parent(parent)
    renounce_privileges()
    # Libraries may print; what is sent goes to where only `send` writes.
    answers = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)

    def send(**message: Any) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    gc.disable()  # modules stay as long as this lives
    wanted = Used(**used)
    path = ahead.path_of(Path(home), wanted.sha256)
    with ThreadPoolExecutor(2) as pool:
        # OpenVINO compiles, and hashes are made, while Python goes on.
        same = pool.submit(_is_whole, path, wanted.sha256)
        from worker.engine import open_engine

        opening = pool.submit(open_engine, path, batch=alone, threads=1, precision=wanted.precision)
        import numpy as np

        from trainer import card as cards
        from trainer.errors import FilmError
        from trainer.film import rules
        from worker import archive
        from worker.classify.answer import Answer, computed

        if archive.kind(film) != "file":
            return 1
        card = cards.read(path)
        pixels = np.zeros((alone, 1, card.size, card.size), np.uint8)
        data = Path(film).read_bytes()
        send(at=ahead.AT_FILM)
        try:
            rules.decode(data, card.size, card.film_rule, out=pixels[0, 0])
        except FilmError as error:
            send(code=error.code, text=str(error))
            return 0
        send(at=ahead.DECODED)
        engine = opening.result()
        if not same.result() or engine.backend_version != wanted.version:
            return 1
        ((_, answer),) = computed(engine, [(film, data)], pixels, 1)
        assert isinstance(answer, Answer)
        send(**{field.name: getattr(answer, field.name) for field in dataclasses.fields(Result)})
    return 0


def _is_whole(path: Path, sha256: str) -> bool:
    digest, buffer = hashlib.sha256(), bytearray(1 << 18)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(view[:read])
    return digest.hexdigest() == sha256


if __name__ == "__main__":
    code = main()
    # What is loaded takes longer to be let go of than to be left.
    os._exit(code)
