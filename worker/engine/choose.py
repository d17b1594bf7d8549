"""Which engine runs a model here, and in which precision."""

from __future__ import annotations

from pathlib import Path

from trainer import card as cards
from trainer import film
from trainer.errors import CardError, FilmError
from worker.engine.base import Engine
from worker.errors import EngineError

#: What an engine may be asked to compute in → precision of the file that it is made from.
#: bf16 needs no file: the fp32 weights are rounded when the engine is opened.
FILE_OF = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"}


def open_engine(path: Path, *, batch: int, threads: int, precision: str = "fp32") -> Engine:
    """Make a model file ready to compute on this machine's best device.

    `precision` is what it computes in, and `path` the file that `FILE_OF` says. Raises EngineError
    where it cannot: a file that is not ours or of another precision, a film rule that this build
    lacks or carries out differently, or a backend that refuses the network or the precision.
    """
    from worker.engine.cpu import CpuEngine

    if precision not in FILE_OF:
        raise EngineError(f"precision {precision!r} is unknown; give one of {', '.join(FILE_OF)}")
    try:
        card = cards.read(path)
        if card.precision != FILE_OF[precision]:
            raise EngineError(
                f"{path.name} holds the model in {card.precision}, and {precision} is computed "
                f"from its {FILE_OF[precision]} file; fetch that one"
            )
        if card.film_rule not in film.RULES:
            raise EngineError(
                f"{path.name} wants film rule {card.film_rule!r}, which this PneumoQ lacks; "
                "upgrade this worker"
            )
        film.check_golden(list(card.golden), card.film_rule)
    except (CardError, FilmError) as error:
        raise EngineError(str(error)) from error
    return CpuEngine(path, card, batch=batch, threads=threads, precision=precision)


def describe(threads: int) -> str:
    """In a few words, what `open_engine` will compute with."""
    return f"CPU (OpenVINO, {threads} threads)"
